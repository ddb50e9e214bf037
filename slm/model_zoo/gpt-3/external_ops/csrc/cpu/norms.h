// Root mean square norm (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016) of rows, with their gradients. A row
// is read once from memory: it stays in the first caches from its sums to its results.
#pragma once

#include "simd.h"

namespace FUSED_ISA {

constexpr long LINES = 16;   // rows whose terms are added in float32; their sums are added in float64
constexpr long CHUNKS = 64;  // most parts of the rows that have sums of their own

// out[k][column] = sums over all rows, of what row(r, sums) adds to sums[k * columns + column] for row r.
template <long N, class Row>
void column_sums(long rows, long columns, float* const (&out)[N], const Row& row) {
  const long size = N * columns, chunks = std::min(CHUNKS, (rows + LINES - 1) / LINES);
  double* parts = kept<double>(chunks * size);
  in_parts(chunks, chunks ? rows / chunks * columns : 0, [&](long first, long last) {
    float* run = kept<float>(size);
    for (long chunk = first; chunk < last; ++chunk) {
      double* part = parts + chunk * size;
      std::fill_n(part, size, 0.0);
      const long end = rows * (chunk + 1) / chunks;
      for (long r = rows * chunk / chunks; r < end;) {
        std::fill_n(run, size, 0.0f);
        for (const long stop = std::min(r + LINES, end); r < stop; ++r) row(r, run);
        for (long j = 0; j < size; ++j) part[j] += run[j];
      }
    }
  });
  in_parts(columns, N * chunks, [&](long first, long last) {
    for (long k = 0; k < N; ++k)
      for (long j = first; j < last; ++j) {
        double total = 0;
        for (long chunk = 0; chunk < chunks; ++chunk) total += parts[chunk * size + k * columns + j];
        out[k][j] = float(total);
      }
  });
}

inline float inverse_root(double mean, float epsilon) { return float(1.0 / std::sqrt(mean + epsilon)); }

inline void scaled(long columns, const float* x, const float* scale, float factor, float* y) {
  along(columns, [&](auto at) { at.put(y, at.of(x) * factor * at.of(scale)); });
}

inline void rms_norm(long rows, long columns, const float* x, const float* scale, float epsilon, float* y,
                     float* invvar) {
  in_parts(rows, columns, [&](long first, long last) {
    for (long r = first; r < last; ++r) {
      const float* line = x + r * columns;
      const double squares = sum(columns, [&](auto at) { return at.of(line) * at.of(line); });
      invvar[r] = inverse_root(squares / columns, epsilon);
      scaled(columns, line, scale, invvar[r], y + r * columns);
    }
  });
}

inline void add_rms_norm(long rows, long columns, const float* x, const float* residual, const float* scale,
                         float epsilon, float* y, float* added, float* invvar) {
  in_parts(rows, columns, [&](long first, long last) {
    for (long r = first; r < last; ++r) {
      const float *a = x + r * columns, *b = residual + r * columns;
      float* line = added + r * columns;
      const double squares = sum(columns, [&](auto at) {
        const vec both = at.of(a) + at.of(b);
        at.put(line, both);
        return both * both;
      });
      invvar[r] = inverse_root(squares / columns, epsilon);
      scaled(columns, line, scale, invvar[r], y + r * columns);
    }
  });
}

// ADDS: a second gradient of x, and a second place for the sum.
template <bool ADDS>
void rms_norm_grad_rows(long rows, long columns, const float* x, const float* scale, const float* invvar,
                        const float* dy, const float* dsum, float* dx, float* copy, float* dscale) {
  float* const out[1] = {dscale};
  column_sums<1>(rows, columns, out, [&](long r, float* run) {
    const long at_row = r * columns;
    const float *line = x + at_row, *slope = dy + at_row;
    const double dot = sum(columns, [&](auto at) { return at.of(slope) * at.of(scale) * at.of(line); });
    const double inverse = invvar[r];
    const float factor = invvar[r], back = float(dot * inverse * inverse * inverse / columns);
    along(columns, [&](auto at) {
      const vec v = at.of(line), g = at.of(slope) * factor;
      vec d = g * at.of(scale) - v * back;
      if (ADDS) {
        d += at.of(dsum + at_row);
        at.put(copy + at_row, d);
      }
      at.put(dx + at_row, d);
      at.put(run, at.of(run) + g * v);
    });
  });
}

inline void rms_norm_grad(long rows, long columns, const float* x, const float* scale, const float* invvar,
                          const float* dy, const float* dsum, float* dx, float* copy, float* dscale) {
  const auto run = dsum ? rms_norm_grad_rows<true> : rms_norm_grad_rows<false>;
  run(rows, columns, x, scale, invvar, dy, dsum, dx, copy, dscale);
}

inline void layer_norm(long rows, long columns, const float* x, const float* scale, const float* bias, float epsilon,
                       float* y, float* mean, float* invvar) {
  in_parts(rows, columns, [&](long first, long last) {
    for (long r = first; r < last; ++r) {
      const float* line = x + r * columns;
      float* to = y + r * columns;
      const float middle = mean[r] = float(sum(columns, [&](auto at) { return at.of(line); }) / columns);
      const double squares = sum(columns, [&](auto at) {
        const vec v = at.of(line) - middle;
        return v * v;
      });
      const float factor = invvar[r] = inverse_root(squares / columns, epsilon);
      along(columns, [&](auto at) {
        at.put(to, (at.of(line) - middle) * factor * at.of(scale) + at.of(bias));
      });
    }
  });
}

inline void layer_norm_grad(long rows, long columns, const float* x, const float* scale, const float* mean,
                            const float* invvar, const float* dy, float* dx, float* dscale, float* dbias) {
  float* const out[2] = {dscale, dbias};
  column_sums<2>(rows, columns, out, [&](long r, float* run) {
    const float *line = x + r * columns, *slope = dy + r * columns, middle = mean[r], factor = invvar[r];
    float *to = dx + r * columns, *run_bias = run + columns;
    double dots[2];
    sums<2>(columns, dots, [&](auto at, vec(&part)[2]) {
      const vec g = at.of(slope) * at.of(scale);
      part[0] += g;
      part[1] += g * ((at.of(line) - middle) * factor);
    });
    const float level = float(dots[0] / columns), back = float(dots[1] / columns);
    along(columns, [&](auto at) {
      const vec v = (at.of(line) - middle) * factor, g = at.of(slope);
      at.put(to, (g * at.of(scale) - level - v * back) * factor);
      at.put(run, at.of(run) + g * v);
      at.put(run_bias, at.of(run_bias) + g);
    });
  });
}

}  // namespace FUSED_ISA
