//! The GRPO loss of one micro-batch: masks, objective, KL, average, entropy bonus, in TRL's order.

use super::masks::{high_entropy_mask, off_policy_mask};
use super::metrics::{MaskSums, objective_metrics};
use super::objective::{Terms, objective};
use super::ratios::{LARGEST_LOG_RATIO, as_mask, check_batch, check_same, importance_weights, log_ratio, masked};
use super::{LossOptions, LossType};
use crate::mlx::{Array, Dtype, Error, Result, ops::where_, value_and_grad};

/// A micro-batch of `B` completions padded to `T` tokens. Values at masked positions are never used.
#[derive(Clone)]
pub struct LossInputs {
    /// Log-probs of the completion tokens under the current policy, `[B, T]`.
    pub per_token_logps: Array,
    /// Under the policy that the batch was generated for, `[B, T]`; absent on-policy, where they equal the current ones.
    pub old_per_token_logps: Option<Array>,
    /// Under the reference model, `[B, T]`; used when `beta` is not 0.
    pub ref_per_token_logps: Option<Array>,
    /// As the sampler reported them, `[B, T]`, NaN where unknown; the off-policy mask prefers them to the old ones.
    pub sampling_per_token_logps: Option<Array>,
    /// From `ratios::sampler_ratio`, `[B, T]` or `[B, 1]`; multiplies the policy loss.
    pub importance_sampling_ratio: Option<Array>,
    /// Entropy of each token's distribution in nats, `[B, T]`.
    pub entropies: Option<Array>,
    /// Not 0 on completion tokens, `[B, T]`.
    pub completion_mask: Array,
    /// 0 on tokens that a tool wrote, `[B, T]`.
    pub tool_mask: Option<Array>,
    /// `[B]` or `[B, T]`.
    pub advantages: Array,
    /// The routers' load-balancing loss, a scalar; logged even where `router_aux_loss_coef` is 0.
    pub aux_loss: Option<Array>,
}

impl LossInputs {
    /// The inputs that every call needs.
    pub fn new(per_token_logps: Array, completion_mask: Array, advantages: Array) -> Self {
        LossInputs {
            per_token_logps,
            old_per_token_logps: None,
            ref_per_token_logps: None,
            sampling_per_token_logps: None,
            importance_sampling_ratio: None,
            entropies: None,
            completion_mask,
            tool_mask: None,
            advantages,
            aux_loss: None,
        }
    }

    fn check(&self, options: &LossOptions) -> Result<()> {
        let shape = check_batch(&self.per_token_logps, "perTokenLogps")?;
        check_same(&self.completion_mask, "completionMask", shape)?;
        for (name, array) in [
            ("oldPerTokenLogps", &self.old_per_token_logps),
            ("refPerTokenLogps", &self.ref_per_token_logps),
            ("samplingPerTokenLogps", &self.sampling_per_token_logps),
            ("entropies", &self.entropies),
            ("toolMask", &self.tool_mask),
        ] {
            if let Some(array) = array {
                check_same(array, name, shape)?;
            }
        }
        if self.advantages.shape() != [shape[0]] && self.advantages.shape() != shape {
            return Err(Error::Shape(format!(
                "advantages have shape {:?}; they must be [{}] or {shape:?}",
                self.advantages.shape(),
                shape[0]
            )));
        }
        if let Some(ratio) = &self.importance_sampling_ratio {
            if ratio.shape() != shape && ratio.shape() != [shape[0], 1] {
                return Err(Error::Shape(format!(
                    "importanceSamplingRatio has shape {:?}; it must be {shape:?} or [{}, 1]",
                    ratio.shape(),
                    shape[0]
                )));
            }
            if options.loss_type == LossType::Vespo && ratio.shape() != shape {
                return Err(Error::Argument(
                    "vespo needs one importanceSamplingRatio per token; use the mode token_truncate or token_mask".into(),
                ));
            }
        }
        if let Some(aux_loss) = self.aux_loss.as_ref().filter(|aux_loss| aux_loss.size() != 1) {
            return Err(Error::Shape(format!("auxLoss has shape {:?}; it must be a scalar", aux_loss.shape())));
        }
        if options.beta != 0.0 && self.ref_per_token_logps.is_none() {
            return Err(Error::Argument(format!("beta is {}, so refPerTokenLogps are needed", options.beta)));
        }
        if options.needs_entropies() && self.entropies.is_none() {
            return Err(Error::Argument("topEntropyQuantile below 1 and the entropy bonus need entropies".into()));
        }
        Ok(())
    }
}

/// A loss to differentiate and what to log with it. All arrays are lazy scalars: evaluate them together.
pub struct LossOutput {
    /// Already divided by the accumulation steps: the losses of a window are summed.
    pub loss: Array,
    /// By TRL's names.
    pub metrics: Vec<(&'static str, Array)>,
    /// Sum of entropies and number of tokens for `EntropyController::record`; only in adaptive mode when training.
    pub entropy_stats: Option<(Array, Array)>,
}

/// The loss of a micro-batch. Differentiable with respect to the current log-probs, the entropies and the auxiliary loss.
pub fn grpo_loss(inputs: &LossInputs, options: &LossOptions) -> Result<LossOutput> {
    options.validate()?;
    inputs.check(options)?;
    let mut mask = as_mask(&inputs.completion_mask)?;
    if let Some(tool_mask) = &inputs.tool_mask {
        mask = mask.logical_and(&as_mask(tool_mask)?)?;
    }
    let sums = MaskSums::new(&mask)?;
    let tokens = sums.per_row.maximum_scalar(1.0)?;
    let logps = masked(&inputs.per_token_logps, &mask)?;
    let entropies = inputs.entropies.as_ref().map(|entropies| masked(entropies, &mask)).transpose()?;
    let advantages = inputs.advantages.astype(Dtype::Float32)?.stop_gradient()?;
    let advantages = if advantages.ndim() == 1 { advantages.expand_dims(&[1])? } else { advantages };
    let sampler_ratio = match &inputs.importance_sampling_ratio {
        Some(ratio) if ratio.shape() == mask.shape() => Some(where_(&mask, &ratio.astype(Dtype::Float32)?, &Array::scalar(1.0))?),
        ratio => ratio.as_ref().map(|ratio| ratio.astype(Dtype::Float32)).transpose()?,
    };

    let log_ratio = log_ratio(&inputs.per_token_logps, inputs.old_per_token_logps.as_ref(), &mask)?;
    let weight = importance_weights(&log_ratio, &tokens, options.importance_sampling_level)?;
    let terms = Terms {
        logps: &logps,
        log_ratio: &log_ratio,
        weight: &weight,
        advantages: &advantages,
        sampler_ratio: sampler_ratio.as_ref(),
    };
    let objective = objective(&terms, options)?;

    let mut loss = objective.loss.clone();
    if let Some(threshold) = options.off_policy_mask_threshold {
        let drift = match &inputs.sampling_per_token_logps {
            Some(sampling) => {
                let known = mask.logical_and(&sampling.isnan()?.logical_not()?)?;
                masked(&sampling.subtract(&inputs.per_token_logps)?, &known)?
            }
            None => log_ratio.negative()?,
        };
        loss = loss.multiply(&off_policy_mask(&drift.stop_gradient()?, &tokens, &advantages, threshold)?)?;
    }
    let entropy_mask = match &entropies {
        Some(entropies) if options.top_entropy_quantile < 1.0 => {
            Some(high_entropy_mask(entropies, &mask, 1.0 - options.top_entropy_quantile)?.astype(Dtype::Float32)?)
        }
        _ => None,
    };
    if let Some(entropy_mask) = &entropy_mask {
        loss = loss.multiply(entropy_mask)?;
    }
    if let Some(ratio) = sampler_ratio.as_ref().filter(|_| options.loss_type != LossType::Vespo) {
        loss = loss.multiply(ratio)?;
    }

    let mut metrics = Vec::new();
    if let Some(reference) = inputs.ref_per_token_logps.as_ref().filter(|_| options.beta != 0.0) {
        let log_ratio = masked(reference, &mask)?.subtract(&logps)?;
        let mut kl = log_ratio.minimum_scalar(LARGEST_LOG_RATIO)?.exp()?.subtract(&log_ratio)?.add_scalar(-1.0)?;
        if options.use_bias_correction_kl {
            kl = kl.multiply(&weight)?;
        }
        loss = loss.add(&kl.multiply_scalar(options.beta as f32)?)?;
        metrics.push(("kl", sums.mean(&kl)?));
    }

    let (policy_loss, mut loss) = average(&loss, &sums, &tokens, options)?;
    let mut entropy_stats = None;
    if let Some(entropies) = &entropies {
        metrics.push(("entropy", sums.mean(entropies)?));
        if options.has_entropy_bonus() {
            let effective = match &entropy_mask {
                Some(entropy_mask) => sums.weights.multiply(entropy_mask)?,
                None => sums.weights.clone(),
            };
            let (sum, count) = (entropies.multiply(&effective)?.sum_all()?, effective.sum_all()?);
            let coefficient = options.applied_entropy_coef() / options.accumulation();
            let bonus = sum.divide(&count.maximum_scalar(1.0)?)?.multiply_scalar(coefficient as f32)?;
            loss = loss.subtract(&bonus)?;
            metrics.push(("policy_loss", policy_loss.stop_gradient()?));
            if options.use_adaptive_entropy && options.training {
                entropy_stats = Some((sum.stop_gradient()?, count));
            }
        }
    }
    if let Some(aux_loss) = &inputs.aux_loss {
        let aux_loss = aux_loss.astype(Dtype::Float32)?.reshape(&[])?;
        metrics.push(("aux_loss", aux_loss.stop_gradient()?));
        if options.router_aux_loss_coef != 0.0 {
            loss = loss.add(&aux_loss.multiply_scalar((options.router_aux_loss_coef / options.accumulation()) as f32)?)?;
        }
    }
    metrics.extend(objective_metrics(&objective, &advantages, &sums, options)?);
    Ok(LossOutput { loss, metrics, entropy_stats })
}

/// The average that the loss type asks for: without and with the division by accumulation steps.
/// For the types that count the window's tokens both are the same.
fn average(loss: &Array, sums: &MaskSums, tokens: &Array, options: &LossOptions) -> Result<(Array, Array)> {
    let loss = loss.multiply(&sums.weights)?;
    let accumulation = options.accumulation();
    let mean = match options.loss_type {
        LossType::Grpo | LossType::Sapo => loss.sum(&[1], true)?.divide(tokens)?.mean_all()?,
        LossType::Luspo => loss.sum(&[1], true)?.mean_all()?,
        LossType::Bnpo => loss.sum_all()?.divide(&sums.total.maximum_scalar(1.0)?)?,
        LossType::DrGrpo => {
            loss.sum_all()?.divide_scalar((f64::from(loss.dim(0)) * f64::from(options.max_completion_length)) as f32)?
        }
        LossType::Dapo | LossType::Cispo | LossType::Vespo => {
            let per_window = match options.training {
                true => accumulation / f64::from(options.steps_per_generation()),
                false => 1.0,
            };
            let normalizer = match options.num_items_in_batch {
                Some(count) => Array::scalar((count.max(1.0) * per_window) as f32),
                None => sums.total.maximum_scalar(1.0)?.multiply_scalar(accumulation as f32)?,
            };
            let loss = loss.sum_all()?.divide(&normalizer)?;
            return Ok((loss.clone(), loss));
        }
    };
    Ok((mean.clone(), mean.divide_scalar(accumulation as f32)?))
}

/// A loss and its gradients, all lazy.
pub struct LossAndGrad {
    pub output: LossOutput,
    /// `d loss / d per_token_logps`, `[B, T]`, 0 at masked positions.
    pub grad_per_token_logps: Array,
    /// `d loss / d entropies`, `[B, T]`; only where entropies were given.
    pub grad_entropies: Option<Array>,
}

/// The loss of a micro-batch and its gradient with respect to the log-probs and, where given, the entropies.
pub fn grpo_loss_and_grad(inputs: &LossInputs, options: &LossOptions) -> Result<LossAndGrad> {
    let mut primals = vec![inputs.per_token_logps.clone()];
    primals.extend(inputs.entropies.clone());
    let argnums: Vec<i32> = (0..primals.len() as i32).collect();
    let mut names = Vec::new();
    let (values, mut gradients) = value_and_grad(
        |primals| {
            let traced = LossInputs { per_token_logps: primals[0].clone(), entropies: primals.get(1).cloned(), ..inputs.clone() };
            let output = grpo_loss(&traced, options)?;
            names = output.metrics.iter().map(|(name, _)| *name).collect();
            let mut outputs = vec![output.loss];
            outputs.extend(output.metrics.into_iter().map(|(_, value)| value));
            outputs.extend(output.entropy_stats.into_iter().flat_map(|(sum, count)| [sum, count]));
            Ok(outputs)
        },
        &primals,
        &argnums,
    )?;
    let stats = &values[1 + names.len()..];
    let output = LossOutput {
        loss: values[0].clone(),
        entropy_stats: stats.first().cloned().zip(stats.get(1).cloned()),
        metrics: names.into_iter().zip(values[1..].iter().cloned()).collect(),
    };
    let grad_entropies = (gradients.len() > 1).then(|| gradients.remove(1));
    Ok(LossAndGrad { output, grad_per_token_logps: gradients.remove(0), grad_entropies })
}
