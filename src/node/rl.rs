//! Losses and advantages as functions.

use napi_derive::napi;

use super::ArrayHandle;
use super::error as js;
use crate::mlx::{Array, Error, Result};
use crate::nn::RouterUse;
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
pub struct GrpoLossInputs {
    /// `[B, T]`, under the current policy.
    pub per_token_logps: ArrayHandle,
    /// `[B, T]`; absent on-policy.
    pub old_per_token_logps: Option<ArrayHandle>,
    /// `[B, T]`; needed when `beta` is not 0.
    pub ref_per_token_logps: Option<ArrayHandle>,
    /// `[B, T]`, NaN where unknown; for the off-policy mask.
    pub sampling_per_token_logps: Option<ArrayHandle>,
    /// `[B, T]` or `[B, 1]`.
    pub importance_sampling_ratio: Option<ArrayHandle>,
    /// `[B, T]`, nats.
    pub entropies: Option<ArrayHandle>,
    /// `[B, T]`, not 0 on completion tokens.
    pub completion_mask: ArrayHandle,
    /// `[B, T]`, 0 on tokens that a tool wrote.
    pub tool_mask: Option<ArrayHandle>,
    /// `[B]` or `[B, T]`.
    pub advantages: ArrayHandle,
}

impl GrpoLossInputs {
    fn to_rust(&self) -> Result<rl::LossInputs> {
        let optional = |array: &Option<ArrayHandle>| array.as_deref().cloned();
        Ok(rl::LossInputs {
            old_per_token_logps: optional(&self.old_per_token_logps),
            ref_per_token_logps: optional(&self.ref_per_token_logps),
            sampling_per_token_logps: optional(&self.sampling_per_token_logps),
            importance_sampling_ratio: optional(&self.importance_sampling_ratio),
            entropies: optional(&self.entropies),
            tool_mask: optional(&self.tool_mask),
            ..rl::LossInputs::new(
                Array::clone(&self.per_token_logps),
                Array::clone(&self.completion_mask),
                Array::clone(&self.advantages),
            )
        })
    }
}

/// A loss (lazy scalar), its metrics and, from `grpoLossAndGrad`, its gradients.
#[napi(object, object_from_js = false)]
pub struct GrpoLossHandles {
    pub loss: ArrayHandle,
    /// TRL's names.
    pub metric_names: Vec<String>,
    /// Lazy scalars in the order of the names.
    pub metrics: Vec<ArrayHandle>,
    /// `[B, T]`.
    pub grad_per_token_logps: Option<ArrayHandle>,
    /// `[B, T]`, where entropies were given.
    pub grad_entropies: Option<ArrayHandle>,
}

impl GrpoLossHandles {
    fn new(output: rl::LossOutput, grad_per_token_logps: Option<Array>, grad_entropies: Option<Array>) -> Self {
        let (names, metrics): (Vec<_>, Vec<_>) = output.metrics.into_iter().unzip();
        GrpoLossHandles {
            loss: output.loss.into(),
            metric_names: names.into_iter().map(str::to_string).collect(),
            metrics: metrics.into_iter().map(Into::into).collect(),
            grad_per_token_logps: grad_per_token_logps.map(Into::into),
            grad_entropies: grad_entropies.map(Into::into),
        }
    }
}

/// The GRPO loss of one micro-batch. Options are TRL's names in camelCase, with TRL's defaults.
#[napi(namespace = "loss", ts_args_type = "inputs: GrpoLossInputs, options?: object", catch_unwind)]
pub fn grpo_loss(inputs: GrpoLossInputs, options: Option<serde_json::Value>) -> js::Result<GrpoLossHandles> {
    Ok(GrpoLossHandles::new(rl::grpo_loss(&inputs.to_rust()?, &loss_options(options)?)?, None, None))
}

/// `grpoLoss` with its gradients with respect to the log-probs and, where given, the entropies.
#[napi(namespace = "loss", ts_args_type = "inputs: GrpoLossInputs, options?: object", catch_unwind)]
pub fn grpo_loss_and_grad(inputs: GrpoLossInputs, options: Option<serde_json::Value>) -> js::Result<GrpoLossHandles> {
    let result = rl::grpo_loss_and_grad(&inputs.to_rust()?, &loss_options(options)?)?;
    Ok(GrpoLossHandles::new(result.output, Some(result.grad_per_token_logps), result.grad_entropies))
}

fn loss_options(options: Option<serde_json::Value>) -> Result<LossOptions> {
    LossOptions::from_json(options.unwrap_or_else(|| serde_json::json!({})))
}

/// How routers used their experts, as lazy arrays.
#[napi(object, object_from_js = false)]
pub struct RouterUseHandles {
    /// A scalar.
    pub load_balancing_loss: ArrayHandle,
    /// `[layers, experts]`; a layer's add up to 1.
    pub load: ArrayHandle,
}

/// The load-balancing loss and the loads of experts of router logits `[.., experts]`, one array for each layer. `tokenWeights` `[..]` say
/// how much each token counts, 0 at padding.
#[napi(namespace = "loss", catch_unwind)]
pub fn router_use(
    router_logits: Vec<ArrayHandle>,
    num_experts_per_tok: i32,
    token_weights: Option<ArrayHandle>,
) -> js::Result<RouterUseHandles> {
    let logits: Vec<Array> = router_logits.iter().map(|handle| Array::clone(handle)).collect();
    let routed = RouterUse::new(&logits, num_experts_per_tok, token_weights.as_deref())?;
    Ok(RouterUseHandles { load_balancing_loss: routed.load_balancing_loss()?.into(), load: routed.load.into() })
}

/// `current / old` per token `[B, T]` or per sequence `[B, 1]`; log-probs and mask are `[B, T]`.
#[napi(namespace = "rl", ts_args_type = "inputs: RatioInputs, level?: 'token' | 'sequence' | null", catch_unwind)]
pub fn compute_importance_ratios(inputs: RatioInputs, level: Option<String>) -> js::Result<ArrayHandle> {
    let level = match level.as_deref() {
        None | Some("token") => ImportanceSamplingLevel::Token,
        Some("sequence") => ImportanceSamplingLevel::Sequence,
        Some(other) => return Err(Error::Argument(format!("level must be 'token' or 'sequence', got '{other}'")).into()),
    };
    let old = inputs.old_per_token_logps.as_deref();
    Ok(ratios::importance_ratios(&inputs.per_token_logps, old, &inputs.completion_mask, level)?.into())
}

/// Of `computeImportanceRatios`.
#[napi(object, object_to_js = false)]
pub struct RatioInputs {
    /// `[B, T]`, under the current policy.
    pub per_token_logps: ArrayHandle,
    /// `[B, T]`; absent on-policy.
    pub old_per_token_logps: Option<ArrayHandle>,
    /// `[B, T]`, not 0 on completion tokens.
    pub completion_mask: ArrayHandle,
}

/// Log-probs of `ids` `[B, T]` under `logits / temperature` `[B, T, V]`; float32 `[B, T]`.
#[napi(namespace = "rl", catch_unwind)]
pub fn selective_log_softmax(logits: ArrayHandle, ids: ArrayHandle, temperature: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(logprobs::selective_log_softmax(&logits, &ids, temperature.unwrap_or(1.) as f32)?.into())
}

/// Entropy in nats of `softmax(logits / temperature)` over the last axis; float32.
#[napi(namespace = "rl", catch_unwind)]
pub fn compute_entropy(logits: ArrayHandle, temperature: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(logprobs::entropy_from_logits(&logits, temperature.unwrap_or(1.) as f32)?.into())
}
