// Functions of vectors.
#pragma once

#include "vector.h"

namespace FUSED_ISA {

// e^x for x <= 0, within 2 units of the last place; 0 below -87; not a number for what is none.
ALWAYS_INLINE vec exp_of_negative(vec x) {
  constexpr float SHIFT = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the lowest bits
  const vec shifted = x * 1.44269504088896341f + SHIFT;
  const vec whole = shifted - SHIFT;
  const vec r = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;  // ln 2 in two parts: the first product is exact
  vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;  // Cephes expf
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const ivec bits = (ivec)y + ((ivec)shifted << 23);
  return (vec)(bits & ~(ivec)(x < -87.0f));
}

// The greater one of each pair; b where a is not a number.
ALWAYS_INLINE vec greater(vec a, vec b) { return a > b ? a : b; }

inline float greatest(vec x) {
  float most = x[0];
  for (long i = 1; i < LANES; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

inline float total(vec x) {
  float sum = 0;
  for (long i = 0; i < LANES; ++i) sum += x[i];
  return sum;
}

}  // namespace FUSED_ISA
