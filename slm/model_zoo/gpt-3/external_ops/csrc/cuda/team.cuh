// A team: the threads of a block that share a row. Its size is a power of two up to 32, so that several rows fit in a
// warp, or a multiple of 32.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

extern __shared__ float4 shared_memory[];

namespace fused {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int MAX_TEAM = 1024;
constexpr int LINE_VECTORS = 8;  // vectors of a cache line of 128 bytes

// Shared memory in front of what else a kernel keeps there: two sums for each warp, twice.
constexpr int SUMS = 2;
constexpr int SCRATCH_FLOATS = 2 * SUMS * WARP;
constexpr size_t SCRATCH_BYTES = SCRATCH_FLOATS * sizeof(float);

// Threads for a row of so many vectors: whole cache lines, and no more than `each` vectors to a thread.
inline int team_size(int64_t vectors, int each) {
  const int64_t threads = (vectors + each - 1) / each;
  if (threads > WARP) return static_cast<int>((threads + WARP - 1) / WARP * WARP);
  int size = LINE_VECTORS;
  while (size < threads) size *= 2;
  return size;
}

// SEVERAL: whether a block may have several teams of more than a warp; they then wait at barriers of their own.
template <bool SEVERAL>
struct Team {
  int size, index, rank;
  int turn = 0;

  __device__ explicit Team(int threads) : size(threads), index(threadIdx.x / threads), rank(threadIdx.x % threads) {}

  // Each of `values`, summed over the team. All threads of the warps that it is in must come along.
  template <int N>
  __device__ __forceinline__ void sum(float (&values)[N]) {
    static_assert(N <= SUMS, "no room in shared memory");
    for (int n = 0; n < N; ++n) values[n] = over_lanes(values[n], size < WARP ? size : WARP);
    if (size > WARP) over_warps(values);
  }

  __device__ __forceinline__ float sum(float value) {
    float values[1] = {value};
    sum(values);
    return values[0];
  }

 private:
  __device__ __forceinline__ static float over_lanes(float value, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
  }

  // The scratch is used in turns: a barrier lies between two uses of the same half, so one barrier a sum is enough.
  template <int N>
  __device__ __forceinline__ void over_warps(float (&values)[N]) {
    float* scratch = reinterpret_cast<float*>(shared_memory) + turn * SUMS * WARP;
    const int warps = size / WARP, first = index * warps, lane = threadIdx.x % WARP;
    if (lane == 0)
      for (int n = 0; n < N; ++n) scratch[n * WARP + first + rank / WARP] = values[n];
    if (SEVERAL) {
      __barrier_sync_count(1 + index, size);
    } else {
      __syncthreads();
    }
    for (int n = 0; n < N; ++n) values[n] = over_lanes(lane < warps ? scratch[n * WARP + first + lane] : 0.0f, WARP);
    turn ^= 1;
  }
};

}  // namespace fused
