#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>

#include "kernel.h"
#include "loops.h"
#include "thresholds.h"

namespace mlxn {

#if defined(__x86_64__)
extern const Loops avx512, avx2;
#endif
extern const Loops baseline;

const Loops& loops() {
#if defined(__x86_64__)
  static const Loops& best = []() -> const Loops& {
    // So that one machine can test all sets.
    const char* text = std::getenv("MLX_NODE_KERNELS");
    const std::string most = text ? text : "";
    if (most != "avx2" && most != "baseline" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      return avx512;
    }
    if (most != "baseline" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2;
    return baseline;
  }();
  return best;
#else
  return baseline;
#endif
}

namespace {

// ---- exp, logsumexp, sum of squares

class Exp : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxn::Exp"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    array in = array::unsafe_weak_copy(inputs[0]);
    float* y = reuse(const_cast<array&>(inputs[0]), outputs[0]);
    dispatch([x = in.data<float>(), y, n = in.size()] {
      split(n, BLOCK, [&](size_t start, size_t count) { loops().exp(x + start, y + start, count); });
    });
  }

 protected:
  Arrays gradients(const Arrays&, const Arrays& cotangents, const Arrays& outputs) override {
    return {mx::multiply(cotangents[0], outputs[0], stream())};
  }
};

array exp(const array& x, const mx::Stream& s) {
  return make<Exp>(x.shape(), s, {contiguous(x, s)});
}

class LogSumExp : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxn::LogSumExp"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    float* y = allocate(outputs[0]);
    dispatch([x = inputs[0].data<float>(), y, rows = outputs[0].size(), width = static_cast<size_t>(inputs[0].shape(-1))] {
      split(rows, rows_per_block(width), [&](size_t start, size_t count) {
        for (size_t row = start; row < start + count; row++) y[row] = loops().logsumexp(x + row * width, width);
      });
    });
  }

 protected:
  Arrays gradients(const Arrays& primals, const Arrays& cotangents, const Arrays& outputs) override {
    const array p = exp(mx::subtract(primals[0], outputs[0], stream()), stream());
    return {mx::multiply(p, cotangents[0], stream())};
  }
};

class SumOfSquares : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxn::SumOfSquares"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    float* y = allocate(outputs[0]);
    dispatch([x = inputs[0].data<float>(), y, n = inputs[0].size()] {
      std::vector<double> parts(blocks(n, BLOCK));
      split(n, BLOCK, [&](size_t start, size_t count) { parts[start / BLOCK] = loops().sum_of_squares(x + start, count); });
      double total = 0;
      for (double part : parts) total += part;
      *y = static_cast<float>(total);
    });
  }

 protected:
  Arrays gradients(const Arrays& primals, const Arrays& cotangents, const Arrays&) override {
    return {mx::multiply(mx::multiply(primals[0], array(2.0f), stream()), cotangents[0], stream())};
  }
};

// ---- Top-k and top-p

class TopK : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxn::TopK"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    float* y = allocate(outputs[0]);
    const float* x = inputs[0].data<float>();
    const int32_t* k = inputs[1].data<int32_t>();
    const size_t width = static_cast<size_t>(inputs[0].shape(-1)), each = inputs[1].size() == 1 ? 0 : 1;
    dispatch([=, rows = outputs[0].size()] {
      split(rows, rows_per_block(width), [&](size_t start, size_t count) {
        for (size_t row = start; row < start + count; row++) {
          const size_t rank = std::clamp<int64_t>(k[row * each], 1, static_cast<int64_t>(width));
          y[row] = top_k_threshold(x + row * width, width, rank);
        }
      });
    });
  }
};

class TopP : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxn::TopP"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    float* y = allocate(outputs[0]);
    const float *x = inputs[0].data<float>(), *p = inputs[1].data<float>();
    const size_t width = static_cast<size_t>(inputs[0].shape(-1)), each = inputs[1].size() == 1 ? 0 : 1;
    dispatch([=, rows = outputs[0].size()] {
      split(rows, rows_per_block(width), [&](size_t start, size_t count) {
        for (size_t row = start; row < start + count; row++) y[row] = top_p_threshold(x + row * width, width, p[row * each]);
      });
    });
  }
};

// ---- SwiGLU

class SwigluGrad : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxn::SwigluGrad"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const float *gate = inputs[0].data<float>(), *up = inputs[1].data<float>(), *d = inputs[2].data<float>();
    // Each element is read before it is written, so any input's memory will do.
    float* dgate = reuse(const_cast<array&>(inputs[0]), outputs[0]);
    float* dup = reuse(const_cast<array&>(inputs[1]), outputs[1]);
    dispatch([=, n = inputs[0].size()] {
      split(n, BLOCK, [&](size_t start, size_t count) {
        loops().swiglu_grad(gate + start, up + start, d + start, dgate + start, dup + start, count);
      });
    });
  }
};

class Swiglu : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxn::Swiglu"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const float *gate = inputs[0].data<float>(), *up = inputs[1].data<float>();
    float* out = reuse(const_cast<array&>(inputs[0]), outputs[0]);
    dispatch([=, n = inputs[0].size()] {
      split(n, BLOCK, [&](size_t start, size_t count) { loops().swiglu(gate + start, up + start, out + start, count); });
    });
  }

 protected:
  Arrays gradients(const Arrays& primals, const Arrays& cotangents, const Arrays&) override {
    return array::make_arrays(
        {primals[0].shape(), primals[0].shape()}, {mx::float32, mx::float32}, std::make_shared<SwigluGrad>(stream()),
        {primals[0], primals[1], contiguous(cotangents[0], stream())});
  }
};

// ---- RMSNorm

class RmsNormGrad : public Kernel {
 public:
  RmsNormGrad(const mx::Stream& s, float eps) : Kernel(s), eps_(eps) {}
  const char* name() const override { return "mlxn::RmsNormGrad"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const float *x = inputs[0].data<float>(), *w = inputs[1].data<float>(), *d = inputs[2].data<float>();
    const size_t width = inputs[1].size(), rows = width ? inputs[0].size() / width : 0;
    float* dx = reuse(const_cast<array&>(inputs[2]), outputs[0]);
    float* dw = allocate(outputs[1]);
    dispatch([=, eps = eps_] {
      const size_t block = rows_per_block(width);
      std::vector<float> parts(blocks(rows, block) * width);
      split(rows, block, [&](size_t start, size_t count) {
        const size_t at = start * width;
        loops().rms_norm_grad(x + at, w, d + at, dx + at, parts.data() + start / block * width, count, width, eps);
      });
      std::fill_n(dw, width, 0.0f);
      for (size_t part = 0; part < parts.size(); part += width)
        for (size_t i = 0; i < width; i++) dw[i] += parts[part + i];
    });
  }

 private:
  float eps_;
};

class RmsNorm : public Kernel {
 public:
  RmsNorm(const mx::Stream& s, float eps) : Kernel(s), eps_(eps) {}
  const char* name() const override { return "mlxn::RmsNorm"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const float *x = inputs[0].data<float>(), *w = inputs[1].data<float>();
    const size_t width = inputs[1].size(), rows = width ? inputs[0].size() / width : 0;
    float* y = reuse(const_cast<array&>(inputs[0]), outputs[0]);
    dispatch([=, eps = eps_] {
      split(rows, rows_per_block(width), [&](size_t start, size_t count) {
        loops().rms_norm(x + start * width, w, y + start * width, count, width, eps);
      });
    });
  }

 protected:
  Arrays gradients(const Arrays& primals, const Arrays& cotangents, const Arrays&) override {
    return array::make_arrays(
        {primals[0].shape(), primals[1].shape()}, {mx::float32, mx::float32},
        std::make_shared<RmsNormGrad>(stream(), eps_), {primals[0], primals[1], contiguous(cotangents[0], stream())});
  }

 private:
  float eps_;
};

// ---- Arrays of heads, [B, H, T, D]

// Memory in the order of [B, T, H, D], as projections give it and take it: going from one to the other then copies nothing.
float* allocate_heads(array& out) {
  const int64_t h = out.shape(1), t = out.shape(2), d = out.shape(3);
  mx::array::Flags flags{true, h == 1 || t == 1 || out.size() <= 1, out.size() <= 1};
  out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), {t * h * d, d, h * d, 1}, flags);
  return out.data<float>();
}

// Where the vectors of heads lie.
struct Heads {
  const float* data;
  int64_t batch, head, slot;

  const float* at(size_t b, size_t h, size_t t = 0) const {
    return data + static_cast<int64_t>(b) * batch + static_cast<int64_t>(h) * head + static_cast<int64_t>(t) * slot;
  }
};

// `copy` holds the elements in order where the array's strides serve neither loops nor matrix products.
Heads heads_of(const array& x, std::vector<float>& copy) {
  const int64_t h = x.shape(1), t = x.shape(2), d = x.shape(3);
  const auto& strides = x.strides();
  if ((d == 1 || strides[3] == 1) && (t == 1 || strides[2] >= d)) {
    return {x.data<float>(), strides[0], strides[1], t == 1 ? d : strides[2]};
  }
  copy.resize(x.size());
  float* to = copy.data();
  for (int64_t b = 0; b < x.shape(0); b++)
    for (int64_t i = 0; i < h; i++)
      for (int64_t j = 0; j < t; j++)
        for (int64_t l = 0; l < d; l++)
          *to++ = x.data<float>()[b * strides[0] + i * strides[1] + j * strides[2] + l * strides[3]];
  return {copy.data(), h * t * d, t * d, d};
}

// ---- Rotary embedding

// Cosines and sines per position; the layers of a model ask for the same ones.
struct Angles {
  std::vector<float> wavelengths, cosines, sines, minus_sines;
  std::vector<int> offsets;
  float scale = 0;
  size_t slots = 0;

  void fill(std::vector<float> new_wavelengths, std::vector<int> new_offsets, float new_scale, size_t new_slots) {
    if (new_wavelengths == wavelengths && new_offsets == offsets && new_scale == scale && new_slots == slots) return;
    wavelengths = std::move(new_wavelengths), offsets = std::move(new_offsets), scale = new_scale, slots = new_slots;
    cosines.clear(), sines.clear(), minus_sines.clear();
    for (int offset : offsets) {
      for (size_t slot = 0; slot < slots; slot++) {
        const float position = static_cast<float>(offset + static_cast<int>(slot)) * scale;
        for (float wavelength : wavelengths) {
          const float angle = position * (1.0f / wavelength);
          cosines.push_back(std::cos(angle));
          sines.push_back(std::sin(angle));
          minus_sines.push_back(-sines.back());
        }
      }
    }
  }
};

class Rope : public Kernel {
 public:
  Rope(const mx::Stream& s, float scale, bool inverse) : Kernel(s), scale_(scale), inverse_(inverse) {}
  const char* name() const override { return "mlxn::Rope"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    float* y = allocate_heads(outputs[0]);
    dispatch([x = array::unsafe_weak_copy(inputs[0]), wavelengths = array::unsafe_weak_copy(inputs[1]),
              offsets = array::unsafe_weak_copy(inputs[2]), y, scale = scale_, inverse = inverse_] {
      static thread_local Angles angles;
      std::vector<float> copy;
      const Heads in = heads_of(x, copy);
      const size_t heads = x.shape(1), slots = x.shape(2), width = x.shape(3), half = wavelengths.size();
      angles.fill(
          {wavelengths.data<float>(), wavelengths.data<float>() + half},
          {offsets.data<int>(), offsets.data<int>() + offsets.size()}, scale, slots);
      const float* cosines = angles.cosines.data();
      const float* sines = (inverse ? angles.minus_sines : angles.sines).data();
      const bool per_row = offsets.size() > 1;
      split(x.shape(0) * slots, rows_per_block(heads * width), [&](size_t start, size_t count) {
        for (size_t place = start; place < start + count; place++) {
          const size_t b = place / slots, t = place % slots, angle = (per_row ? place : t) * half;
          for (size_t h = 0; h < heads; h++) {
            const float* from = in.at(b, h, t);
            float* to = y + (place * heads + h) * width;
            loops().rotate(from, to, cosines + angle, sines + angle, half);
            std::memcpy(to + 2 * half, from + 2 * half, (width - 2 * half) * sizeof(float));
          }
        }
      });
    });
  }

 protected:
  Arrays gradients(const Arrays& primals, const Arrays& cotangents, const Arrays&) override {
    return {make<Rope>(primals[0].shape(), stream(), {cotangents[0], primals[1], primals[2]}, scale_, !inverse_)};
  }

 private:
  float scale_;
  bool inverse_;
};

// ---- Attention

// Queries whose scores are in memory at once, per thread.
constexpr size_t QUERIES = 256;

// What the two passes have in common: blocks of scores and their masks.
struct Scores {
  size_t batch, heads, kv_heads, slots, keys, width;
  float scale;
  bool causal;
  const bool* mask = nullptr;
  mx::Strides mask_strides;

  Scores(const array& q, const array& k, float scale, bool causal, const array* mask_array)
      : batch(q.shape(0)), heads(q.shape(1)), kv_heads(k.shape(1)), slots(q.shape(2)), keys(k.shape(2)), width(q.shape(3)),
        scale(scale), causal(causal) {
    if (mask_array) mask = mask_array->data<bool>(), mask_strides = mask_array->strides();
  }

  // Keys that query t sees at most.
  size_t seen(size_t t) const {
    return causal ? keys - slots + t + 1 : keys;
  }

  void hide(float* row, size_t b, size_t h, size_t t, size_t count) const {
    if (!mask) return;
    const bool* visible = mask + b * mask_strides[0] + h * mask_strides[1] + t * mask_strides[2];
    for (size_t i = 0; i < count; i++)
      if (!visible[i * mask_strides[3]]) row[i] = -INFINITY;
  }

  // One task per group of heads that share keys.
  template <class F>
  void each_group(F work) const {
    const size_t groups = batch * kv_heads, each = heads / kv_heads * slots * keys * width;
    // Enough multiplications per task to pay for handing it over.
    const size_t block = std::max<size_t>(1, (1 << 16) / std::max<size_t>(each, 1));
    mlxn::split(groups, block, [&](size_t start, size_t count) {
      for (size_t i = start; i < start + count; i++) work(i / kv_heads, i % kv_heads);
    });
  }
};

class AttentionGrad : public Kernel {
 public:
  AttentionGrad(const mx::Stream& s, float scale, bool causal) : Kernel(s), scale_(scale), causal_(causal) {}
  const char* name() const override { return "mlxn::AttentionGrad"; }

  // Inputs q, k, v, d, lse and maybe a mask.
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    float *dq = allocate_heads(outputs[0]), *dk = allocate_heads(outputs[1]), *dv = allocate_heads(outputs[2]);
    Arrays in;
    for (const array& input : inputs) in.push_back(array::unsafe_weak_copy(input));
    dispatch([in, dq, dk, dv, scale = scale_, causal = causal_] {
      const Scores s(in[0], in[1], scale, causal, in.size() > 5 ? &in[5] : nullptr);
      std::vector<float> copies[3];
      const Heads q = heads_of(in[0], copies[0]), k = heads_of(in[1], copies[1]), v = heads_of(in[2], copies[2]);
      const float *d = in[3].data<float>(), *lse = in[4].data<float>();
      const size_t rep = s.heads / s.kv_heads, q_step = s.heads * s.width, k_step = s.kv_heads * s.width, rows = QUERIES;
      s.each_group([&](size_t b, size_t kv) {
        static thread_local std::vector<float> scores, gradient;
        const size_t block = std::min(rows, s.slots);
        scores.resize(block * s.keys), gradient.resize(block * s.keys);
        float *key = dk + (b * s.keys * s.kv_heads + kv) * s.width, *value = dv + (b * s.keys * s.kv_heads + kv) * s.width;
        for (size_t i = 0; i < s.keys; i++) {
          std::memset(key + i * k_step, 0, s.width * sizeof(float));
          std::memset(value + i * k_step, 0, s.width * sizeof(float));
        }
        for (size_t h = kv * rep; h < (kv + 1) * rep; h++) {
          for (size_t start = 0; start < s.slots; start += rows) {
            const size_t count = std::min(rows, s.slots - start), seen = s.seen(start + count - 1);
            const size_t at = ((b * s.slots + start) * s.heads + h) * s.width;
            float *p = scores.data(), *dp = gradient.data();
            product(count, seen, s.width, q.at(b, h, start), q.slot, false, k.at(b, kv), k.slot, true, p, seen, 0);
            product(count, seen, s.width, d + at, q_step, false, v.at(b, kv), v.slot, true, dp, seen, 0);
            for (size_t i = 0; i < count; i++) {
              float *row = p + i * seen, *drow = dp + i * seen;
              const size_t visible = s.seen(start + i);
              s.hide(row, b, h, start + i, visible);
              loops().softmax_grad(row, drow, visible, s.scale, lse[(b * s.heads + h) * s.slots + start + i]);
              std::fill(row + visible, row + seen, 0.0f);
              std::fill(drow + visible, drow + seen, 0.0f);
            }
            product(seen, s.width, count, p, seen, true, d + at, q_step, false, value, k_step, 1);
            product(count, s.width, seen, dp, seen, false, k.at(b, kv), k.slot, false, dq + at, q_step, 0);
            product(seen, s.width, count, dp, seen, true, q.at(b, h, start), q.slot, false, key, k_step, 1);
          }
        }
      });
    });
  }

 private:
  float scale_;
  bool causal_;
};

class Attention : public Kernel {
 public:
  Attention(const mx::Stream& s, float scale, bool causal) : Kernel(s), scale_(scale), causal_(causal) {}
  const char* name() const override { return "mlxn::Attention"; }

  // Outputs [B, T, H, D], and the logs of the softmax's denominators [B, H, T], from which the gradient gets the softmax back.
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    float *out = allocate(outputs[0]), *lse = allocate(outputs[1]);
    Arrays in;
    for (const array& input : inputs) in.push_back(array::unsafe_weak_copy(input));
    dispatch([in, out, lse, scale = scale_, causal = causal_] {
      const Scores s(in[0], in[1], scale, causal, in.size() > 3 ? &in[3] : nullptr);
      std::vector<float> copies[3];
      const Heads q = heads_of(in[0], copies[0]), k = heads_of(in[1], copies[1]), v = heads_of(in[2], copies[2]);
      const size_t rep = s.heads / s.kv_heads, q_step = s.heads * s.width, rows = QUERIES;
      s.each_group([&](size_t b, size_t kv) {
        static thread_local std::vector<float> scores;
        scores.resize(std::max(std::min(rows, s.slots), rep) * s.keys);
        float* p = scores.data();
        // One slot: the heads of a group are the rows of one product.
        if (s.slots == 1 && q.head >= static_cast<int64_t>(s.width)) {
          const size_t h = kv * rep;
          product(rep, s.keys, s.width, q.at(b, h), q.head, false, k.at(b, kv), k.slot, true, p, s.keys, 0);
          for (size_t i = 0; i < rep; i++) {
            s.hide(p + i * s.keys, b, h + i, 0, s.keys);
            lse[b * s.heads + h + i] = loops().softmax(p + i * s.keys, s.keys, s.scale);
          }
          float* to = out + (b * s.heads + h) * s.width;
          product(rep, s.width, s.keys, p, s.keys, false, v.at(b, kv), v.slot, false, to, s.width, 0);
          return;
        }
        for (size_t h = kv * rep; h < (kv + 1) * rep; h++) {
          for (size_t start = 0; start < s.slots; start += rows) {
            const size_t count = std::min(rows, s.slots - start), seen = s.seen(start + count - 1);
            product(count, seen, s.width, q.at(b, h, start), q.slot, false, k.at(b, kv), k.slot, true, p, seen, 0);
            for (size_t i = 0; i < count; i++) {
              float* row = p + i * seen;
              const size_t visible = s.seen(start + i);
              s.hide(row, b, h, start + i, visible);
              lse[(b * s.heads + h) * s.slots + start + i] = loops().softmax(row, visible, s.scale);
              std::fill(row + visible, row + seen, 0.0f);
            }
            float* to = out + ((b * s.slots + start) * s.heads + h) * s.width;
            product(count, s.width, seen, p, seen, false, v.at(b, kv), v.slot, false, to, q_step, 0);
          }
        }
      });
    });
  }

 protected:
  Arrays gradients(const Arrays& primals, const Arrays& cotangents, const Arrays& outputs) override {
    Arrays inputs{primals[0], primals[1], primals[2], contiguous(cotangents[0], stream()), outputs[1]};
    if (primals.size() > 3) inputs.push_back(primals[3]);
    return array::make_arrays(
        {primals[0].shape(), primals[1].shape(), primals[2].shape()}, {mx::float32, mx::float32, mx::float32},
        std::make_shared<AttentionGrad>(stream(), scale_, causal_), inputs);
  }

 private:
  float scale_;
  bool causal_;
};

// ---- Linear

// x [.., in] times w [out, in] transposed, plus a bias [out] where there is one.
class Linear : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxn::Linear"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    float* y = allocate(outputs[0]);
    const float* bias = inputs.size() > 2 ? inputs[2].data<float>() : nullptr;
    const size_t out = inputs[1].shape(0), width = inputs[1].shape(1), rows = out ? outputs[0].size() / out : 0;
    dispatch([x = inputs[0].data<float>(), w = inputs[1].data<float>(), bias, y, out, width, rows] {
      if (bias) {
        split(rows, rows_per_block(out), [&](size_t start, size_t count) {
          for (size_t row = start; row < start + count; row++) std::copy(bias, bias + out, y + row * out);
        });
      }
      if (rows && out) product(rows, out, width, x, width, false, w, width, true, y, out, bias ? 1 : 0);
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {shape(inputs[0], inputs[1].shape(0))}; }

  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override {
    const array &x = primals[0], &w = primals[1];
    array sum = mx::zeros(shape(x, w.shape(0)), mx::float32, stream());
    for (size_t i = 0; i < argnums.size(); i++) {
      array part = tangents[i];
      if (argnums[i] == 0) part = mx::matmul(part, mx::transpose(w, stream()), stream());
      if (argnums[i] == 1) part = mx::matmul(x, mx::transpose(part, stream()), stream());
      sum = mx::add(sum, part, stream());
    }
    return {sum};
  }

  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    Arrays moved = inputs;
    for (size_t i = 0; i < axes.size(); i++) {
      if (axes[i] > 0) moved[i] = mx::moveaxis(inputs[i], axes[i], 0, stream());
    }
    const bool one_layer = axes[1] < 0 && (axes.size() < 3 || axes[2] < 0);
    if (one_layer) {
      moved[0] = contiguous(moved[0], stream());
      return {{make<Linear>(shape(moved[0], moved[1].shape(0)), stream(), moved)}, {0}};
    }
    // A layer for each: products of the rows of each x.
    array &x = moved[0], &w = moved[1];
    const int out = w.shape(-2), width = w.shape(-1);
    mx::Shape lead(x.shape().begin() + (axes[0] < 0 ? 0 : 1), x.shape().end() - 1);
    int rows = 1;
    for (int size : lead) rows *= size;
    x = mx::reshape(x, {axes[0] < 0 ? 1 : x.shape(0), rows, width}, stream());
    array y = mx::matmul(x, mx::swapaxes(w, -1, -2, stream()), stream());
    if (moved.size() > 2) y = mx::add(y, axes[2] < 0 ? moved[2] : mx::expand_dims(moved[2], 1, stream()), stream());
    lead.insert(lead.begin(), y.shape(0));
    lead.push_back(out);
    return {{mx::reshape(y, lead, stream())}, {0}};
  }

  static mx::Shape shape(const array& x, int out) {
    mx::Shape shape = x.shape();
    shape.back() = out;
    return shape;
  }

 protected:
  // The gradient of the weight comes out in the weight's own layout; that of a product with a transposed weight would not,
  // and every later pass over it would go through memory in strides.
  Arrays gradients(const Arrays& primals, const Arrays& cotangents, const Arrays&) override {
    const array &x = primals[0], &w = primals[1];
    const array d = mx::reshape(cotangents[0], {-1, w.shape(0)}, stream());
    const array rows = mx::reshape(x, {-1, w.shape(1)}, stream());
    Arrays all = {
        mx::reshape(mx::matmul(d, w, stream()), x.shape(), stream()),
        mx::matmul(mx::transpose(d, stream()), rows, stream())};
    if (primals.size() > 2) all.push_back(mx::sum(d, 0, false, stream()));
    return all;
  }
};

// ---- AdamW

class AdamW : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxn::AdamW"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const float *w = inputs[0].data<float>(), *g = inputs[1].data<float>(), *m = inputs[2].data<float>(),
                *v = inputs[3].data<float>(), *scale = inputs[4].data<float>(), *c = inputs[5].data<float>();
    float* new_w = reuse(const_cast<array&>(inputs[0]), outputs[0]);
    float* new_m = reuse(const_cast<array&>(inputs[2]), outputs[1]);
    float* new_v = reuse(const_cast<array&>(inputs[3]), outputs[2]);
    dispatch([=, n = inputs[0].size()] {
      const AdamwStep step{*scale, c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]};
      split(n, BLOCK, [&](size_t i, size_t count) {
        loops().adamw(w + i, g + i, m + i, v + i, new_w + i, new_m + i, new_v + i, count, step);
      });
    });
  }
};

} // namespace
} // namespace mlxn

using namespace mlxn;

int mlxn_exp(mlx_array* res, mlx_array x, mlx_stream s) {
  return guarded([&] { mlx_array_set_(*res, mlxn::exp(floats(x), mlx_stream_get_(s))); });
}

int mlxn_logsumexp(mlx_array* res, mlx_array x, mlx_stream s) {
  return guarded([&] {
    const array& in = floats(x);
    require(in.ndim() > 0 && in.shape(-1) > 0, "logsumexp needs a last axis of size 1 or more");
    mx::Shape shape = in.shape();
    shape.back() = 1;
    const auto& stream = mlx_stream_get_(s);
    mlx_array_set_(*res, make<LogSumExp>(shape, stream, {contiguous(in, stream)}));
  });
}

int mlxn_top_k(mlx_array* res, mlx_array x, mlx_array k, mlx_stream s) {
  return guarded([&] {
    const array &in = floats(x), &ranks = mlx_array_get_(k);
    require(in.ndim() > 0 && in.shape(-1) > 0, "top_k needs a last axis of size 1 or more");
    require(ranks.dtype() == mx::int32, "top_k needs int32 ranks");
    mx::Shape shape = in.shape();
    shape.back() = 1;
    require(ranks.size() == 1 || ranks.size() == in.size() / in.shape(-1), "top_k needs one rank, or one for each row");
    const auto& stream = mlx_stream_get_(s);
    mlx_array_set_(*res, make<TopK>(shape, stream, {contiguous(in, stream), contiguous(ranks, stream)}));
  });
}

int mlxn_top_p(mlx_array* res, mlx_array x, mlx_array p, mlx_stream s) {
  return guarded([&] {
    const array &in = floats(x), &share = floats(p);
    require(in.ndim() > 0 && in.shape(-1) > 0, "top_p needs a last axis of size 1 or more");
    mx::Shape shape = in.shape();
    shape.back() = 1;
    require(share.size() == 1 || share.size() == in.size() / in.shape(-1), "top_p needs one share, or one for each row");
    const auto& stream = mlx_stream_get_(s);
    mlx_array_set_(*res, make<TopP>(shape, stream, {contiguous(in, stream), contiguous(share, stream)}));
  });
}

int mlxn_sum_of_squares(mlx_array* res, mlx_array x, mlx_stream s) {
  return guarded([&] {
    const auto& stream = mlx_stream_get_(s);
    mlx_array_set_(*res, make<SumOfSquares>({}, stream, {contiguous(floats(x), stream)}));
  });
}

int mlxn_swiglu(mlx_array* res, mlx_array gate, mlx_array up, mlx_stream s) {
  return guarded([&] {
    const array &g = floats(gate), &u = floats(up);
    require(g.shape() == u.shape(), "swiglu: gate and up must have the same shape");
    const auto& stream = mlx_stream_get_(s);
    mlx_array_set_(*res, make<Swiglu>(g.shape(), stream, {contiguous(g, stream), contiguous(u, stream)}));
  });
}

int mlxn_rms_norm(mlx_array* res, mlx_array x, mlx_array weight, float eps, mlx_stream s) {
  return guarded([&] {
    const array &in = floats(x), &w = floats(weight);
    require(w.ndim() == 1 && in.ndim() > 0 && in.shape(-1) == w.shape(0), "rms_norm: the weight must fit the last axis");
    const auto& stream = mlx_stream_get_(s);
    mlx_array_set_(*res, make<RmsNorm>(in.shape(), stream, {contiguous(in, stream), contiguous(w, stream)}, eps));
  });
}

int mlxn_rope(mlx_array* res, mlx_array x, mlx_array wavelengths, mlx_array offsets, float scale, mlx_stream s) {
  return guarded([&] {
    const array &in = floats(x), &table = floats(wavelengths), &first = mlx_array_get_(offsets);
    require(in.ndim() == 4 && table.ndim() == 1 && 2 * table.shape(0) <= in.shape(3), "rope: x must be [B, H, T, D >= dims]");
    require(
        first.dtype() == mx::int32 && first.ndim() == 1 && (first.shape(0) == 1 || first.shape(0) == in.shape(0)),
        "rope: offsets must be int32 [1] or [B]");
    const auto& stream = mlx_stream_get_(s);
    Arrays inputs{in, contiguous(table, stream), contiguous(first, stream)};
    mlx_array_set_(*res, make<Rope>(in.shape(), stream, inputs, scale, false));
  });
}

int mlxn_attention(
    mlx_array* res, mlx_array q, mlx_array k, mlx_array v, mlx_array mask, float scale, bool causal, mlx_stream s) {
  return guarded([&] {
    const array &queries = floats(q), &keys = floats(k), &values = floats(v);
    require(queries.ndim() == 4 && keys.ndim() == 4 && values.ndim() == 4, "attention: q, k and v must be [B, H, T, D]");
    const int batch = queries.shape(0), heads = queries.shape(1), slots = queries.shape(2), width = queries.shape(3);
    require(keys.shape() == values.shape(), "attention: keys and values must have the same shape");
    require(
        keys.shape(0) == batch && keys.shape(1) > 0 && heads % keys.shape(1) == 0 && keys.shape(3) == width,
        "attention: keys must have the batch and the head size of the queries, and a number of heads that divides theirs");
    require(!causal || keys.shape(2) >= slots, "attention: a causal mask needs as many keys as queries");
    const auto& stream = mlx_stream_get_(s);
    Arrays inputs{queries, keys, values};
    if (mask.ctx) {
      const array& visible = mlx_array_get_(mask);
      require(visible.dtype() == mx::bool_, "attention: the mask must be boolean");
      inputs.push_back(mx::broadcast_to(visible, {batch, heads, slots, keys.shape(2)}, stream));
    }
    Arrays outputs = array::make_arrays(
        {{batch, slots, heads, width}, {batch, heads, slots}}, {mx::float32, mx::float32},
        std::make_shared<Attention>(stream, scale, causal), inputs);
    mlx_array_set_(*res, outputs[0]);
  });
}

int mlxn_linear(mlx_array* res, mlx_array x, mlx_array weight, mlx_array bias, mlx_stream s) {
  return guarded([&] {
    const array &in = floats(x), &w = floats(weight);
    require(
        w.ndim() == 2 && in.ndim() > 0 && in.shape(-1) == w.shape(1) && w.shape(1) > 0,
        "linear: the last axis of x must have the size of the weight's second one");
    const auto& stream = mlx_stream_get_(s);
    Arrays inputs = {contiguous(in, stream), contiguous(w, stream)};
    if (bias.ctx) {
      require(floats(bias).shape() == mx::Shape{w.shape(0)}, "linear: the bias must have the size of the weight's first axis");
      inputs.push_back(contiguous(floats(bias), stream));
    }
    mlx_array_set_(*res, make<Linear>(Linear::shape(in, w.shape(0)), stream, inputs));
  });
}

int mlxn_adamw(
    mlx_array* res_weight, mlx_array* res_first, mlx_array* res_second, mlx_array weight, mlx_array gradient,
    mlx_array first, mlx_array second, mlx_array scale, mlx_array constants, mlx_stream s) {
  return guarded([&] {
    const auto& stream = mlx_stream_get_(s);
    const mx::Shape shape = floats(weight).shape();
    Arrays inputs;
    for (mlx_array handle : {weight, gradient, first, second}) {
      require(floats(handle).shape() == shape, "adamw: weight, gradient and moments must have the same shape");
      inputs.push_back(contiguous(floats(handle), stream));
    }
    require(floats(scale).size() == 1, "adamw: the gradient's scale must be one number");
    inputs.push_back(floats(scale));
    require(floats(constants).shape() == mx::Shape{8}, "adamw: there must be eight constants");
    inputs.push_back(contiguous(floats(constants), stream));
    Arrays outputs = array::make_arrays(
        {shape, shape, shape}, {mx::float32, mx::float32, mx::float32}, std::make_shared<AdamW>(stream), inputs);
    mlx_array_set_(*res_weight, outputs[0]);
    mlx_array_set_(*res_first, outputs[1]);
    mlx_array_set_(*res_second, outputs[2]);
  });
}
