// The bindings for GPUs, called by name from ctypes.
#include <cstring>
#include <map>

#include "gpu.h"

using fused::Tensor;
using Tensors = std::vector<Tensor>;

namespace {

std::string message;

// Inputs in the order of the binding, then its numbers.
const std::map<std::string, Tensors (*)(Tensors&, const double*)> BINDINGS = {
    {"rms_norm", [](Tensors& x, const double* n) { return fused_gpu::rms_norm(x[0], x[1], float(n[0])); }},
    {"rms_norm_grad",
     [](Tensors& x, const double*) { return fused_gpu::rms_norm_grad(x[0], x[1], x[2], x[3], 0); }},
    {"add_rms_norm",
     [](Tensors& x, const double* n) { return fused_gpu::add_rms_norm(x[0], x[1], x[2], float(n[0])); }},
    {"add_rms_norm_grad",
     [](Tensors& x, const double*) { return fused_gpu::add_rms_norm_grad(x[0], x[1], x[2], x[3], x[4], 0); }},
    {"layer_norm", [](Tensors& x, const double* n) { return fused_gpu::layer_norm(x[0], x[1], x[2], float(n[0])); }},
    {"layer_norm_grad",
     [](Tensors& x, const double*) { return fused_gpu::layer_norm_grad(x[0], x[1], x[2], x[3], x[4], 0); }},
    {"rope", [](Tensors& x, const double* n) { return fused_gpu::rope(x[0], x[1], x[2], n[0] != 0, float(n[1])); }},
    {"swiglu", [](Tensors& x, const double*) { return fused_gpu::swiglu(x[0], x[1]); }},
    {"swiglu_grad", [](Tensors& x, const double*) { return fused_gpu::swiglu_grad(x[0], x[1], x[2]); }},
    {"cross_entropy_parts",
     [](Tensors& x, const double* n) { return fused_gpu::cross_entropy_parts(x[0], x[1], int64_t(n[0])); }},
    {"cross_entropy_slopes",
     [](Tensors& x, const double* n) {
       fused_gpu::cross_entropy_slopes(x[0], x[1], x[2], x[3], int64_t(n[0]));
       return Tensors{x[0]};
     }},
    {"embedding_grad",
     [](Tensors& x, const double* n) { return fused_gpu::embedding_grad(x[0], x[1], int64_t(n[0])); }},
    {"adamw",
     [](Tensors& x, const double* n) {
       const auto f = [&](int i) { return float(n[i]); };
       fused_gpu::adamw(x[0], x[1], x[2], x[3], {f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)});
       return Tensors{x[0], x[1], x[2]};
     }},
    {"squared_norm", [](Tensors& x, const double*) { return fused_gpu::squared_norm(x[0]); }},
};

}  // namespace

extern "C" {

Tensor* new_tensor(const void* data, int type, int axes, const int64_t* shape, int device) {
  auto* x = new Tensor(std::vector<int64_t>(shape, shape + axes), static_cast<phi::DataType>(type), {device});
  std::memcpy(x->data(), data, x->numel() * phi::size_of(x->dtype()));
  return x;
}

// How many results there are, or -1: `binding_error` says why.
int run_binding(const char* name, Tensor** inputs, int count, const double* numbers, Tensor** results) try {
  Tensors given;
  for (int i = 0; i < count; ++i) given.push_back(inputs[i] ? *inputs[i] : Tensor());
  const Tensors found = BINDINGS.at(name)(given, numbers);
  for (size_t i = 0; i < found.size(); ++i) results[i] = new Tensor(found[i]);
  return static_cast<int>(found.size());
} catch (const std::exception& error) {
  message = error.what();
  return -1;
}

const char* binding_error() { return message.c_str(); }

// The type; the shape and the bytes go to `shape` and `data`.
int read_tensor(const Tensor* x, int64_t* shape, void* data) {
  for (size_t i = 0; i < x->shape().size(); ++i) shape[i] = x->shape()[i];
  std::memcpy(data, x->data(), x->numel() * phi::size_of(x->dtype()));
  return static_cast<int>(x->dtype());
}

void free_tensor(Tensor* x) { delete x; }

}  // extern "C"
