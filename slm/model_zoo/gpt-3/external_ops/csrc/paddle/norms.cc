// Bindings of the norms.
#include "../cpu/layers.h"
#include "checks.h"

namespace {

using fused::check_float, fused::check_shape, fused::data, fused::empty, fused::Shape, paddle::Tensor;

// x as rows, and the shape of what there is one of for each row.
struct Rows {
  int64_t rows, columns;
  Shape outer;
  Rows(const char* op, const Tensor& x) : outer(x.shape()) {
    check_float(op, "x", x);
    PD_CHECK(!outer.empty() && outer.back() > 0, op, ": x has shape ", fused::shown(x.shape()),
             "; expected at least one axis, the last not empty");
    columns = outer.back();
    rows = x.numel() / columns;
    outer.pop_back();
  }
};

std::vector<Tensor> rms_norm(const Tensor& x, const Tensor& scale, float epsilon) {
  FUSED_ON_GPU(x, rms_norm(x, scale, epsilon));
  const char* op = "fused_rms_norm";
  const Rows size(op, x);
  check_float(op, "scale", scale, {size.columns});
  Tensor y = empty(x.shape()), invvar = empty(size.outer);
  FUSED_PICK(layers).rms_norm(size.rows, size.columns, data(x), data(scale), epsilon, data(y), data(invvar));
  return {y, invvar};
}

std::vector<Tensor> rms_norm_grad(const Tensor& x, const Tensor& scale, const Tensor& invvar, const Tensor& dy,
                                  float epsilon) {
  FUSED_ON_GPU(x, rms_norm_grad(x, scale, invvar, dy, epsilon));
  const char* op = "fused_rms_norm_grad_func";
  const Rows size(op, x);
  check_float(op, "scale", scale, {size.columns});
  check_float(op, "invvar", invvar, size.outer);
  const Tensor slope = fused::gradient(op, dy, x);
  Tensor dx = empty(x.shape()), dscale = empty(scale.shape());
  FUSED_PICK(layers).rms_norm_grad(size.rows, size.columns, data(x), data(scale), data(invvar), data(slope), nullptr,
                                   data(dx), nullptr, data(dscale));
  return {dx, dscale};
}

std::vector<Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& scale, float epsilon) {
  FUSED_ON_GPU(x, add_rms_norm(x, residual, scale, epsilon));
  const char* op = "fused_add_rms_norm";
  const Rows size(op, x);
  check_float(op, "residual", residual, x.shape());
  check_float(op, "scale", scale, {size.columns});
  Tensor y = empty(x.shape()), sum = empty(x.shape()), invvar = empty(size.outer);
  FUSED_PICK(layers).add_rms_norm(size.rows, size.columns, data(x), data(residual), data(scale), epsilon, data(y),
                                  data(sum), data(invvar));
  return {y, sum, invvar};
}

std::vector<Tensor> add_rms_norm_grad(const Tensor& scale, const Tensor& sum, const Tensor& invvar, const Tensor& dy,
                                      const Tensor& dsum, float epsilon) {
  FUSED_ON_GPU(sum, add_rms_norm_grad(sum, scale, invvar, dy, dsum, epsilon));
  const char* op = "the gradient of fused_add_rms_norm";
  const Rows size(op, sum);
  const Tensor slope = fused::gradient(op, dy, sum), more = fused::gradient(op, dsum, sum);
  Tensor dx = empty(sum.shape()), dresidual = empty(sum.shape()), dscale = empty(scale.shape());
  FUSED_PICK(layers).rms_norm_grad(size.rows, size.columns, data(sum), data(scale), data(invvar), data(slope),
                                   data(more), data(dx), data(dresidual), data(dscale));
  return {dx, dresidual, dscale};
}

std::vector<Tensor> layer_norm(const Tensor& x, const Tensor& scale, const Tensor& bias, float epsilon) {
  FUSED_ON_GPU(x, layer_norm(x, scale, bias, epsilon));
  const char* op = "fused_ln";
  const Rows size(op, x);
  check_float(op, "scale", scale, {size.columns});
  check_float(op, "bias", bias, {size.columns});
  Tensor y = empty(x.shape()), mean = empty(size.outer), invvar = empty(size.outer);
  FUSED_PICK(layers).layer_norm(size.rows, size.columns, data(x), data(scale), data(bias), epsilon, data(y), data(mean),
                                data(invvar));
  return {y, mean, invvar};
}

std::vector<Tensor> layer_norm_grad(const Tensor& x, const Tensor& scale, const Tensor& mean, const Tensor& invvar,
                                    const Tensor& dy, float epsilon) {
  FUSED_ON_GPU(x, layer_norm_grad(x, scale, mean, invvar, dy, epsilon));
  const char* op = "the gradient of fused_ln";
  const Rows size(op, x);
  const Tensor slope = fused::gradient(op, dy, x);
  Tensor dx = empty(x.shape()), dscale = empty(scale.shape()), dbias = empty(scale.shape());
  FUSED_PICK(layers).layer_norm_grad(size.rows, size.columns, data(x), data(scale), data(mean), data(invvar),
                                     data(slope), data(dx), data(dscale), data(dbias));
  return {dx, dscale, dbias};
}

}  // namespace

PD_BUILD_OP(ext_rms_norm)
    .Inputs({"X", "Scale"})
    .Outputs({"Y", "InvVar"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(rms_norm));

PD_BUILD_GRAD_OP(ext_rms_norm)
    .Inputs({"X", "Scale", "InvVar", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Scale")})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(rms_norm_grad));

PD_BUILD_OP(ext_rms_norm_grad_func)
    .Inputs({"X", "Scale", "InvVar", "DY"})
    .Outputs({"DX", "DScale"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(rms_norm_grad));

PD_BUILD_OP(ext_add_rms_norm)
    .Inputs({"X", "Residual", "Scale"})
    .Outputs({"Y", "Sum", "InvVar"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(add_rms_norm));

PD_BUILD_GRAD_OP(ext_add_rms_norm)
    .Inputs({"Scale", "Sum", "InvVar", paddle::Grad("Y"), paddle::Grad("Sum")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Residual"), paddle::Grad("Scale")})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(add_rms_norm_grad));

PD_BUILD_OP(ext_layer_norm)
    .Inputs({"X", "Scale", "Bias"})
    .Outputs({"Y", "Mean", "InvVar"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(layer_norm));

PD_BUILD_GRAD_OP(ext_layer_norm)
    .Inputs({"X", "Scale", "Mean", "InvVar", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Scale"), paddle::Grad("Bias")})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(layer_norm_grad));
