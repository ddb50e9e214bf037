// The head of a language model and its cross entropy in one: loss and gradients of log softmax(x W)[label].
//
// Some rows at a time. Their logits stand once, as panels of COLUMNS columns of the vocabulary with all rows of a panel one
// behind the other: as such they are B of the product dW = x' P, and, six lines of a panel at a time, A of dX = P W'.
//
//   1. tile of the vocabulary after tile: logits, then exp(logit - the row's greatest in this tile), and its sum
//   2. what all tiles say of a row: the loss, and each tile's factor exp(tile's greatest - greatest) / sum
//   3. tile after tile: factor, less 1 at the label: the gradient of the logits; then both products with it
#pragma once

#include "functions.h"
#include "gemm.h"
#include "memory.h"

namespace FUSED_ISA {

constexpr long TILE_PANELS = 4;                        // of a tile of the vocabulary
constexpr long TILE = TILE_PANELS * COLUMNS;           // columns
constexpr long CHUNK_ROWS = rounded(768, ROWS);        // rows whose logits exist at once ...
constexpr long CHUNK_BYTES = 99L << 20;                // ... if they need no more memory than this
constexpr long HEAD_BLOCK = rounded(180, ROWS);        // rows of x that stay in the second cache

using fused::HeadLoss;

// A head at work: its memory, and the steps of a chunk of rows.
class Head {
 public:
  Head(HeadLoss& work, long threads)
      : work_(work),
        threads_(threads),
        panels_((work.vocab + COLUMNS - 1) / COLUMNS),
        tiles_((panels_ + TILE_PANELS - 1) / TILE_PANELS),
        hidden_(rounded(work.hidden, COLUMNS)),
        groups_((work.hidden + ROWS - 1) / ROWS),
        chunk_(rows_of_a_chunk()),
        slice_(work.hidden <= DEPTH ? work.hidden : DEPTH) {
    long need = 0;
    const auto reserve = [&need](long count) {
      const long at = need;
      need += rounded(count, 1024);
      return at;
    };
    const long p = reserve(panels_ * chunk_ * COLUMNS), x = reserve(chunk_ * work.hidden);
    const long across = reserve(chunk_ * std::max(hidden_, groups_ * ROWS)), dx = reserve(threads * chunk_ * hidden_);
    const long stats = reserve(2 * tiles_ * chunk_), own = reserve(threads * own_size()), chosen = reserve(chunk_);
    float* memory = scratch(need);
    p_ = memory + p, x_ = memory + x, x_across_ = memory + across, dx_ = memory + dx;
    top_ = memory + stats, sum_ = top_ + tiles_ * chunk_, own_ = memory + own, chosen_ = memory + chosen;
  }

  void run(Member& me) {
    double loss = 0;
    for (long first = 0; first < work_.rows; first += chunk_) {
      const long rows = std::min(chunk_, work_.rows - first);
      pack(me, first, rows);
      me.meet();
      const Part mine(tiles_, me.index, me.threads);
      for (long t = mine.first; t < mine.last; ++t) powers(me, t, first, rows);
      me.meet();
      loss += losses(me, rows);
      me.meet();
      if (work_.grad_x || work_.grad_weight) {
        if (work_.grad_x) std::fill_n(dx_ + me.index * chunk_ * hidden_, chunk_ * hidden_, 0.0f);
        for (long t = mine.first; t < mine.last; ++t) slopes(me, t, first, rows);
        me.meet();
        if (work_.grad_x) sum_of_threads(me, first, rows);
      }
    }
    me.add(work_.loss, loss);
  }

 private:
  long rows_of_a_chunk() const {
    const long most = std::max(1L, CHUNK_BYTES / (panels_ * COLUMNS * 4) / ROWS) * ROWS;
    const long chunks = (work_.rows + std::min(most, CHUNK_ROWS) - 1) / std::min(most, CHUNK_ROWS);
    return rounded((work_.rows + chunks - 1) / chunks, ROWS);
  }
  long own_size() const { return TILE * std::max(slice_, COLUMNS) + 1024; }
  float* panel(long index) const { return p_ + index * chunk_ * COLUMNS; }
  long panels_of(long tile) const { return std::min(TILE_PANELS, panels_ - tile * TILE_PANELS); }
  float* own(const Member& me) const { return own_ + me.index * rounded(own_size(), 1); }

  // W as [hidden, vocab].
  Matrix weight() const {
    return work_.transposed ? Matrix{work_.weight, 1, work_.hidden} : Matrix{work_.weight, work_.vocab, 1};
  }

  // x in groups of rows for the logits; and for dW across: in groups of features, or as panels if W is transposed.
  void pack(Member& me, long first, long rows) {
    const Matrix x{work_.x + first * work_.hidden, work_.hidden, 1}, across{x.data, 1, work_.hidden};
    const Part own((rows + ROWS - 1) / ROWS, me.index, me.threads);
    for (long k = 0; k < work_.hidden; k += slice_) {
      const long depth = std::min(slice_, work_.hidden - k);
      for (long g = own.first; g < own.last; ++g)
        pack_rows({x.at(g * ROWS, k), x.row, 1}, depth, std::min(ROWS, rows - g * ROWS),
                  x_ + chunk_ * k + g * ROWS * depth);
    }
    if (!work_.grad_weight) return;
    const long unit = work_.transposed ? COLUMNS : ROWS;
    const Part part((work_.hidden + unit - 1) / unit, me.index, me.threads);
    for (long g = part.first; g < part.last; ++g) {
      const long count = std::min(unit, work_.hidden - g * unit);
      float* to = x_across_ + g * unit * chunk_;
      if (work_.transposed)
        pack_panel({x.at(0, g * unit), x.row, 1}, rows, count, to);
      else
        pack_rows({across.at(g * unit, 0), 1, across.column}, rows, count, to);
    }
  }

  // Step 1.
  void powers(Member& me, long tile_index, long first, long rows) {
    const long start = tile_index * TILE_PANELS, count = panels_of(tile_index);
    const Matrix w = weight();
    float* packed = own(me);
    for (long k = 0; k < work_.hidden; k += slice_) {
      const long depth = std::min(slice_, work_.hidden - k);
      for (long j = 0; j < count; ++j)
        pack_panel({w.at(k, (start + j) * COLUMNS), w.row, w.column}, depth, columns_of(start + j),
                   packed + j * COLUMNS * depth);
      const bool last = k + depth == work_.hidden;
      for (long i0 = 0; i0 < rows; i0 += HEAD_BLOCK) {
        const long end = std::min(rows, i0 + HEAD_BLOCK);
        for (long j = 0; j < count; ++j)
          for (long i = i0; i < end; i += ROWS)
            tile<ROWS, Rows::across>(depth, x_ + chunk_ * k + i * depth, ROWS, packed + j * COLUMNS * depth,
                                     panel(start + j) + i * COLUMNS, COLUMNS, COLUMNS, k ? Into::add : Into::write);
        if (last)
          for (long i = i0; i < end; ++i) powers_of_row(tile_index, i, work_.labels[first + i]);
      }
    }
  }

  long columns_of(long index) const { return std::min(COLUMNS, work_.vocab - index * COLUMNS); }

  void powers_of_row(long tile_index, long i, int64_t label) {
    const long start = tile_index * TILE_PANELS, count = panels_of(tile_index);
    const long step = chunk_ * COLUMNS;
    float* row = panel(start) + i * COLUMNS;
    if (label >= start * COLUMNS && label < (start + count) * COLUMNS) chosen_[i] = *place(label, i);
    const long columns = columns_of(start + count - 1);
    if (columns < COLUMNS)
      std::fill_n(row + (count - 1) * step + columns, COLUMNS - columns, -std::numeric_limits<float>::infinity());
    vec most = load(row);
    for (long j = 0; j < count; ++j)
      for (long half = 0; half < COLUMNS; half += LANES) most = greater(load(row + j * step + half), most);
    const float top = greatest(most);
    vec sum = {};
    for (long j = 0; j < count; ++j)
      for (long half = 0; half < COLUMNS; half += LANES) {
        const vec y = exp_of_negative(load(row + j * step + half) - top);
        store(row + j * step + half, y);
        sum += y;
      }
    top_[tile_index * chunk_ + i] = top;
    sum_[tile_index * chunk_ + i] = total(sum);
  }

  float* place(int64_t label, long i) const {
    return panel(label / COLUMNS) + i * COLUMNS + label % COLUMNS;
  }

  // Step 2. Afterwards top_ holds the factors.
  double losses(Member& me, long rows) {
    const Part mine(rows, me.index, me.threads);
    double loss = 0;
    for (long i = mine.first; i < mine.last; ++i) {
      float top = top_[i];
      for (long t = 1; t < tiles_; ++t) top = top_[t * chunk_ + i] > top ? top_[t * chunk_ + i] : top;
      double sum = 0;
      for (long t = 0; t < tiles_; ++t) {
        float& factor = top_[t * chunk_ + i];
        factor = std::exp(factor - top);
        sum += double(factor) * sum_[t * chunk_ + i];
      }
      for (long t = 0; t < tiles_; ++t) top_[t * chunk_ + i] *= float(1 / sum);
      loss += std::log(sum) + (double(top) - chosen_[i]);
    }
    return loss;
  }

  // Step 3.
  void slopes(Member& me, long tile_index, long first, long rows) {
    const long start = tile_index * TILE_PANELS, count = panels_of(tile_index);
    const float* factors = top_ + tile_index * chunk_;
    for (long j = start; j < start + count; ++j)
      for (long i = 0; i < rows; ++i)
        for (long half = 0; half < COLUMNS; half += LANES) {
          float* at = panel(j) + i * COLUMNS + half;
          store(at, load(at) * factors[i]);
        }
    for (long i = 0; i < rows; ++i) {
      const int64_t label = work_.labels[first + i];
      if (label >= start * COLUMNS && label < (start + count) * COLUMNS) *place(label, i) -= 1.0f;
    }
    if (work_.grad_x) products_for_x(me, start, count, rows);
    if (work_.grad_weight)
      for (long j = start; j < start + count; ++j)
        work_.transposed ? columns_of_weight(j, first, rows) : product_for_weight(j, first, rows);
  }

  // The own dX += P W' for a tile. dX lies in panels, too.
  void products_for_x(Member& me, long start, long count, long rows) {
    const Matrix w = weight();
    float* packed = own(me);
    float* dx = dx_ + me.index * chunk_ * hidden_;
    const long columns = std::min(count * COLUMNS, work_.vocab - start * COLUMNS);
    for (long h = 0; h < work_.hidden; h += COLUMNS) {
      pack_panel({w.at(h, start * COLUMNS), w.column, w.row}, columns, std::min(COLUMNS, work_.hidden - h), packed);
      std::fill_n(packed + columns * COLUMNS, (count * COLUMNS - columns) * COLUMNS, 0.0f);
      for (long i = 0; i < rows; i += ROWS)
        tile_of_panels(count, panel(start) + i * COLUMNS, chunk_ * COLUMNS, packed, dx + h * chunk_ + i * COLUMNS);
    }
  }

  // dW [hidden, vocab]: a panel of columns.
  void product_for_weight(long index, long first, long rows) {
    for (long k = 0; k < rows; k += DEPTH)
      for (long g = 0; g < groups_; ++g)
        some_rows<Rows::across>(std::min(ROWS, work_.hidden - g * ROWS), std::min(DEPTH, rows - k),
                                x_across_ + (g * chunk_ + k) * ROWS, ROWS, panel(index) + k * COLUMNS,
                                work_.grad_weight + g * ROWS * work_.vocab + index * COLUMNS, work_.vocab,
                                columns_of(index), first || k ? Into::add : Into::write);
  }

  // dW [vocab, hidden]: the rows of a panel.
  void columns_of_weight(long index, long first, long rows) {
    for (long h = 0; h < work_.hidden; h += COLUMNS)
      for (long k = 0; k < rows; k += DEPTH)
        for (long v = 0; v < columns_of(index); v += ROWS)
          some_rows<Rows::across>(std::min(ROWS, columns_of(index) - v), std::min(DEPTH, rows - k),
                                  panel(index) + k * COLUMNS + v, COLUMNS, x_across_ + h * chunk_ + k * COLUMNS,
                                  work_.grad_weight + (index * COLUMNS + v) * work_.hidden + h, work_.hidden,
                                  std::min(COLUMNS, work_.hidden - h), first || k ? Into::add : Into::write);
  }

  void sum_of_threads(Member& me, long first, long rows) {
    const Part mine(rows, me.index, me.threads);
    for (long i = mine.first; i < mine.last; ++i)
      for (long h = 0; h < work_.hidden; ++h) {
        float sum = 0;
        const float* at = dx_ + (h / COLUMNS * chunk_ + i) * COLUMNS + h % COLUMNS;
        for (long t = 0; t < me.threads; ++t) sum += at[t * chunk_ * hidden_];
        work_.grad_x[(first + i) * work_.hidden + h] = sum;
      }
  }

  HeadLoss& work_;
  const long threads_, panels_, tiles_, hidden_, groups_, chunk_, slice_;
  float *p_, *x_, *x_across_, *dx_, *top_, *sum_, *own_, *chosen_;
};

inline void head_loss(HeadLoss& work) {
  const long threads = threads_for(6.0 * work.rows * work.hidden * work.vocab);
  work.loss = 0;
  Head head(work, threads);
  together(threads, [&head](Member& me) { head.run(me); });
}

}  // namespace FUSED_ISA
