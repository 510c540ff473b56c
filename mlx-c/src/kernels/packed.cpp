// Products with packed weights: MLX's CPU library runs them as scalar loops on one thread.
#include "kernel.h"
#include "kernels.h"
#include "loops.h"

namespace mlxn {
namespace {

// Rows of x up to which each packed number is multiplied as it is read. For more, tiles of the weight are unpacked for BLAS.
constexpr size_t FEW = 12;
// Numbers of an unpacked tile: it stays in a core's second-level cache.
constexpr size_t TILE = 1 << 16;

// Rows of x that meet the same matrix.
struct Run {
  size_t expert, start, count;
};

struct Shape {
  size_t outputs, width;
  int bits;
  size_t group;
};

// [experts, outputs, width]
struct Packed {
  const unsigned char* codes;
  const float *scales, *biases;
  Shape shape;

  PackedRows rows(size_t expert, size_t start, size_t count) const {
    const size_t first = expert * shape.outputs + start, groups = shape.width / shape.group;
    return {
        codes + first * (shape.width * shape.bits / 8), scales + first * groups, biases + first * groups, count, shape.width,
        shape.bits, shape.group};
  }
};

// A product of each run's rows with a share of the outputs or, transposed back, of the inputs.
struct Task {
  Run run;
  size_t start, count;
};

// y [rows, outputs] = x [rows, width] Wᵀ
void forward(const Packed& w, const std::vector<Run>& runs, const float* x, size_t rows, float* y) {
  const size_t outputs = w.shape.outputs, width = w.shape.width, groups = width / w.shape.group;
  std::vector<float> sums(rows * groups);
  std::vector<Task> tasks;
  const size_t tile = std::max<size_t>(16, TILE / width / 16 * 16);
  for (const Run& run : runs) {
    if (run.count <= FEW) {
      // Rows of a run lie together, and so do their groups.
      loops().sums_of_groups(x + run.start * width, run.count * width, w.shape.group, &sums[run.start * groups]);
    }
    for (size_t o = 0; o < outputs; o += tile) tasks.push_back({run, o, std::min(tile, outputs - o)});
  }
  parallel(tasks.size(), [&](size_t i) {
    const auto& [run, start, count] = tasks[i];
    const PackedRows part = w.rows(run.expert, start, count);
    const float* from = x + run.start * width;
    float* to = y + run.start * outputs + start;
    if (run.count <= FEW) {
      loops().packed_dots(part, from, &sums[run.start * groups], run.count, to, outputs);
      return;
    }
    static thread_local std::vector<float> numbers;
    numbers.resize(count * width);
    loops().unpack(part, 0, width, numbers.data());
    product(run.count, count, width, from, width, false, numbers.data(), width, true, to, outputs, 0);
  });
}

// y [rows, width] = x [rows, outputs] W
void backward(const Packed& w, const std::vector<Run>& runs, const float* x, float* y) {
  const size_t outputs = w.shape.outputs, width = w.shape.width;
  // Columns of a task, and outputs whose numbers are unpacked at a time.
  const size_t columns = w.shape.group * std::max<size_t>(1, 256 / w.shape.group), deep = TILE / columns;
  std::vector<Task> tasks;
  for (const Run& run : runs)
    for (size_t i = 0; i < width; i += columns) tasks.push_back({run, i, std::min(columns, width - i)});
  parallel(tasks.size(), [&](size_t i) {
    const auto& [run, start, count] = tasks[i];
    static thread_local std::vector<float> numbers;
    numbers.resize(deep * count);
    for (size_t o = 0; o < outputs; o += deep) {
      const size_t some = std::min(deep, outputs - o);
      loops().unpack(w.rows(run.expert, o, some), start, count, numbers.data());
      product(
          run.count, count, some, x + run.start * outputs + o, outputs, false, numbers.data(), count, false,
          y + run.start * width + start, width, o == 0 ? 0 : 1);
    }
  });
}

// Inputs x [.., K], codes, scales, biases and, for experts, uint32 indices [P]: the rows of x in equal parts for consecutive indices.
class PackedProduct : public Kernel {
 public:
  PackedProduct(const mx::Stream& s, int bits, int group, bool transpose)
      : Kernel(s), bits_(bits), group_(group), transpose_(transpose) {}
  const char* name() const override { return "mlxn::PackedProduct"; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    float* y = allocate(outputs[0]);
    const array& codes = inputs[1];
    const size_t out = codes.shape(-2), width = static_cast<size_t>(codes.shape(-1)) * 32 / bits_;
    const Packed w{
        codes.data<unsigned char>(), inputs[2].data<float>(), inputs[3].data<float>(),
        {out, width, bits_, static_cast<size_t>(group_)}};
    const size_t from = transpose_ ? width : out, to = transpose_ ? out : width;
    const float* x = inputs[0].data<float>();
    const size_t rows = from ? inputs[0].size() / from : 0;
    if (outputs[0].size() == 0) return;
    if (inputs.size() < 5) {
      dispatch([=, transpose = transpose_] { run(w, {{0, 0, rows}}, x, rows, y, transpose); });
      return;
    }
    const uint32_t* indices = inputs[4].data<uint32_t>();
    dispatch([=, transpose = transpose_, pairs = inputs[4].size(), experts = static_cast<size_t>(codes.shape(0))] {
      const std::vector<uint32_t> order = by_expert(indices, pairs, experts);
      std::vector<Run> runs;
      for (size_t i = 0; i < pairs; i++) {
        const uint32_t expert = indices[order[i]];
        if (i == 0 || runs.back().expert != expert) runs.push_back({expert, i, 0});
        runs.back().count++;
      }
      const size_t each = pairs / rows;
      if (each == 1 && std::is_sorted(order.begin(), order.end())) return run(w, runs, x, pairs, y, transpose);
      std::vector<float> xs(pairs * from), ys(pairs * to);
      for (size_t i = 0; i < pairs; i++) std::copy_n(x + order[i] / each * from, from, &xs[i * from]);
      run(w, runs, xs.data(), pairs, ys.data(), transpose);
      for (size_t i = 0; i < pairs; i++) std::copy_n(&ys[i * to], to, y + order[i] * to);
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums, const Arrays& outputs) override {
    if (std::find(argnums.begin(), argnums.end(), 1) != argnums.end()) {
      throw std::invalid_argument("a product with a packed weight has no gradient in the codes");
    }
    return Kernel::vjp(primals, cotangents, argnums, outputs);
  }

 protected:
  // Of x, and of the scales and biases where there is one matrix.
  Arrays gradients(const Arrays& primals, const Arrays& cotangents, const Arrays&) override {
    const array &x = primals[0], &codes = primals[1], d = contiguous(cotangents[0], stream());
    const int out = codes.shape(-2), width = static_cast<int>(static_cast<int64_t>(codes.shape(-1)) * 32 / bits_);
    Arrays inputs = primals;
    inputs[0] = d;
    mx::Shape shape = d.shape();
    shape.back() = transpose_ ? width : out;
    array dx = make<PackedProduct>(shape, stream(), inputs, bits_, group_, !transpose_);
    if (dx.size() != x.size()) {
      // A row of x met several experts.
      const int rows = static_cast<int>(x.size() / shape.back());
      dx = mx::sum(mx::reshape(dx, {rows, -1, shape.back()}, stream()), 1, false, stream());
    }
    dx = mx::reshape(dx, x.shape(), stream());
    if (primals.size() > 4) return {dx};
    const array &left = transpose_ ? d : x, &right = transpose_ ? x : d;
    const array rows = mx::reshape(left, {-1, out}, stream()), columns = mx::reshape(right, {-1, width}, stream());
    const mx::Shape grouped{out, -1, group_};
    const array dw = mx::reshape(mx::matmul(mx::transpose(rows, stream()), columns, stream()), grouped, stream());
    const array one = mx::ones_like(primals[2], stream()), zero = mx::zeros_like(primals[3], stream());
    const array whole = mx::dequantize(codes, one, zero, group_, bits_, "affine", std::nullopt, std::nullopt, stream());
    const array dscales = mx::sum(mx::multiply(dw, mx::reshape(whole, grouped, stream()), stream()), -1, false, stream());
    return {dx, zero, dscales, mx::sum(dw, -1, false, stream())};
  }

 private:
  static void run(const Packed& w, const std::vector<Run>& runs, const float* x, size_t rows, float* y, bool transpose) {
    if (transpose) forward(w, runs, x, rows, y);
    else backward(w, runs, x, y);
  }

  // The pairs in the order of their experts, those of one expert as they came.
  static std::vector<uint32_t> by_expert(const uint32_t* indices, size_t pairs, size_t experts) {
    std::vector<uint32_t> next(experts + 1), order(pairs);
    for (size_t i = 0; i < pairs; i++) next[indices[i] + 1]++;
    for (size_t e = 0; e < experts; e++) next[e + 1] += next[e];
    for (size_t i = 0; i < pairs; i++) order[next[indices[i]]++] = static_cast<uint32_t>(i);
    return order;
  }

  int bits_, group_;
  bool transpose_;
};

} // namespace
} // namespace mlxn

using namespace mlxn;

int mlxn_packed_product(
    mlx_array* res, mlx_array x, mlx_array codes, mlx_array scales, mlx_array biases, mlx_array indices, int bits, int group,
    bool transpose, mlx_stream s) {
  return guarded([&] {
    const array &in = floats(x), &w = mlx_array_get_(codes);
    const auto& stream = mlx_stream_get_(s);
    require(bits == 2 || bits == 3 || bits == 4 || bits == 5 || bits == 6 || bits == 8, "packed product: bits must be 2 to 6 or 8");
    require(group == 32 || group == 64 || group == 128, "packed product: groups must be of 32, 64 or 128");
    require(
        w.dtype() == mx::uint32 && w.ndim() == (indices.ctx ? 3 : 2) && static_cast<int64_t>(w.shape(-1)) * 32 % bits == 0,
        "packed product: codes must be uint32 [out, words], those of experts [experts, out, words]");
    const int width = static_cast<int>(static_cast<int64_t>(w.shape(-1)) * 32 / bits);
    mx::Shape groups = w.shape();
    groups.back() = width / group;
    require(
        width % group == 0 && floats(scales).shape() == groups && floats(biases).shape() == groups,
        "packed product: there must be a scale and a bias for each group");
    require(in.ndim() > 0 && in.shape(-1) == (transpose ? width : w.shape(-2)), "packed product: x does not fit the weight");
    Arrays inputs{contiguous(in, stream), contiguous(w, stream), contiguous(floats(scales), stream), contiguous(floats(biases), stream)};
    mx::Shape shape = in.shape();
    if (indices.ctx) {
      const array& experts = mlx_array_get_(indices);
      const size_t rows = in.shape(-1) ? in.size() / in.shape(-1) : 0;
      require(
          experts.dtype() == mx::uint32 && rows > 0 && experts.size() % rows == 0,
          "packed product: indices must be uint32, equally many for each row of x");
      shape = experts.shape();
      shape.push_back(0);
      inputs.push_back(contiguous(experts, stream));
    }
    shape.back() = transpose ? w.shape(-2) : width;
    mlx_array_set_(*res, make<PackedProduct>(shape, stream, inputs, bits, group, transpose));
  });
}
