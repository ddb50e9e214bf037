// Rows as vectors, their sums, and e^x. What isn't finite stays so: nothing here clips it away.
#pragma once

#include "headers.h"
#include "vector.h"

namespace FUSED_ISA {

constexpr float INF = std::numeric_limits<float>::infinity();

// LANES elements of a row from the i-th on.
struct Whole {
  long i;
  vec of(const float* p, float = 0) const { return load(p + i); }
  void put(float* p, vec x) const { store(p + i, x); }
  vec keep(vec x) const { return x; }
};

// The last elements of a row, fewer than LANES.
struct Rest {
  long i, count;
  // Missing elements are `fill`.
  vec of(const float* p, float fill = 0) const {
    float lanes[LANES];
    for (long j = 0; j < LANES; ++j) lanes[j] = j < count ? p[i + j] : fill;
    return load(lanes);
  }
  void put(float* p, vec x) const {
    for (long j = 0; j < count; ++j) p[i + j] = x[j];
  }
  // x with zeros for the missing elements.
  vec keep(vec x) const {
    for (long j = count; j < LANES; ++j) x[j] = 0;
    return x;
  }
};

// body(place) along the n elements of a row.
template <class Body>
ALWAYS_INLINE void along(long n, const Body& body) {
  long i = 0;
  for (; i + LANES <= n; i += LANES) body(Whole{i});
  if (i < n) body(Rest{i, n - i});
}

// LANES sums in float64.
struct Lanes {
  double sum[LANES] = {};
  ALWAYS_INLINE void add(vec x) {
    for (long j = 0; j < LANES; ++j) sum[j] += x[j];
  }
  double total() const {
    double all = 0;
    for (long j = 0; j < LANES; ++j) all += sum[j];
    return all;
  }
};

// N sums over a row of n elements: term(place, sum) adds the terms at a place to the vectors sum[0 .. N). Runs of RUN
// vectors are added in float32 and their sums in float64, so that the error doesn't grow with n.
template <long N, class Term>
ALWAYS_INLINE void sums(long n, double (&out)[N], const Term& term) {
  constexpr long UNROLL = 4, STEP = UNROLL * LANES, RUN = 8 * STEP;
  Lanes all[N];
  const long even = n / STEP * STEP;
  for (long i = 0; i < even;) {
    vec part[UNROLL][N] = {};
    for (const long end = std::min(i + RUN, even); i < end; i += STEP)
#pragma GCC unroll 4
      for (long u = 0; u < UNROLL; ++u) term(Whole{i + u * LANES}, part[u]);
#pragma GCC unroll 4
    for (long k = 0; k < N; ++k) all[k].add((part[0][k] + part[1][k]) + (part[2][k] + part[3][k]));
  }
  vec part[N] = {};
  long i = even;
  for (; i + LANES <= n; i += LANES) term(Whole{i}, part);
  if (i < n) {
    const Rest rest{i, n - i};
    vec last[N] = {};
    term(rest, last);
    for (long k = 0; k < N; ++k) part[k] += rest.keep(last[k]);
  }
  for (long k = 0; k < N; ++k) {
    all[k].add(part[k]);
    out[k] = all[k].total();
  }
}

template <class Term>
ALWAYS_INLINE double sum(long n, const Term& term) {
  double out[1];
  sums<1>(n, out, [&](auto at, vec(&part)[1]) { part[0] += term(at); });
  return out[0];
}

// e^x within 1.02 units of the last place (measured at all float32 between 2^-25 and 105 of either sign, with FMA).
// Subnormal results are kept, and what is no number stays so.
ALWAYS_INLINE vec exponential(vec x) {
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which stands in the lowest bits
  x = x > 89.0f ? all(89.0f) : x;       // beyond: infinite and 0. A comparison with what is no number is false.
  x = x < -105.0f ? all(-105.0f) : x;
  const vec shifted = x * 1.44269504088896341f + ROUND, whole = shifted - ROUND;
  const vec r = (x - whole * 0.693359375f) - whole * -2.12194440054690583e-4f;  // ln 2 in two parts
  vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;                              // polynomial of Cephes' expf
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const ivec power = (ivec)shifted - (int)0x4b400000, half = power >> 1;  // 2^power in two factors, both normal
  return y * (vec)((half + 127) << 23) * (vec)((power - half + 127) << 23);
}

// The sign-free part of x; what is no number stays so.
ALWAYS_INLINE vec magnitude(vec x) { return (vec)((ivec)x & 0x7fffffff); }

constexpr long GRAIN = 16384;  // elements that are worth a thread

// work(first, last) on nearly equal parts of `count` units of `size` elements each, by all threads if there is enough
// to do. Results must not depend on where the cuts are.
template <class Work>
void in_parts(long count, long size, const Work& work) {
  const long enough = std::max(1L, std::min(count, count * size / GRAIN));
  const long threads = std::min<long>(omp_get_max_threads(), enough);
  if (threads <= 1) return work(0, count);
#pragma omp parallel num_threads(threads)
  {
    const long me = omp_get_thread_num(), all = omp_get_num_threads();
    work(count * me / all, count * (me + 1) / all);
  }
}

// A buffer of the calling thread that lives on (memory that is new each time costs page faults), one for each type. No
// std::vector: the linker would keep its functions once, of whatever instruction set.
template <class Number>
Number* kept(long count) {
  struct Buffer {
    Number* data = nullptr;
    long size = 0;
    ~Buffer() { std::free(data); }
  };
  thread_local Buffer buffer;
  if (buffer.size < count) {
    std::free(buffer.data);
    buffer.size = 0;
    buffer.data = static_cast<Number*>(std::malloc(count * sizeof(Number)));
    if (!buffer.data) throw std::bad_alloc();
    buffer.size = count;
  }
  return buffer.data;
}

}  // namespace FUSED_ISA
