//! Gradient clipping. Norms are float32 scalars and stay lazy, so that a step evaluates them together with its weights.

use crate::mlx::{Array, Dtype, Error, Result, kernels};

/// The Euclidean norm over all elements of all gradients, float32. It is not finite exactly when some gradient's square is not:
/// then skip the step.
pub fn global_norm(gradients: &[Array]) -> Result<Array> {
    let squares = gradients.iter().map(|gradient| kernels::sum_of_squares(&gradient.astype(Dtype::Float32)?));
    let mut sum = Array::scalar(0.0);
    for square in squares {
        sum = sum.add(&square?)?;
    }
    sum.sqrt()
}

/// torch's factor for a norm: `max_norm / (norm + 1e-6)`, at most 1. A norm that is not a number gives one that is not either.
pub fn clip_coefficient(norm: &Array, max_norm: f64) -> Result<Array> {
    if max_norm.is_nan() || max_norm <= 0.0 {
        return Err(Error::Argument(format!("maxGradNorm is {max_norm}; it must be above 0, or leave clipping out")));
    }
    Array::scalar(max_norm as f32).divide(&norm.add_scalar(1e-6)?)?.minimum_scalar(1.0)
}

/// Gradients scaled so that their global norm is at most `max_norm`, and the norm before. As `torch.nn.utils.clip_grad_norm_`.
pub fn clip_by_global_norm(gradients: &[Array], max_norm: f64) -> Result<(Vec<Array>, Array)> {
    let norm = global_norm(gradients)?;
    let coefficient = clip_coefficient(&norm, max_norm)?;
    // A small coefficient would vanish in float16.
    let clipped = gradients.iter().map(|gradient| gradient.multiply(&coefficient)?.astype(gradient.dtype()));
    Ok((clipped.collect::<Result<_>>()?, norm))
}

/// Gradients with every element inside `[-limit, limit]`. As `torch.nn.utils.clip_grad_value_`.
pub fn clip_by_value(gradients: &[Array], limit: f64) -> Result<Vec<Array>> {
    if limit.is_nan() || limit <= 0.0 {
        return Err(Error::Argument(format!("the clip value is {limit}; it must be above 0")));
    }
    gradients.iter().map(|gradient| gradient.clip(Some(-limit as f32), Some(limit as f32))).collect()
}
