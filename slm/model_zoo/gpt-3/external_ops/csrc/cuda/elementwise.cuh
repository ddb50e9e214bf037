// Kernels that do the same with each element of some flat tensors: vectors where all are aligned, single elements where
// not and at the end.
#pragma once

#include "launch.cuh"
#include "vectors.cuh"

namespace fused {

constexpr int ELEMENTWISE_BLOCK = 256;

// `one.template run<K>(i)` does elements i to i + K - 1.
template <int N, typename One>
__global__ void __launch_bounds__(ELEMENTWISE_BLOCK) elementwise(One one, int64_t count) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t vectors = count / N, rest = count % N;
  if (thread < vectors) one.template run<N>(thread * N);
  if (N > 1 && thread < rest) one.template run<1>(vectors * N + thread);
}

// N where `whole`, that is where vectors of N can be read everywhere.
template <int N, typename One>
cudaError_t run_elementwise(One one, int64_t count, bool whole, cudaStream_t stream) {
  if (count < 0) return cudaErrorInvalidValue;
  const int64_t threads = whole ? count / N + count % N : count;
  const int64_t blocks = ceil_div(threads, ELEMENTWISE_BLOCK);
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  return whole ? launch(elementwise<N, One>, blocks, ELEMENTWISE_BLOCK, 0, stream, one, count)
               : launch(elementwise<1, One>, blocks, ELEMENTWISE_BLOCK, 0, stream, one, count);
}

}  // namespace fused
