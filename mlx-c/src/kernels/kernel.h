// What all kernels are made of: the primitive, its work in parallel tasks, and the C functions' checks.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/error.h"
#include "mlx/c/private/array.h"
#include "mlx/c/private/stream.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"
#include "pool.h"

extern "C" {
void cblas_sgemm(
    int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb,
    float beta, float* c, int ldc);
}

namespace mlxn {

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

// Elements per task of a loop over flat data: enough work to pay for waking a thread.
constexpr size_t BLOCK = 1 << 15;

inline size_t blocks(size_t n, size_t block) {
  return (n + block - 1) / block;
}

// work(start, count) over blocks of [0, n).
template <class F>
void split(size_t n, size_t block, F work) {
  parallel(blocks(n, block), [&](size_t i) { work(i * block, std::min(block, n - i * block)); });
}

inline size_t rows_per_block(size_t width) {
  return std::max<size_t>(1, BLOCK / std::max<size_t>(width, 1));
}

inline float* allocate(array& out) {
  out.set_data(mx::allocator::malloc(out.nbytes()));
  return out.data<float>();
}

// The output takes over the memory of an input that nobody else needs.
inline float* reuse(array& in, array& out) {
  if (in.is_donatable() && in.flags().row_contiguous && in.size() == out.size() && in.buffer_size() <= out.nbytes() + 16384) {
    out.copy_shared_buffer(in);
    return out.data<float>();
  }
  return allocate(out);
}

class Kernel : public mx::Primitive {
 public:
  using Primitive::Primitive;

  void eval_gpu(const Arrays&, Arrays&) override {
    throw std::runtime_error(std::string(name()) + " runs on the CPU only");
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums, const Arrays& outputs) override {
    Arrays all = gradients(primals, cotangents, outputs);
    Arrays wanted;
    for (int index : argnums) {
      if (index >= static_cast<int>(all.size())) {
        throw std::invalid_argument(std::string(name()) + " has no gradient in its input " + std::to_string(index));
      }
      wanted.push_back(all[index]);
    }
    return wanted;
  }

 protected:
  // Of the leading inputs, those that can be differentiated.
  virtual Arrays gradients(const Arrays&, const Arrays&, const Arrays&) {
    throw std::invalid_argument(std::string(name()) + " cannot be differentiated twice");
  }

  template <class F>
  void dispatch(F&& work) {
    mx::cpu::get_command_encoder(stream()).dispatch(std::forward<F>(work));
  }
};

inline array contiguous(const array& x, const mx::Stream& s) {
  return mx::contiguous(x, false, s);
}

template <class K, class... Args>
array make(const mx::Shape& shape, const mx::Stream& s, Arrays inputs, Args... args) {
  return array(shape, mx::float32, std::make_shared<K>(s, args...), std::move(inputs));
}

constexpr int ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112;

// c = a b + beta c with a [m, k] and b [k, n] or, where `b_transposed`, [n, k]; likewise `a_transposed`.
inline void product(
    size_t m, size_t n, size_t k, const float* a, int64_t lda, bool a_transposed, const float* b, int64_t ldb,
    bool b_transposed, float* c, int64_t ldc, float beta) {
  cblas_sgemm(
      ROW_MAJOR, a_transposed ? TRANSPOSED : PLAIN, b_transposed ? TRANSPOSED : PLAIN, m, n, k, 1.0f, a, lda, b, ldb, beta, c,
      ldc);
}

inline void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

template <class F>
int guarded(F build) {
  try {
    build();
    return 0;
  } catch (const std::exception& error) {
    mlx_error("%s", error.what());
    return 1;
  }
}

inline const array& floats(mlx_array handle) {
  const array& x = mlx_array_get_(handle);
  require(x.dtype() == mx::float32, "this kernel takes float32 arrays, another dtype was given");
  return x;
}

} // namespace mlxn
