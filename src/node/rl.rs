//! Losses, advantages and sampling filters as functions.

use napi::bindgen_prelude::ClassInstance;
use napi_derive::napi;

use super::array::MxArray;
use super::error as js;
use crate::generate;
use crate::mlx::{Array, Dtype, Error, Result};
use crate::rl::advantages::{self, AdvantageOptions};
use crate::rl::{self, ImportanceSamplingLevel, LossOptions, logprobs, ratios};

/// What `computeAdvantages` returns.
#[napi(object)]
pub struct AdvantageResult {
    pub advantages: Vec<f64>,
    /// The weighted sum per row; NaN where no function gave a score.
    pub rewards: Vec<f64>,
    /// Mean of `rewards`.
    pub reward: f64,
    /// Standard deviation of `rewards` over the batch.
    pub reward_std: f64,
    /// Share of rows whose group (or batch) has no variance.
    pub frac_reward_zero_std: f64,
    /// Per reward function, over the rows it scored.
    pub per_function: Vec<RewardStatistics>,
    /// Rows without any score.
    pub num_unscorable: u32,
}

#[napi(object)]
pub struct RewardStatistics {
    pub mean: f64,
    pub std: f64,
}

/// Advantages of rewards `[N][F]` (NaN: a function gave no score); `numGenerations` consecutive rows share a prompt. As TRL.
#[napi(
    ts_args_type = "rewards: number[][], options: { numGenerations: number, rewardWeights?: number[] | null, scaleRewards?: 'group' | 'batch' | 'none', multiObjectiveAggregation?: 'sum_then_normalize' | 'normalize_then_sum' }"
)]
pub fn compute_advantages(rewards: Vec<Vec<f64>>, options: serde_json::Value) -> js::Result<AdvantageResult> {
    let result = advantages::compute_advantages(&rewards, &AdvantageOptions::from_json(options)?)?;
    Ok(AdvantageResult {
        advantages: result.advantages,
        rewards: result.rewards,
        reward: result.reward,
        reward_std: result.reward_std,
        frac_reward_zero_std: result.frac_reward_zero_std,
        per_function: result
            .per_function
            .into_iter()
            .map(|stats| RewardStatistics { mean: stats.mean, std: stats.std })
            .collect(),
        num_unscorable: result.num_unscorable as u32,
    })
}

/// Inputs of the GRPO loss: `B` completions padded to `T` tokens.
#[napi(object, object_to_js = false)]
pub struct GrpoLossInputs<'a> {
    /// `[B, T]`, under the current policy.
    pub per_token_logps: ClassInstance<'a, MxArray>,
    /// `[B, T]`; absent on-policy.
    pub old_per_token_logps: Option<ClassInstance<'a, MxArray>>,
    /// `[B, T]`; needed when `beta` is not 0.
    pub ref_per_token_logps: Option<ClassInstance<'a, MxArray>>,
    /// `[B, T]`, NaN where unknown; for the off-policy mask.
    pub sampling_per_token_logps: Option<ClassInstance<'a, MxArray>>,
    /// `[B, T]` or `[B, 1]`.
    pub importance_sampling_ratio: Option<ClassInstance<'a, MxArray>>,
    /// `[B, T]`, nats.
    pub entropies: Option<ClassInstance<'a, MxArray>>,
    /// `[B, T]`, not 0 on completion tokens.
    pub completion_mask: ClassInstance<'a, MxArray>,
    /// `[B, T]`, 0 on tokens that a tool wrote.
    pub tool_mask: Option<ClassInstance<'a, MxArray>>,
    /// `[B]` or `[B, T]`.
    pub advantages: ClassInstance<'a, MxArray>,
}

impl GrpoLossInputs<'_> {
    fn to_rust(&self) -> Result<rl::LossInputs> {
        let optional = |array: &Option<ClassInstance<MxArray>>| array.as_ref().map(|array| array.get().cloned()).transpose();
        Ok(rl::LossInputs {
            old_per_token_logps: optional(&self.old_per_token_logps)?,
            ref_per_token_logps: optional(&self.ref_per_token_logps)?,
            sampling_per_token_logps: optional(&self.sampling_per_token_logps)?,
            importance_sampling_ratio: optional(&self.importance_sampling_ratio)?,
            entropies: optional(&self.entropies)?,
            tool_mask: optional(&self.tool_mask)?,
            ..rl::LossInputs::new(
                self.per_token_logps.get()?.clone(),
                self.completion_mask.get()?.clone(),
                self.advantages.get()?.clone(),
            )
        })
    }
}

/// A metric by TRL's name, as a lazy scalar.
#[napi]
pub struct LossMetric {
    name: &'static str,
    value: Array,
}

#[napi]
impl LossMetric {
    #[napi(getter)]
    pub fn name(&self) -> &str {
        self.name
    }

    #[napi(getter)]
    pub fn value(&self) -> js::Result<f64> {
        Ok(self.value.item()? as f64)
    }
}

/// A loss (lazy scalar), its metrics and, from `grpoLossAndGrad`, its gradients.
#[napi]
pub struct GrpoLossResult {
    loss: Array,
    metrics: Vec<(&'static str, Array)>,
    grad_per_token_logps: Option<Array>,
    grad_entropies: Option<Array>,
}

#[napi]
impl GrpoLossResult {
    #[napi(getter)]
    pub fn loss(&self) -> MxArray {
        self.loss.clone().into()
    }

    #[napi(getter)]
    pub fn metrics(&self) -> Vec<LossMetric> {
        self.metrics.iter().map(|(name, value)| LossMetric { name, value: value.clone() }).collect()
    }

    /// `[B, T]`.
    #[napi(getter)]
    pub fn grad_per_token_logps(&self) -> Option<MxArray> {
        self.grad_per_token_logps.clone().map(Into::into)
    }

    /// `[B, T]`, where entropies were given.
    #[napi(getter)]
    pub fn grad_entropies(&self) -> Option<MxArray> {
        self.grad_entropies.clone().map(Into::into)
    }
}

/// The GRPO loss of one micro-batch. Options are TRL's names in camelCase, with TRL's defaults.
#[napi(ts_args_type = "inputs: GrpoLossInputs, options?: object")]
pub fn grpo_loss(inputs: GrpoLossInputs, options: Option<serde_json::Value>) -> js::Result<GrpoLossResult> {
    let output = rl::grpo_loss(&inputs.to_rust()?, &loss_options(options)?)?;
    Ok(GrpoLossResult { loss: output.loss, metrics: output.metrics, grad_per_token_logps: None, grad_entropies: None })
}

/// `grpoLoss` with its gradients with respect to the log-probs and, where given, the entropies.
#[napi(ts_args_type = "inputs: GrpoLossInputs, options?: object")]
pub fn grpo_loss_and_grad(inputs: GrpoLossInputs, options: Option<serde_json::Value>) -> js::Result<GrpoLossResult> {
    let result = rl::grpo_loss_and_grad(&inputs.to_rust()?, &loss_options(options)?)?;
    Ok(GrpoLossResult {
        loss: result.output.loss,
        metrics: result.output.metrics,
        grad_per_token_logps: Some(result.grad_per_token_logps),
        grad_entropies: result.grad_entropies,
    })
}

fn loss_options(options: Option<serde_json::Value>) -> Result<LossOptions> {
    LossOptions::from_json(options.unwrap_or_else(|| serde_json::json!({})))
}

/// `current / old` per token `[B, T]` or per sequence `[B, 1]`; log-probs and mask are `[B, T]`.
#[napi(
    ts_args_type = "inputs: { perTokenLogps: MxArray, oldPerTokenLogps?: MxArray, completionMask: MxArray }, level?: 'token' | 'sequence'"
)]
pub fn compute_importance_ratios(inputs: RatioInputs, level: Option<String>) -> js::Result<MxArray> {
    let level = match level.as_deref() {
        None | Some("token") => ImportanceSamplingLevel::Token,
        Some("sequence") => ImportanceSamplingLevel::Sequence,
        Some(other) => return Err(Error::Argument(format!("level must be 'token' or 'sequence', got '{other}'")).into()),
    };
    let old = inputs.old_per_token_logps.as_ref().map(|array| array.get()).transpose()?;
    Ok(ratios::importance_ratios(inputs.per_token_logps.get()?, old, inputs.completion_mask.get()?, level)?.into())
}

#[napi(object, object_to_js = false)]
pub struct RatioInputs<'a> {
    pub per_token_logps: ClassInstance<'a, MxArray>,
    pub old_per_token_logps: Option<ClassInstance<'a, MxArray>>,
    pub completion_mask: ClassInstance<'a, MxArray>,
}

/// Log-probs of `ids` `[B, T]` under `logits / temperature` `[B, T, V]`; float32 `[B, T]`.
#[napi]
pub fn selective_log_softmax(logits: &MxArray, ids: &MxArray, temperature: Option<f64>) -> js::Result<MxArray> {
    Ok(logprobs::selective_log_softmax(logits.get()?, ids.get()?, temperature.unwrap_or(1.) as f32)?.into())
}

/// Entropy in nats of `softmax(logits / temperature)` over the last axis; float32.
#[napi]
pub fn compute_entropy(logits: &MxArray, temperature: Option<f64>) -> js::Result<MxArray> {
    Ok(logprobs::entropy_from_logits(logits.get()?, temperature.unwrap_or(1.) as f32)?.into())
}

/// Logits `[B, V]` with the tokens of `history` `[B, N]` made less likely: positive logits divided, negative multiplied.
#[napi]
pub fn apply_repetition_penalty(logits: &MxArray, history: &MxArray, penalty: f64) -> js::Result<MxArray> {
    let history = history.get()?.astype(Dtype::Int32)?;
    Ok(generate::apply_repetition_penalty(logits.get()?, &history, penalty as f32)?.into())
}

/// All but the `k` largest logits become -inf; equals of the last one stay.
#[napi]
pub fn apply_top_k(logits: &MxArray, k: i32) -> js::Result<MxArray> {
    Ok(generate::apply_top_k(logits.get()?, k)?.into())
}

/// Keeps the most likely tokens until their mass reaches `p`.
#[napi]
pub fn apply_top_p(logits: &MxArray, p: f64) -> js::Result<MxArray> {
    Ok(generate::apply_top_p(logits.get()?, p as f32)?.into())
}

/// Keeps tokens at least `p` times as likely as the best.
#[napi]
pub fn apply_min_p(logits: &MxArray, p: f64) -> js::Result<MxArray> {
    Ok(generate::apply_min_p(logits.get()?, p as f32)?.into())
}
