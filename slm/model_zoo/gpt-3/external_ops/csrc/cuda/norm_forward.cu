// Layer norm and RMS norm, forward.
//
// `held_norm` reads each row once and holds it in registers, as it was loaded, so that the mean and the variance are
// summed one after the other, which loses no digits, without another read. Blocks are small: while some sum, others
// load. `long_norm` takes what can't be read by vectors (odd sizes, views that are not aligned) or doesn't fit; it
// reads rows again, from the caches. fast_ln and fused_ln are the same kernels: `held_norm` reads and writes everything
// once, which is all that a design for chosen sizes could do.
#include "launch.cuh"
#include "team.cuh"
#include "vectors.cuh"

namespace fused {
namespace {

template <typename X, typename W>
struct Norm {
  const X* x;
  const X* residual;  // may be null
  const W* scale;
  const W* bias;  // null if not centred
  W* y;
  X* sum;       // null where residual is
  float* mean;  // null if not centred
  float* invvar;
  int64_t rows;
  int cols;
  float epsilon;
  int team;
};

constexpr int BLOCK = 128;
constexpr int COUNT = 4;  // vectors of a row that a thread holds

template <typename X, int N>
__device__ __forceinline__ void add(Vector<X, N>& x, const Vector<X, N>& y) {
  for (int i = 0; i < N; ++i) assign(x.data[i], to_float(x.data[i]) + to_float(y.data[i]));
}

template <bool CENTRED, typename X, typename W>
__global__ void __launch_bounds__(MAX_TEAM) held_norm(Norm<X, W> norm) {
  constexpr int N = WIDTH<X>;
  Team<false> team(norm.team);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / team.size) + team.index;
  const int vectors = row < norm.rows ? norm.cols / N : 0;
  const int64_t start = row * norm.cols;

  Vector<X, N> held[COUNT];
  float sum = 0;
#pragma unroll
  for (int c = 0; c < COUNT; ++c) {
    const int v = c * team.size + team.rank;
    if (v < vectors) held[c] = load_once<N>(norm.x + start + v * N);
  }
  if (norm.residual) {
#pragma unroll
    for (int c = 0; c < COUNT; ++c) {
      const int v = c * team.size + team.rank;
      if (v < vectors) {
        add(held[c], load_once<N>(norm.residual + start + v * N));
        store(norm.sum + start + v * N, held[c]);
      }
    }
  }
  float mean = 0;
  if (CENTRED) {
#pragma unroll
    for (int c = 0; c < COUNT; ++c) {
      if (c * team.size + team.rank < vectors)
        for (int i = 0; i < N; ++i) sum += to_float(held[c].data[i]);
    }
    mean = team.sum(sum) / norm.cols;
  }
  float squares = 0;
#pragma unroll
  for (int c = 0; c < COUNT; ++c) {
    if (c * team.size + team.rank < vectors)
      for (int i = 0; i < N; ++i) {
        const float x = to_float(held[c].data[i]) - mean;
        squares += x * x;
      }
  }
  const float invvar = 1.0f / sqrtf(team.sum(squares) / norm.cols + norm.epsilon);
  if (row < norm.rows && team.rank == 0) {
    norm.invvar[row] = invvar;
    if (CENTRED) norm.mean[row] = mean;
  }
#pragma unroll
  for (int c = 0; c < COUNT; ++c) {
    const int v = c * team.size + team.rank;
    if (v < vectors) {
      const Vector<W, N> scale = load<N>(norm.scale + v * N);
      Vector<W, N> bias = scale, y;
      if (CENTRED) bias = load<N>(norm.bias + v * N);
      for (int i = 0; i < N; ++i) {
        const float x = (to_float(held[c].data[i]) - mean) * invvar * to_float(scale.data[i]);
        assign(y.data[i], CENTRED ? x + to_float(bias.data[i]) : x);
      }
      store(norm.y + start + v * N, y);
    }
  }
}

template <bool CENTRED, typename X, typename W>
__global__ void __launch_bounds__(MAX_TEAM) long_norm(Norm<X, W> norm) {
  Team<false> team(blockDim.x);
  const int64_t start = static_cast<int64_t>(blockIdx.x) * norm.cols;
  const X* x = norm.x + start;
  if (norm.residual) {
    for (int i = team.rank; i < norm.cols; i += team.size)
      assign(norm.sum[start + i], to_float(x[i]) + to_float(norm.residual[start + i]));
    x = norm.sum + start;  // each thread reads again what it wrote itself
  }
  float mean = 0, squares = 0;
  if (CENTRED) {
    float sum = 0;
    for (int i = team.rank; i < norm.cols; i += team.size) sum += to_float(x[i]);
    mean = team.sum(sum) / norm.cols;
  }
  for (int i = team.rank; i < norm.cols; i += team.size) {
    const float centred = to_float(x[i]) - mean;
    squares += centred * centred;
  }
  const float invvar = 1.0f / sqrtf(team.sum(squares) / norm.cols + norm.epsilon);
  if (team.rank == 0) {
    norm.invvar[blockIdx.x] = invvar;
    if (CENTRED) norm.mean[blockIdx.x] = mean;
  }
  for (int i = team.rank; i < norm.cols; i += team.size) {
    const float y = (to_float(x[i]) - mean) * invvar * to_float(norm.scale[i]);
    assign(norm.y[start + i], CENTRED ? y + to_float(norm.bias[i]) : y);
  }
}

template <bool CENTRED, typename X, typename W>
cudaError_t run(Norm<X, W> norm, cudaStream_t stream) {
  constexpr int N = WIDTH<X>;
  const bool whole = norm.cols % N == 0 && norm.cols / N <= COUNT * MAX_TEAM;
  if (whole && aligned(sizeof(X) * N, norm.x, norm.residual, norm.sum) &&
      aligned(sizeof(W) * N, norm.scale, norm.bias, norm.y)) {
    norm.team = team_size(norm.cols / N, COUNT);
    const int teams = norm.team > WARP ? 1 : BLOCK / norm.team;
    return launch(held_norm<CENTRED, X, W>, ceil_div(norm.rows, teams), teams * norm.team, SCRATCH_BYTES, stream, norm);
  }
  const int64_t threads = ceil_div(norm.cols, COUNT * WARP) * WARP;
  return launch(long_norm<CENTRED, X, W>, norm.rows, threads < MAX_TEAM ? threads : MAX_TEAM, SCRATCH_BYTES, stream,
                norm);
}

// `x_type` and so on as in launchers.h.
template <bool CENTRED>
cudaError_t norm(const void* x, const void* residual, const void* scale, const void* bias, void* y, void* sum,
                 float* mean, float* invvar, int64_t rows, int64_t cols, float epsilon, int x_type, int scale_type,
                 cudaStream_t stream) {
  if (cols < 1 || cols > INT32_MAX || rows > INT32_MAX || !residual != !sum) return cudaErrorInvalidValue;
  return with_types(x_type, scale_type, [&](auto input, auto weight) {
    using X = decltype(input);
    using W = decltype(weight);
    return run<CENTRED>(
        Norm<X, W>{static_cast<const X*>(x), static_cast<const X*>(residual), static_cast<const W*>(scale),
                   static_cast<const W*>(bias), static_cast<W*>(y), static_cast<X*>(sum), mean, invvar, rows,
                   static_cast<int>(cols), epsilon, 0},
        stream);
  });
}

}  // namespace
}  // namespace fused

cudaError_t launch_rms_norm(const void* x, const void* residual, const void* scale, void* y, void* sum, float* invvar,
                            int64_t rows, int64_t cols, float epsilon, int x_type, int scale_type,
                            cudaStream_t stream) {
  return fused::norm<false>(x, residual, scale, nullptr, y, sum, nullptr, invvar, rows, cols, epsilon, x_type,
                            scale_type, stream);
}

cudaError_t launch_layer_norm(const void* x, const void* scale, const void* bias, void* y, float* mean, float* invvar,
                              int64_t rows, int64_t cols, float epsilon, int x_type, int scale_type,
                              cudaStream_t stream) {
  return fused::norm<true>(x, nullptr, scale, bias, y, nullptr, mean, invvar, rows, cols, epsilon, x_type, scale_type,
                           stream);
}
