//! What each loss type makes of one token, before masks and averages. `A` is the advantage, `w` the importance weight.

use super::{LossOptions, LossType};
use crate::mlx::{Array, Result, ops::where_};

/// The policy objective and what the metrics need of it.
pub(super) struct Objective {
    /// `[B, T]`, or `[B, 1]` where all tokens of a sequence have the same.
    pub loss: Array,
    /// The importance weight that clipping metrics look at.
    pub weight: Array,
    /// VESPO's `phi`.
    pub phi: Option<Array>,
}

/// What every objective starts from: all float32, `[B, T]` or `[B, 1]`.
pub(super) struct Terms<'a> {
    pub logps: &'a Array,
    pub log_ratio: &'a Array,
    pub weight: &'a Array,
    pub advantages: &'a Array,
    /// Per token, 1 outside the mask.
    pub sampler_ratio: Option<&'a Array>,
}

pub(super) fn objective(terms: &Terms, options: &LossOptions) -> Result<Objective> {
    let (weight, advantages) = (terms.weight, terms.advantages);
    let plain = |loss: Array| Ok(Objective { loss: loss.negative()?, weight: weight.clone(), phi: None });
    match options.loss_type {
        LossType::Grpo | LossType::DrGrpo | LossType::Dapo | LossType::Bnpo | LossType::Luspo => {
            let clipped = weight.clip(Some((1.0 - options.epsilon) as f32), Some((1.0 + options.epsilon_high()) as f32))?;
            let weight = weight.clip(None, options.delta.map(|delta| delta as f32))?;
            let loss = weight.multiply(advantages)?.minimum(&clipped.multiply(advantages)?)?.negative()?;
            Ok(Objective { loss, weight, phi: None })
        }
        LossType::Cispo => {
            let capped = weight.minimum_scalar(options.epsilon_high() as f32)?.stop_gradient()?;
            plain(capped.multiply(advantages)?.multiply(terms.logps)?)
        }
        LossType::Sapo => {
            let temperature =
                by_sign(&advantages.greater_scalar(0.0)?, options.sapo_temperature_pos, options.sapo_temperature_neg)?;
            let gate = weight.add_scalar(-1.0)?.multiply(&temperature)?.sigmoid()?.multiply_scalar(4.0)?.divide(&temperature)?;
            plain(gate.multiply(advantages)?)
        }
        LossType::Vespo => {
            let phi = gamma_weight(terms, options)?;
            let loss = phi.multiply(advantages)?.multiply(terms.logps)?.negative()?;
            Ok(Objective { loss, weight: weight.clone(), phi: Some(phi) })
        }
    }
}

/// `phi(w) = exp(lambda + k log w - lambda w)` of the whole sequence's ratio `w`, which is 1 at `w = 1`; detached.
fn gamma_weight(terms: &Terms, options: &LossOptions) -> Result<Array> {
    let (low, high) = (1e-8f64.ln() as f32, 20.0);
    let mut log_w = terms.log_ratio.stop_gradient()?.clip(Some(-high), Some(high))?.sum(&[1], true)?;
    if let Some(ratio) = terms.sampler_ratio {
        log_w = log_w.add(&ratio.stop_gradient()?.log()?.clip(Some(low), Some(high))?.sum(&[1], true)?)?;
    }
    let log_w = log_w.clip(Some(low), Some(high))?;
    let kept = terms.advantages.greater_equal(&Array::scalar(0.0))?;
    let k = by_sign(&kept, options.vespo_k_pos, options.vespo_k_neg)?;
    let lambda = by_sign(&kept, options.vespo_lambda_pos.max(1e-4), options.vespo_lambda_neg.max(1e-4))?;
    let phi = lambda.add(&k.multiply(&log_w)?)?.subtract(&lambda.multiply(&log_w.exp()?)?)?.exp()?;
    where_(&phi.isfinite()?, &phi, &Array::scalar(0.0))
}

fn by_sign(condition: &Array, yes: f64, no: f64) -> Result<Array> {
    where_(condition, &Array::scalar(yes as f32), &Array::scalar(no as f32))
}
