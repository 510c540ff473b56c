//! MLX's fused kernels.

use mlx_sys as sys;

use super::array::output;
use super::{Array, Result, stream};

fn raw(array: Option<&Array>) -> sys::mlx_array {
    array.map_or(sys::mlx_array { ctx: std::ptr::null_mut() }, |array| array.0)
}

/// `x / rms(x) * weight` over the last axis, accumulated in float32.
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array> {
    // SAFETY: valid handles; a null weight means none.
    output(|result| unsafe { sys::mlx_fast_rms_norm(result, x.0, raw(weight), eps, stream::current()) })
}

pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array> {
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe { sys::mlx_fast_layer_norm(result, x.0, raw(weight), raw(bias), eps, stream::current()) })
}

/// Where a rotary embedding starts counting.
pub enum RopeOffset<'a> {
    /// The same position for every row.
    Same(i32),
    /// One position per row, int32 `[B]`.
    PerRow(&'a Array),
}

/// The frequencies of a rotary embedding.
pub enum RopeFrequencies<'a> {
    /// `base^(2i/dims)`, as in the original.
    Base(f32),
    /// Wavelengths over 2π (the reciprocal of the angular frequencies), float32 `[dims / 2]`.
    Table(&'a Array),
}

/// Rotates the first `dims` of the last axis of `x` `[B, H, T, D]` by position; halves are split, not interleaved.
pub fn rope(x: &Array, dims: i32, frequencies: RopeFrequencies, scale: f32, offset: RopeOffset) -> Result<Array> {
    let (base, table) = match frequencies {
        RopeFrequencies::Base(value) => (sys::mlx_optional_float { value, has_value: true }, None),
        RopeFrequencies::Table(table) => (sys::mlx_optional_float { value: 0.0, has_value: false }, Some(table)),
    };
    // SAFETY: valid handles; a null table means none.
    output(|result| unsafe {
        match offset {
            RopeOffset::Same(offset) => {
                sys::mlx_fast_rope(result, x.0, dims, false, base, scale, offset, raw(table), stream::current())
            }
            RopeOffset::PerRow(offset) => {
                sys::mlx_fast_rope_dynamic(result, x.0, dims, false, base, scale, offset.0, raw(table), stream::current())
            }
        }
    })
}

/// Which keys a query sees.
#[derive(Clone, Copy)]
pub enum Mask<'a> {
    None,
    /// Query `i` of `T` sees keys up to `K - T + i`.
    Causal,
    /// Boolean (true = visible) or additive, broadcast to `[B, H, T, K]`.
    Array(&'a Array),
}

/// Attention of queries `[B, H, T, D]` over keys and values `[B, Hkv, K, D]`; `H` is a multiple of `Hkv`.
pub fn scaled_dot_product_attention(queries: &Array, keys: &Array, values: &Array, scale: f32, mask: Mask) -> Result<Array> {
    let (mode, array) = match mask {
        Mask::None => (c"", None),
        Mask::Causal => (c"causal", None),
        Mask::Array(array) => (c"array", Some(array)),
    };
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe {
        sys::mlx_fast_scaled_dot_product_attention(
            result,
            queries.0,
            keys.0,
            values.0,
            scale,
            mode.as_ptr(),
            raw(array),
            raw(None),
            false,
            stream::current(),
        )
    })
}

/// `logsumexp(logits) - logits[target]` over the last axis, with int targets of one rank less.
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array> {
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_fast_cross_entropy(result, logits.0, targets.0, stream::current()) })
}
