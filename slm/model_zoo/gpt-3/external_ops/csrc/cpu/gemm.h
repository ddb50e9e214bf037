// Matrix products: packed panels and a register tile, after Goto and van de Geijn (ACM TOMS 34, 2008, 12).
//
// B is packed into panels of COLUMNS columns, the rows of a panel one behind the other. A is read where it is if its rows lie
// in one piece, else packed into groups of ROWS rows. A panel of B stays in the first cache while groups of rows pass by.
#pragma once

#include "headers.h"
#include "memory.h"
#include "products.h"
#include "team.h"
#include "vector.h"

namespace FUSED_ISA {

// Register tile: ROWS x COLUMNS sums, in ROWS * 2 vectors.
constexpr long ROWS = LANES == 16 ? 12 : LANES == 8 ? 6 : 4;
constexpr long COLUMNS = 2 * LANES;

constexpr long DEPTH = 384;       // most terms of a sum in one go: a panel of B (DEPTH * COLUMNS) fits in the first cache
constexpr long BLOCK_ROWS = 120;   // rows of A that stay in the second cache while panels of B pass by
constexpr long WIDTH = 4096;       // most columns of B, and ...
constexpr long HEIGHT = 4096;      // ... rows of A that are packed at a time: both lie in the last cache

constexpr long rounded(long count, long unit) { return (count + unit - 1) / unit * unit; }

using fused::Matrix;

// As many threads as are worth it.
inline long threads_for(double operations) {
  return std::max(1L, std::min<long>(omp_get_max_threads(), long(operations / 1e6)));
}

// What becomes of a tile of sums: written or added to memory.
enum class Into { write, add };

// How the rows of A lie: each in one piece, `step` apart; or the elements of all rows at a k in one piece, `step` apart.
enum class Rows { along, across };

// sum += the products a[i][k] * b[k] over k < depth, b being a panel.
template <long N, Rows LIE>
ALWAYS_INLINE void add_products(vec (&sum)[N][2], long depth, const float* a, long step, const float* b) {
  const float* second = a + 3 * step;  // two pointers reach six rows with the scaled index of an address
#pragma GCC unroll 4
  for (long k = 0; k < depth; ++k) {
    const vec low = load(b), high = load(b + LANES);
#pragma GCC unroll 16
    for (long i = 0; i < N; ++i) {
      const vec x = all(LIE == Rows::across ? a[i] : i < 3 ? a[i * step] : second[(i - 3) * step]);
      sum[i][0] += x * low;
      sum[i][1] += x * high;
    }
    b += COLUMNS;
    a += LIE == Rows::across ? step : 1;
    second += 1;
  }
}

template <long N>
ALWAYS_INLINE void clear(vec (&sum)[N][2]) {
#pragma GCC unroll 16
  for (long i = 0; i < N; ++i) sum[i][0] = sum[i][1] = vec{};
}

template <long N>
ALWAYS_INLINE void put(const vec (&sum)[N][2], float* c, long stride, Into into) {
#pragma GCC unroll 16
  for (long i = 0; i < N; ++i, c += stride) {
    const bool adds = into == Into::add;
    store(c, adds ? load(c) + sum[i][0] : sum[i][0]);
    store(c + LANES, adds ? load(c + LANES) + sum[i][1] : sum[i][1]);
  }
}

// N rows of C. Where it has fewer than COLUMNS columns, the tile is made beside it.
template <long N, Rows LIE>
__attribute__((noinline)) void tile(long depth, const float* a, long step, const float* b, float* c, long stride,
                                    long columns, Into into) {
#pragma GCC unroll 16
  for (long i = 0; i < N; ++i) prefetch(c + i * stride);
  vec sum[N][2];
  clear(sum);
  add_products<N, LIE>(sum, depth, a, step, b);
  if (columns == COLUMNS) {
    if (into == Into::add) return put(sum, c, stride, Into::add);
    return put(sum, c, stride, Into::write);
  }
  float whole[N * COLUMNS];
  put(sum, whole, COLUMNS, Into::write);
  for (long i = 0; i < N; ++i)
    for (long j = 0; j < columns; ++j)
      c[i * stride + j] = whole[i * COLUMNS + j] + (into == Into::add ? c[i * stride + j] : 0.0f);
}

// ROWS x COLUMNS sums of which A is itself panels, `step` apart, of which `a` is the first row in question: c += A B.
__attribute__((noinline)) inline void tile_of_panels(long count, const float* a, long step, const float* b, float* c) {
  vec sum[ROWS][2];
  clear(sum);
  for (long j = 0; j < count; ++j, a += step, b += COLUMNS * COLUMNS)
    add_products<ROWS, Rows::along>(sum, COLUMNS, a, COLUMNS, b);
  put(sum, c, COLUMNS, Into::add);
}

// A tile of `rows` <= ROWS rows.
template <Rows LIE, long N = ROWS>
inline void some_rows(long rows, long depth, const float* a, long step, const float* b, float* c, long stride,
                      long columns, Into into) {
  if constexpr (N > 0) {
    if (rows == N) return tile<N, LIE>(depth, a, step, b, c, stride, columns, into);
    some_rows<LIE, N - 1>(rows, depth, a, step, b, c, stride, columns, into);
  }
}

// Eight by eight elements (i, j) at a[i * stride + j] to b[j * step + i].
inline void transpose_block(const float* a, long stride, float* b, long step) {
  for (long i = 0; i < 8; ++i)
    for (long j = 0; j < 8; ++j) b[j * step + i] = a[i * stride + j];
}

// Panel [depth][COLUMNS] of `columns` columns of b, filled up with zeros.
inline void pack_panel(const Matrix& b, long depth, long columns, float* to) {
  if (columns == COLUMNS && b.column == 1) {
    for (long k = 0; k < depth; ++k) {
      const float* from = b.at(k, 0);
      for (long j = 0; j < COLUMNS; j += LANES) store(to + k * COLUMNS + j, load(from + j));
    }
    return;
  }
  long k = 0;
  if (columns == COLUMNS && b.row == 1)
    for (; k + 8 <= depth; k += 8)
      for (long j = 0; j < COLUMNS; j += 8) transpose_block(b.at(k, j), b.column, to + k * COLUMNS + j, COLUMNS);
  for (; k < depth; ++k)
    for (long j = 0; j < COLUMNS; ++j) to[k * COLUMNS + j] = j < columns ? *b.at(k, j) : 0.0f;
}

// Group [depth][ROWS] of `rows` rows of a, filled up with zeros.
inline void pack_rows(const Matrix& a, long depth, long rows, float* to) {
  if (rows == ROWS && a.row == 1) {
    for (long k = 0; k < depth; ++k, to += ROWS) {
      const float* from = a.at(0, k);
#pragma GCC unroll 16
      for (long i = 0; i < ROWS; ++i) to[i] = from[i];
    }
    return;
  }
  for (long k = 0; k < depth; ++k)
    for (long i = 0; i < ROWS; ++i) *to++ = i < rows ? *a.at(i, k) : 0.0f;
}

// The part [first, last) of `count` units, cut into nearly equal parts.
struct Part {
  long first, last;
  Part(long count, long index, long parts) : first(count * index / parts), last(count * (index + 1) / parts) {}
};

// How many of `threads` go along the rows; the others go along the columns. Rows first, since each thread packs none then.
inline long threads_along_rows(long rows, long columns, long threads) {
  long best = 1;
  double least = 1e300;
  for (long across = 1; across <= threads; ++across) {
    if (threads % across) continue;
    const long down = threads / across;
    const double own = double(rounded((rows + down - 1) / down, ROWS)) * rounded((columns + across - 1) / across, COLUMNS);
    if (own < least) least = own, best = down;
  }
  return best;
}

// One rectangle of C of a thread: `rows` x `columns`, from packed panels of B; A packed or where it is.
inline void rectangle(long depth, const float* a, long a_row, bool packed, long rows, const float* panels, long columns,
                      float* c, long stride, Into into) {
  for (long i0 = 0; i0 < rows; i0 += BLOCK_ROWS)
    for (long j = 0; j < columns; j += COLUMNS)
      for (long i = i0; i < std::min(rows, i0 + BLOCK_ROWS); i += ROWS) {
        const long count = std::min(ROWS, rows - i), width = std::min(COLUMNS, columns - j);
        float* at = c + i * stride + j;
        if (packed)
          some_rows<Rows::across>(count, depth, a + i * depth, ROWS, panels + j * depth, at, stride, width, into);
        else
          some_rows<Rows::along>(count, depth, a + i * a_row, a_row, panels + j * depth, at, stride, width, into);
      }
}

// C [m, n] = or += A [m, k] B [k, n], by all threads of a team; every one calls it.
inline void multiply(Member& me, long m, long n, long k, Matrix a, Matrix b, float* c, long stride, Into into,
                     float* packed_a, float* packed_b) {
  const bool packs = a.column != 1 || (k > DEPTH && n >= 1024);
  const long steps = std::max(1L, (k + DEPTH - 1) / DEPTH), slice = (k + steps - 1) / steps;
  for (long i0 = 0; i0 < m; i0 += HEIGHT)
    for (long j0 = 0; j0 < n; j0 += WIDTH)
      for (long k0 = 0; k0 < k; k0 += slice) {
        const long rows = std::min(HEIGHT, m - i0), columns = std::min(WIDTH, n - j0), depth = std::min(slice, k - k0);
        const long panels = (columns + COLUMNS - 1) / COLUMNS, groups = (rows + ROWS - 1) / ROWS;
        const Matrix a_here{a.at(i0, k0), a.row, a.column}, b_here{b.at(k0, j0), b.row, b.column};
        const Part mine(panels, me.index, me.threads);
        for (long p = mine.first; p < mine.last; ++p)
          pack_panel({b_here.at(0, p * COLUMNS), b.row, b.column}, depth, std::min(COLUMNS, columns - p * COLUMNS),
                     packed_b + p * COLUMNS * depth);
        if (packs) {
          const Part own(groups, me.index, me.threads);
          for (long g = own.first; g < own.last; ++g)
            pack_rows({a_here.at(g * ROWS, 0), a.row, a.column}, depth, std::min(ROWS, rows - g * ROWS),
                      packed_a + g * ROWS * depth);
        }
        me.meet();
        const long down = threads_along_rows(rows, columns, me.threads), across = me.threads / down;
        const Part group(groups, me.index / across, down), panel(panels, me.index % across, across);
        const long i = group.first * ROWS, j = panel.first * COLUMNS;
        rectangle(depth, packs ? packed_a + i * depth : a_here.at(i, 0), a.row, packs,
                  std::min(rows, group.last * ROWS) - i, packed_b + j * depth, std::min(columns, panel.last * COLUMNS) - j,
                  c + (i0 + i) * stride + j0 + j, stride, k0 ? Into::add : into);
        me.meet();
      }
}

inline void product(const fused::Product& work) {
  const long m = work.rows, n = work.columns, k = work.depth;
  if (k == 0 && !work.adds)
    for (long i = 0; i < m; ++i) std::fill_n(work.c + i * work.stride, n, 0.0f);
  const long depth = std::min(k, DEPTH), a = rounded(std::min(m, HEIGHT), ROWS) * depth;
  float* memory = scratch(a + rounded(std::min(n, WIDTH), COLUMNS) * depth);
  const Into into = work.adds ? Into::add : Into::write;
  together(threads_for(2.0 * m * n * k), [&](Member& me) {
    multiply(me, m, n, k, work.a, work.b, work.c, work.stride, into, memory, memory + a);
  });
}

}  // namespace FUSED_ISA
