// Choosing and starting kernels, on the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "launchers.h"

namespace fused {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether all pointers are multiples of `bytes`; null is.
template <typename... T>
bool aligned(int bytes, const T*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % bytes == 0) && ...);
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ? value : 0;
}

inline int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

// Lets the blocks of `kernel` have so many bytes of shared memory: more than 48 KiB must be asked for.
template <typename... P>
cudaError_t allow_shared(void (*kernel)(P...), size_t bytes) {
  const void* function = reinterpret_cast<const void*>(kernel);
  if (bytes <= 48 << 10) return cudaSuccess;
  return cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

// Starts `blocks` blocks; none is no error.
template <typename... P, typename... A>
cudaError_t launch(void (*kernel)(P...), int64_t blocks, int threads, size_t shared, cudaStream_t stream, A... args) {
  if (!blocks) return cudaSuccess;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}

// `run(T())` for the type that `type` names.
template <typename F>
cudaError_t with_type(int type, F run) {
  if (type == FLOAT32) return run(float());
  if (type == FLOAT16) return run(__half());
  if (type == BFLOAT16) return run(__nv_bfloat16());
  return cudaErrorInvalidValue;
}

// `run(X(), W())` for the types of inputs and weights of a norm.
template <typename F>
cudaError_t with_types(int x, int w, F run) {
  if (x != FLOAT32 && x != w) return cudaErrorInvalidValue;
  if (x == FLOAT32) return with_type(w, [&](auto weight) { return run(float(), weight); });
  return with_type(x, [&](auto input) {
    if constexpr (sizeof(input) == 2) return run(input, input);
    return cudaErrorInvalidValue;
  });
}

}  // namespace fused
