// The gradient of attention.h: probabilities are made again from the scores and the saved logarithms of their sums.
//
// A unit of work is a key head of a row of the batch, or a share of its blocks of queries if there are too few key heads for the
// threads; each has sums dK and dV of its own. For a block of queries and one of keys, with P = exp(Q K' - log sums):
//
//   dS = P * (dY V' - D), D = rowsum(dY * Y);  dQ += dS K;  dV += P' dY;  dK += dS' Q
#pragma once

#include "attention.h"

namespace FUSED_ISA {

using fused::AttentionGrad;

class AttentionBackward {
 public:
  AttentionBackward(const AttentionGrad& work, long threads)
      : all_(work),
        work_(work.forward),
        padded_(rounded(work_.keys, COLUMNS)),
        dim_(rounded(work_.dim, COLUMNS)),
        value_dim_(rounded(work_.value_dim, COLUMNS)),
        units_(work_.batch * work_.groups),
        blocks_((work_.queries + QUERIES - 1) / QUERIES),
        shares_(std::min((threads + units_ - 1) / units_, blocks_ * (work_.heads / work_.groups))),
        own_size_(rounded(QUERIES * (2 * (dim_ + value_dim_) + dim_ + 2 * KEYS + 2), 1024)) {
    const long packed = padded_ * (2 * dim_ + value_dim_), sums = padded_ * (dim_ + value_dim_);
    packed_ = scratch(units_ * packed + units_ * shares_ * sums + threads * own_size_);
    sums_ = packed_ + units_ * packed;
    own_ = sums_ + units_ * shares_ * sums;
  }

  void run(Member& me) {
    const Part mine(units_, me.index, me.threads);
    for (long unit = mine.first; unit < mine.last; ++unit) pack(unit);
    me.meet();
    for (long task = next_++; task < units_ * shares_; task = next_++) share(own_ + me.index * own_size_, task);
    me.meet();
    const Part rows(units_ * work_.keys, me.index, me.threads);
    for (long row = rows.first; row < rows.last; ++row) unpack(row / work_.keys, row % work_.keys);
  }

 private:
  // What a thread has of a block of queries.
  struct Block {
    float *q, *q_features, *grad, *grad_features, *grad_q, *p, *slopes, *log_sums, *along;
    long b, head, unit, start, count;
  };

  float* keys_of(long unit) const { return packed_ + unit * padded_ * (2 * dim_ + value_dim_); }
  float* features_of(long unit) const { return keys_of(unit) + padded_ * dim_; }
  float* values_of(long unit) const { return features_of(unit) + padded_ * dim_; }
  float* sums_of(long task) const { return sums_ + task * padded_ * (dim_ + value_dim_); }

  void pack(long unit) {
    const long b = unit / work_.groups, g = unit % work_.groups;
    const Matrix k = head_of(work_.k, b, work_.keys, work_.groups, g, work_.dim);
    pack_keys(k, work_.keys, work_.dim, keys_of(unit));
    pack_features(k, work_.keys, padded_, work_.dim, features_of(unit));
    pack_keys(head_of(work_.v, b, work_.keys, work_.groups, g, work_.value_dim), work_.keys, work_.value_dim, values_of(unit));
  }

  void share(float* own, long task) {
    float* sums = sums_of(task);
    std::fill_n(sums, padded_ * (dim_ + value_dim_), 0.0f);
    const long unit = task / shares_, heads = work_.heads / work_.groups;
    for (long n = task % shares_; n < heads * blocks_; n += shares_) {
      Block block = carve(own);
      block.unit = unit, block.b = unit / work_.groups, block.head = unit % work_.groups * heads + n / blocks_;
      block.start = n % blocks_ * QUERIES, block.count = std::min(QUERIES, work_.queries - block.start);
      fill(block);
      const Panels seen(work_, block.b, block.start, block.start + block.count);
      for (long from = seen.first; from < seen.last; from += KEYS / COLUMNS)
        meet_keys(block, from, std::min(seen.last, from + KEYS / COLUMNS), sums);
      keep_grad_q(block);
    }
  }

  Block carve(float* own) const {
    Block block;
    for (auto [at, size] : {std::pair{&block.q, dim_}, {&block.q_features, dim_}, {&block.grad, value_dim_},
                            {&block.grad_features, value_dim_}, {&block.grad_q, dim_}, {&block.p, KEYS},
                            {&block.slopes, KEYS}, {&block.log_sums, 1L}, {&block.along, 1L}})
      *at = own, own += QUERIES * size;
    return block;
  }

  void fill(const Block& block) {
    const Matrix q = rows_of(work_.q, block, work_.dim), grad = rows_of(all_.grad, block, work_.value_dim);
    const Matrix y = rows_of(work_.y, block, work_.value_dim);
    const long padded = rounded(block.count, ROWS);
    pack_queries(q, block.count, work_.dim, work_.scale, block.q);
    pack_features(q, block.count, QUERIES, work_.dim, block.q_features);
    pack_queries(grad, block.count, work_.value_dim, 1.0f, block.grad);
    pack_features(grad, block.count, QUERIES, work_.value_dim, block.grad_features);
    std::fill_n(block.grad_q, QUERIES * dim_, 0.0f);
    for (long i = 0; i < block.count; ++i) {
      float sum = 0;
      for (long j = 0; j < work_.value_dim; ++j) sum += *grad.at(i, j) * *y.at(i, j);
      block.along[i] = sum;
      block.log_sums[i] = work_.log_sums[(block.b * work_.heads + block.head) * work_.queries + block.start + i];
    }
    std::fill_n(block.log_sums + block.count, padded - block.count, 0.0f);
    std::fill_n(block.along + block.count, padded - block.count, 0.0f);
  }

  Matrix rows_of(const float* x, const Block& block, long dim) const {
    const Matrix all_rows = head_of(x, block.b, work_.queries, work_.heads, block.head, dim);
    return {all_rows.at(block.start, 0), all_rows.row, 1};
  }

  // The panels [from, to) of keys.
  void meet_keys(const Block& block, long from, long to, float* sums) {
    for (long p = from; p < to; ++p) {
      const long at = (p - from) * QUERIES * COLUMNS;
      const auto [first, last] = groups_that_see(block, p);
      for (long i = first; i < last; i += ROWS) {
        probabilities(block, i, p, block.p + at);
        gradients(block, i, p, block.p + at, block.slopes + at);
      }
      if (first >= last) continue;
      const long rows = std::min(last, block.count) - first;
      add_rows(rows, block.p + at + first * COLUMNS, block.grad_features + first * COLUMNS, value_dim_,
               sums + padded_ * dim_ + p * COLUMNS * COLUMNS);
      add_rows(rows, block.slopes + at + first * COLUMNS, block.q_features + first * COLUMNS, dim_, sums + p * COLUMNS * COLUMNS);
    }
    for (long i = 0; i < block.count; i += ROWS) {
      const Panels seen(work_, block.b, block.start + i, block.start + std::min(block.count, i + ROWS));
      const long low = std::max(from, seen.first), high = std::min(to, seen.last);
      for (long j = 0; j < dim_ && low < high; j += COLUMNS)
        tile_of_panels(high - low, block.slopes + ((low - from) * QUERIES + i) * COLUMNS, QUERIES * COLUMNS,
                       features_of(block.unit) + j * padded_ + low * COLUMNS * COLUMNS,
                       block.grad_q + j * QUERIES + i * COLUMNS);
    }
  }

  // The rows [first, last) of a block, in whole groups, of which some see keys of a panel.
  std::pair<long, long> groups_that_see(const Block& block, long panel) const {
    long first = 0, last = rounded(block.count, ROWS);
    const auto sees = [&](long i) {
      const Panels seen(work_, block.b, block.start + i, block.start + std::min(block.count, i + ROWS));
      return panel >= seen.first && panel < seen.last;
    };
    while (first < last && !sees(first)) first += ROWS;
    while (first < last && !sees(last - ROWS)) last -= ROWS;
    return {first, last};
  }

  // P of a group of queries and a panel of keys.
  __attribute__((noinline)) void probabilities(const Block& block, long i, long panel, float* p) {
    vec sum[ROWS][2];
    clear(sum);
    add_products<ROWS, Rows::across>(sum, work_.dim, block.q + i * work_.dim, ROWS,
                                     keys_of(block.unit) + panel * COLUMNS * work_.dim);
#pragma GCC unroll 16
    for (long r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
      for (long half = 0; half < 2; ++half) store(p + (i + r) * COLUMNS + half * LANES, sum[r][half]);
    for (long r = i; r < i + ROWS; ++r) {
      const bool real = r < block.count;
      const long row = block.start + r, first = real ? first_key(work_, block.b, row) : 0, last = real ? last_key(work_, row) : 0;
      for (long half = 0; half < COLUMNS; half += LANES) {
        const long start = panel * COLUMNS + half;
        float* at = p + r * COLUMNS + half;
        vec x = load(at) - block.log_sums[r];
        if (work_.slopes) x += work_.slopes[block.head] * (lanes() + float(start - last + 1));
        x = exp_of_negative(x);
        if (start < first || start + LANES > last) x = where_seen(x, lanes(), start, first, last, 0.0f);
        store(at, x);
      }
    }
  }

  // dS of a group of queries and a panel of keys.
  __attribute__((noinline)) void gradients(const Block& block, long i, long panel, const float* p, float* slopes) {
    vec sum[ROWS][2];
    clear(sum);
    add_products<ROWS, Rows::across>(sum, work_.value_dim, block.grad + i * work_.value_dim, ROWS,
                                     values_of(block.unit) + panel * COLUMNS * work_.value_dim);
#pragma GCC unroll 16
    for (long r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
      for (long half = 0; half < 2; ++half) {
        const long at = (i + r) * COLUMNS + half * LANES;
        store(slopes + at, load(p + at) * (sum[r][half] - block.along[i + r]));
      }
  }

  // c += A' B for the keys of a panel: A [rows][COLUMNS] that panel, B panels of features of the same rows.
  void add_rows(long rows, const float* a, const float* b, long features, float* c) {
    for (long j = 0; j < features; j += COLUMNS)
      for (long key = 0; key < COLUMNS; key += ROWS)
        some_rows<Rows::across>(std::min(ROWS, COLUMNS - key), rows, a + key, COLUMNS, b + j * QUERIES,
                                c + j * padded_ + key * COLUMNS, COLUMNS, COLUMNS, Into::add);
  }

  void keep_grad_q(const Block& block) {
    for (long i = 0; i < block.count; ++i) {
      float* to = all_.grad_q + ((block.b * work_.queries + block.start + i) * work_.heads + block.head) * work_.dim;
      for (long j = 0; j < work_.dim; ++j)
        to[j] = block.grad_q[j / COLUMNS * QUERIES * COLUMNS + i * COLUMNS + j % COLUMNS] * work_.scale;
    }
  }

  // The sums of all shares for one key.
  void unpack(long unit, long key) {
    const long b = unit / work_.groups, g = unit % work_.groups;
    const long place = (b * work_.keys + key) * work_.groups + g;
    const auto collect = [&](long offset, long dim, float factor, float* to) {
      for (long j = 0; j < dim; ++j) {
        float sum = 0;
        for (long s = 0; s < shares_; ++s)
          sum += sums_of(unit * shares_ + s)[offset + j / COLUMNS * padded_ * COLUMNS + key * COLUMNS + j % COLUMNS];
        to[j] = sum * factor;
      }
    };
    collect(0, work_.dim, work_.scale, all_.grad_k + place * work_.dim);
    collect(padded_ * dim_, work_.value_dim, 1.0f, all_.grad_v + place * work_.value_dim);
  }

  const AttentionGrad& all_;
  const Attention& work_;
  const long padded_, dim_, value_dim_, units_, blocks_, shares_, own_size_;
  float *packed_, *sums_, *own_;
  std::atomic<long> next_{0};
};

inline void attention_grad(const AttentionGrad& work) {
  const long threads = threads_for(2.5 * operations(work.forward));
  AttentionBackward backward(work, threads);
  together(threads, [&backward](Member& me) { backward.run(me); });
}

}  // namespace FUSED_ISA
