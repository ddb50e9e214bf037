// The gradient of an embedding: row r of the result is the sum of the gradients of the tokens whose id is r.
//
// No atomics and no sorting: a warp stands for a token and 32 vectors of columns. If the id occurred before, there is
// nothing to do; otherwise it adds up the gradients of all tokens of that id, first to last. Looking for them reads ids
// only, from the caches; a common id is found soon.
#include "launch.cuh"
#include "team.cuh"
#include "vectors.cuh"

namespace fused {
namespace {

constexpr int BLOCK = 128;

template <int N, typename T>
__global__ void __launch_bounds__(BLOCK) embedding_grad(const int64_t* ids, const T* grad, T* out, int64_t tokens,
                                                        int64_t rows, int64_t cols, int64_t warps_of_row) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x) / WARP;
  const int64_t token = warp / warps_of_row;
  const int lane = threadIdx.x % WARP;
  const int64_t col = (warp % warps_of_row * WARP + lane) * N;
  if (token >= tokens) return;
  const int64_t id = ids[token];
  if (id < 0 || id >= rows) return;
  for (int64_t first = 0; first < token; first += WARP) {
    const int64_t t = first + lane;
    if (__ballot_sync(ALL_LANES, t < token && __ldg(ids + t) == id)) return;
  }
  float sums[N] = {};
  for (int64_t first = token; first < tokens; first += WARP) {
    const int64_t t = first + lane;
    unsigned int same = __ballot_sync(ALL_LANES, t < tokens && __ldg(ids + t) == id);
    for (; same; same &= same - 1) {
      if (col >= cols) continue;
      const Vector<T, N> vector = load_once<N>(grad + (first + __ffs(static_cast<int>(same)) - 1) * cols + col);
      for (int i = 0; i < N; ++i) sums[i] += to_float(vector.data[i]);
    }
  }
  if (col >= cols) return;
  Vector<T, N> total;
  for (int i = 0; i < N; ++i) assign(total.data[i], sums[i]);
  store(out + id * cols + col, total);
}

template <int N, typename T>
cudaError_t run(const int64_t* ids, const T* grad, T* out, int64_t tokens, int64_t rows, int64_t cols,
                cudaStream_t stream) {
  const int64_t warps_of_row = ceil_div(cols, WARP * N), blocks = ceil_div(tokens * warps_of_row, BLOCK / WARP);
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  return launch(embedding_grad<N, T>, blocks, BLOCK, 0, stream, ids, grad, out, tokens, rows, cols, warps_of_row);
}

}  // namespace
}  // namespace fused

cudaError_t launch_embedding_grad(const int64_t* ids, const void* grad, void* out, int64_t tokens, int64_t rows,
                                  int64_t cols, int type, cudaStream_t stream) {
  if (tokens < 0 || rows < 0 || cols < 0) return cudaErrorInvalidValue;
  return fused::with_type(type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = fused::WIDTH<T>;
    const cudaError_t error = cudaMemsetAsync(out, 0, rows * cols * sizeof(T), stream);
    if (error != cudaSuccess) return error;
    const T* from = static_cast<const T*>(grad);
    T* to = static_cast<T*>(out);
    const bool whole = cols % N == 0 && fused::aligned(fused::VECTOR_BYTES, grad, out);
    return whole ? fused::run<N>(ids, from, to, tokens, rows, cols, stream)
                 : fused::run<1>(ids, from, to, tokens, rows, cols, stream);
  });
}
