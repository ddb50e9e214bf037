// Bindings of the cross entropy over cut columns, the gradient of an embedding, AdamW and the squared norm.
#include "../cpu/layers.h"
#include "checks.h"

namespace {

using fused::check_float, fused::data, fused::empty, fused::Shape, paddle::Tensor;
constexpr auto INT64 = paddle::DataType::INT64;

void check_logits(const char* op, const Tensor& logits, const Tensor& labels) {
  check_float(op, "logits", logits);
  fused::check_axes(op, "logits", logits, 2, 2, "[tokens, columns]");
  fused::check(op, "labels", labels, INT64);
  fused::check_shape(op, "labels", labels, {logits.shape()[0]});
}

std::vector<Tensor> cross_entropy_parts(const Tensor& logits, const Tensor& labels, int64_t first) {
  FUSED_ON_GPU(logits, cross_entropy_parts(logits, labels, first));
  check_logits("cross_entropy_parts", logits, labels);
  const Shape size = logits.shape(), one = {size[0]};
  Tensor max = empty(one), sum = empty(one), picked = empty(one);
  FUSED_PICK(layers).cross_entropy_parts(size[0], size[1], data(logits), labels.data<int64_t>(), first, data(max),
                                         data(sum), data(picked));
  return {max, sum, picked};
}

void cross_entropy_slopes(Tensor& logits, const Tensor& labels, const Tensor& log_sum, const Tensor& scale,
                          int64_t first) {
  FUSED_ON_GPU(logits, cross_entropy_slopes(logits, labels, log_sum, scale, first));
  const char* op = "cross_entropy_slopes_";
  check_logits(op, logits, labels);
  const Shape size = logits.shape();
  check_float(op, "log_sum", log_sum, {size[0]});
  check_float(op, "scale", scale);
  PD_CHECK(scale.numel() == 1 || scale.shape() == Shape{size[0]}, op, ": scale has shape ", fused::shown(scale.shape()),
           "; expected [1] or ", fused::shown(Shape{size[0]}));
  FUSED_PICK(layers).cross_entropy_slopes(size[0], size[1], data(logits), labels.data<int64_t>(), data(log_sum),
                                          data(scale), scale.numel() > 1, first);
}

std::vector<Tensor> embedding_grad(const Tensor& ids, const Tensor& grad, int64_t rows) {
  FUSED_ON_GPU(grad, embedding_grad(ids, grad, rows));
  const char* op = "embedding_grad";
  fused::check(op, "ids", ids, INT64);
  check_float(op, "grad", grad);
  Shape expected = ids.shape();
  PD_CHECK(!grad.shape().empty(), op, ": grad has no axes; expected [..., columns]");
  const int64_t columns = grad.shape().back();
  expected.push_back(columns);
  fused::check_shape(op, "grad", grad, expected);
  PD_CHECK(rows > 0, op, ": rows is ", rows, "; expected the size of the vocabulary");
  const int64_t* id = ids.data<int64_t>();
  for (int64_t t = 0; t < ids.numel(); ++t)
    PD_CHECK(id[t] >= 0 && id[t] < rows, op, ": ids has ", id[t], " at place ", t, "; expected 0 to ", rows - 1);
  Tensor out = empty({rows, columns});
  FUSED_PICK(layers).embedding_grad(ids.numel(), rows, columns, id, data(grad), data(out));
  return {out};
}

void adamw(Tensor& weight, Tensor& moment1, Tensor& moment2, const Tensor& gradient, float lr, float beta1, float beta2,
           float epsilon, float decay, float correction1, float correction2, float factor) {
  const fused::AdamW step{lr, beta1, beta2, epsilon, decay, correction1, correction2, factor};
  FUSED_ON_GPU(weight, adamw(weight, moment1, moment2, gradient, step));
  const char* op = "fused_adamw_";
  check_float(op, "weight", weight);
  check_float(op, "moment1", moment1, weight.shape());
  check_float(op, "moment2", moment2, weight.shape());
  check_float(op, "gradient", gradient, weight.shape());
  FUSED_PICK(layers).adamw(weight.numel(), data(weight), data(moment1), data(moment2), data(gradient), step);
}

std::vector<Tensor> squared_norm(const Tensor& x) {
  FUSED_ON_GPU(x, squared_norm(x));
  check_float("squared_norm", "x", x);
  Tensor out = empty({1});
  *data(out) = float(FUSED_PICK(layers).squared_norm(x.numel(), data(x)));
  return {out};
}

}  // namespace

PD_BUILD_OP(ext_cross_entropy_parts)
    .Inputs({"Logits", "Labels"})
    .Outputs({"Max", "Sum", "Picked"})
    .Attrs({"first: int64_t"})
    .SetKernelFn(PD_KERNEL(cross_entropy_parts));

PD_BUILD_OP(ext_cross_entropy_slopes)
    .Inputs({"Logits", "Labels", "LogSum", "Scale"})
    .Outputs({"Slopes"})
    .Attrs({"first: int64_t"})
    .SetInplaceMap({{"Logits", "Slopes"}})
    .SetKernelFn(PD_KERNEL(cross_entropy_slopes));

PD_BUILD_OP(ext_embedding_slopes)
    .Inputs({"Ids", "Grad"})
    .Outputs({"Out"})
    .Attrs({"rows: int64_t"})
    .SetKernelFn(PD_KERNEL(embedding_grad));

PD_BUILD_OP(ext_adamw)
    .Inputs({"Weight", "Moment1", "Moment2", "Gradient"})
    .Outputs({"WeightOut", "Moment1Out", "Moment2Out"})
    .Attrs({"lr: float", "beta1: float", "beta2: float", "epsilon: float", "decay: float", "correction1: float",
            "correction2: float", "factor: float"})
    .SetInplaceMap({{"Weight", "WeightOut"}, {"Moment1", "Moment1Out"}, {"Moment2", "Moment2Out"}})
    .SetKernelFn(PD_KERNEL(adamw));

PD_BUILD_OP(ext_squared_norm).Inputs({"X"}).Outputs({"Out"}).SetKernelFn(PD_KERNEL(squared_norm));
