//! AWQ (Lin et al. 2023, arXiv:2306.00978): inputs that are large get larger weights, which rounding hurts less, and what comes before
//! the layer makes them smaller by as much; then groups are clipped where that costs less than it gains.
//!
//! Errors are those of the outputs of the layers, equation 4 of the paper, in parts of the outputs, by the second moments of the inputs.

use super::codes::{numbers, round};
use super::gram::Gram;
use crate::mlx::ops::{self, Quantization};
use crate::mlx::{Array, Dtype, Result, eval};

/// Exponents of the magnitudes that are tried, from 0 on.
const EXPONENTS: i32 = 20;
/// Clipping is tried in steps of 1 / 20 down to half of the largest number.
const CLIPS: (i32, i32) = (10, 20);

/// A weight `[.., out, in]` float32 that takes part in the choice of scales, and how it is going to be packed.
pub(super) struct Candidate {
    pub weight: Array,
    pub how: Quantization,
}

/// Factors of the inputs, float32 `[in]`, with which rounding costs the candidates' outputs least; nothing where none is better than 1.
/// `repeats` are inputs that have to share a factor, as values of heads that share keys do: `[shared, repeats, features]` of the width.
pub(super) fn best_scales(
    candidates: &[Candidate],
    gram: &Gram,
    repeats: Option<[i32; 3]>,
    dtype: Dtype,
    check: &dyn Fn() -> Result<()>,
) -> Result<Option<Array>> {
    let mut magnitudes = gram.mean_magnitudes()?;
    if let Some(shape) = repeats {
        let mean = magnitudes.reshape(&shape)?.mean(&[1], true)?;
        magnitudes = mean.broadcast_to(&shape)?.flatten()?;
    }
    let magnitudes = magnitudes.maximum_scalar(1e-8)?;
    magnitudes.eval()?;
    // Each layer counts alike: the small outputs of values matter as much as the large ones of queries.
    let wholes = candidates.iter().map(|candidate| gram.error(&candidate.weight)).collect::<Result<Vec<_>>>()?;
    let (mut best, mut least) = (None, f32::INFINITY);
    for step in 0..EXPONENTS {
        check()?;
        let scales = magnitudes.power(&Array::scalar(step as f32 / EXPONENTS as f32))?.maximum_scalar(1e-4)?;
        let middle = scales.max_all()?.multiply(&scales.min(&[0], false)?)?.sqrt()?;
        let scales = scales.divide(&middle)?;
        let mut error = Array::scalar(0.);
        for (Candidate { weight, how }, whole) in candidates.iter().zip(&wholes) {
            let scaled = weight.multiply(&scales)?;
            let rounded = numbers(&round(&scaled, *how, dtype)?, *how)?.divide(&scales)?;
            error = error.add(&gram.error(&rounded.subtract(weight)?)?.divide(&whole.maximum_scalar(f32::MIN_POSITIVE)?)?)?;
        }
        eval(&[&scales, &error])?;
        let error = error.item()?;
        if error < least {
            (best, least) = ((step > 0).then_some(scales), error);
        }
    }
    Ok(best)
}

/// A float weight `[.., out, in]` with each group clipped to the bound that makes the group's part of the outputs best; float32.
pub(super) fn clipped(
    weight: &Array,
    gram: &Gram,
    how: Quantization,
    dtype: Dtype,
    check: &dyn Fn() -> Result<()>,
) -> Result<Array> {
    let (shape, size) = (weight.shape().to_vec(), how.group_size());
    let blocks = gram.blocks(size)?;
    let groups = blocks.dim(0);
    let w = weight.astype(Dtype::Float32)?.reshape(&[-1, groups, size])?;
    let largest = w.abs()?.max(&[2], true)?;
    let mut best = w.clone();
    let mut least: Option<Array> = None;
    for step in 0..=CLIPS.0 {
        check()?;
        let bound = largest.multiply_scalar(1. - step as f32 / CLIPS.1 as f32)?;
        let cut = w.minimum(&bound)?.maximum(&bound.negative()?)?;
        let flat = cut.reshape(&[-1, groups * size])?;
        let off = numbers(&round(&flat, how, dtype)?, how)?.reshape(w.shape())?.subtract(&w)?;
        let off = off.transpose(&[1, 0, 2])?;
        let error = off.matmul(&blocks)?.multiply(&off)?.sum(&[2], false)?.t()?.expand_dims(&[2])?;
        let (chosen, error) = match &least {
            None => (cut, error),
            Some(least) => {
                let better = error.less(least)?;
                (ops::where_(&better, &cut, &best)?, ops::where_(&better, &error, least)?)
            }
        };
        eval(&[&chosen, &error])?;
        (best, least) = (chosen, Some(error));
    }
    best.reshape(&shape)
}
