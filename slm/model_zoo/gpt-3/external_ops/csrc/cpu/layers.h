// The CPU kernels of layers, losses and the optimizer: float32, contiguous, on all threads. Results do not depend on
// the number of threads.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace fused {

// Where the parts of x [batch, length, heads, 2 * half] are, and its table of angles [tables, length, half].
struct RopeShape {
  long batch, length, heads, half, tables;
  bool interleaved;
};

// The hyperparameters of a step of AdamW. Corrections are 1 - beta^t; gradients are multiplied by `factor`.
struct AdamW {
  float lr, beta1, beta2, epsilon, decay, correction1, correction2, factor;
};

struct Layers {
  // y = x / sqrt(mean(x^2) + epsilon) * scale. x, y [rows, columns], scale [columns], invvar [rows].
  void (*rms_norm)(long rows, long columns, const float* x, const float* scale, float epsilon, float* y, float* invvar);
  // The same of sum = x + residual.
  void (*add_rms_norm)(long rows, long columns, const float* x, const float* residual, const float* scale,
                       float epsilon, float* y, float* sum, float* invvar);
  // Gradients of x and scale. Where `dsum` isn't null, it is added to dx, and the sum goes to `copy`, too.
  void (*rms_norm_grad)(long rows, long columns, const float* x, const float* scale, const float* invvar,
                        const float* dy, const float* dsum, float* dx, float* copy, float* dscale);
  void (*layer_norm)(long rows, long columns, const float* x, const float* scale, const float* bias, float epsilon,
                     float* y, float* mean, float* invvar);
  void (*layer_norm_grad)(long rows, long columns, const float* x, const float* scale, const float* mean,
                          const float* invvar, const float* dy, float* dx, float* dscale, float* dbias);
  // Turns each pair (a, b) of x by its angle times `sign` (1 or -1).
  void (*rope)(const RopeShape& shape, const float* x, const float* cos, const float* sin, float sign, float* y);
  // y = gate * sigmoid(gate) * up.
  void (*swiglu)(long size, const float* gate, const float* up, float* y);
  void (*swiglu_grad)(long size, const float* gate, const float* up, const float* dy, float* dgate, float* dup);
  // Of each row its greatest logit, the sum of exp(logit - greatest), and the logit at label - first (0 if not here).
  void (*cross_entropy_parts)(long rows, long columns, const float* logits, const int64_t* labels, long first,
                              float* max, float* sum, float* picked);
  // logits become scale * (exp(logit - log_sum) - [column == label - first]), zeros where the label is negative.
  // `scale` has one number, or one for each row if `scale_step` is 1.
  void (*cross_entropy_slopes)(long rows, long columns, float* logits, const int64_t* labels, const float* log_sum,
                               const float* scale, long scale_step, long first);
  void (*adamw)(long size, float* weight, float* moment1, float* moment2, const float* gradient, const AdamW& step);
  double (*squared_norm)(long size, const float* x);
  // out [rows, columns] = for each row the sum of the lines of grad [tokens, columns] whose id it is.
  void (*embedding_grad)(long tokens, long rows, long columns, const int64_t* ids, const float* grad, float* out);
};

}  // namespace fused

FUSED_TABLE(fused::Layers, layers)
