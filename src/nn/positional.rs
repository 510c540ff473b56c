//! Positions as sines (Vaswani et al. 2017, arXiv:1706.03762) and as biases of attention (Press et al. 2022, arXiv:2108.12409).

use std::f64::consts::PI;

use crate::mlx::{Array, Dtype, Error, Result, ops};

/// Angular frequencies `[dims / 2]` from `max_freq` down to `min_freq`, evenly on a logarithmic scale.
pub fn sinusoidal_frequencies(dims: i32, min_freq: f64, max_freq: f64, full_turns: bool) -> Result<Array> {
    if dims <= 0 || dims % 2 != 0 {
        return Err(Error::Argument(format!("a sinusoidal encoding needs a positive even number of dimensions, not {dims}")));
    }
    if !(min_freq > 0.0 && max_freq > 0.0 && min_freq.is_finite() && max_freq.is_finite()) {
        return Err(Error::Argument(format!("frequencies must be positive numbers, got {min_freq} and {max_freq}")));
    }
    let (low, high) = (min_freq.ln(), max_freq.ln());
    let turns = if full_turns { 2.0 * PI } else { 1.0 };
    let half = dims / 2;
    let frequency = |i: i32| {
        let down = if half == 1 { 1.0 } else { 1.0 - f64::from(i) / f64::from(half - 1) };
        ((down * (high - low) + low).exp() * turns) as f32
    };
    Array::from_slice(&(0..half).map(frequency).collect::<Vec<_>>(), &[half])
}

/// Sines and cosines of `x` times each frequency, in a new last axis, sines first unless told, times `scale`.
pub fn sinusoidal(x: &Array, frequencies: &Array, scale: f32, cos_first: bool) -> Result<Array> {
    let angles = x.expand_dims(&[-1])?.multiply(frequencies)?;
    let (sin, cos) = (angles.sin()?, angles.cos()?);
    let both = if cos_first { ops::concatenate(&[cos, sin], -1)? } else { ops::concatenate(&[sin, cos], -1)? };
    if scale == 1.0 { Ok(both) } else { both.multiply_scalar(scale) }
}

/// The slope of each head.
fn slopes(heads: i32) -> Vec<f64> {
    let of_power = |count: i32| {
        let start = 2f64.powf(-(2f64.powf(-(f64::from(count).log2() - 3.0))));
        (0..count).map(|i| start * start.powi(i)).collect::<Vec<_>>()
    };
    let power = 1 << (31 - heads.leading_zeros());
    let mut slopes = of_power(power);
    slopes.extend(of_power(2 * power).into_iter().step_by(2).take((heads - power) as usize));
    slopes
}

/// `-slope · |i - j|` for queries from `offset` to `queries` and all `keys`, `[1, heads, queries - offset, keys]`.
pub fn alibi(queries: i32, keys: i32, heads: i32, offset: i32, dtype: Dtype) -> Result<Array> {
    if !(1..=1 << 20).contains(&heads) || queries < offset || keys < 0 || offset < 0 {
        return Err(Error::Argument(format!(
            "ALiBi needs at least 1 head and sizes of at least 0, got {heads} heads, {queries} queries from {offset} and {keys} keys"
        )));
    }
    let rows = ops::arange(f64::from(offset), f64::from(queries), 1.0, Dtype::Int32)?.reshape(&[1, 1, -1, 1])?;
    let columns = ops::arange(0.0, f64::from(keys), 1.0, Dtype::Int32)?.reshape(&[1, 1, 1, -1])?;
    let slopes: Vec<f32> = slopes(heads).into_iter().map(|slope| slope as f32).collect();
    let slopes = Array::from_slice(&slopes, &[1, heads, 1, 1])?.astype(dtype)?;
    rows.subtract(&columns)?.abs()?.negative()?.multiply(&slopes)?.astype(dtype)
}
