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
        Fetched::Quantized { keys, values, how } if unpacks(queries, keys) => {
            unpacked_attention(queries, keys, values, *how, scale, mask, UNPACKED)
        }
        Fetched::Quantized { keys, values, how } => quantized_attention(queries, keys, values, *how, scale, mask),
    }
}

/// Queries for each head of keys from which on keys and values are unpacked for them. The kernels for float32 on the CPU multiply numbers
/// some fifteen times as fast as MLX multiplies by codes, and unpacking takes as long as seven queries do over codes: for 4 and 8 bits,
/// 256 and 2048 keys both ways take equal time at 6 to 8 queries, whatever the number of keys, and unpacking is 1.5 times as fast at 12.
const UNPACK_FROM: i32 = 12;

fn unpacks(queries: &Array, keys: &Quantized) -> bool {
    let rows = queries.dim(1) / keys.weight.dim(1).max(1) * queries.dim(2);
    kernels::available() && queries.dtype() == Dtype::Float32 && rows >= UNPACK_FROM
}

/// Bytes of unpacked keys and values that a piece of the heads may take.
const UNPACKED: i64 = 64 << 20;

/// Attention over what the codes stand for: keys and values are unpacked once for all queries, as many heads at a time as take no more
/// than `most` bytes. No more than a few pieces exist at once, and never the scores of all queries.
fn unpacked_attention(
    queries: &Array,
    keys: &Quantized,
    values: &Quantized,
    how: Quantization,
    scale: f32,
    mask: Mask,
    most: i64,
) -> Result<Array> {
    let (batch, heads, kv_heads) = (queries.dim(0), queries.dim(1), keys.weight.dim(1));
    let group = heads / kv_heads;
    let words = i64::from(keys.weight.dim(2)) * i64::from(keys.weight.dim(3) + values.weight.dim(3));
    let bytes = 4 * i64::from(batch) * words * 32 / i64::from(how.bits());
    let step = (most / bytes.max(1)).clamp(1, i64::from(kv_heads)) as i32;
    let part = |array: &Array, from: i32, to: i32| {
        if to - from == array.dim(1) { Ok(array.clone()) } else { array.slice_axis(1, from, to) }
    };
    let numbers = |codes: &Quantized, from: i32, to: i32| {
        let biases = codes.biases.as_ref().map(|biases| part(biases, from, to)).transpose()?;
        let (weight, scales) = (part(&codes.weight, from, to)?, part(&codes.scales, from, to)?);
        ops::dequantize(&weight, &scales, biases.as_ref(), how, None, Some(Dtype::Float32))
    };
    let mut pieces = Vec::new();
    for from in (0..kv_heads).step_by(step as usize) {
        let to = kv_heads.min(from + step);
        let own = match mask {
            Mask::Array(mask) if mask.ndim() == 4 && mask.dim(1) == heads => Some(part(mask, from * group, to * group)?),
            _ => None,
        };
        let mask = own.as_ref().map_or(mask, Mask::Array);
        let queries = part(queries, from * group, to * group)?;
        pieces.push(kernels::attention(&queries, &numbers(keys, from, to)?, &numbers(values, from, to)?, scale, mask)?);
    }
    if pieces.len() == 1 { Ok(pieces.swap_remove(0)) } else { ops::concatenate(&pieces.iter().collect::<Vec<_>>(), 2) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::ops::QuantizationMode;
    use crate::mlx::random;

    /// Both ways multiply the same numbers, in another order. With u = 2^-24 a sum of n products is off by no more than (n + 2) u times the
    /// sum of their sizes; a score so by `delta`, a weight of the softmax then by a factor of e^(2 delta) and the rounding of its own
    /// exponential and sum, and an output by that and its own sum over the keys, times the largest value. Twice, as both are off.
    #[test]
    fn both_ways_agree() {
        let normal =
            |seed: u64, shape: &[i32]| random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap();
        let largest = |x: &Array| x.to_f32().unwrap().into_iter().fold(0f32, |most, value| most.max(value.abs()));
        let (heads, kv_heads, tokens, slots, size, scale) = (6, 3, 24, 200, 64, 0.125f32);
        let q = normal(1, &[2, heads, tokens, size]);
        let visible = ops::arange(0., f64::from(slots), 1., Dtype::Int32).unwrap().greater_equal(&Array::scalar_i32(3)).unwrap();
        let wide = visible.broadcast_to(&[2, 1, tokens, slots]).unwrap();
        let per_head = visible.broadcast_to(&[2, heads, tokens, slots]).unwrap();
        let additive = ops::where_(&wide, &Array::scalar(0.), &Array::scalar(-1e9)).unwrap();
        for bits in [4, 8] {
            let how = Quantization::new(QuantizationMode::Affine, Some(32), Some(bits)).unwrap();
            let [k, v] = [2, 3].map(|seed| ops::quantize(&normal(seed, &[2, kv_heads, slots, size]), how, None).unwrap());
            let numbers = |x: &Quantized| ops::dequantize(&x.weight, &x.scales, x.biases.as_ref(), how, None, None).unwrap();
            let unit = 2f32.powi(-24);
            let products = size as f32 * largest(&q) * largest(&numbers(&k)) * scale;
            let delta = (size + 2) as f32 * unit * products;
            let bound = 2. * (2. * delta + (2 * slots + 8) as f32 * unit) * largest(&numbers(&v));
            assert!(bound < 0.05, "the bound says something: {bound}");
            for mask in [Mask::None, Mask::Causal, Mask::Array(&wide), Mask::Array(&per_head), Mask::Array(&additive)] {
                let codes = quantized_attention(&q, &k, &v, how, scale, mask).unwrap();
                // All heads at once, and one after the other.
                for most in [i64::MAX, 1] {
                    let unpacked = unpacked_attention(&q, &k, &v, how, scale, mask, most).unwrap();
                    assert_eq!(unpacked.shape(), codes.shape());
                    let off = largest(&unpacked.subtract(&codes).unwrap());
                    assert!(off <= bound, "{bits} bits: off by {off}, at most {bound}");
                }
            }
        }
    }

    #[test]
    fn many_queries_are_worth_unpacking_for() {
        let how = Quantization::new(QuantizationMode::Affine, Some(32), Some(8)).unwrap();
        let keys = ops::quantize(&ops::zeros(&[1, 2, 8, 32], Dtype::Float32).unwrap(), how, None).unwrap();
        let of = |tokens| unpacks(&ops::zeros(&[1, 4, tokens, 32], Dtype::Float32).unwrap(), &keys);
        assert_eq!([of(1), of(5), of(6), of(512)], [false, false, kernels::available(), kernels::available()]);
    }
}
