// The logits at which top-k and top-p end, without sorting the row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "loops.h"

namespace mlxn {

// Keys in the order of the floats.
inline uint32_t float_key(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline float key_float(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// From the highest bin down, the one with which the mass reaches `target`; `above` becomes the mass over it. Sums round differently in
// different orders: where all bins together fall short, it is the lowest that is not empty. -1 where all are empty.
inline int crossing(const std::vector<double>& bins, double target, double& above) {
  int last = -1;
  double before = above, sum = above;
  for (int bin = static_cast<int>(bins.size()) - 1; bin >= 0; bin--) {
    if (bins[bin] == 0) continue;
    last = bin;
    before = sum;
    sum += bins[bin];
    if (sum >= target) break;
  }
  above = before;
  return last;
}

// The smallest x[i] over which there is less than the share `p` of the mass of softmax(x): the logits from there on are the fewest likeliest
// ones that reach p, with all equals of the last. -inf, which keeps everything, for p >= 1 and where the softmax is NaN. Bits of the
// logits name the bins in which the mass is counted, 11 at a time: three passes, of which the later ones see one bin each.
inline float top_p_threshold(const float* x, size_t n, float p) {
  if (!(p < 1)) return -INFINITY;
  std::vector<float> weights(x, x + n);
  loops().softmax(weights.data(), n, 1.0f);
  constexpr int BITS = 11;
  std::vector<double> bins(1 << BITS, 0.0);
  double total = 0;
  for (size_t i = 0; i < n; i++) {
    bins[float_key(x[i]) >> (32 - BITS)] += weights[i];
    total += weights[i];
  }
  if (!(total > 0) || std::isinf(total)) return -INFINITY;
  const double target = p * total;
  double above = 0;
  const uint32_t first = static_cast<uint32_t>(crossing(bins, target, above));
  std::vector<std::pair<uint32_t, float>> inside;
  for (size_t i = 0; i < n; i++) {
    const uint32_t key = float_key(x[i]);
    if (key >> (32 - BITS) == first && weights[i] > 0) inside.emplace_back(key, weights[i]);
  }
  uint32_t key = first;
  for (int shift : {10, 0}) {
    const int width = shift == 10 ? BITS : 10;
    bins.assign(size_t{1} << width, 0.0);
    for (const auto& [k, weight] : inside)
      if (k >> (shift + width) == key) bins[(k >> shift) & ((1u << width) - 1)] += weight;
    key = key << width | static_cast<uint32_t>(crossing(bins, target, above));
  }
  return key_float(key);
}

// The `k`-th largest of x[0..n], 1 <= k <= n; NaN is larger than all, as MLX sorts it. One pass: what is not above the k-th of the
// candidates so far is none. They are thinned out to k whenever there are twice as many, so that numbers in ascending order take linear
// time too.
inline float top_k_threshold(const float* x, size_t n, size_t k) {
  const auto above = [](float a, float b) { return std::isnan(a) ? !std::isnan(b) : a > b; };
  const size_t most = std::min(n, k + std::max<size_t>(k, 512));
  std::vector<float> best;
  best.reserve(most);
  const auto thin = [&] {
    const auto last = best.begin() + static_cast<ptrdiff_t>(k - 1);
    std::nth_element(best.begin(), last, best.end(), above);
    best.resize(k);
    return *last;
  };
  float floor = -INFINITY;
  for (size_t i = 0; i < n; i++) {
    // True of NaN.
    if (!(x[i] <= floor)) {
      if (best.size() == most) {
        floor = thin();
        if (x[i] <= floor) continue;
      }
      best.push_back(x[i]);
    }
  }
  // The others are all -inf.
  return best.size() < k ? -INFINITY : thin();
}

} // namespace mlxn
