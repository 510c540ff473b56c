//! Masks that take tokens or sequences out of the policy loss. Neither changes a denominator.

use crate::mlx::{Array, Dtype, Result, ops::where_};

/// Marks the tokens whose entropy is at least the `quantile` of all entropies under `mask`, interpolated linearly.
/// `entropies` float32 and `mask` bool are `[B, T]`; the result is bool `[B, T]` and false wherever `mask` is.
pub fn high_entropy_mask(entropies: &Array, mask: &Array, quantile: f64) -> Result<Array> {
    let entropies = entropies.stop_gradient()?;
    let last = mask.astype(Dtype::Float32)?.sum_all()?.add_scalar(-1.0)?.maximum_scalar(0.0)?;
    let sorted = where_(mask, &entropies, &Array::scalar(f32::INFINITY))?.flatten()?.sort(0)?;
    let position = last.multiply_scalar(quantile as f32)?;
    // A position within rounding of an element means that element; otherwise `>=` could lose it.
    let whole = position.round(0)?;
    let close = position.subtract(&whole)?.abs()?.less(&last.multiply_scalar(1e-6)?)?;
    let position = where_(&close, &whole, &position)?;
    let below = position.floor()?;
    let fraction = position.subtract(&below)?;
    let element = |index: &Array| sorted.take(&index.astype(Dtype::Int32)?, 0);
    let low = element(&below)?;
    let high = element(&below.add_scalar(1.0)?.minimum(&last)?)?;
    // Without any token both ends are infinite; their difference must not make NaN of the threshold.
    let step = where_(&fraction.greater_scalar(0.0)?, &high.subtract(&low)?.multiply(&fraction)?, &Array::scalar(0.0))?;
    entropies.greater_equal(&low.add(&step)?)?.logical_and(mask)
}

/// 1 for sequences to keep, 0 for those of negative advantage whose mean `log(old / current)` over the mask is above `threshold`
/// (DeepSeek-V3.2). `log_drift` `[B, T]` is `old - current`, 0 outside the mask and where the old log-prob is unknown;
/// `tokens` `[B, 1]` is at least 1; `advantages` and the result are `[B, 1]` or `[B, T]`.
pub(super) fn off_policy_mask(log_drift: &Array, tokens: &Array, advantages: &Array, threshold: f64) -> Result<Array> {
    let drift = log_drift.sum(&[1], true)?.divide(tokens)?;
    let near = drift.less_equal(&Array::scalar(threshold as f32))?;
    advantages.greater_equal(&Array::scalar(0.0))?.logical_or(&near)?.astype(Dtype::Float32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(entropies: &[f32], mask: &[bool], quantile: f64) -> Vec<bool> {
        let shape = [1, entropies.len() as i32];
        let mask = Array::from_slice(mask, &shape).unwrap();
        high_entropy_mask(&Array::from_slice(entropies, &shape).unwrap(), &mask, quantile).unwrap().to_vec().unwrap()
    }

    #[test]
    fn the_threshold_is_the_interpolated_quantile() {
        // Entropies under the mask are 1, 2, 3, 5; the quantile 0.5 is 2.5.
        let entropies = [3., 1., 9., 2., 5.];
        let mask = [true, true, false, true, true];
        assert_eq!(kept(&entropies, &mask, 0.5), [true, false, false, false, true]);
        // Exactly on an element keeps it, whatever 1/3 rounds to.
        assert_eq!(kept(&entropies, &mask, 1.0 / 3.0), [true, false, false, true, true]);
        assert_eq!(kept(&entropies, &mask, 1.0), [false, false, false, false, true]);
        assert_eq!(kept(&entropies, &mask, 0.0), mask);
        assert_eq!(kept(&entropies, &[false; 5], 0.5), [false; 5]);
        assert_eq!(kept(&entropies, &[false, false, false, true, false], 0.7), [false, false, false, true, false]);
    }
}
