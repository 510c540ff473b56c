//! Attention over what a cache holds.

use super::store::Fetched;
use crate::mlx::fast::Mask;
use crate::mlx::ops::{Quantization, Quantized, quantized_matmul};
use crate::mlx::{Array, Dtype, Result, kernels, ops};

use super::placement::MaskShape;

/// Of queries `[B, H, T, D]` over fetched keys and values; `[B, T, H, D]`.
pub fn attend(queries: &Array, fetched: &Fetched, scale: f32, mask: Mask) -> Result<Array> {
    match fetched {
        Fetched::Plain(keys, values) => kernels::attention(queries, keys, values, scale, mask),
        Fetched::Quantized { keys, values, how } => quantized_attention(queries, keys, values, *how, scale, mask),
    }
}

/// Two quantised products with a softmax in float32 between them; `[B, T, H, D]`. The scores of all queries exist at once.
fn quantized_attention(
    queries: &Array,
    keys: &Quantized,
    values: &Quantized,
    how: Quantization,
    scale: f32,
    mask: Mask,
) -> Result<Array> {
    let (batch, heads, tokens, size) = (queries.dim(0), queries.dim(1), queries.dim(2), queries.dim(3));
    let (kv_heads, slots) = (keys.weight.dim(1), keys.weight.dim(2));
    let group = heads / kv_heads;
    // The heads that share keys are rows of one product.
    let queries = queries.multiply_scalar(scale)?.reshape(&[batch, kv_heads, group * tokens, size])?;
    let scores = quantized_matmul(&queries, &keys.weight, &keys.scales, keys.biases.as_ref(), true, how)?;
    let dtype = scores.dtype();
    let mut scores = scores.astype(Dtype::Float32)?.reshape(&[batch, kv_heads, group, tokens, slots])?;
    let mask = match mask {
        Mask::None => None,
        Mask::Causal => Some(MaskShape::new(tokens, slots).array()?),
        // `[B, heads or 1, T, K]`
        Mask::Array(mask) if mask.ndim() == 4 && mask.dim(1) == heads && heads > 1 => {
            Some(mask.reshape(&[mask.dim(0), kv_heads, group, mask.dim(2), mask.dim(3)])?)
        }
        Mask::Array(mask) if mask.ndim() > 2 => Some(mask.expand_dims(&[-3])?),
        Mask::Array(mask) => Some(mask.clone()),
    };
    if let Some(mask) = mask {
        scores = match mask.dtype() {
            Dtype::Bool => ops::where_(&mask, &scores, &Array::scalar(f32::MIN))?,
            _ => scores.add(&mask)?,
        };
    }
    let weights = scores.softmax(-1)?.astype(dtype)?.reshape(&[batch, kv_heads, group * tokens, slots])?;
    let attended = quantized_matmul(&weights, &values.weight, &values.scales, values.biases.as_ref(), false, how)?;
    attended.reshape(&[batch, heads, tokens, -1])?.transpose(&[0, 2, 1, 3])
}
