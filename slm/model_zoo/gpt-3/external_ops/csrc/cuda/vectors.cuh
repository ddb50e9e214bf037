// Element types, and vectors of them that one instruction loads.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace fused {

constexpr int VECTOR_BYTES = 16;

template <typename T>
constexpr int WIDTH = VECTOR_BYTES / sizeof(T);

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ void assign(float& y, float x) { y = x; }
__device__ __forceinline__ void assign(__half& y, float x) { y = __float2half_rn(x); }
__device__ __forceinline__ void assign(__nv_bfloat16& y, float x) { y = __float2bfloat16_rn(x); }

template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T data[N];
};

// The integers that are moved in place of a vector.
template <int BYTES>
struct Bits;
template <>
struct Bits<16> {
  using Type = uint4;
};
template <>
struct Bits<8> {
  using Type = uint2;
};
template <>
struct Bits<4> {
  using Type = unsigned int;
};
template <>
struct Bits<2> {
  using Type = unsigned short;
};

// N elements that other threads read soon too, such as weights: kept in the caches.
template <int N, typename T>
__device__ __forceinline__ Vector<T, N> load(const T* x) {
  using Moved = typename Bits<sizeof(T) * N>::Type;
  union {
    Moved bits;
    Vector<T, N> vector;
  };
  bits = __ldg(reinterpret_cast<const Moved*>(x));
  return vector;
}

// N elements that are read once: they leave the caches first, so that they don't drive weights out.
template <int N, typename T>
__device__ __forceinline__ Vector<T, N> load_once(const T* x) {
  using Moved = typename Bits<sizeof(T) * N>::Type;
  union {
    Moved bits;
    Vector<T, N> vector;
  };
  bits = __ldcs(reinterpret_cast<const Moved*>(x));
  return vector;
}

template <typename T, int N>
__device__ __forceinline__ void store(T* y, const Vector<T, N>& vector) {
  *reinterpret_cast<Vector<T, N>*>(y) = vector;
}

}  // namespace fused
