// What the CUDA kernels offer: plain functions that enqueue on a stream. No Paddle here; C linkage, so that ctypes can
// call them too.
//
// All of them: tensors are contiguous device memory; addition is in float32 and always in the same order, so that the
// same inputs give the same bits on the same kind of GPU; nothing is allocated; empty inputs are no error. The result
// is the error of the launch, cudaErrorInvalidValue for types or sizes that are not supported.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

enum DataType : int { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2 };

extern "C" {

// Norms of rows [rows, cols]. x of x_type, scale and bias [cols] of scale_type; (x_type, scale_type) is one of float32
// with any, float16 with float16, bfloat16 with bfloat16. y has scale_type; mean and invvar are float32 [rows].

// y = sum * invvar * scale, where sum = x + residual, rounded to x_type, and invvar = 1 / sqrt(mean(sum^2) + epsilon).
// Without a residual (both pointers null) sum is x.
cudaError_t launch_rms_norm(const void* x, const void* residual, const void* scale, void* y, void* sum, float* invvar,
                            int64_t rows, int64_t cols, float epsilon, int x_type, int scale_type,
                            cudaStream_t stream);

// y = (x - mean) * invvar * scale + bias, with invvar = 1 / sqrt(variance + epsilon).
cudaError_t launch_layer_norm(const void* x, const void* scale, const void* bias, void* y, float* mean, float* invvar,
                              int64_t rows, int64_t cols, float epsilon, int x_type, int scale_type,
                              cudaStream_t stream);

// Bytes of the workspace of the gradient of a norm: `centred` is 1 for the layer norm, 0 for the RMS norm.
size_t norm_grad_workspace(int64_t rows, int64_t cols, int centred);

// dx [rows, cols] of x_type and dscale [cols] of scale_type for dy of scale_type. `x` is what was normed: the sum where
// there was a residual. `dsum`, of x_type, may be null; it is the other gradient of the sum and is added to dx.
// `dresidual` may be null; it gets the same as dx.
cudaError_t launch_rms_norm_grad(const void* x, const void* scale, const float* invvar, const void* dy,
                                 const void* dsum, void* dx, void* dresidual, void* dscale, void* workspace,
                                 int64_t rows, int64_t cols, int x_type, int scale_type, cudaStream_t stream);

cudaError_t launch_layer_norm_grad(const void* x, const void* scale, const float* mean, const float* invvar,
                                   const void* dy, void* dx, void* dscale, void* dbias, void* workspace, int64_t rows,
                                   int64_t cols, int x_type, int scale_type, cudaStream_t stream);

// Rotary positions: x, y [batch, seq, heads, dim] of `type`, cos and sin float32 [angle_batch, seq, 1, dim / 2] with
// angle_batch of 1 or batch. Pairs of features are (i, i + dim / 2), or (2i, 2i + 1) if `interleaved`. `inverse` turns
// back, which is the gradient. y may be x.
cudaError_t launch_rope(const void* x, const float* cos, const float* sin, void* y, int64_t batch, int64_t seq,
                        int64_t heads, int64_t dim, int64_t angle_batch, int interleaved, int inverse, int type,
                        cudaStream_t stream);

// y = silu(gate) * up of `count` elements, and its gradients.
cudaError_t launch_swiglu(const void* gate, const void* up, void* y, int64_t count, int type, cudaStream_t stream);
cudaError_t launch_swiglu_grad(const void* gate, const void* up, const void* dy, void* dgate, void* dup, int64_t count,
                               int type, cudaStream_t stream);

// Cross entropy where logits [rows, cols] are the columns `first`, `first` + 1, ... of the vocabulary; labels [rows]
// are over the whole of it, negative ones are ignored. Of each row, float32: the greatest logit, the sum of
// exp(logit - greatest), and the logit of the label, 0 where it is not here. A row of nothing but -inf has the sum 0.
cudaError_t launch_cross_entropy_parts(const void* logits, const int64_t* labels, float* greatest, float* sum,
                                       float* picked, int64_t rows, int64_t cols, int64_t first, int type,
                                       cudaStream_t stream);

// In place, logits = scale * (exp(logits - log_sum) - [column is the label]); 0 in rows whose label is ignored.
// log_sum [rows] is over the whole vocabulary. `scale` is a device tensor of scale_count numbers: one for all rows, or
// one for each.
cudaError_t launch_cross_entropy_slopes(void* logits, const int64_t* labels, const float* log_sum, const float* scale,
                                        int64_t scale_count, int64_t rows, int64_t cols, int64_t first, int type,
                                        cudaStream_t stream);

// out [rows, cols] = for each row the sum of grad [tokens, cols] over the tokens of that id; others are left out.
cudaError_t launch_embedding_grad(const int64_t* ids, const void* grad, void* out, int64_t tokens, int64_t rows,
                                  int64_t cols, int type, cudaStream_t stream);

// One step of AdamW (arXiv:1711.05101) over `count` elements, in place. With g = factor * gradient:
//   moment = beta * moment + (1 - beta) * g^power
//   weight = weight * (1 - lr * decay) - lr / correction1 * moment1 / (sqrt(moment2 / correction2) + epsilon)
// gradient is of gradient_type. `rounded`, which may be null, gets the weights in rounded_type (float16, bfloat16).
cudaError_t launch_adamw(float* weight, float* moment1, float* moment2, const void* gradient, void* rounded,
                         int64_t count, float lr, float beta1, float beta2, float epsilon, float decay,
                         float correction1, float correction2, float factor, int gradient_type, int rounded_type,
                         cudaStream_t stream);

// out [1] = sum of x^2, float32.
size_t squared_norm_workspace();
cudaError_t launch_squared_norm(const void* x, float* out, void* workspace, int64_t count, int type,
                                cudaStream_t stream);

}  // extern "C"
