// Loops over packed numbers, part of simd.cpp. A row of codes is one little-endian stream of bits, `group` of which share a scale and
// a bias: number = code * scale + bias.

// Lane i reads lane `from[i]` of v.
INLINE Bits shuffled(Bits v, Int from) {
#if defined(__clang__)
  Bits out = {};
  for (size_t lane = 0; lane < W; lane++) out[lane] = v[from[lane] & (W - 1)];
  return out;
#else
  return __builtin_shuffle(v, from);
#endif
}

// The next N bytes, read as they are: through memory they would wait for one another.
template <size_t N>
INLINE unsigned long long bytes_at(const unsigned char* p) {
  if constexpr (N == 0) {
    return 0;
  } else if constexpr (N >= 4) {
    unsigned word;
    memcpy(&word, p, 4);
    return word | bytes_at<N - 4>(p + 4) << 32;
  } else if constexpr (N >= 2) {
    unsigned short word;
    memcpy(&word, p, 2);
    return word | bytes_at<N - 2>(p + 2) << 16;
  } else {
    return *p;
  }
}

// W codes from the bits at p; `late` is 4 where they begin in the middle of a byte, which happens only in vectors of four.
template <int BITS>
INLINE Vec codes_at(const unsigned char* p, unsigned late) {
  constexpr size_t bytes = (W * BITS + 7) / 8, low = bytes < 8 ? bytes : 8;
  typedef unsigned long long Longs __attribute__((vector_size(4 * W)));
  Longs longs = Longs{} + bytes_at<low>(p);
  if constexpr (bytes > 8) longs[1] = bytes_at<bytes - low>(p + low);
  const Bits words = (Bits)longs;
  Int first, second;
  Bits shift;
  for (size_t lane = 0; lane < W; lane++) {
    const unsigned bit = lane * BITS;
    first[lane] = bit / 32, second[lane] = bit / 32 + 1, shift[lane] = bit % 32;
  }
  Bits v = shuffled(words, first) >> (W == 4 ? shift + late : shift);
  // A code over the border of two words. Shifting by 32 is undefined, so by 1 and 31.
  if constexpr (32 % BITS != 0 && W * BITS > 32) v |= (shuffled(words, second) << 1) << (31u - shift);
  return __builtin_convertvector((Int)(v & ((1u << BITS) - 1)), Vec);
}

// The codes of number i and the W - 1 after it.
template <int BITS>
INLINE Vec codes(const unsigned char* row, size_t i) {
  return codes_at<BITS>(row + i * BITS / 8, W == 4 ? i * BITS % 8 : 0);
}

template <int BITS>
void unpack(const unsigned char* row, const float* scales, const float* biases, float* out, size_t n, size_t group) {
  for (size_t g = 0; g < n / group; g++)
    for (size_t i = g * group; i < (g + 1) * group; i += W) store(out + i, codes<BITS>(row, i) * scales[g] + biases[g]);
}

template <int BITS, size_t GROUP, size_t ROWS>
INLINE void dots(const mlxn::PackedRows& w, const float* x, const float* sums, float* y, size_t y_step) {
  const size_t groups = w.width / GROUP;
  for (size_t o = 0; o < w.count; o++) {
    const unsigned char* row = w.codes + o * (w.width * BITS / 8);
    const float *scales = w.scales + o * groups, *biases = w.biases + o * groups;
    Vec total[ROWS] = {};
    for (size_t g = 0; g < groups; g++) {
      Vec part[ROWS] = {};
      for (size_t i = g * GROUP; i < (g + 1) * GROUP; i += W) {
        const Vec v = codes<BITS>(row, i);
        for (size_t r = 0; r < ROWS; r++) part[r] += v * load(x + r * w.width + i);
      }
      for (size_t r = 0; r < ROWS; r++) total[r] += part[r] * scales[g];
    }
    for (size_t r = 0; r < ROWS; r++) {
      each(groups, [&](size_t g, size_t k) { total[r] += load(biases + g, k) * load(sums + r * groups + g, k); });
      y[r * y_step + o] = sum(total[r]);
    }
  }
}

template <int BITS, size_t GROUP>
void dots_of_rows(const mlxn::PackedRows& w, const float* x, const float* sums, size_t rows, float* y, size_t y_step) {
  const size_t groups = w.width / GROUP;
  for (; rows >= 4; rows -= 4, x += 4 * w.width, sums += 4 * groups, y += 4 * y_step) dots<BITS, GROUP, 4>(w, x, sums, y, y_step);
  if (rows >= 2) {
    dots<BITS, GROUP, 2>(w, x, sums, y, y_step);
    rows -= 2, x += 2 * w.width, sums += 2 * groups, y += 2 * y_step;
  }
  if (rows > 0) dots<BITS, GROUP, 1>(w, x, sums, y, y_step);
}

// Calls f with `bits` as a constant.
template <class F>
INLINE void with_bits(int bits, F f) {
  switch (bits) {
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    case 4: return f.template operator()<4>();
    case 5: return f.template operator()<5>();
    case 6: return f.template operator()<6>();
    case 8: return f.template operator()<8>();
  }
}

void unpack_rows(const mlxn::PackedRows& w, size_t start, size_t n, float* out) {
  with_bits(w.bits, [&]<int BITS>() {
    for (size_t o = 0; o < w.count; o++) {
      const size_t g = (o * w.width + start) / w.group;
      unpack<BITS>(w.codes + (o * w.width + start) * BITS / 8, w.scales + g, w.biases + g, out + o * n, n, w.group);
    }
  });
}

void packed_dots(const mlxn::PackedRows& w, const float* x, const float* sums, size_t rows, float* y, size_t y_step) {
  with_bits(w.bits, [&]<int BITS>() {
    switch (w.group) {
      case 32: return dots_of_rows<BITS, 32>(w, x, sums, rows, y, y_step);
      case 64: return dots_of_rows<BITS, 64>(w, x, sums, rows, y, y_step);
      case 128: return dots_of_rows<BITS, 128>(w, x, sums, rows, y, y_step);
    }
  });
}

void sums_of_groups(const float* x, size_t n, size_t group, float* sums) {
  for (size_t g = 0; g < n / group; g++) {
    Vec total = {};
    for (size_t i = 0; i < group; i += W) total += load(x + g * group + i);
    sums[g] = sum(total);
  }
}
