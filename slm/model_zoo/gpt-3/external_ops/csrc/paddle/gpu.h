// The operations on tensors of a GPU: checks, memory for the results, and the launchers of csrc/cuda. Arguments and
// results are those of the bindings beside this file. Only where Paddle is a CUDA build.
#pragma once

#include <cuda_runtime.h>

#include "../cpu/layers.h"
#include "../cuda/launchers.h"
#include "checks.h"

namespace fused_gpu {

using fused::check_shape, fused::Shape, fused::shown, paddle::DataType, paddle::Tensor;

// That x is in the memory of the same GPU as `where`, and all in one piece.
inline void check_place(const char* op, const char* name, const Tensor& x, const Tensor& where) {
  PD_CHECK(x.is_gpu() && x.place() == where.place(), op, ": ", name, " is on ", x.place().DebugString(), "; expected ",
           where.place().DebugString(), ", where the first tensor is");
  PD_CHECK(x.is_dense_tensor(), op, ": ", name, " is sparse; expected a dense tensor");
}

inline void check(const char* op, const char* name, const Tensor& x, const Tensor& where, DataType type) {
  check_place(op, name, x, where);
  PD_CHECK(x.dtype() == type, op, ": ", name, " is ", shown(x), "; expected ", phi::DataTypeToString(type));
}

inline void check(const char* op, const char* name, const Tensor& x, const Tensor& where, DataType type,
                  const Shape& shape) {
  check(op, name, x, where, type);
  check_shape(op, name, x, shape);
}

// The launchers' number of a float type.
inline int float_type(const char* op, const char* name, const Tensor& x) {
  const DataType type = x.dtype();
  PD_CHECK(type == DataType::FLOAT32 || type == DataType::FLOAT16 || type == DataType::BFLOAT16, op, ": ", name, " is ",
           shown(x), "; expected float32, float16 or bfloat16");
  return type == DataType::FLOAT32 ? FLOAT32 : type == DataType::FLOAT16 ? FLOAT16 : BFLOAT16;
}

inline Tensor empty(const Shape& shape, DataType type, const Tensor& where) {
  return paddle::experimental::empty(shape, type, where.place());
}

inline Tensor empty_like(const Tensor& x) { return empty(x.shape(), x.dtype(), x); }

inline Tensor workspace(size_t bytes, const Tensor& where) {
  return empty({static_cast<int64_t>(bytes)}, DataType::UINT8, where);
}

inline float* floats(Tensor& x) { return x.data<float>(); }
inline const float* floats(const Tensor& x) { return x.data<float>(); }

inline void done(const char* op, cudaError_t error) {
  PD_CHECK(error == cudaSuccess, op, ": CUDA says: ", cudaGetErrorString(error));
}

// The gradient of an output, of `type` and the shape of `like`; Paddle gives none where the output was not used.
inline Tensor gradient(const char* op, const Tensor& given, const Tensor& like, DataType type) {
  if (!given.initialized()) return paddle::experimental::full(like.shape(), 0, type, like.place());
  check(op, "the gradient of a result", given, like, type, like.shape());
  return given;
}

// x as rows, with its weights.
struct Rows {
  int64_t rows, cols;
  Shape outer;
  int x_type, scale_type;

  Rows(const char* op, const Tensor& x, const Tensor& scale) : outer(x.shape()) {
    PD_CHECK(!outer.empty() && outer.back() > 0, op, ": x has shape ", shown(x.shape()),
             "; expected at least one axis, the last not empty");
    cols = outer.back();
    outer.pop_back();
    rows = x.numel() / cols;
    check_place(op, "x", x, x);
    check(op, "scale", scale, x, scale.dtype(), {cols});
    x_type = float_type(op, "x", x);
    scale_type = float_type(op, "scale", scale);
    PD_CHECK(x_type == FLOAT32 || x_type == scale_type, op, ": x is ", shown(x), " and scale ", shown(scale),
             "; expected the same type, or a float32 x");
  }
};

inline std::vector<Tensor> rms_norm(const Tensor& x, const Tensor& scale, float epsilon) {
  const char* op = "fused_rms_norm";
  const Rows size(op, x, scale);
  Tensor y = empty(x.shape(), scale.dtype(), x), invvar = empty(size.outer, DataType::FLOAT32, x);
  done(op, launch_rms_norm(x.data(), nullptr, scale.data(), y.data(), nullptr, floats(invvar), size.rows, size.cols,
                           epsilon, size.x_type, size.scale_type, x.stream()));
  return {y, invvar};
}

// dx and dscale, for the gradients of y and, if it isn't null, of what was normed. `dresidual`, if it isn't null, gets
// the same as dx.
inline std::vector<Tensor> rms_norm_grad(const char* op, const Tensor& x, const Tensor& scale, const Tensor& invvar,
                                         const Tensor& dy, const Tensor* dsum, Tensor* dresidual) {
  const Rows size(op, x, scale);
  check(op, "invvar", invvar, x, DataType::FLOAT32, size.outer);
  const Tensor slope = gradient(op, dy, x, scale.dtype());
  Tensor dx = empty_like(x), dscale = empty_like(scale);
  Tensor space = workspace(norm_grad_workspace(size.rows, size.cols, 0), x);
  done(op, launch_rms_norm_grad(x.data(), scale.data(), floats(invvar), slope.data(), dsum ? dsum->data() : nullptr,
                                dx.data(), dresidual ? dresidual->data() : nullptr, dscale.data(), space.data(),
                                size.rows, size.cols, size.x_type, size.scale_type, x.stream()));
  return {dx, dscale};
}

inline std::vector<Tensor> rms_norm_grad(const Tensor& x, const Tensor& scale, const Tensor& invvar, const Tensor& dy,
                                         float) {
  return rms_norm_grad("fused_rms_norm_grad_func", x, scale, invvar, dy, nullptr, nullptr);
}

inline std::vector<Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& scale, float epsilon) {
  const char* op = "fused_add_rms_norm";
  const Rows size(op, x, scale);
  check(op, "residual", residual, x, x.dtype(), x.shape());
  Tensor y = empty(x.shape(), scale.dtype(), x), sum = empty_like(x), invvar = empty(size.outer, DataType::FLOAT32, x);
  done(op, launch_rms_norm(x.data(), residual.data(), scale.data(), y.data(), sum.data(), floats(invvar), size.rows,
                           size.cols, epsilon, size.x_type, size.scale_type, x.stream()));
  return {y, sum, invvar};
}

inline std::vector<Tensor> add_rms_norm_grad(const Tensor& sum, const Tensor& scale, const Tensor& invvar,
                                             const Tensor& dy, const Tensor& dsum, float) {
  const char* op = "the gradient of fused_add_rms_norm";
  const bool used = dsum.initialized();
  if (used) check(op, "the gradient of sum", dsum, sum, sum.dtype(), sum.shape());
  Tensor dresidual = empty_like(sum);
  const std::vector<Tensor> found = rms_norm_grad(op, sum, scale, invvar, dy, used ? &dsum : nullptr, &dresidual);
  return {found[0], dresidual, found[1]};
}

inline std::vector<Tensor> layer_norm(const Tensor& x, const Tensor& scale, const Tensor& bias, float epsilon) {
  const char* op = "fused_ln";
  const Rows size(op, x, scale);
  check(op, "bias", bias, x, scale.dtype(), {size.cols});
  Tensor y = empty(x.shape(), scale.dtype(), x), mean = empty(size.outer, DataType::FLOAT32, x);
  Tensor invvar = empty(size.outer, DataType::FLOAT32, x);
  done(op, launch_layer_norm(x.data(), scale.data(), bias.data(), y.data(), floats(mean), floats(invvar), size.rows,
                             size.cols, epsilon, size.x_type, size.scale_type, x.stream()));
  return {y, mean, invvar};
}

inline std::vector<Tensor> layer_norm_grad(const Tensor& x, const Tensor& scale, const Tensor& mean,
                                           const Tensor& invvar, const Tensor& dy, float) {
  const char* op = "the gradient of fused_ln";
  const Rows size(op, x, scale);
  check(op, "mean", mean, x, DataType::FLOAT32, size.outer);
  check(op, "invvar", invvar, x, DataType::FLOAT32, size.outer);
  const Tensor slope = gradient(op, dy, x, scale.dtype());
  Tensor dx = empty_like(x), dscale = empty_like(scale), dbias = empty_like(scale);
  Tensor space = workspace(norm_grad_workspace(size.rows, size.cols, 1), x);
  done(op, launch_layer_norm_grad(x.data(), scale.data(), floats(mean), floats(invvar), slope.data(), dx.data(),
                                  dscale.data(), dbias.data(), space.data(), size.rows, size.cols, size.x_type,
                                  size.scale_type, x.stream()));
  return {dx, dscale, dbias};
}

inline std::vector<Tensor> rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved, float sign) {
  const char* op = "fused_rope";
  const int type = float_type(op, "x", x);
  check_place(op, "x", x, x);
  fused::check_axes(op, "x", x, 4, 4, "[batch, length, heads, dim]");
  const Shape size = x.shape();
  PD_CHECK(size[3] % 2 == 0, op, ": x has shape ", shown(size), "; expected an even last axis: pairs are turned");
  fused::check_axes(op, "cos", cos, 4, 4, "[batch or 1, length, 1, dim / 2]");
  const int64_t tables = cos.shape()[0] == 1 ? 1 : size[0];
  check(op, "cos", cos, x, DataType::FLOAT32, {tables, size[1], 1, size[3] / 2});
  check(op, "sin", sin, x, DataType::FLOAT32, cos.shape());
  Tensor y = empty_like(x);
  done(op, launch_rope(x.data(), floats(cos), floats(sin), y.data(), size[0], size[1], size[2], size[3], tables,
                       interleaved, sign < 0, type, x.stream()));
  return {y};
}

inline std::vector<Tensor> swiglu(const Tensor& gate, const Tensor& up) {
  const char* op = "fused_swiglu";
  const int type = float_type(op, "gate", gate);
  check(op, "up", up, gate, gate.dtype(), gate.shape());
  Tensor y = empty_like(gate);
  done(op, launch_swiglu(gate.data(), up.data(), y.data(), gate.numel(), type, gate.stream()));
  return {y};
}

inline std::vector<Tensor> swiglu_grad(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  const char* op = "the gradient of fused_swiglu";
  const int type = float_type(op, "gate", gate);
  check(op, "up", up, gate, gate.dtype(), gate.shape());
  check(op, "the gradient of y", dy, gate, gate.dtype(), gate.shape());
  Tensor dgate = empty_like(gate), dup = empty_like(gate);
  done(op, launch_swiglu_grad(gate.data(), up.data(), dy.data(), dgate.data(), dup.data(), gate.numel(), type,
                              gate.stream()));
  return {dgate, dup};
}

inline void check_logits(const char* op, const Tensor& logits, const Tensor& labels) {
  check_place(op, "logits", logits, logits);
  fused::check_axes(op, "logits", logits, 2, 2, "[tokens, columns]");
  check(op, "labels", labels, logits, DataType::INT64, {logits.shape()[0]});
}

inline std::vector<Tensor> cross_entropy_parts(const Tensor& logits, const Tensor& labels, int64_t first) {
  const char* op = "cross_entropy_parts";
  check_logits(op, logits, labels);
  const Shape size = logits.shape(), one = {size[0]};
  const auto column = [&] { return empty(one, DataType::FLOAT32, logits); };
  Tensor max = column(), sum = column(), picked = column();
  done(op, launch_cross_entropy_parts(logits.data(), labels.data<int64_t>(), floats(max), floats(sum), floats(picked),
                                      size[0], size[1], first, float_type(op, "logits", logits), logits.stream()));
  return {max, sum, picked};
}

inline void cross_entropy_slopes(Tensor& logits, const Tensor& labels, const Tensor& log_sum, const Tensor& scale,
                                 int64_t first) {
  const char* op = "cross_entropy_slopes_";
  check_logits(op, logits, labels);
  const Shape size = logits.shape();
  check(op, "log_sum", log_sum, logits, DataType::FLOAT32, {size[0]});
  const Tensor here = scale.is_gpu() ? scale : paddle::experimental::copy_to(scale, logits.place(), true);
  check(op, "scale", here, logits, DataType::FLOAT32);
  PD_CHECK(here.numel() == 1 || here.shape() == Shape{size[0]}, op, ": scale has shape ", shown(here.shape()),
           "; expected [1] or ", shown(Shape{size[0]}));
  done(op, launch_cross_entropy_slopes(logits.data(), labels.data<int64_t>(), floats(log_sum), floats(here),
                                       here.numel(), size[0], size[1], first, float_type(op, "logits", logits),
                                       logits.stream()));
}

// Ids are not checked, since that would wait for the GPU: those beyond the vocabulary are left out.
inline std::vector<Tensor> embedding_grad(const Tensor& ids, const Tensor& grad, int64_t rows) {
  const char* op = "embedding_grad";
  check(op, "ids", ids, grad, DataType::INT64);
  PD_CHECK(!grad.shape().empty(), op, ": grad has no axes; expected [..., columns]");
  Shape expected = ids.shape();
  expected.push_back(grad.shape().back());
  check_shape(op, "grad", grad, expected);
  PD_CHECK(rows > 0, op, ": rows is ", rows, "; expected the size of the vocabulary");
  Tensor out = empty({rows, expected.back()}, grad.dtype(), grad);
  done(op, launch_embedding_grad(ids.data<int64_t>(), grad.data(), out.data(), ids.numel(), rows, expected.back(),
                                 float_type(op, "grad", grad), grad.stream()));
  return {out};
}

inline void adamw(Tensor& weight, Tensor& moment1, Tensor& moment2, const Tensor& gradient, const fused::AdamW& step) {
  const char* op = "fused_adamw_";
  check(op, "weight", weight, weight, DataType::FLOAT32);
  check(op, "moment1", moment1, weight, DataType::FLOAT32, weight.shape());
  check(op, "moment2", moment2, weight, DataType::FLOAT32, weight.shape());
  check(op, "gradient", gradient, weight, gradient.dtype(), weight.shape());
  done(op, launch_adamw(floats(weight), floats(moment1), floats(moment2), gradient.data(), nullptr, weight.numel(),
                        step.lr, step.beta1, step.beta2, step.epsilon, step.decay, step.correction1, step.correction2,
                        step.factor, float_type(op, "gradient", gradient), FLOAT32, weight.stream()));
}

inline std::vector<Tensor> squared_norm(const Tensor& x) {
  const char* op = "squared_norm";
  check_place(op, "x", x, x);
  Tensor out = empty({1}, DataType::FLOAT32, x), space = workspace(squared_norm_workspace(), x);
  done(op, launch_squared_norm(x.data(), floats(out), space.data(), x.numel(), float_type(op, "x", x), x.stream()));
  return {out};
}

}  // namespace fused_gpu
