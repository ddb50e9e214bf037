// Rotary positions (Su et al. 2021) and SwiGLU (Shazeer 2020).
#pragma once

#include "simd.h"

namespace FUSED_ISA {

constexpr long UNIT = 64;  // elements: threads never write to one line of a cache

// work(first, last) on parts of `size` elements, of which each costs as much as `weight` simple ones.
template <class Work>
void flat(long size, long weight, const Work& work) {
  in_parts((size + UNIT - 1) / UNIT, UNIT * weight,
           [&](long first, long last) { work(first * UNIT, std::min(last * UNIT, size)); });
}

inline void turn_halves(long half, const float* x, const float* cos, const float* sin, float sign, float* y) {
  along(half, [&](auto at) {
    const vec a = at.of(x), b = at.of(x + half), c = at.of(cos), s = at.of(sin) * sign;
    at.put(y, a * c - b * s);
    at.put(y + half, b * c + a * s);
  });
}

inline void turn_neighbours(long half, const float* __restrict x, const float* __restrict cos,
                            const float* __restrict sin, float sign, float* __restrict y) {
  for (long i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1], c = cos[i], s = sin[i] * sign;
    y[2 * i] = a * c - b * s;
    y[2 * i + 1] = b * c + a * s;
  }
}

inline void rope(const fused::RopeShape& shape, const float* x, const float* cos, const float* sin, float sign,
                 float* y) {
  const long half = shape.half, row = shape.heads * 2 * half;
  in_parts(shape.batch * shape.length, row, [&](long first, long last) {
    for (long r = first; r < last; ++r) {
      const long at = (shape.tables == 1 ? r % shape.length : r) * half;
      for (long i = r * row; i < (r + 1) * row; i += 2 * half) {
        const auto turn = shape.interleaved ? turn_neighbours : turn_halves;
        turn(half, x + i, cos + at, sin + at, sign, y + i);
      }
    }
  });
}

// sigmoid(x) and sigmoid(-x), each to the last places: neither is 1 less the other.
struct Sigmoid {
  vec of, rest;
  ALWAYS_INLINE explicit Sigmoid(vec x) {
    const vec e = exponential(-magnitude(x)), big = 1.0f / (1.0f + e), small = e * big;
    of = x < 0.0f ? small : big;
    rest = x < 0.0f ? big : small;
  }
};

inline void swiglu(long size, const float* gate, const float* up, float* y) {
  flat(size, 4, [&](long first, long last) {
    const float *g = gate + first, *u = up + first;
    float* to = y + first;
    along(last - first, [&](auto at) {
      const vec v = at.of(g);
      at.put(to, v * Sigmoid(v).of * at.of(u));
    });
  });
}

inline void swiglu_grad(long size, const float* gate, const float* up, const float* dy, float* dgate, float* dup) {
  flat(size, 4, [&](long first, long last) {
    const float *g = gate + first, *u = up + first, *slope = dy + first;
    float *to_gate = dgate + first, *to_up = dup + first;
    along(last - first, [&](auto at) {
      const vec v = at.of(g), d = at.of(slope);
      const Sigmoid sigmoid(v);
      at.put(to_up, d * (v * sigmoid.of));
      at.put(to_gate, d * at.of(u) * (sigmoid.of * (1.0f + v * sigmoid.rest)));
    });
  });
}

}  // namespace FUSED_ISA
