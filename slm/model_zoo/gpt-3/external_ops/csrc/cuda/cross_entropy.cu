// Softmax cross entropy over the columns of the vocabulary that are here: one block to a row. Logits are read once for
// the loss, with a running maximum, and once more for the gradient, which takes their place.
//
// A row may start anywhere: single elements up to the first whole vector, vectors, single elements at the end.
#include "launch.cuh"
#include "team.cuh"
#include "vectors.cuh"

namespace fused {
namespace {

constexpr int BLOCK = 512;

// `visit.template run<K>(i)` for elements i to i + K - 1 of a row, all of them over the threads of the block.
template <typename T, typename Visit>
__device__ __forceinline__ void over_row(const T* row, int64_t cols, Visit& visit) {
  constexpr int N = WIDTH<T>;
  const int64_t skew = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % VECTOR_BYTES / sizeof(T));
  const int64_t aside = skew ? N - skew : 0, head = aside < cols ? aside : cols;
  const int64_t vectors = (cols - head) / N, tail = head + vectors * N;
  const int64_t thread = threadIdx.x;
  if (thread < head) visit.template run<1>(thread);
#pragma unroll 4
  for (int64_t v = thread; v < vectors; v += BLOCK) visit.template run<N>(head + v * N);
  if (tail + thread < cols) visit.template run<1>(tail + thread);
}

// The greatest logit, and the sum of the exponentials less it, of what a thread has seen.
//
// __expf loses no more than the subtraction before it does, about |x| units, and expf would take more time than reading
// the logits does.
struct Running {
  float greatest = -INFINITY, sum = 0;

  // What is subtracted where `greatest` is the greatest: anything where there are only -inf, whose exponentials are 0.
  __device__ __forceinline__ static float base(float greatest) { return greatest == -INFINITY ? 0.0f : greatest; }

  __device__ __forceinline__ void join(float other_greatest, float other_sum) {
    const float together = fmaxf(greatest, other_greatest), less = base(together);
    sum = sum * __expf(greatest - less) + other_sum * __expf(other_greatest - less);
    greatest = together;
  }
};

template <typename T>
struct Collect {
  const T* row;
  Running seen;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) {
    const Vector<T, N> logits = load_once<N>(row + i);
    float greatest = seen.greatest;
    for (int k = 0; k < N; ++k) greatest = fmaxf(greatest, to_float(logits.data[k]));
    const float less = Running::base(greatest);
    float sum = seen.sum * __expf(seen.greatest - less);
    for (int k = 0; k < N; ++k) sum += __expf(to_float(logits.data[k]) - less);
    seen.greatest = greatest;
    seen.sum = sum;
  }
};

__device__ __forceinline__ Running over_lanes(Running seen) {
  for (int offset = WARP / 2; offset > 0; offset /= 2) {
    const float greatest = __shfl_xor_sync(ALL_LANES, seen.greatest, offset);
    const float sum = __shfl_xor_sync(ALL_LANES, seen.sum, offset);
    seen.join(greatest, sum);
  }
  return seen;
}

template <typename T>
__global__ void __launch_bounds__(BLOCK) cross_entropy_parts(const T* logits, const int64_t* labels, float* greatest,
                                                             float* sum, float* picked, int64_t cols, int64_t first) {
  float* scratch = reinterpret_cast<float*>(shared_memory);
  const int64_t row = blockIdx.x, label = labels[row] - first;
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  Collect<T> collect{logits + row * cols, Running()};
  over_row(logits + row * cols, cols, collect);
  Running seen = over_lanes(collect.seen);
  if (lane == 0) {
    scratch[warp] = seen.greatest;
    scratch[WARP + warp] = seen.sum;
  }
  __syncthreads();
  if (warp > 0) return;
  seen = Running();
  if (lane < BLOCK / WARP) {
    seen.greatest = scratch[lane];
    seen.sum = scratch[WARP + lane];
  }
  seen = over_lanes(seen);
  if (lane > 0) return;
  greatest[row] = seen.greatest;
  sum[row] = seen.sum;
  const bool here = labels[row] >= 0 && label >= 0 && label < cols;
  picked[row] = here ? to_float(logits[row * cols + label]) : 0.0f;
}

template <typename T>
struct Slope {
  T* row;
  int64_t label;  // in this row
  float log_sum, scale;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) {
    Vector<T, N> logits = load_once<N>(row + i);
    const int hit = label >= i && label < i + N ? static_cast<int>(label - i) : -1;
    for (int k = 0; k < N; ++k) {
      const float probability = __expf(to_float(logits.data[k]) - log_sum);
      assign(logits.data[k], scale * (probability - (k == hit ? 1.0f : 0.0f)));
    }
    store(row + i, logits);
  }
};

// Rows that are ignored become 0, whatever was in them.
template <typename T>
struct Clear {
  T* row;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) {
    Vector<T, N> zeros;
    for (int k = 0; k < N; ++k) assign(zeros.data[k], 0.0f);
    store(row + i, zeros);
  }
};

template <typename T>
__global__ void __launch_bounds__(BLOCK) cross_entropy_slopes(T* logits, const int64_t* labels, const float* log_sum,
                                                              const float* scale, int64_t scale_count, int64_t cols,
                                                              int64_t first) {
  const int64_t index = blockIdx.x;
  T* row = logits + index * cols;
  if (labels[index] < 0) {
    Clear<T> clear{row};
    over_row(row, cols, clear);
  } else {
    Slope<T> slope{row, labels[index] - first, log_sum[index], scale[scale_count > 1 ? index : 0]};
    over_row(row, cols, slope);
  }
}

}  // namespace
}  // namespace fused

cudaError_t launch_cross_entropy_parts(const void* logits, const int64_t* labels, float* greatest, float* sum,
                                       float* picked, int64_t rows, int64_t cols, int64_t first, int type,
                                       cudaStream_t stream) {
  if (cols < 1 || rows > INT32_MAX) return cudaErrorInvalidValue;
  return fused::with_type(type, [&](auto element) {
    using T = decltype(element);
    return fused::launch(fused::cross_entropy_parts<T>, rows, fused::BLOCK, 2 * fused::WARP * sizeof(float), stream,
                         static_cast<const T*>(logits), labels, greatest, sum, picked, cols, first);
  });
}

cudaError_t launch_cross_entropy_slopes(void* logits, const int64_t* labels, const float* log_sum, const float* scale,
                                        int64_t scale_count, int64_t rows, int64_t cols, int64_t first, int type,
                                        cudaStream_t stream) {
  if (cols < 1 || rows > INT32_MAX || (scale_count != 1 && scale_count != rows)) return cudaErrorInvalidValue;
  return fused::with_type(type, [&](auto element) {
    using T = decltype(element);
    return fused::launch(fused::cross_entropy_slopes<T>, rows, fused::BLOCK, 0, stream, static_cast<T*>(logits),
                         labels, log_sum, scale, scale_count, cols, first);
  });
}
