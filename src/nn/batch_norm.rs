//! Normalisation by statistics of a batch (Ioffe and Szegedy 2015, arXiv:1502.03167) or of each instance and feature.

use crate::mlx::{Array, Error, Result, fast};

/// Statistics of each feature over all other axes of `x` `[N, .., C]`.
pub struct BatchStatistics {
    pub mean: Array,
    /// Of the batch: what it is normalised by.
    pub variance: Array,
    /// With the divisor `n - 1`: what is remembered.
    pub unbiased: Array,
}

pub fn batch_statistics(x: &Array) -> Result<BatchStatistics> {
    if !(2..=4).contains(&x.ndim()) {
        return Err(Error::Shape(format!("batch normalisation needs an input of 2, 3 or 4 axes, not {:?}", x.shape())));
    }
    let axes: Vec<i32> = (0..x.ndim() as i32 - 1).collect();
    Ok(BatchStatistics { mean: x.mean(&axes, false)?, variance: x.var(&axes, false, 0)?, unbiased: x.var(&axes, false, 1)? })
}

fn scaled(x: Array, weight: Option<&Array>, bias: Option<&Array>) -> Result<Array> {
    let x = if let Some(weight) = weight { weight.multiply(&x)? } else { x };
    if let Some(bias) = bias { x.add(bias) } else { Ok(x) }
}

/// `(x - mean) / √(variance + eps) · weight + bias`
pub fn batch_norm(
    x: &Array,
    mean: &Array,
    variance: &Array,
    weight: Option<&Array>,
    bias: Option<&Array>,
    eps: f32,
) -> Result<Array> {
    scaled(x.subtract(mean)?.multiply(&variance.add_scalar(eps)?.rsqrt()?)?, weight, bias)
}

/// Each feature of each instance normalised over its positions (Ulyanov et al. 2016, arXiv:1607.08022).
pub fn instance_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array> {
    let ndim = x.ndim() as i32;
    if ndim < 3 || x.size() == 0 {
        return Err(Error::Shape(format!(
            "instance normalisation needs an input [N, .., C] of 3 axes or more, not {:?}",
            x.shape()
        )));
    }
    let first: Vec<i32> = [0, ndim - 1].into_iter().chain(1..ndim - 1).collect();
    let channels_first = x.transpose(&first)?;
    let shape = channels_first.shape().to_vec();
    let y = fast::layer_norm(&channels_first.reshape(&[shape[0], shape[1], -1])?, None, None, eps)?;
    let last: Vec<i32> = [0].into_iter().chain(2..ndim).chain([1]).collect();
    scaled(y.reshape(&shape)?.transpose(&last)?, weight, bias)
}
