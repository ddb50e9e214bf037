// Bindings of what is built on matrix products: the head with its cross entropy, and causal attention. CPU only.
#include <dlfcn.h>

#include "../cpu/products.h"
#include "checks.h"

namespace {

using fused::check_float, fused::data, fused::empty, fused::Shape, paddle::Tensor;

// Data of a tensor that may be left out, which is then empty.
template <class Number>
const Number* optional(const char* op, const char* name, const Tensor& x, paddle::DataType type, const Shape& shape) {
  fused::check(op, name, x, type);
  if (x.numel() == 0) return nullptr;
  fused::check_shape(op, name, x, shape);
  return x.data<Number>();
}

std::vector<Tensor> head_loss(const Tensor& x, const Tensor& weight, const Tensor& labels, bool transpose, bool wanted_x,
                              bool wanted_weight) {
  const char* op = "head_loss";
  check_float(op, "x", x);
  check_float(op, "weight", weight);
  fused::check(op, "labels", labels, paddle::DataType::INT64);
  fused::check_axes(op, "x", x, 2, 2, "[tokens, hidden]");
  fused::check_axes(op, "weight", weight, 2, 2, "[hidden, vocab]");
  const int64_t rows = x.shape()[0], hidden = x.shape()[1], vocab = weight.shape()[transpose ? 0 : 1];
  fused::check_shape(op, "weight", weight, transpose ? Shape{vocab, hidden} : Shape{hidden, vocab});
  fused::check_shape(op, "labels", labels, {rows});
  const int64_t* label = labels.data<int64_t>();
  for (int64_t i = 0; i < rows; ++i)
    PD_CHECK(label[i] >= 0 && label[i] < vocab, op, ": labels has ", label[i], " at place ", i, "; expected 0 to ",
             vocab - 1);
  Tensor grad_x = empty(wanted_x ? x.shape() : Shape{0}), grad_weight = empty(wanted_weight ? weight.shape() : Shape{0});
  fused::HeadLoss work{rows,
                       hidden,
                       vocab,
                       data(x),
                       data(weight),
                       label,
                       transpose,
                       wanted_x ? data(grad_x) : nullptr,
                       wanted_weight ? data(grad_weight) : nullptr,
                       0};
  FUSED_PICK(products).head_loss(work);
  Tensor loss = empty({1});
  *data(loss) = float(work.loss);
  return {loss, grad_x, grad_weight};
}

fused::Attention attention_of(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts,
                              const Tensor& slopes, float scale, int64_t window) {
  check_float(op, "q", q);
  check_float(op, "k", k);
  check_float(op, "v", v);
  fused::check_axes(op, "q", q, 4, 4, "[batch, queries, heads, dim]");
  fused::check_axes(op, "k", k, 4, 4, "[batch, keys, groups, dim]");
  fused::check_axes(op, "v", v, 4, 4, "[batch, keys, groups, value dim]");
  const Shape one = q.shape(), other = k.shape();
  fused::check_shape(op, "k", k, {one[0], other[1], other[2], one[3]});
  fused::check_shape(op, "v", v, {one[0], other[1], other[2], v.shape()[3]});
  PD_CHECK(other[2] > 0 && one[2] % other[2] == 0, op, ": q has ", one[2], " heads and k ", other[2],
           "; expected a multiple");
  PD_CHECK(one[1] > 0 && one[1] <= other[1], op, ": q has ", one[1], " positions and k ", other[1],
           "; expected at least as many keys");
  PD_CHECK(window >= 0, op, ": window is ", window, "; expected 0 (none) or more");
  return {one[0],  one[1],  other[1], one[2],
          other[2], one[3], v.shape()[3], data(q),
          data(k), data(v), optional<int32_t>(op, "starts", starts, paddle::DataType::INT32, {one[0], other[1]}),
          optional<float>(op, "slopes", slopes, paddle::DataType::FLOAT32, {one[2]}), scale, window,
          nullptr, nullptr};
}

std::vector<Tensor> causal_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts,
                                     const Tensor& slopes, float scale, int64_t window) {
  fused::Attention work = attention_of("causal_attention", q, k, v, starts, slopes, scale, window);
  Tensor y = empty({work.batch, work.queries, work.heads, work.value_dim});
  Tensor log_sums = empty({work.batch, work.heads, work.queries});
  work.y = data(y), work.log_sums = data(log_sums);
  FUSED_PICK(products).attention(work);
  return {y, log_sums};
}

std::vector<Tensor> causal_attention_grad(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts,
                                          const Tensor& slopes, const Tensor& y, const Tensor& log_sums,
                                          const Tensor& grad, float scale, int64_t window) {
  const char* op = "causal_attention_grad";
  fused::AttentionGrad work{attention_of(op, q, k, v, starts, slopes, scale, window), nullptr, nullptr, nullptr, nullptr};
  fused::Attention& forward = work.forward;
  const Shape shape = {forward.batch, forward.queries, forward.heads, forward.value_dim};
  check_float(op, "y", y, shape);
  check_float(op, "grad", grad, shape);
  check_float(op, "log_sums", log_sums, {forward.batch, forward.heads, forward.queries});
  forward.y = const_cast<float*>(data(y)), forward.log_sums = const_cast<float*>(data(log_sums));
  Tensor grad_q = empty(q.shape()), grad_k = empty(k.shape()), grad_v = empty(v.shape());
  work.grad = data(grad), work.grad_q = data(grad_q), work.grad_k = data(grad_k), work.grad_v = data(grad_v);
  FUSED_PICK(products).attention_grad(work);
  return {grad_q, grad_k, grad_v};
}

void scale(Tensor& x, float factor) {
  check_float("scale_", "x", x);
  FUSED_PICK(products).scale(x.numel(), data(x), factor);
}

// For those who compare it with other libraries' products.
std::vector<Tensor> product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  const char* op = "product";
  check_float(op, "a", a);
  check_float(op, "b", b);
  fused::check_axes(op, "a", a, 2, 2, "a matrix");
  fused::check_axes(op, "b", b, 2, 2, "a matrix");
  const int64_t lines_a = a.shape()[1], lines_b = b.shape()[1];
  const int64_t rows = a.shape()[transpose_a], depth = a.shape()[!transpose_a], columns = b.shape()[!transpose_b];
  fused::check_shape(op, "b", b, transpose_b ? Shape{columns, depth} : Shape{depth, columns});
  Tensor c = empty({rows, columns});
  FUSED_PICK(products).product({rows, columns, depth,
                                transpose_a ? fused::Matrix{data(a), 1, lines_a} : fused::Matrix{data(a), lines_a, 1},
                                transpose_b ? fused::Matrix{data(b), 1, lines_b} : fused::Matrix{data(b), lines_b, 1},
                                data(c), columns, false});
  return {c};
}

// cblas_sgemm of the MKL that Paddle has loaded, which uses Paddle's threads; nullptr where Paddle has another library.
using Sgemm = void (*)(int order, int turn_a, int turn_b, int rows, int columns, int depth, float alpha, const float* a,
                       int line_a, const float* b, int line_b, float beta, float* c, int line_c);
constexpr int ROW_MAJOR = 101, AS_IT_IS = 111, TURNED = 112;

Sgemm sgemm_of_paddle() {
  static const Sgemm found = [] {
    void* library = dlopen("libmklml_intel.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm")) : nullptr;
  }();
  return found;
}

// Nothing but this product is at work, so it is MKL's where there is one: ours pays only where it saves passes.
void add_product(Tensor& total, const Tensor& a, const Tensor& b) {
  const char* op = "add_product_";
  check_float(op, "a", a);
  check_float(op, "b", b);
  fused::check_axes(op, "a", a, 2, 2, "[depth, rows]");
  fused::check_axes(op, "b", b, 2, 2, "[depth, columns]");
  const int64_t depth = a.shape()[0], rows = a.shape()[1], columns = b.shape()[1];
  fused::check_shape(op, "b", b, {depth, columns});
  check_float(op, "total", total, {rows, columns});
  const Sgemm sgemm = sgemm_of_paddle();
  if (sgemm && depth && std::max({depth, rows, columns}) <= INT32_MAX)
    sgemm(ROW_MAJOR, TURNED, AS_IT_IS, rows, columns, depth, 1.0f, data(a), rows, data(b), columns, 1.0f, data(total),
          columns);
  else
    FUSED_PICK(products).product({rows, columns, depth, {data(a), 1, rows}, {data(b), columns, 1}, data(total), columns,
                                  true});
}

}  // namespace

PD_BUILD_OP(ext_head_loss)
    .Inputs({"X", "Weight", "Labels"})
    .Outputs({"Loss", "GradX", "GradWeight"})
    .Attrs({"transpose: bool", "wanted_x: bool", "wanted_weight: bool"})
    .SetKernelFn(PD_KERNEL(head_loss));

PD_BUILD_OP(ext_causal_attention)
    .Inputs({"Q", "K", "V", "Starts", "Slopes"})
    .Outputs({"Y", "LogSums"})
    .Attrs({"scale: float", "window: int64_t"})
    .SetKernelFn(PD_KERNEL(causal_attention));

PD_BUILD_OP(ext_causal_attention_grad)
    .Inputs({"Q", "K", "V", "Starts", "Slopes", "Y", "LogSums", "Grad"})
    .Outputs({"GradQ", "GradK", "GradV"})
    .Attrs({"scale: float", "window: int64_t"})
    .SetKernelFn(PD_KERNEL(causal_attention_grad));

PD_BUILD_OP(ext_scale)
    .Inputs({"X"})
    .Outputs({"Out"})
    .Attrs({"factor: float"})
    .SetInplaceMap({{"X", "Out"}})
    .SetKernelFn(PD_KERNEL(scale));

PD_BUILD_OP(ext_add_product)
    .Inputs({"Total", "A", "B"})
    .Outputs({"Out"})
    .SetInplaceMap({{"Total", "Out"}})
    .SetKernelFn(PD_KERNEL(add_product));

PD_BUILD_OP(ext_product)
    .Inputs({"A", "B"})
    .Outputs({"C"})
    .Attrs({"transpose_a: bool", "transpose_b: bool"})
    .SetKernelFn(PD_KERNEL(product));
