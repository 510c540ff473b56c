//! Kernels of our own for float32 on the CPU, where MLX's library runs scalar loops. Each falls back to MLX's operations on a
//! GPU, for other dtypes and in builds without the kernels; values agree to float32 rounding.

use mlx_sys as sys;

use super::array::{optional, output};
use super::fast::{self, Mask, RopeFrequencies, RopeOffset};
use super::ops::{Quantization, QuantizationMode};
use super::{Array, Dtype, Result, device, ops, stream};

/// Whether this build has the kernels and computes on the CPU.
pub fn available() -> bool {
    sys::KERNELS && device() == "cpu"
}

/// Whether the kernels take these arrays.
fn usable(arrays: &[&Array]) -> bool {
    available() && arrays.iter().all(|array| array.dtype() == Dtype::Float32)
}

/// `e^x`
pub fn exp(x: &Array) -> Result<Array> {
    if !usable(&[x]) {
        return x.exp();
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlxn_exp(result, x.0, stream::current()) })
}

/// The logarithm of the sum of exponentials over the last axis, which stays with size 1.
pub fn logsumexp(x: &Array) -> Result<Array> {
    if !usable(&[x]) || x.shape().last().is_none_or(|&size| size == 0) {
        return x.logsumexp(&[-1], true);
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlxn_logsumexp(result, x.0, stream::current()) })
}

/// The `ranks`-th largest of each row, `[.., 1]`: where top-k ends. `ranks` is int32, a scalar or an entry for each row, each at least 1
/// and at most `largest`, which is at most the row's length.
pub fn top_k_threshold(logits: &Array, ranks: &Array, largest: i32) -> Result<Array> {
    let width = logits.shape().last().copied().unwrap_or(0);
    let rows = if width == 0 { 0 } else { logits.size() / width as usize };
    if !usable(&[logits]) || rows == 0 || ranks.dtype() != Dtype::Int32 || (ranks.size() != 1 && ranks.size() != rows) {
        return partitioned_top_k_threshold(logits, ranks, largest);
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlxn_top_k(result, logits.0, ranks.0, stream::current()) })
}

/// The same of MLX's operations, which move the rows' numbers around.
pub(super) fn partitioned_top_k_threshold(logits: &Array, ranks: &Array, largest: i32) -> Result<Array> {
    let best = logits.topk(largest, -1)?;
    if ranks.ndim() == 0 {
        return best.min(&[-1], true);
    }
    let places = Array::scalar_i32(largest).subtract(ranks)?;
    best.sort(-1)?.take_along_axis(&places.broadcast_to(&[logits.dim(0), 1])?, -1)
}

/// The least logit, `[.., 1]`, over which there is less than the share `p` of a row's mass: where top-p ends. `p` is a scalar, or has an
/// entry for each row. -inf for shares from 1.
pub fn top_p_threshold(logits: &Array, p: &Array) -> Result<Array> {
    let width = logits.shape().last().copied().unwrap_or(0);
    let rows = if width == 0 { 0 } else { logits.size() / width as usize };
    if !usable(&[logits, p]) || rows == 0 || (p.size() != 1 && p.size() != rows) {
        return sorted_top_p_threshold(logits, p);
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlxn_top_p(result, logits.0, p.0, stream::current()) })
}

/// The same of MLX's operations, which sort the rows.
pub(super) fn sorted_top_p_threshold(logits: &Array, p: &Array) -> Result<Array> {
    let ascending = logits.sort(-1)?;
    // Mass strictly above each token; the best token has none.
    let above = ascending.softmax(-1)?.cumsum(-1, true, false)?;
    let kept = ops::where_(&above.less(p)?, &ascending, &Array::scalar(f32::INFINITY))?;
    let off = p.greater_equal(&Array::scalar(1.))?;
    ops::where_(&off, &Array::scalar(f32::NEG_INFINITY), &kept.min(&[-1], true)?)
}

/// The sum of the squares of all elements, a scalar.
pub fn sum_of_squares(x: &Array) -> Result<Array> {
    if !usable(&[x]) {
        return x.square()?.sum_all();
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlxn_sum_of_squares(result, x.0, stream::current()) })
}

/// `silu(gate) * up`
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array> {
    if !usable(&[gate, up]) || gate.shape() != up.shape() {
        return gate.silu()?.multiply(up);
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlxn_swiglu(result, gate.0, up.0, stream::current()) })
}

/// `x / rms(x) * weight` over the last axis.
pub fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    if !usable(&[x, weight]) {
        return fast::rms_norm(x, Some(weight), eps);
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlxn_rms_norm(result, x.0, weight.0, eps, stream::current()) })
}

/// As `fast::rope` with a table of frequencies.
pub fn rope(x: &Array, dims: i32, wavelengths: &Array, scale: f32, offset: RopeOffset) -> Result<Array> {
    if !usable(&[x, wavelengths]) {
        return fast::rope(x, dims, RopeFrequencies::Table(wavelengths), scale, offset);
    }
    let offsets = match offset {
        RopeOffset::Same(offset) => Array::from_slice(&[offset], &[1])?,
        RopeOffset::PerRow(offsets) => offsets.clone(),
    };
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlxn_rope(result, x.0, wavelengths.0, offsets.0, scale, stream::current()) })
}

/// Attention as `fast::scaled_dot_product_attention`, but of shape `[B, T, H, D]`.
pub fn attention(queries: &Array, keys: &Array, values: &Array, scale: f32, mask: Mask) -> Result<Array> {
    let additive = matches!(mask, Mask::Array(array) if array.dtype() != Dtype::Bool);
    if !usable(&[queries, keys, values]) || additive || keys.shape() != values.shape() {
        return fast::scaled_dot_product_attention(queries, keys, values, scale, mask)?.transpose(&[0, 2, 1, 3]);
    }
    let (causal, mask) = match mask {
        Mask::None => (false, sys::mlx_array { ctx: std::ptr::null_mut() }),
        Mask::Causal => (true, sys::mlx_array { ctx: std::ptr::null_mut() }),
        Mask::Array(array) => (false, array.0),
    };
    // SAFETY: valid handles; a null mask means none.
    output(|result| unsafe { sys::mlxn_attention(result, queries.0, keys.0, values.0, mask, scale, causal, stream::current()) })
}

/// `x Wᵀ + b` for `x` `[.., in]`, a weight `[out, in]` and a bias `[out]`, or without one.
pub fn linear(x: &Array, weight: &Array, bias: Option<&Array>) -> Result<Array> {
    let fits = |bias: &Array| usable(&[bias]) && bias.shape() == [weight.dim(0)];
    if !usable(&[x, weight]) || weight.ndim() != 2 || !bias.is_none_or(fits) {
        return match bias {
            Some(bias) => ops::addmm(bias, x, &weight.t()?, 1.0, 1.0),
            None => x.matmul(&weight.t()?),
        };
    }
    // SAFETY: valid handles; a null bias means none.
    output(|result| unsafe { sys::mlxn_linear(result, x.0, weight.0, optional(bias), stream::current()) })
}

/// `x` times a packed weight, transposed or not, where a kernel does that: float32 with codes of the affine mode. With uint32 `indices`
/// `[.., P]` the weight is a stack of experts, which they must be, and equally many consecutive ones go with each row of `x`:
/// `[.., P, out]`.
pub(super) fn packed_product(
    x: &Array,
    [codes, scales, biases]: [&Array; 3],
    indices: Option<&Array>,
    how: Quantization,
    transpose: bool,
) -> Option<Result<Array>> {
    let fits = codes.ndim() == if indices.is_some() { 3 } else { 2 };
    if !usable(&[x, scales, biases]) || !fits || how.mode() != QuantizationMode::Affine || x.size() == 0 {
        return None;
    }
    let (indices, bits, group) = (optional(indices), how.bits(), how.group_size());
    // SAFETY: valid handles; null indices mean none.
    Some(output(|result| unsafe {
        sys::mlxn_packed_product(result, x.0, codes.0, scales.0, biases.0, indices, bits, group, transpose, stream::current())
    }))
}

/// New weight, first and second moment of an Adam step, in place where nobody else holds the old ones; the gradient is multiplied by
/// `scale`, a scalar array. `constants`, float32 `[8]`: step size, 1 / √ of the second bias correction, factor of the weight, beta1,
/// 1 - beta1, beta2, 1 - beta2, epsilon. Only where the kernels are available: there is nothing to fall back to.
pub fn adamw(inputs: [&Array; 4], scale: &Array, constants: &Array) -> Result<[Array; 3]> {
    let [weight, gradient, first, second] = inputs;
    let [mut first_out, mut second_out] = [Array::empty(), Array::empty()];
    // SAFETY: valid handles, empty ones to be filled.
    let weight_out = output(|result| unsafe {
        sys::mlxn_adamw(
            result,
            &mut first_out.0,
            &mut second_out.0,
            weight.0,
            gradient.0,
            first.0,
            second.0,
            scale.0,
            constants.0,
            stream::current(),
        )
    })?;
    Ok([weight_out, first_out, second_out])
}
