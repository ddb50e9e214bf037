// float16 on a CPU: conversions only, rounded to nearest, ties to even.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half x) {
  const int sign = x.bits >> 15, exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  float y = std::ldexp(static_cast<float>(fraction + (exponent ? 1024 : 0)), (exponent ? exponent : 1) - 25);
  if (exponent == 31) y = fraction ? NAN : INFINITY;
  return sign ? -y : y;
}

inline __half __float2half_rn(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t size = bits & 0x7fffffff;
  if (size > 0x7f800000) return {0x7fff};
  if (size >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // 65520 and beyond
  if (size < 0x38800000)  // less than 2^-14: steps of 2^-24
    return {static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(std::fabs(x) * 16777216.0f)))};
  const uint32_t rounded = size + 0xfff + (size >> 13 & 1) - 0x38000000;
  return {static_cast<uint16_t>(sign | rounded >> 13)};
}
