// Float32 kernels for the CPU in MLX-C's style: vectorised and fused where MLX's CPU library runs scalar loops.
// Each function makes a lazy array (or several) on stream `s`, fills `res` and returns 0, or reports an error and returns 1.
// The environment variable MLX_NODE_KERNELS = avx2 | baseline keeps them from the newer instruction sets.
#pragma once

#include "mlx/c/array.h"
#include "mlx/c/stream.h"

extern "C" {

int mlxn_exp(mlx_array* res, mlx_array x, mlx_stream s);
// Over the last axis, which stays with size 1.
int mlxn_logsumexp(mlx_array* res, mlx_array x, mlx_stream s);
// The k-th largest of each row; k, int32, holds one rank, or one for each row. The last axis stays with size 1.
int mlxn_top_k(mlx_array* res, mlx_array x, mlx_array k, mlx_stream s);
// The logit at which top-p ends in each row; p holds one share, or one for each row. The last axis stays with size 1.
int mlxn_top_p(mlx_array* res, mlx_array x, mlx_array p, mlx_stream s);
// silu(gate) * up, of one shape.
int mlxn_swiglu(mlx_array* res, mlx_array gate, mlx_array up, mlx_stream s);
// x / rms(x) * weight over the last axis.
int mlxn_rms_norm(mlx_array* res, mlx_array x, mlx_array weight, float eps, mlx_stream s);
// x [B, H, T, D]; wavelengths over 2 pi, float32 [dims / 2]; positions of the first slots, int32 [1] or [B].
int mlxn_rope(mlx_array* res, mlx_array x, mlx_array wavelengths, mlx_array offsets, float scale, mlx_stream s);
// q [B, H, T, D], k and v [B, Hkv, K, D], mask bool broadcast to [B, H, T, K] or null; gives [B, T, H, D].
int mlxn_attention(
    mlx_array* res, mlx_array q, mlx_array k, mlx_array v, mlx_array mask, float scale, bool causal, mlx_stream s);
// x [.., in] times weight [out, in] transposed, plus a bias [out] unless that is null.
int mlxn_linear(mlx_array* res, mlx_array x, mlx_array weight, mlx_array bias, mlx_stream s);
// x times a weight of codes uint32 [out, words] with float32 scales and biases [out, groups], transposed or not: [.., out] or [.., in].
// With indices, uint32 [.., P], the weight is [experts, out, words] and equally many consecutive indices go with each row of x: the result
// is [.., P, out] or [.., P, in]. Indices must be experts: nothing checks them.
int mlxn_packed_product(
    mlx_array* res, mlx_array x, mlx_array codes, mlx_array scales, mlx_array biases, mlx_array indices, int bits, int group,
    bool transpose, mlx_stream s);
// New weight, first and second moment; constants, float32 [8]: step size, 1 / sqrt of the second bias correction, factor of the weight,
// beta1, 1 - beta1, beta2, 1 - beta2, epsilon. `scale` is a float32 scalar array by which the gradient is multiplied.
int mlxn_adamw(
    mlx_array* res_weight, mlx_array* res_first, mlx_array* res_second, mlx_array weight, mlx_array gradient,
    mlx_array first, mlx_array second, mlx_array scale, mlx_array constants, mlx_stream s);
// The sum of the squares of all elements, a scalar.
int mlxn_sum_of_squares(mlx_array* res, mlx_array x, mlx_stream s);
}
