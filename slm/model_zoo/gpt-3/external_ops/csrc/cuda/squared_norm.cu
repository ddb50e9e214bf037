// The sum of squares of a flat tensor: each block leaves a partial sum, one block adds these in order.
#include "launch.cuh"
#include "team.cuh"
#include "vectors.cuh"

namespace fused {
namespace {

constexpr int BLOCK = 512;
constexpr int BLOCKS = 1024;

template <int N, typename T>
__global__ void __launch_bounds__(BLOCK) squares(const T* x, int64_t count, float* partials) {
  Team<false> team(BLOCK);
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x, threads = gridDim.x * BLOCK;
  const int64_t vectors = count / N, rest = count % N;
  float sums[4] = {0, 0, 0, 0};
#pragma unroll 4
  for (int64_t v = thread; v < vectors; v += threads) {
    const Vector<T, N> vector = load_once<N>(x + v * N);
    for (int i = 0; i < N; ++i) sums[i % 4] += to_float(vector.data[i]) * to_float(vector.data[i]);
  }
  if (thread < rest) {
    const float last = to_float(x[vectors * N + thread]);
    sums[0] += last * last;
  }
  const float sum = team.sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(BLOCK) add_partials(const float* partials, int count, float* out) {
  Team<false> team(BLOCK);
  float mine = 0;
  for (int i = threadIdx.x; i < count; i += BLOCK) mine += partials[i];
  const float sum = team.sum(mine);
  if (threadIdx.x == 0) out[0] = sum;
}

}  // namespace
}  // namespace fused

size_t squared_norm_workspace() { return fused::BLOCKS * sizeof(float); }

cudaError_t launch_squared_norm(const void* x, float* out, void* workspace, int64_t count, int type,
                                cudaStream_t stream) {
  if (count < 0) return cudaErrorInvalidValue;
  float* partials = static_cast<float*>(workspace);
  return fused::with_type(type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = fused::WIDTH<T>;
    const bool whole = fused::aligned(fused::VECTOR_BYTES, x);
    const int64_t wanted = fused::ceil_div(count, fused::BLOCK * (whole ? N : 1));
    const int64_t blocks = wanted < 1 ? 1 : wanted < fused::BLOCKS ? wanted : fused::BLOCKS;
    const auto kernel = whole ? fused::squares<N, T> : fused::squares<1, T>;
    const cudaError_t error = fused::launch(kernel, blocks, fused::BLOCK, fused::SCRATCH_BYTES, stream,
                                            static_cast<const T*>(x), count, partials);
    if (error != cudaSuccess) return error;
    return fused::launch(fused::add_partials, 1, fused::BLOCK, fused::SCRATCH_BYTES, stream, partials,
                         static_cast<int>(blocks), out);
  });
}
