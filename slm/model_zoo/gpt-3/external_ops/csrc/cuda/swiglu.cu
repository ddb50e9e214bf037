// SwiGLU (arXiv:2002.05202): y = silu(gate) * up. Nothing but gate and up is kept for the gradients.
#include "elementwise.cuh"

namespace fused {
namespace {

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename T>
struct Swiglu {
  const T* gate;
  const T* up;
  T* y;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    const Vector<T, N> gates = load_once<N>(gate + i), ups = load_once<N>(up + i);
    Vector<T, N> ys;
    for (int k = 0; k < N; ++k) {
      const float g = to_float(gates.data[k]);
      assign(ys.data[k], g * sigmoid(g) * to_float(ups.data[k]));
    }
    store(y + i, ys);
  }
};

template <typename T>
struct SwigluGrad {
  const T* gate;
  const T* up;
  const T* dy;
  T* dgate;
  T* dup;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    const Vector<T, N> gates = load_once<N>(gate + i), ups = load_once<N>(up + i), dys = load_once<N>(dy + i);
    Vector<T, N> dgates, dups;
    for (int k = 0; k < N; ++k) {
      const float g = to_float(gates.data[k]), s = sigmoid(g), d = to_float(dys.data[k]);
      assign(dgates.data[k], d * to_float(ups.data[k]) * s * (1.0f + g * (1.0f - s)));
      assign(dups.data[k], d * g * s);
    }
    store(dgate + i, dgates);
    store(dup + i, dups);
  }
};

}  // namespace
}  // namespace fused

cudaError_t launch_swiglu(const void* gate, const void* up, void* y, int64_t count, int type, cudaStream_t stream) {
  return fused::with_type(type, [&](auto element) {
    using T = decltype(element);
    const fused::Swiglu<T> one{static_cast<const T*>(gate), static_cast<const T*>(up), static_cast<T*>(y)};
    const bool whole = fused::aligned(fused::VECTOR_BYTES, gate, up, y);
    return fused::run_elementwise<fused::WIDTH<T>>(one, count, whole, stream);
  });
}

cudaError_t launch_swiglu_grad(const void* gate, const void* up, const void* dy, void* dgate, void* dup, int64_t count,
                               int type, cudaStream_t stream) {
  return fused::with_type(type, [&](auto element) {
    using T = decltype(element);
    const fused::SwigluGrad<T> one{static_cast<const T*>(gate), static_cast<const T*>(up), static_cast<const T*>(dy),
                                   static_cast<T*>(dgate), static_cast<T*>(dup)};
    const bool whole = fused::aligned(fused::VECTOR_BYTES, gate, up, dy, dgate, dup);
    return fused::run_elementwise<fused::WIDTH<T>>(one, count, whole, stream);
  });
}
