//! Codes of affine weights: rounded in MLX, or chosen here and packed.

use crate::mlx::ops::{self, Quantization, QuantizationMode, Quantized};
use crate::mlx::{Array, Dtype, Error, Result};

/// Rounds numbers to the nearest codes. Scales are computed in `scales`, the dtype that they will be saved in, and come in the dtype of
/// the numbers, as a model that computes in it needs them.
pub(super) fn round(numbers: &Array, how: Quantization, scales: Dtype) -> Result<Quantized> {
    let codes = ops::quantize(&numbers.astype(scales)?, how, None)?;
    if how.mode() != QuantizationMode::Affine {
        return Ok(codes);
    }
    let widened = |array: &Array| array.astype(numbers.dtype());
    Ok(Quantized {
        scales: widened(&codes.scales)?,
        biases: codes.biases.as_ref().map(widened).transpose()?,
        weight: codes.weight,
    })
}

/// The numbers that codes stand for, float32.
pub(super) fn numbers(codes: &Quantized, how: Quantization) -> Result<Array> {
    ops::dequantize(&codes.weight, &codes.scales, codes.biases.as_ref(), how, None, Some(Dtype::Float32))
}

/// The code of `value` in a group: MLX's own rounding, halves to even.
pub(super) fn code(value: f32, scale: f32, bias: f32, most: f32) -> f32 {
    ((value - bias) / scale).round_ties_even().clamp(0., most)
}

/// Codes `[rows, width]` as MLX packs them: the bits of a row follow each other from the lowest bit of the first word on.
pub(crate) fn pack(codes: &[u8], rows: usize, width: usize, bits: i32) -> Result<Array> {
    if codes.len() != rows * width || !(width * bits as usize).is_multiple_of(32) {
        return Err(Error::Internal(format!("{} codes of {bits} bits are no {rows} rows of {width}", codes.len())));
    }
    let words = width * bits as usize / 32;
    let mut packed = Vec::with_capacity(rows * words);
    for row in codes.chunks_exact(width) {
        let (mut held, mut filled) = (0u64, 0);
        for &code in row {
            held |= u64::from(code) << filled;
            filled += bits;
            if filled >= 32 {
                packed.push(held as u32);
                held >>= 32;
                filled -= 32;
            }
        }
    }
    Array::from_slice(&packed, &[rows as i32, words as i32])
}
