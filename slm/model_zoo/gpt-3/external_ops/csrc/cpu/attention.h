// Causal attention by blocks (Dao et al., arXiv:2205.14135), and its gradient: memory grows as the length, not its square.
//
// A query at position p sees the keys [max(starts[p], p - window + 1), p]. Scores stand as panels of COLUMNS keys, the block's
// queries one behind the other: A of P V and dS K as they are (six lines of a panel at a time), and A of P' dO and dS' Q, too
// (across). What no query of a tile sees is not computed.
#pragma once

#include "functions.h"
#include "gemm.h"
#include "memory.h"

namespace FUSED_ISA {

constexpr long QUERIES = rounded(192, ROWS);            // of a block
constexpr long KEYS = rounded(256, COLUMNS);            // of a block
constexpr float NEVER = -std::numeric_limits<float>::infinity();

using fused::Attention;

// The keys [first, last) that query i of row b of the batch sees.
inline long first_key(const Attention& work, long b, long i) {
  const long at = i + work.keys - work.queries;
  const long low = work.window && at >= work.window ? at - work.window + 1 : 0;
  return work.starts ? std::max<long>(low, work.starts[b * work.keys + at]) : low;
}
inline long last_key(const Attention& work, long i) { return i + work.keys - work.queries + 1; }

// The panels [first, last) of keys that some of the queries [i, end) see.
struct Panels {
  long first, last;
  Panels(const Attention& work, long b, long i, long end)
      : first(first_key(work, b, i) / COLUMNS), last((last_key(work, end - 1) + COLUMNS - 1) / COLUMNS) {}
};

inline vec lanes() {
  vec x;
  for (long i = 0; i < LANES; ++i) x[i] = float(i);
  return x;
}

// x where the keys from `start` on lie in [first, last), `other` elsewhere. Positions are exact in float up to 2^24.
ALWAYS_INLINE vec where_seen(vec x, vec number, long start, long first, long last, float other) {
  const vec at = number + float(start);
  const ivec seen = (at >= float(first)) & (at < float(last));
  return (vec)(((ivec)x & seen) | ((ivec)all(other) & ~seen));
}

// Keys or values of a row of the batch and a group, packed.
inline Matrix head_of(const float* x, long b, long length, long heads, long head, long dim) {
  return {x + (b * length * heads + head) * dim, heads * dim, 1};
}

inline Matrix turned(const Matrix& x) { return {x.data, x.column, x.row}; }

// All of x [length, dim] as panels of COLUMNS features (rows one behind the other, `padded` of them).
inline void pack_features(const Matrix& x, long length, long padded, long dim, float* to) {
  for (long j = 0; j < dim; j += COLUMNS, to += padded * COLUMNS) {
    pack_panel({x.at(0, j), x.row, x.column}, length, std::min(COLUMNS, dim - j), to);
    std::fill_n(to + length * COLUMNS, (padded - length) * COLUMNS, 0.0f);
  }
}

// All of x [length, dim] as panels [dim][COLUMNS] of COLUMNS rows.
inline void pack_keys(const Matrix& x, long length, long dim, float* to) {
  for (long i = 0; i < length; i += COLUMNS, to += dim * COLUMNS)
    pack_panel(turned({x.at(i, 0), x.row, x.column}), dim, std::min(COLUMNS, length - i), to);
}

inline void pack_queries(const Matrix& x, long count, long dim, float factor, float* to) {
  for (long i = 0; i < count; i += ROWS)
    pack_rows({x.at(i, 0), x.row, x.column}, dim, std::min(ROWS, count - i), to + i * dim);
  if (factor != 1.0f)
    for (long i = 0; i < rounded(count, ROWS) * dim; ++i) to[i] *= factor;
}

class AttentionForward {
 public:
  AttentionForward(const Attention& work, long threads)
      : work_(work),
        padded_(rounded(work.keys, COLUMNS)),
        features_(rounded(work.value_dim, COLUMNS)),
        blocks_((work.queries + QUERIES - 1) / QUERIES),
        own_size_(rounded(QUERIES * (work.dim + KEYS + features_ + 2), 1024)) {
    const long units = work.batch * work.groups;
    keys_ = scratch(units * padded_ * (work.dim + features_) + threads * own_size_);
    values_ = keys_ + units * padded_ * work.dim;
    own_ = values_ + units * padded_ * features_;
  }

  void run(Member& me) {
    const Part mine(work_.batch * work_.groups, me.index, me.threads);
    for (long unit = mine.first; unit < mine.last; ++unit) {
      const long b = unit / work_.groups, g = unit % work_.groups;
      pack_keys(head_of(work_.k, b, work_.keys, work_.groups, g, work_.dim), work_.keys, work_.dim, keys_of(unit));
      pack_features(head_of(work_.v, b, work_.keys, work_.groups, g, work_.value_dim), work_.keys, padded_, work_.value_dim,
                    values_of(unit));
    }
    me.meet();
    const long heads = work_.batch * work_.heads;
    for (long task = next_++; task < heads * blocks_; task = next_++)  // the longest first
      block(own_ + me.index * own_size_, task % heads, blocks_ - 1 - task / heads);
  }

 private:
  float* keys_of(long unit) const { return keys_ + unit * padded_ * work_.dim; }
  float* values_of(long unit) const { return values_ + unit * padded_ * features_; }

  void block(float* own, long index, long number) {
    const long b = index / work_.heads, head = index % work_.heads;
    const long unit = b * work_.groups + head / (work_.heads / work_.groups);
    const long start = number * QUERIES, count = std::min(QUERIES, work_.queries - start);
    float *q = own, *scores = q + QUERIES * work_.dim, *y = scores + QUERIES * KEYS, *top = y + QUERIES * features_;
    float* sum = top + QUERIES;
    pack_queries(part(head_of(work_.q, b, work_.queries, work_.heads, head, work_.dim), start), count, work_.dim,
                 work_.scale, q);
    std::fill_n(y, QUERIES * features_, 0.0f);
    std::fill_n(top, QUERIES, NEVER);
    std::fill_n(sum, QUERIES, 0.0f);
    const Panels all_seen(work_, b, start, start + count);
    for (long from = all_seen.first; from < all_seen.last; from += KEYS / COLUMNS)
      for (long i = 0; i < count; i += ROWS) {
        const long end = std::min(count, i + ROWS);
        const Panels seen(work_, b, start + i, start + end);
        const long low = std::max(from, seen.first), high = std::min({from + KEYS / COLUMNS, all_seen.last, seen.last});
        if (low >= high) continue;
        for (long p = low; p < high; ++p)
          tile<ROWS, Rows::across>(work_.dim, q + i * work_.dim, ROWS, keys_of(unit) + p * COLUMNS * work_.dim,
                                   scores + ((p - from) * QUERIES + i) * COLUMNS, COLUMNS, COLUMNS, Into::write);
        float* at = scores + (low - from) * QUERIES * COLUMNS;
        for (long r = i; r < end; ++r)
          row(b, head, start + r, at + r * COLUMNS, low, high, top[r], sum[r], y + r * COLUMNS);
        for (long j = 0; j < features_; j += COLUMNS)
          tile_of_panels(high - low, at + i * COLUMNS, QUERIES * COLUMNS, values_of(unit) + j * padded_ + low * COLUMNS * COLUMNS,
                         y + j * QUERIES + i * COLUMNS);
      }
    for (long r = 0; r < count; ++r) finish(b, head, start + r, top[r], sum[r], y + r * COLUMNS);
  }

  static Matrix part(const Matrix& x, long row) { return {x.at(row, 0), x.row, x.column}; }

  // Scores of a query with the keys of panels [low, high) become powers; what is summed up already is brought to the new top.
  void row(long b, long head, long i, float* scores, long low, long high, float& top, float& sum, float* y) {
    const long first = first_key(work_, b, i), last = last_key(work_, i), step = QUERIES * COLUMNS;
    const vec number = lanes();
    vec most = all(NEVER);
    for (long p = low; p < high; ++p)
      for (long half = 0; half < COLUMNS; half += LANES) {
        float* at = scores + (p - low) * step + half;
        const long start = p * COLUMNS + half;
        vec x = load(at);
        if (work_.slopes) x += work_.slopes[head] * (number + float(start - last + 1));
        if (start < first || start + LANES > last) x = where_seen(x, number, start, first, last, NEVER);
        if (work_.slopes || start < first || start + LANES > last) store(at, x);
        most = greater(x, most);
      }
    const float highest = std::max(top, greatest(most));
    vec total_power = {};
    for (long p = low; p < high; ++p)
      for (long half = 0; half < COLUMNS; half += LANES) {
        float* at = scores + (p - low) * step + half;
        const vec power = highest == NEVER ? where_nan(load(at)) : exp_of_negative(load(at) - highest);
        store(at, power);
        total_power += power;
      }
    if (highest != top) {
      const float factor = std::exp(top - highest);
      for (long j = 0; j < features_; j += COLUMNS)
        for (long half = 0; half < COLUMNS; half += LANES) store(y + j * QUERIES + half, load(y + j * QUERIES + half) * factor);
      sum *= factor, top = highest;
    }
    sum += total(total_power);
  }

  // Not a number where x is none, 0 elsewhere: all scores are -infinity or not a number.
  static vec where_nan(vec x) { return (vec)((ivec)x & (ivec)(x != x)); }

  void finish(long b, long head, long i, float top, float sum, const float* y) {
    float* to = work_.y + ((b * work_.queries + i) * work_.heads + head) * work_.value_dim;
    const float factor = 1 / sum;
    for (long j = 0; j < work_.value_dim; ++j) to[j] = y[j / COLUMNS * QUERIES * COLUMNS + j % COLUMNS] * factor;
    work_.log_sums[(b * work_.heads + head) * work_.queries + i] = top + std::log(sum);
  }

  const Attention& work_;
  const long padded_, features_, blocks_, own_size_;
  float *keys_, *values_, *own_;
  std::atomic<long> next_{0};
};

inline double operations(const Attention& work) {
  return double(work.batch) * work.heads * work.queries * work.keys * (work.dim + work.value_dim);
}

inline void attention(const Attention& work) {
  const long threads = threads_for(operations(work));
  AttentionForward forward(work, threads);
  together(threads, [&forward](Member& me) { forward.run(me); });
}

}  // namespace FUSED_ISA
