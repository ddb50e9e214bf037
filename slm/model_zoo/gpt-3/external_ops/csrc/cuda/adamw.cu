// AdamW (arXiv:1711.05101) over a flat bucket, in one pass: weights and moments are float32, gradients and the rounded
// copy of the weights of any type.
#include <cmath>

#include "elementwise.cuh"

namespace fused {
namespace {

struct Step {
  float beta1, beta2, epsilon, factor;
  float keep;  // 1 - lr * decay
  float rate;  // lr / correction1
  float root;  // 1 / sqrt(correction2)
};

template <typename G, typename R>
struct AdamW {
  float* weight;
  float* moment1;
  float* moment2;
  const G* gradient;
  R* rounded;  // may be null
  Step step;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    Vector<float, N> w = load_once<N>(weight + i), m = load_once<N>(moment1 + i), v = load_once<N>(moment2 + i);
    const Vector<G, N> gradients = load_once<N>(gradient + i);
    Vector<R, N> copy;
    for (int k = 0; k < N; ++k) {
      const float g = step.factor * to_float(gradients.data[k]);
      m.data[k] = step.beta1 * m.data[k] + (1.0f - step.beta1) * g;
      v.data[k] = step.beta2 * v.data[k] + (1.0f - step.beta2) * g * g;
      const float scale = sqrtf(v.data[k]) * step.root + step.epsilon;
      w.data[k] = w.data[k] * step.keep - step.rate * m.data[k] / scale;
      assign(copy.data[k], w.data[k]);
    }
    store(weight + i, w);
    store(moment1 + i, m);
    store(moment2 + i, v);
    if (rounded) store(rounded + i, copy);
  }
};

template <typename G, typename R>
cudaError_t run(AdamW<G, R> one, int64_t count, cudaStream_t stream) {
  constexpr int N = 4;
  const bool whole = aligned(sizeof(float) * N, one.weight, one.moment1, one.moment2) &&
                     aligned(sizeof(G) * N, one.gradient) && aligned(sizeof(R) * N, one.rounded);
  return run_elementwise<N>(one, count, whole, stream);
}

}  // namespace
}  // namespace fused

cudaError_t launch_adamw(float* weight, float* moment1, float* moment2, const void* gradient, void* rounded,
                         int64_t count, float lr, float beta1, float beta2, float epsilon, float decay,
                         float correction1, float correction2, float factor, int gradient_type, int rounded_type,
                         cudaStream_t stream) {
  const fused::Step step{beta1, beta2, epsilon, factor, 1.0f - lr * decay, lr / correction1,
                         1.0f / std::sqrt(correction2)};
  return fused::with_type(gradient_type, [&](auto element) {
    using G = decltype(element);
    const auto run = [&](auto low) {
      using R = decltype(low);
      const fused::AdamW<G, R> one{weight, moment1, moment2, static_cast<const G*>(gradient), static_cast<R*>(rounded),
                                   step};
      return fused::run(one, count, stream);
    };
    if (!rounded || rounded_type == BFLOAT16) return run(__nv_bfloat16());
    return rounded_type == FLOAT16 ? run(__half()) : cudaErrorInvalidValue;
  });
}
