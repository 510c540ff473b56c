// Compiled once per instruction set with MLXN_SET naming it. Nothing here may have external linkage but the table at the
// end, and no library header with inline code may be included: the linker keeps one copy of such code for the whole
// program, which could be the one for a processor that this is not.
#include "loops.h"

#include <string.h>

namespace {

#if defined(__AVX512F__)
constexpr size_t W = 16;
#elif defined(__AVX2__)
constexpr size_t W = 8;
#else
constexpr size_t W = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int Int __attribute__((vector_size(4 * W)));
typedef unsigned Bits __attribute__((vector_size(4 * W)));

#define INLINE __attribute__((always_inline)) inline

INLINE Vec all(float x) {
  return Vec{} + x;
}

// The first n <= W elements; the other lanes are zero.
INLINE Vec load(const float* x, size_t n = W) {
  Vec v = {};
  memcpy(&v, x, 4 * n);
  return v;
}

INLINE void store(float* x, Vec v, size_t n = W) {
  memcpy(x, &v, 4 * n);
}

INLINE float sum(Vec v) {
  float parts[W];
  memcpy(parts, &v, sizeof v);
  for (size_t half = W / 2; half; half /= 2)
    for (size_t i = 0; i < half; i++) parts[i] += parts[i + half];
  return parts[0];
}

// Calls f(i, count) for each full vector, with a constant count, and for the rest.
template <class F>
INLINE void each(size_t n, F f) {
  size_t i = 0;
  for (; i + W <= n; i += W) f(i, W);
  if (i < n) f(i, n - i);
}

// Within 2 ulp everywhere. exp(x) = 2^n exp(r) with n the nearest integer to x / ln 2, so |r| <= ln 2 / 2, where the
// polynomial (Cephes' coefficients) is off by less than 1 ulp. ln 2 is split so that n times its upper part is exact. The
// power of two is applied in two factors: results below the smallest normal number are then rounded once, and those
// beyond the largest become infinite. Comparisons are false for NaN, which therefore passes through to the polynomial.
INLINE Vec exp(Vec x) {
  const Vec high = all(128.0f), low = all(-150.0f), magic = all(12582912.0f); // 1.5 * 2^23: adding it rounds to integers
  x = x > high ? high : x;
  x = x < low ? low : x;
  const Vec shifted = x * 1.44269504088896341f + magic;
  const Vec whole = shifted - magic;
  const Vec r = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Vec p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  const Int n = (Int)((Bits)shifted - (Bits)magic);
  const Int half = n >> 1;
  const Vec first = (Vec)(((Bits)half + 127u) << 23), second = (Vec)(((Bits)(n - half) + 127u) << 23);
  return (p * first) * second;
}

INLINE Vec sigmoid(Vec x) {
  return 1.0f / (1.0f + exp(-x));
}

constexpr float INFINITE = __builtin_inff();

INLINE float finite_or_zero(float x) {
  return x == INFINITE || x == -INFINITE ? 0.0f : x;
}

INLINE float largest(const float* x, size_t n) {
  Vec top = all(-INFINITE);
  each(n, [&](size_t i, size_t k) {
    Vec v = load(x + i, k);
    if (k < W)
      for (size_t lane = k; lane < W; lane++) v[lane] = -INFINITE;
    top = v > top ? v : top;
  });
  float best = top[0];
  for (size_t lane = 1; lane < W; lane++) best = top[lane] > best ? top[lane] : best;
  return best;
}

// Clears the lanes beyond the first n.
INLINE Vec keep(Vec v, size_t n) {
  return n == W ? v : load((const float*)&v, n);
}

void exp_loop(const float* x, float* y, size_t n) {
  each(n, [&](size_t i, size_t k) { store(y + i, exp(load(x + i, k)), k); });
}

float logsumexp(const float* x, size_t n) {
  // With an infinite maximum the plain exponentials give the right limit, and NaN stays visible.
  const float top = finite_or_zero(largest(x, n));
  Vec total = {};
  each(n, [&](size_t i, size_t k) { total += keep(exp(load(x + i, k) - top), k); });
  return __builtin_logf(sum(total)) + top;
}

void swiglu(const float* gate, const float* up, float* out, size_t n) {
  each(n, [&](size_t i, size_t k) {
    const Vec g = load(gate + i, k);
    store(out + i, g * sigmoid(g) * load(up + i, k), k);
  });
}

void swiglu_grad(const float* gate, const float* up, const float* d, float* dgate, float* dup, size_t n) {
  each(n, [&](size_t i, size_t k) {
    const Vec g = load(gate + i, k), u = load(up + i, k), c = load(d + i, k);
    const Vec s = sigmoid(g);
    store(dgate + i, c * u * (s + g * s * (1.0f - s)), k);
    store(dup + i, c * (g * s), k);
  });
}

INLINE float inverse_rms(const float* x, size_t width, float eps) {
  Vec squares = {};
  each(width, [&](size_t i, size_t k) {
    const Vec v = load(x + i, k);
    squares += v * v;
  });
  return 1.0f / __builtin_sqrtf(sum(squares) / (float)width + eps);
}

void rms_norm(const float* x, const float* w, float* y, size_t rows, size_t width, float eps) {
  for (size_t row = 0; row < rows; row++, x += width, y += width) {
    const float r = inverse_rms(x, width, eps);
    each(width, [&](size_t i, size_t k) { store(y + i, load(x + i, k) * r * load(w + i, k), k); });
  }
}

void rms_norm_grad(
    const float* x, const float* w, const float* d, float* dx, float* dw, size_t rows, size_t width, float eps) {
  for (size_t row = 0; row < rows; row++, x += width, d += width, dx += width) {
    const float r = inverse_rms(x, width, eps);
    Vec products = {};
    each(width, [&](size_t i, size_t k) { products += load(d + i, k) * load(w + i, k) * load(x + i, k); });
    const float pull = sum(products) * r * r / (float)width;
    each(width, [&](size_t i, size_t k) {
      const Vec v = load(x + i, k), c = load(d + i, k);
      store(dw + i, load(dw + i, k) + c * (v * r), k);
      store(dx + i, (c * load(w + i, k) - v * pull) * r, k);
    });
  }
}

float softmax(float* x, size_t n, float scale) {
  // A negative scale would turn the order around; the largest scaled score is then that of the smallest.
  each(n, [&](size_t i, size_t k) { store(x + i, load(x + i, k) * scale, k); });
  const float top = finite_or_zero(largest(x, n));
  Vec total = {};
  each(n, [&](size_t i, size_t k) {
    const Vec e = keep(exp(load(x + i, k) - top), k);
    total += e;
    store(x + i, e, k);
  });
  const float denominator = sum(total);
  const float factor = denominator == 0.0f ? 0.0f : 1.0f / denominator;
  each(n, [&](size_t i, size_t k) { store(x + i, load(x + i, k) * factor, k); });
  return __builtin_logf(denominator) + top;
}

void softmax_grad(float* scores, float* dp, size_t n, float scale, float lse) {
  const float offset = lse == -INFINITE ? 0.0f : lse;
  Vec products = {};
  each(n, [&](size_t i, size_t k) {
    const Vec p = exp(load(scores + i, k) * scale - offset);
    products += keep(p * load(dp + i, k), k);
    store(scores + i, p, k);
  });
  const float mean = sum(products);
  each(n, [&](size_t i, size_t k) { store(dp + i, load(scores + i, k) * (load(dp + i, k) - mean) * scale, k); });
}

void rotate(const float* x, float* y, const float* cosines, const float* sines, size_t half) {
  each(half, [&](size_t i, size_t k) {
    const Vec a = load(x + i, k), b = load(x + half + i, k), c = load(cosines + i, k), s = load(sines + i, k);
    store(y + i, a * c - b * s, k);
    store(y + half + i, a * s + b * c, k);
  });
}

void adamw(
    const float* w, const float* g, const float* m, const float* v, float* new_w, float* new_m, float* new_v, size_t n,
    const mlxn::AdamwStep& given) {
  const mlxn::AdamwStep s = given;
  each(n, [&](size_t i, size_t k) {
    const Vec gradient = load(g + i, k) * s.scale;
    const Vec first = load(m + i, k) * s.beta1 + gradient * s.rest1;
    const Vec second = load(v + i, k) * s.beta2 + gradient * gradient * s.rest2;
    Vec root;
    for (size_t lane = 0; lane < W; lane++) root[lane] = __builtin_sqrtf(second[lane]);
    store(new_w + i, load(w + i, k) * s.kept - first * s.step_size / (root * s.root + s.eps), k);
    store(new_m + i, first, k);
    store(new_v + i, second, k);
  });
}

double sum_of_squares(const float* x, size_t n) {
  double total = 0;
  for (size_t start = 0; start < n; start += 4096) {
    const size_t count = n - start < 4096 ? n - start : 4096;
    Vec squares = {};
    each(count, [&](size_t i, size_t k) {
      const Vec v = load(x + start + i, k);
      squares += v * v;
    });
    total += sum(squares);
  }
  return total;
}

#include "packed_loops.h"

} // namespace

namespace mlxn {

extern const Loops MLXN_SET;
const Loops MLXN_SET = {
    exp_loop, logsumexp, swiglu, swiglu_grad, rms_norm, rms_norm_grad, softmax, softmax_grad, rotate, adamw, sum_of_squares,
    unpack_rows, packed_dots, sums_of_groups,
};

} // namespace mlxn
