// The gradient of a table of which some lines were read. Tokens are sorted by their ids, so that each line of the table
// is written once, by one thread, and its terms are added in the order of the tokens.
#pragma once

#include "simd.h"

namespace FUSED_ISA {

// starts[id] .. starts[id + 1]: where in `order` the tokens of an id are. A counting sort.
inline void sort_tokens(long tokens, long rows, const int64_t* ids, long* starts, long* order) {
  std::fill_n(starts, rows + 1, 0L);
  for (long t = 0; t < tokens; ++t) ++starts[ids[t]];
  for (long r = 0, total = 0; r <= rows; ++r) total = starts[r] += total;
  for (long t = tokens; t-- > 0;) order[--starts[ids[t]]] = t;
}

constexpr long FEW = 16;  // lines that are added in float32

// to = the sum of `count` lines of grad.
inline void add_few(long columns, const float* grad, const long* order, long count, float* to) {
  along(columns, [&](auto at) {
    vec part = at.of(grad + order[0] * columns);
    for (long i = 1; i < count; ++i) part += at.of(grad + order[i] * columns);
    at.put(to, part);
  });
}

// The same in float64, for ids that many tokens have.
inline void add_many(long columns, const float* grad, const long* order, long count, float* to) {
  double* total = kept<double>(columns);
  std::fill_n(total, columns, 0.0);
  for (long i = 0; i < count; ++i) {
    const float* line = grad + order[i] * columns;
    for (long j = 0; j < columns; ++j) total[j] += line[j];
  }
  for (long j = 0; j < columns; ++j) to[j] = float(total[j]);
}

inline void embedding_grad(long tokens, long rows, long columns, const int64_t* ids, const float* grad, float* out) {
  long *starts = kept<long>(rows + 1 + tokens), *order = starts + rows + 1;
  sort_tokens(tokens, rows, ids, starts, order);
  // Lines to write and lines to read are the work: line r begins at unit r + starts[r].
  const auto line_at = [&](long unit) {
    long low = 0, high = rows;
    while (low < high) {
      const long middle = (low + high) / 2;
      middle + starts[middle] < unit ? low = middle + 1 : high = middle;
    }
    return low;
  };
  in_parts(rows + tokens, columns, [&](long first, long last) {
    for (long r = line_at(first), end = line_at(last); r < end; ++r) {
      const long count = starts[r + 1] - starts[r];
      float* to = out + r * columns;
      if (!count)
        std::fill_n(to, columns, 0.0f);
      else if (count <= FEW)
        add_few(columns, grad, order + starts[r], count, to);
      else
        add_many(columns, grad, order + starts[r], count, to);
    }
  });
}

}  // namespace FUSED_ISA
