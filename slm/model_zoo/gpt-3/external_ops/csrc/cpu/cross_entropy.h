// Cross entropy of rows of logits, of which this process may have only some columns: what a row needs of all columns is
// their greatest, the sum of exponentials and the logit of the label.
#pragma once

#include "simd.h"

namespace FUSED_ISA {

constexpr long RUN = 2048;  // logits that are read twice while they are in the first cache

// The greatest element; those that are no number are passed over (the sum of exponentials shows them).
inline float greatest_of(long n, const float* x) {
  vec most[4] = {all(-INF), all(-INF), all(-INF), all(-INF)};
  long i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES)
#pragma GCC unroll 4
    for (long u = 0; u < 4; ++u) {
      const vec v = load(x + i + u * LANES);
      most[u] = v > most[u] ? v : most[u];
    }
  float top = -INF;
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  for (const vec& v : most)
    for (long j = 0; j < LANES; ++j) top = v[j] > top ? v[j] : top;
  return top;
}

// One pass: where a run has a new greatest logit, the sum so far is brought to it.
inline void top_and_sum(long n, const float* x, float& top, float& total) {
  double powers = 0;
  top = -INF;
  for (long i = 0; i < n; i += RUN) {
    const long count = std::min(RUN, n - i);
    const float here = greatest_of(count, x + i);
    if (here > top) {
      powers *= std::exp(double(top) - here);
      top = here;
    }
    const float base = top == -INF ? 0.0f : top;
    powers += sum(count, [&](auto at) { return exponential(at.of(x + i) - base); });
  }
  total = float(powers);
}

inline void cross_entropy_parts(long rows, long columns, const float* logits, const int64_t* labels, long first,
                                float* max, float* total, float* picked) {
  in_parts(rows, columns * 4, [&](long begin, long end) {
    for (long r = begin; r < end; ++r) {
      const float* line = logits + r * columns;
      top_and_sum(columns, line, max[r], total[r]);
      const int64_t own = labels[r] - first;
      picked[r] = labels[r] >= 0 && own >= 0 && own < columns ? line[own] : 0.0f;
    }
  });
}

inline void cross_entropy_slopes(long rows, long columns, float* logits, const int64_t* labels, const float* log_sum,
                                 const float* scale, long scale_step, long first) {
  in_parts(rows, columns * 4, [&](long begin, long end) {
    for (long r = begin; r < end; ++r) {
      float* line = logits + r * columns;
      if (labels[r] < 0) {
        std::fill_n(line, columns, 0.0f);
        continue;
      }
      const float less = log_sum[r], factor = scale[r * scale_step];
      along(columns, [&](auto at) { at.put(line, exponential(at.of(line) - less) * factor); });
      const int64_t own = labels[r] - first;
      if (own >= 0 && own < columns) line[own] -= factor;
    }
  });
}

}  // namespace FUSED_ISA
