//! MLX's fused kernels.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, NumberOrArray, integer};
use crate::mlx::fast::{self, Mask, RopeFrequencies, RopeOffset};
use crate::mlx::{Error, Result};
use crate::node::error as js;

/// `x / √(mean(x²) + eps) · weight` over the last axis, accumulated in float32; `weight` `[D]` may be null.
#[napi(namespace = "fast", catch_unwind)]
pub fn rms_norm(x: ArrayHandle, weight: Option<ArrayHandle>, eps: f64) -> js::Result<ArrayHandle> {
    Ok(fast::rms_norm(&x, weight.as_deref(), eps as f32)?.into())
}

/// `(x - mean(x)) / √(var(x) + eps) · weight + bias` over the last axis, accumulated in float32; `weight` and `bias` `[D]` may be
/// null.
#[napi(namespace = "fast", catch_unwind)]
pub fn layer_norm(x: ArrayHandle, weight: Option<ArrayHandle>, bias: Option<ArrayHandle>, eps: f64) -> js::Result<ArrayHandle> {
    Ok(fast::layer_norm(&x, weight.as_deref(), bias.as_deref(), eps as f32)?.into())
}

/// Of `rope`.
#[napi(object, object_to_js = false)]
pub struct RopeOptions {
    /// Whether neighbours are rotated (default: the halves).
    pub traditional: Option<bool>,
    /// Of the wavelengths `base^(2i / dims)`, 10000 unless `freqs` are given.
    pub base: Option<f64>,
    /// Factor of the positions, 1.
    pub scale: Option<f64>,
    /// The position of the first slot, 0: a number, or an integer array with one per row, `[B]`.
    pub offset: Option<NumberOrArray>,
    /// Wavelengths over 2π in place of `base`, `[dims / 2]`.
    pub freqs: Option<ArrayHandle>,
}

/// Rotates the first `dims` elements of the last axis of `x` `[B, .., T, D]` by position (Su et al. 2021, arXiv:2104.09864).
#[napi(namespace = "fast", catch_unwind)]
pub fn rope(x: ArrayHandle, dims: f64, options: RopeOptions) -> js::Result<ArrayHandle> {
    let frequencies = match (&options.freqs, options.base) {
        (Some(_), Some(_)) => return Err(Error::Argument("fast.rope: give base or freqs, not both".into()).into()),
        (Some(table), None) => RopeFrequencies::Table(table),
        (None, base) => RopeFrequencies::Base(base.unwrap_or(10_000.) as f32),
    };
    let offset = match &options.offset {
        None => RopeOffset::Same(0),
        Some(NumberOrArray::Number(offset)) => RopeOffset::Same(integer("offset", *offset)?),
        Some(NumberOrArray::Array(offsets)) => RopeOffset::PerRow(offsets),
    };
    let (traditional, scale) = (options.traditional.unwrap_or(false), options.scale.unwrap_or(1.) as f32);
    Ok(fast::rope_with(&x, integer("dims", dims)?, traditional, frequencies, scale, offset)?.into())
}

/// Of `scaledDotProductAttention`.
#[napi(object, object_to_js = false)]
pub struct ScaledDotProductAttentionOptions {
    /// Factor of the scores, `1 / √D`.
    pub scale: Option<f64>,
    /// `causal`, or an array that broadcasts to `[B, H, T, K]`: boolean (true is seen) or added to the scores.
    #[napi(ts_type = "'causal' | ArrayHandle")]
    pub mask: Option<Either<String, ArrayHandle>>,
    /// Logits `[H]` that take weight and have no value.
    pub sinks: Option<ArrayHandle>,
}

fn mask_of(mask: &Option<Either<String, ArrayHandle>>) -> Result<Mask<'_>> {
    match mask {
        None => Ok(Mask::None),
        Some(Either::A(name)) if name == "causal" => Ok(Mask::Causal),
        Some(Either::A(name)) => Err(Error::Argument(format!("attention: the mask is 'causal' or an array, not '{name}'"))),
        Some(Either::B(mask)) => Ok(Mask::Array(mask)),
    }
}

/// `softmax(scale · q @ kᵀ + mask) @ v` for queries `[B, H, T, D]`, keys and values `[B, Hkv, K, D]`, where `H` is a multiple of
/// `Hkv`: `[B, H, T, D]`.
#[napi(namespace = "fast", catch_unwind)]
pub fn scaled_dot_product_attention(
    q: ArrayHandle,
    k: ArrayHandle,
    v: ArrayHandle,
    options: ScaledDotProductAttentionOptions,
) -> js::Result<ArrayHandle> {
    let width = q.shape().last().copied().unwrap_or(1).max(1);
    let scale = options.scale.unwrap_or(1. / f64::from(width).sqrt()) as f32;
    Ok(fast::attention_with_sinks(&q, &k, &v, scale, mask_of(&options.mask)?, options.sinks.as_deref())?.into())
}

/// `logsumexp(logits) - logits[target]` over the last axis, for integer targets of one rank less.
#[napi(namespace = "fast", catch_unwind)]
pub fn cross_entropy(logits: ArrayHandle, targets: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(fast::cross_entropy_bounded(&logits, &targets)?.into())
}
