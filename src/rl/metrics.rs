//! TRL's metrics of one micro-batch, as lazy scalars.

use super::objective::Objective;
use super::{LossOptions, LossType};
use crate::mlx::{Array, Dtype, Result, ops::where_};

/// The mask in the forms that averages need.
pub(super) struct MaskSums {
    /// float32 `[B, T]`.
    pub weights: Array,
    /// Tokens per row, float32 `[B, 1]`.
    pub per_row: Array,
    /// All tokens, float32 scalar.
    pub total: Array,
}

impl MaskSums {
    pub fn new(mask: &Array) -> Result<Self> {
        let weights = mask.astype(Dtype::Float32)?;
        let per_row = weights.sum(&[1], true)?;
        let total = per_row.sum_all()?;
        Ok(MaskSums { weights, per_row, total })
    }

    /// Mean over all tokens of the mask, 0 without any.
    pub fn mean(&self, values: &Array) -> Result<Array> {
        values.stop_gradient()?.multiply(&self.weights)?.sum_all()?.divide(&self.total.maximum_scalar(1.0)?)
    }
}

/// How often the objective clipped, and VESPO's weights.
pub(super) fn objective_metrics(
    objective: &Objective,
    advantages: &Array,
    mask: &MaskSums,
    options: &LossOptions,
) -> Result<Vec<(&'static str, Array)>> {
    let weight = objective.weight.stop_gradient()?;
    let (falls, rises) = (advantages.less_scalar(0.0)?, advantages.greater_scalar(0.0)?);
    // A value per sequence has no token mask: every row counts once.
    let per_sequence = |values: &Array| values.dim(1) == 1 && mask.weights.dim(1) != 1;
    let mean = |values: &Array| if per_sequence(values) { values.mean_all() } else { mask.mean(values) };
    let float = |flags: &Array| flags.astype(Dtype::Float32);

    match options.loss_type {
        loss_type if loss_type.clips() => {
            let low = weight.less_scalar((1.0 - options.epsilon) as f32)?.logical_and(&falls)?;
            let high = weight.greater_scalar((1.0 + options.epsilon_high()) as f32)?.logical_and(&rises)?;
            let region = float(&low.logical_or(&high)?)?;
            let (low, high) = (float(&low)?, float(&high)?);
            // Rows without a token are left out; without any row the extreme is NaN.
            let extreme = |values: &Array, sign: f32| -> Result<Array> {
                let signed = values.multiply_scalar(sign)?;
                if per_sequence(values) {
                    return signed.max_all()?.multiply_scalar(sign);
                }
                let filled = mask.per_row.greater_scalar(0.0)?;
                let means = signed.multiply(&mask.weights)?.sum(&[1], true)?.divide(&mask.per_row.maximum_scalar(1.0)?)?;
                let largest = where_(&filled, &means, &Array::scalar(f32::NEG_INFINITY))?.max_all()?;
                where_(&filled.any_all()?, &largest.multiply_scalar(sign)?, &Array::scalar(f32::NAN))
            };
            Ok(vec![
                ("clip_ratio/low_mean", mean(&low)?),
                ("clip_ratio/high_mean", mean(&high)?),
                ("clip_ratio/region_mean", mean(&region)?),
                ("clip_ratio/low_min", extreme(&low, -1.0)?),
                ("clip_ratio/high_max", extreme(&high, 1.0)?),
            ])
        }
        LossType::Cispo => {
            let capped = weight.greater_scalar(options.epsilon_high() as f32)?.logical_and(&rises)?;
            Ok(vec![("cispo_clip_ratio", mean(&float(&capped)?)?)])
        }
        _ => match &objective.phi {
            Some(phi) => Ok(vec![("vespo/phi_seq_mean", mean(phi)?)]),
            None => Ok(Vec::new()),
        },
    }
}
