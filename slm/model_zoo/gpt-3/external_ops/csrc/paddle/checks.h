// Checks of what an operation is given, and words for them.
#pragma once

#include <string>
#include <vector>

#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"

namespace fused {

using paddle::Tensor;
using Shape = std::vector<int64_t>;

inline std::string shown(const Shape& shape) {
  std::string text;
  for (int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

inline std::string shown(const Tensor& x) { return phi::DataTypeToString(x.dtype()) + " " + shown(x.shape()); }

// That x is in host memory, of this type, and all in one piece.
inline void check(const char* op, const char* name, const Tensor& x, paddle::DataType type) {
  PD_CHECK(x.is_cpu(), op, ": ", name, " is on ", x.place().DebugString(), "; expected it in host memory. For a GPU, ",
           "external_ops has to be built with a CUDA build of Paddle, and all tensors have to be there");
  PD_CHECK(x.dtype() == type, op, ": ", name, " is ", shown(x), "; expected ", phi::DataTypeToString(type),
           type == paddle::DataType::FLOAT32 ? ", the only float type of the CPU operations" : "");
  PD_CHECK(x.is_dense_tensor(), op, ": ", name, " is sparse; expected a dense tensor");
}

inline void check_float(const char* op, const char* name, const Tensor& x) {
  check(op, name, x, paddle::DataType::FLOAT32);
}

inline void check_shape(const char* op, const char* name, const Tensor& x, const Shape& shape) {
  PD_CHECK(x.shape() == shape, op, ": ", name, " has shape ", shown(x.shape()), "; expected ", shown(shape));
}

inline void check_float(const char* op, const char* name, const Tensor& x, const Shape& shape) {
  check_float(op, name, x);
  check_shape(op, name, x, shape);
}

inline void check_axes(const char* op, const char* name, const Tensor& x, size_t least, size_t most,
                       const char* meant) {
  const size_t axes = x.shape().size();
  PD_CHECK(axes >= least && axes <= most, op, ": ", name, " has shape ", shown(x.shape()), "; expected ", meant);
}

inline const float* data(const Tensor& x) { return x.data<float>(); }
inline float* data(Tensor& x) { return x.data<float>(); }

// The gradient of an output; Paddle gives none where the output was not used.
inline Tensor gradient(const char* op, const Tensor& given, const Tensor& like) {
  if (!given.initialized()) return paddle::experimental::zeros_like(like);
  check_float(op, "the gradient of a result", given, like.shape());
  return given;
}

inline Tensor empty(const Shape& shape) { return paddle::experimental::empty(shape, paddle::DataType::FLOAT32); }

}  // namespace fused

// Leaves the operation for the GPU's of the same arguments where x is there.
#ifdef PADDLE_WITH_CUDA
#include "gpu.h"
#define FUSED_ON_GPU(x, call) \
  if ((x).is_gpu()) return fused_gpu::call
#else
#define FUSED_ON_GPU(x, call)
#endif
