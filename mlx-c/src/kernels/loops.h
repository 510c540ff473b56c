// Loops over float32 rows, compiled once per instruction set (simd.cpp) and chosen when the first kernel runs.
#pragma once

#include <stddef.h>

namespace mlxn {

struct AdamwStep {
  float scale, step_size, root, kept, beta1, rest1, beta2, rest2, eps;
};

// `count` rows of `width` numbers, packed in `bits` (2, 3, 4, 5, 6 or 8) with a scale and a bias for each `group` (32, 64 or 128).
struct PackedRows {
  const unsigned char* codes;
  const float *scales, *biases;
  size_t count, width;
  int bits;
  size_t group;
};

// Unless it says otherwise, an output may be the same memory as an input.
struct Loops {
  void (*exp)(const float* x, float* y, size_t n);
  // max and sum of exp(x - max): log(sum) + max is the log of the softmax's denominator.
  float (*logsumexp)(const float* x, size_t n);
  // silu(gate) * up, and its gradient.
  void (*swiglu)(const float* gate, const float* up, float* out, size_t n);
  void (*swiglu_grad)(const float* gate, const float* up, const float* d, float* dgate, float* dup, size_t n);
  // Rows of `width`; the gradient adds to `dw`.
  void (*rms_norm)(const float* x, const float* w, float* y, size_t rows, size_t width, float eps);
  void (*rms_norm_grad)(
      const float* x, const float* w, const float* d, float* dx, float* dw, size_t rows, size_t width, float eps);
  // In place softmax(scale * x); returns the log of the denominator. All-masked rows become zeros.
  float (*softmax)(float* x, size_t n, float scale);
  // From scores and the gradient dp of the probabilities: scores become probabilities, dp the gradient of the scores.
  void (*softmax_grad)(float* scores, float* dp, size_t n, float scale, float lse);
  // Rotates the pairs (i, i + half) of one vector.
  void (*rotate)(const float* x, float* y, const float* cosines, const float* sines, size_t half);
  void (*adamw)(
      const float* w, const float* g, const float* m, const float* v, float* new_w, float* new_m, float* new_v, size_t n,
      const AdamwStep& step);
  double (*sum_of_squares)(const float* x, size_t n);
  // The numbers [start, start + n) of each row, whole groups: [count, n].
  void (*unpack)(const PackedRows& w, size_t start, size_t n, float* out);
  // y[r * y_step + o]: row o's dot with row r of x [rows, width], of whose groups `sums` [rows, width / group] are the sums.
  void (*packed_dots)(const PackedRows& w, const float* x, const float* sums, size_t rows, float* y, size_t y_step);
  void (*sums_of_groups)(const float* x, size_t n, size_t group, float* sums);
};

// The best that this processor runs.
const Loops& loops();

} // namespace mlxn
