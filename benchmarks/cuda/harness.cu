// Memory, copies and times of a device, for ctypes: what the harness needs beside the launchers themselves. Functions
// return 0 or the number of a CUDA error.
#include <cuda_runtime.h>

#include <cstring>

#include "launchers.h"

namespace {
cudaEvent_t started, stopped;
}

extern "C" {

int harness_allocate(void** memory, size_t bytes) { return cudaMalloc(memory, bytes); }

int harness_free(void* memory) { return cudaFree(memory); }

int harness_write(void* device, const void* host, size_t bytes) {
  return cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice);
}

int harness_read(void* host, const void* device, size_t bytes) {
  return cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost);
}

int harness_copy(void* to, const void* from, size_t bytes) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, nullptr);
}

int harness_synchronize() { return cudaDeviceSynchronize(); }

const char* harness_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int harness_device(char* name, size_t size, int* numbers) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return error;
  std::strncpy(name, properties.name, size - 1);
  numbers[0] = properties.major;
  numbers[1] = properties.minor;
  numbers[2] = properties.multiProcessorCount;
  numbers[3] = static_cast<int>(properties.totalGlobalMem >> 20);
  return cudaSuccess;
}

// The time between the two on the device.
int harness_start() {
  cudaError_t error = cudaSuccess;
  if (!started) error = cudaEventCreate(&started);
  if (error == cudaSuccess && !stopped) error = cudaEventCreate(&stopped);
  return error == cudaSuccess ? cudaEventRecord(started, nullptr) : error;
}

int harness_stop(float* milliseconds) {
  cudaError_t error = cudaEventRecord(stopped, nullptr);
  if (error == cudaSuccess) error = cudaEventSynchronize(stopped);
  return error == cudaSuccess ? cudaEventElapsedTime(milliseconds, started, stopped) : error;
}

}  // extern "C"
