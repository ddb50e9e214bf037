// AdamW (Loshchilov and Hutter 2019) in one pass over memory, and the norm that clips.
#pragma once

#include "activations.h"

namespace FUSED_ISA {

ALWAYS_INLINE vec root(vec x) {
  for (long j = 0; j < LANES; ++j) x[j] = __builtin_sqrtf(x[j]);
  return x;
}

inline void adamw(long size, float* weight, float* moment1, float* moment2, const float* gradient,
                  const fused::AdamW& step) {
  const float keep = float(1.0 - double(step.lr) * step.decay), rate = step.lr / step.correction1;
  const float inverse = float(1.0 / std::sqrt(double(step.correction2)));
  const float rest1 = 1.0f - step.beta1, rest2 = 1.0f - step.beta2;
  flat(size, 1, [&](long first, long last) {
    float *w = weight + first, *m1 = moment1 + first, *m2 = moment2 + first;
    const float* slope = gradient + first;
    along(last - first, [&](auto at) {
      const vec g = at.of(slope) * step.factor;
      const vec a = at.of(m1) * step.beta1 + g * rest1, b = at.of(m2) * step.beta2 + g * g * rest2;
      at.put(m1, a);
      at.put(m2, b);
      at.put(w, at.of(w) * keep - a * rate / (root(b) * inverse + step.epsilon));
    });
  });
}

inline double squared_norm(long size, const float* x) {
  constexpr long PART = 16384;
  const long count = (size + PART - 1) / PART;
  double* parts = kept<double>(count);
  in_parts(count, PART, [&](long first, long last) {
    for (long i = first; i < last; ++i) {
      const float* from = x + i * PART;
      parts[i] = sum(std::min(PART, size - i * PART), [&](auto at) { return at.of(from) * at.of(from); });
    }
  });
  double total = 0;
  for (long i = 0; i < count; ++i) total += parts[i];
  return total;
}

}  // namespace FUSED_ISA
