// Layer norm and RMS norm, backward. With n = (x - mean) * invvar and g = dy * scale:
//   dx = invvar * (g - mean(g) - n * mean(g * n)), without mean(g) for the RMS norm; dscale = sum over rows of dy * n;
//   dbias = sum over rows of dy
//
// As many blocks as run at once go over the rows; x and dy are read once and held in registers. A thread always has the
// same columns, so it adds up its part of dscale and dbias by itself, in shared memory, since registers would not do.
// Each block leaves a row of partial sums, which `combine` adds in order: no atomics, the same bits every time.
#include "launch.cuh"
#include "team.cuh"
#include "vectors.cuh"

namespace fused {
namespace {

constexpr int BLOCK = 512;
constexpr int ELEMENTS = 16;  // of a row that a thread holds: more of x and dy doesn't fit in 64 registers
constexpr int LONG_BLOCK = 256;
constexpr int64_t MOST_PARTIALS = 1024;  // rows of partial sums: at most so many blocks
constexpr int FOUR = 4;                  // floats of a float4

template <typename X, typename W>
struct NormGrad {
  const X* x;
  const W* scale;
  const float* mean;  // null if not centred
  const float* invvar;
  const W* dy;
  const X* dsum;  // may be null
  X* dx;
  X* dresidual;  // may be null
  W* dscale;
  W* dbias;         // null if not centred
  float* partials;  // [blocks, 1 | 2, cols]: of dscale, then of dbias
  int64_t rows;
  int cols;
  int team;
};

// What the gradient needs of one element.
struct Element {
  float normed, g;
  __device__ __forceinline__ Element(float x, float dy, float scale, float mean, float invvar)
      : normed((x - mean) * invvar), g(dy * scale) {}
  __device__ __forceinline__ float dx(float invvar, float mean_g, float mean_gn) const {
    return invvar * (g - mean_g - normed * mean_gn);
  }
};

// Vectors of a row that a thread holds.
template <typename X>
constexpr int HELD = ELEMENTS / WIDTH<X>;

// The partial sums of a thread of `held_norm_grad`: ELEMENTS columns, of dscale and of dbias. Neighbouring threads
// have neighbouring float4, so that banks don't collide.
template <typename X, bool CENTRED>
struct Sums {
  static constexpr int SLOTS = ELEMENTS / FOUR;
  static constexpr int KINDS = CENTRED ? 2 : 1;
  static size_t bytes(int threads) { return sizeof(float4) * SLOTS * KINDS * threads; }

  float4* all;
  __device__ Sums() : all(shared_memory + SCRATCH_BYTES / sizeof(float4)) {
    for (int slot = 0; slot < SLOTS * KINDS; ++slot) all[slot * blockDim.x + threadIdx.x] = make_float4(0, 0, 0, 0);
  }

  __device__ __forceinline__ void add(int kind, int slot, const float* x) {
    float4& sum = all[(kind * SLOTS + slot) * blockDim.x + threadIdx.x];
    float4 s = sum;
    s.x += x[0];
    s.y += x[1];
    s.z += x[2];
    s.w += x[3];
    sum = s;
  }

  // The sums of all teams of the block, to one row of partial sums.
  __device__ void write(float* partials, int cols, int team) {
    const int teams = blockDim.x / team, per_vector = WIDTH<X> / FOUR;
    __syncthreads();
    for (int i = threadIdx.x; i < SLOTS * KINDS * team; i += blockDim.x) {
      const int kind_slot = i / team, rank = i % team, slot = kind_slot % SLOTS;
      const int col = (slot / per_vector * team + rank) * WIDTH<X> + slot % per_vector * FOUR;
      if (col >= cols) continue;
      float4 sum = make_float4(0, 0, 0, 0);
      for (int t = 0; t < teams; ++t) {
        const float4 s = all[kind_slot * blockDim.x + t * team + rank];
        sum.x += s.x;
        sum.y += s.y;
        sum.z += s.z;
        sum.w += s.w;
      }
      *reinterpret_cast<float4*>(partials + static_cast<int64_t>(kind_slot / SLOTS) * cols + col) = sum;
    }
  }
};

template <bool CENTRED, typename X, typename W>
__global__ void __launch_bounds__(MAX_TEAM) held_norm_grad(NormGrad<X, W> grad) {
  constexpr int N = WIDTH<X>, COUNT = HELD<X>;
  Team<true> team(grad.team);
  Sums<X, CENTRED> sums;
  const int teams = blockDim.x / team.size, vectors = grad.cols / N;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < grad.rows;
       first += static_cast<int64_t>(gridDim.x) * teams) {
    const int64_t row = first + team.index, start = row * grad.cols;
    const int mine = row < grad.rows ? vectors : 0;
    Vector<X, N> x[COUNT];
    Vector<W, N> dy[COUNT];
#pragma unroll
    for (int c = 0; c < COUNT; ++c) {
      const int v = c * team.size + team.rank;
      if (v < mine) {
        x[c] = load_once<N>(grad.x + start + v * N);
        dy[c] = load_once<N>(grad.dy + start + v * N);
      }
    }
    const float mean = CENTRED && mine ? grad.mean[row] : 0.0f, invvar = mine ? grad.invvar[row] : 0.0f;
    float means[2] = {0, 0};
#pragma unroll
    for (int c = 0; c < COUNT; ++c) {
      const int v = c * team.size + team.rank;
      if (v < mine) {
        const Vector<W, N> scale = load<N>(grad.scale + v * N);
        for (int i = 0; i < N; ++i) {
          const Element e(to_float(x[c].data[i]), to_float(dy[c].data[i]), to_float(scale.data[i]), mean, invvar);
          means[0] += e.g * e.normed;
          if (CENTRED) means[1] += e.g;
        }
      }
    }
    team.sum(means);
    const float mean_gn = means[0] / grad.cols, mean_g = means[1] / grad.cols;
#pragma unroll
    for (int c = 0; c < COUNT; ++c) {
      const int v = c * team.size + team.rank;
      if (v < mine) {
        const Vector<W, N> scale = load<N>(grad.scale + v * N);
        Vector<X, N> dx, dsum = x[c];
        if (grad.dsum) dsum = load_once<N>(grad.dsum + start + v * N);
#pragma unroll
        for (int i = 0; i < N; i += FOUR) {
          float dscale[FOUR], dbias[FOUR];
          for (int k = 0; k < FOUR; ++k) {
            dbias[k] = to_float(dy[c].data[i + k]);
            const Element e(to_float(x[c].data[i + k]), dbias[k], to_float(scale.data[i + k]), mean, invvar);
            dscale[k] = dbias[k] * e.normed;
            const float other = grad.dsum ? to_float(dsum.data[i + k]) : 0.0f;
            assign(dx.data[i + k], e.dx(invvar, mean_g, mean_gn) + other);
          }
          sums.add(0, (c * N + i) / FOUR, dscale);
          if (CENTRED) sums.add(1, (c * N + i) / FOUR, dbias);
        }
        store(grad.dx + start + v * N, dx);
        if (grad.dresidual) store(grad.dresidual + start + v * N, dx);
      }
    }
  }
  sums.write(grad.partials + static_cast<int64_t>(blockIdx.x) * Sums<X, CENTRED>::KINDS * grad.cols, grad.cols,
             team.size);
}

// For what can't be read by vectors or doesn't fit: rows are read twice, and the partial sums are in the workspace.
template <bool CENTRED, typename X, typename W>
__global__ void __launch_bounds__(LONG_BLOCK) long_norm_grad(NormGrad<X, W> grad) {
  Team<false> team(blockDim.x);
  float* dscale = grad.partials + static_cast<int64_t>(blockIdx.x) * (CENTRED ? 2 : 1) * grad.cols;
  float* dbias = dscale + grad.cols;
  for (int i = team.rank; i < grad.cols; i += team.size) {
    dscale[i] = 0;
    if (CENTRED) dbias[i] = 0;
  }
  for (int64_t row = blockIdx.x; row < grad.rows; row += gridDim.x) {
    const int64_t start = row * grad.cols;
    const float mean = CENTRED ? grad.mean[row] : 0.0f, invvar = grad.invvar[row];
    float means[2] = {0, 0};
    for (int i = team.rank; i < grad.cols; i += team.size) {
      const Element e(to_float(grad.x[start + i]), to_float(grad.dy[start + i]), to_float(grad.scale[i]), mean, invvar);
      means[0] += e.g * e.normed;
      if (CENTRED) means[1] += e.g;
    }
    team.sum(means);
    const float mean_gn = means[0] / grad.cols, mean_g = means[1] / grad.cols;
    for (int i = team.rank; i < grad.cols; i += team.size) {
      const float dy = to_float(grad.dy[start + i]);
      const Element e(to_float(grad.x[start + i]), dy, to_float(grad.scale[i]), mean, invvar);
      const float other = grad.dsum ? to_float(grad.dsum[start + i]) : 0.0f;
      assign(grad.dx[start + i], e.dx(invvar, mean_g, mean_gn) + other);
      if (grad.dresidual) assign(grad.dresidual[start + i], e.dx(invvar, mean_g, mean_gn) + other);
      dscale[i] += dy * e.normed;
      if (CENTRED) dbias[i] += dy;
    }
  }
}

// dscale and dbias are the columns of partials [count, kinds * cols], added up: 32 columns to a block, a warp for every
// 32nd row of partial sums.
template <typename W>
__global__ void __launch_bounds__(MAX_TEAM) combine(const float* partials, int count, int cols, int width, W* dscale,
                                                    W* dbias) {
  float* sums = reinterpret_cast<float*>(shared_memory);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int64_t col = static_cast<int64_t>(blockIdx.x) * WARP + lane;
  float sum = 0;
  if (col < width)
    for (int i = warp; i < count; i += WARP) sum += partials[static_cast<int64_t>(i) * width + col];
  sums[warp * WARP + lane] = sum;
  __syncthreads();
  if (warp > 0 || col >= width) return;
  for (int i = 1; i < WARP; ++i) sum += sums[i * WARP + lane];
  assign(col < cols ? dscale[col] : dbias[col - cols], sum);
}

int64_t most_blocks(int64_t work) { return work < MOST_PARTIALS ? work : MOST_PARTIALS; }

// How many blocks the device runs at once, at most `most`.
template <typename K>
int64_t resident(K kernel, int threads, size_t shared, int64_t most) {
  int each = 1;
  const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, shared);
  const int64_t blocks = (error == cudaSuccess && each > 1 ? each : 1) * static_cast<int64_t>(multiprocessors());
  return blocks < 1 ? 1 : blocks < most ? blocks : most;
}

template <bool CENTRED, typename X, typename W>
cudaError_t run(NormGrad<X, W> grad, cudaStream_t stream) {
  constexpr int N = WIDTH<X>;
  int64_t blocks = 0;
  cudaError_t error = cudaErrorInvalidValue;
  grad.team = team_size(grad.cols / N, HELD<X>);
  const int teams = grad.team < BLOCK ? BLOCK / grad.team : 1, threads = teams * grad.team;
  const size_t shared = SCRATCH_BYTES + Sums<X, CENTRED>::bytes(threads);
  const bool whole = grad.cols % N == 0 && aligned(sizeof(X) * N, grad.x, grad.dsum, grad.dx, grad.dresidual) &&
                     aligned(sizeof(W) * N, grad.scale, grad.dy) && aligned(sizeof(float4), grad.partials);
  if (whole && grad.team <= MAX_TEAM &&
      shared <= static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))) {
    const auto kernel = held_norm_grad<CENTRED, X, W>;
    error = allow_shared(kernel, shared);
    if (error != cudaSuccess) return error;
    blocks = resident(kernel, threads, shared, most_blocks(ceil_div(grad.rows, teams)));
    error = launch(kernel, blocks, threads, shared, stream, grad);
  } else {
    const int64_t wanted = ceil_div(grad.cols, FOUR * WARP) * WARP;
    const int size = static_cast<int>(wanted < LONG_BLOCK ? wanted : LONG_BLOCK);
    const auto kernel = long_norm_grad<CENTRED, X, W>;
    blocks = resident(kernel, size, SCRATCH_BYTES, most_blocks(grad.rows));
    error = launch(kernel, blocks, size, SCRATCH_BYTES, stream, grad);
  }
  if (error != cudaSuccess) return error;
  const int width = (CENTRED ? 2 : 1) * grad.cols;
  return launch(combine<W>, ceil_div(width, WARP), WARP * WARP, WARP * WARP * sizeof(float), stream, grad.partials,
                blocks, grad.cols, width, grad.dscale, grad.dbias);
}

template <bool CENTRED>
cudaError_t norm_grad(const void* x, const void* scale, const float* mean, const float* invvar, const void* dy,
                      const void* dsum, void* dx, void* dresidual, void* dscale, void* dbias, void* workspace,
                      int64_t rows, int64_t cols, int x_type, int scale_type, cudaStream_t stream) {
  if (cols < 1 || cols > INT32_MAX / 2 || rows > INT32_MAX) return cudaErrorInvalidValue;
  return with_types(x_type, scale_type, [&](auto input, auto weight) {
    using X = decltype(input);
    using W = decltype(weight);
    if (!rows) {
      const size_t bytes = cols * sizeof(W);
      const cudaError_t error = cudaMemsetAsync(dscale, 0, bytes, stream);
      return CENTRED && error == cudaSuccess ? cudaMemsetAsync(dbias, 0, bytes, stream) : error;
    }
    return run<CENTRED>(
        NormGrad<X, W>{static_cast<const X*>(x), static_cast<const W*>(scale), mean, invvar,
                       static_cast<const W*>(dy), static_cast<const X*>(dsum), static_cast<X*>(dx),
                       static_cast<X*>(dresidual), static_cast<W*>(dscale), static_cast<W*>(dbias),
                       static_cast<float*>(workspace), rows,
                       static_cast<int>(cols), 0},
        stream);
  });
}

}  // namespace
}  // namespace fused

size_t norm_grad_workspace(int64_t rows, int64_t cols, int centred) {
  return fused::most_blocks(rows) * cols * (centred ? 2 : 1) * sizeof(float);
}

cudaError_t launch_rms_norm_grad(const void* x, const void* scale, const float* invvar, const void* dy,
                                 const void* dsum, void* dx, void* dresidual, void* dscale, void* workspace,
                                 int64_t rows, int64_t cols, int x_type, int scale_type, cudaStream_t stream) {
  return fused::norm_grad<false>(x, scale, nullptr, invvar, dy, dsum, dx, dresidual, dscale, nullptr, workspace, rows,
                                 cols, x_type, scale_type, stream);
}

cudaError_t launch_layer_norm_grad(const void* x, const void* scale, const float* mean, const float* invvar,
                                   const void* dy, void* dx, void* dscale, void* dbias, void* workspace, int64_t rows,
                                   int64_t cols, int x_type, int scale_type, cudaStream_t stream) {
  return fused::norm_grad<true>(x, scale, mean, invvar, dy, nullptr, dx, nullptr, dscale, dbias, workspace, rows, cols,
                                x_type, scale_type, stream);
}
