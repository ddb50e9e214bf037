// Rotary positions (arXiv:2104.09864): one block to a token, each thread turns a vector of pairs. The angles of a token
// serve all of its heads and stay in the first cache.
#include "launch.cuh"
#include "vectors.cuh"

namespace fused {
namespace {

template <typename T>
struct Rope {
  const T* x;
  const float* cos;
  const float* sin;
  T* y;
  int64_t angles;  // rows of cos and sin
  int heads, dim;
  float sign;  // -1 turns back
};

constexpr int BLOCK = 256;

// The pair (a, b), turned.
template <typename T>
__device__ __forceinline__ void turn(T& a, T& b, float cos, float sin) {
  const float x = to_float(a), y = to_float(b);
  assign(a, x * cos - y * sin);
  assign(b, y * cos + x * sin);
}

// N is how many pairs a thread turns at once; N = 1 takes every size and alignment.
template <bool INTERLEAVED, int N, typename T>
__global__ void __launch_bounds__(BLOCK) rope(Rope<T> rope) {
  const int64_t token = blockIdx.x, start = token * rope.heads * rope.dim;
  const int half = rope.dim / 2, per_head = half / N, work = rope.heads * per_head;
  const float* cos = rope.cos + token % rope.angles * half;
  const float* sin = rope.sin + token % rope.angles * half;
  for (int i = threadIdx.x; i < work; i += blockDim.x) {
    const int head = i / per_head, pair = i % per_head * N;
    const int64_t first = start + static_cast<int64_t>(head) * rope.dim + (INTERLEAVED ? 2 * pair : pair);
    const int64_t second = INTERLEAVED ? first + N : first + half;
    Vector<T, N> a = load_once<N>(rope.x + first), b = load_once<N>(rope.x + second);
    for (int k = 0; k < N; ++k) {
      const float c = __ldg(cos + pair + k), s = rope.sign * __ldg(sin + pair + k);
      if (!INTERLEAVED || N == 1) {
        turn(a.data[k], b.data[k], c, s);
      } else {
        Vector<T, N>& both = 2 * k < N ? a : b;
        turn(both.data[2 * k % N], both.data[2 * k % N + 1], c, s);
      }
    }
    store(rope.y + first, a);
    store(rope.y + second, b);
  }
}

template <bool INTERLEAVED, int N, typename T>
cudaError_t start(Rope<T> r, int64_t tokens, cudaStream_t stream) {
  const int64_t work = static_cast<int64_t>(r.heads) * (r.dim / 2 / N), threads = ceil_div(work, 32) * 32;
  return launch(rope<INTERLEAVED, N, T>, tokens, threads < BLOCK ? threads : BLOCK, 0, stream, r);
}

template <bool INTERLEAVED, typename T>
cudaError_t run(Rope<T> r, int64_t tokens, cudaStream_t stream) {
  constexpr int N = WIDTH<T>;
  const bool whole = r.dim / 2 % N == 0 && aligned(VECTOR_BYTES, r.x, r.y);
  return whole ? start<INTERLEAVED, N>(r, tokens, stream) : start<INTERLEAVED, 1>(r, tokens, stream);
}

}  // namespace
}  // namespace fused

cudaError_t launch_rope(const void* x, const float* cos, const float* sin, void* y, int64_t batch, int64_t seq,
                        int64_t heads, int64_t dim, int64_t angle_batch, int interleaved, int inverse, int type,
                        cudaStream_t stream) {
  const bool fits = heads >= 0 && dim >= 2 && dim % 2 == 0 && heads * dim <= INT32_MAX && batch * seq <= INT32_MAX;
  if (!fits || (angle_batch != 1 && angle_batch != batch)) return cudaErrorInvalidValue;
  if (!batch || !seq || !heads) return cudaSuccess;
  return fused::with_type(type, [&](auto element) {
    using T = decltype(element);
    const fused::Rope<T> rope{static_cast<const T*>(x),  cos, sin, static_cast<T*>(y), angle_batch * seq,
                              static_cast<int>(heads), static_cast<int>(dim), inverse ? -1.0f : 1.0f};
    return interleaved ? fused::run<true>(rope, batch * seq, stream) : fused::run<false>(rope, batch * seq, stream);
  });
}
