// The CPU kernels that are built on matrix products: float32, on all threads, and the same each time with as many threads.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace fused {

// A matrix [rows, columns] anywhere: element (i, j) is data[i * row + j * column].
struct Matrix {
  const float* data;
  long row, column;
  const float* at(long i, long j) const { return data + i * row + j * column; }
};

// C [rows, columns] = A [rows, depth] B [depth, columns], or C += A B if `adds`. The lines of C are `stride` apart.
struct Product {
  long rows, columns, depth;
  Matrix a, b;
  float* c;
  long stride;
  bool adds;
};

// The sum of the cross entropies of x W at `labels`, and its gradients.
struct HeadLoss {
  long rows, hidden, vocab;
  const float *x, *weight;      // x [rows, hidden]; weight [hidden, vocab], or [vocab, hidden] if `transposed`
  const int64_t* labels;        // in [0, vocab)
  bool transposed;
  float *grad_x, *grad_weight;  // shaped like x and weight; nullptr where not wanted
  double loss;                  // result
};

// softmax(scale Q K') V of the queries, which are the last of the `keys` positions, with heads in groups that share keys.
struct Attention {
  long batch, queries, keys, heads, groups, dim, value_dim;
  const float *q, *k, *v;     // [batch, queries, heads, dim], [batch, keys, groups, dim], [batch, keys, groups, value_dim]
  const int32_t* starts;      // [batch, keys]: the first key that a position may see, never falling; or nullptr
  const float* slopes;        // [heads]: of ALiBi, slope * (key - position) is added to scores; or nullptr
  float scale;
  long window;                // a position sees only keys less than this many places back; 0: all
  float *y, *log_sums;        // [batch, queries, heads, value_dim]; log(sum(exp(score))) [batch, heads, queries]
};

struct AttentionGrad {
  Attention forward;          // y and log_sums are read
  const float* grad;          // of y
  float *grad_q, *grad_k, *grad_v;
};

struct Products {
  void (*product)(const Product& work);
  void (*head_loss)(HeadLoss& work);
  void (*attention)(const Attention& work);
  void (*attention_grad)(const AttentionGrad& work);
  void (*scale)(long size, float* x, float factor);  // x *= factor
};

}  // namespace fused

FUSED_TABLE(fused::Products, products)
