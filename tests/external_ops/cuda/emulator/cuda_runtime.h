// Enough of CUDA to run kernels on a CPU, as they are: put this folder in front of the include path and compile them as
// C++. Blocks run one after the other; the threads of a block are fibers that change over where they wait for each
// other: at barriers and in shuffles. Usually all go from one such place to the next, first to last;
// `emulator_set_reversed` runs blocks, warps and threads from the last to the first, and a warp as far as it gets
// without the others. Results that differ show a barrier that is missing.
//
// What is found and ends the process with a message: threads that wait for each other for ever; a block of a size that
// is no multiple of 32; shared memory used beyond what was asked for; access to memory that is not aligned for its type
// (compile with -fsanitize=alignment). Shared memory starts as NaN. Device memory ends in front of a page that can't be
// touched, and starts as NaN.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint2 {
  unsigned int x, y;
} __attribute__((aligned(8)));
struct uint4 {
  unsigned int x, y, z, w;
} __attribute__((aligned(16)));
struct float4 {
  float x, y, z, w;
} __attribute__((aligned(16)));
struct dim3 {
  unsigned int x, y, z;
  dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace emulator {

constexpr int SIMULATED_MULTIPROCESSORS = 3;
constexpr size_t MOST_SHARED = 163 << 10;

// One call of a kernel, without its types.
using Call = void (*)(const void* closure);
cudaError_t run(const cudaLaunchConfig_t& config, Call call, const void* closure);

// So many threads wait for each other at a barrier; number 0 is that of the block.
void wait(int barrier, int threads);
// The value that each lane of this warp brought to this exchange.
uint64_t* exchange(uint64_t value);

}  // namespace emulator

extern dim3 blockIdx, threadIdx, gridDim, blockDim;

inline void __syncthreads() { emulator::wait(0, static_cast<int>(blockDim.x)); }
inline void __barrier_sync_count(unsigned int id, unsigned int count) {
  emulator::wait(static_cast<int>(id), static_cast<int>(count));
}

template <typename T>
T __shfl_xor_sync(unsigned int, T value, int mask) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t* all = emulator::exchange(bits);
  std::memcpy(&value, all + ((threadIdx.x % 32) ^ static_cast<unsigned>(mask)), sizeof(T));
  return value;
}

inline unsigned int __ballot_sync(unsigned int, bool yes) {
  const uint64_t* all = emulator::exchange(yes);
  unsigned int bits = 0;
  for (unsigned int lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned int>(all[lane]) << lane;
  return bits;
}
// As a GPU does it, a product and a power of two; its power of two is a little less exact.
inline float __expf(float x) { return std::exp2(x * 1.44269504088896341f); }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <typename T>
T __ldg(const T* x) {
  return *x;
}
template <typename T>
T __ldcs(const T* x) {
  return *x;
}

template <typename... P, typename... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... args) {
  const auto closure = [&] { kernel(args...); };
  return emulator::run(
      *config, [](const void* call) { (*static_cast<const decltype(closure)*>(call))(); }, &closure);
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const bool shared = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin;
  *value = shared ? static_cast<int>(emulator::MOST_SHARED) : emulator::SIMULATED_MULTIPROCESSORS;
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  return bytes <= static_cast<int>(emulator::MOST_SHARED) ? cudaSuccess : cudaErrorInvalidValue;
}
template <typename K>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, K, int, size_t) {
  *blocks = 2;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(memory, value, bytes);
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "an error"; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
// Times of an emulator say nothing: each run takes one millisecond.
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1.0f;
  return cudaSuccess;
}
