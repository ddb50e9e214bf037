// Bindings of rotary positions and SwiGLU.
#include "../cpu/layers.h"
#include "checks.h"

namespace {

using fused::check_float, fused::data, fused::empty, fused::Shape, paddle::Tensor;

fused::RopeShape rope_shape(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved) {
  const char* op = "fused_rope";
  check_float(op, "x", x);
  fused::check_axes(op, "x", x, 4, 4, "[batch, length, heads, dim]");
  const Shape size = x.shape();
  PD_CHECK(size[3] % 2 == 0, op, ": x has shape ", fused::shown(size),
           "; expected an even last axis, since pairs are turned");
  check_float(op, "cos", cos);
  fused::check_axes(op, "cos", cos, 4, 4, "[batch or 1, length, 1, dim / 2]");
  const int64_t tables = cos.shape()[0] == 1 ? 1 : size[0];
  fused::check_shape(op, "cos", cos, {tables, size[1], 1, size[3] / 2});
  check_float(op, "sin", sin, cos.shape());
  return {size[0], size[1], size[2], size[3] / 2, tables, interleaved};
}

std::vector<Tensor> turned(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved, float sign) {
  FUSED_ON_GPU(x, rope(x, cos, sin, interleaved, sign));
  const fused::RopeShape shape = rope_shape(x, cos, sin, interleaved);
  Tensor y = empty(x.shape());
  FUSED_PICK(layers).rope(shape, data(x), data(cos), data(sin), sign, data(y));
  return {y};
}

std::vector<Tensor> rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved) {
  return turned(x, cos, sin, interleaved, 1.0f);
}

std::vector<Tensor> rope_grad(const Tensor& cos, const Tensor& sin, const Tensor& dy, bool interleaved) {
  return turned(dy, cos, sin, interleaved, -1.0f);
}

std::vector<Tensor> swiglu(const Tensor& gate, const Tensor& up) {
  FUSED_ON_GPU(gate, swiglu(gate, up));
  check_float("fused_swiglu", "gate", gate);
  check_float("fused_swiglu", "up", up, gate.shape());
  Tensor y = empty(gate.shape());
  FUSED_PICK(layers).swiglu(gate.numel(), data(gate), data(up), data(y));
  return {y};
}

std::vector<Tensor> swiglu_grad(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  FUSED_ON_GPU(gate, swiglu_grad(gate, up, dy));
  check_float("the gradient of fused_swiglu", "the gradient of y", dy, gate.shape());
  Tensor dgate = empty(gate.shape()), dup = empty(gate.shape());
  FUSED_PICK(layers).swiglu_grad(gate.numel(), data(gate), data(up), data(dy), data(dgate), data(dup));
  return {dgate, dup};
}

}  // namespace

PD_BUILD_OP(ext_rope)
    .Inputs({"X", "Cos", "Sin"})
    .Outputs({"Y"})
    .Attrs({"interleaved: bool"})
    .SetKernelFn(PD_KERNEL(rope));

PD_BUILD_GRAD_OP(ext_rope)
    .Inputs({"Cos", "Sin", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X")})
    .Attrs({"interleaved: bool"})
    .SetKernelFn(PD_KERNEL(rope_grad));

PD_BUILD_OP(ext_swiglu).Inputs({"Gate", "Up"}).Outputs({"Y"}).SetKernelFn(PD_KERNEL(swiglu));

PD_BUILD_GRAD_OP(ext_swiglu)
    .Inputs({"Gate", "Up", paddle::Grad("Y")})
    .Outputs({paddle::Grad("Gate"), paddle::Grad("Up")})
    .SetKernelFn(PD_KERNEL(swiglu_grad));
