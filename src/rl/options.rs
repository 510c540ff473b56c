//! Options of the GRPO loss, with TRL's names and defaults.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mlx::{Error, Result};

/// The policy objective and how it is averaged over tokens and sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Clipped; mean over each sequence's tokens, then over sequences (DeepSeekMath).
    Grpo,
    /// Clipped; one constant denominator, batch size times `max_completion_length` (Dr. GRPO).
    DrGrpo,
    /// Clipped; mean over all tokens of the accumulation window (DAPO).
    #[default]
    Dapo,
    /// Clipped; mean over the tokens of this micro-batch.
    Bnpo,
    /// REINFORCE with capped, detached ratios (MiniMax-M1); `epsilon_high` is the cap itself.
    Cispo,
    /// A sigmoid gate in place of the clip (SAPO).
    Sapo,
    /// Clipped; sum over each sequence's tokens, then mean over sequences (LUSPO).
    Luspo,
    /// REINFORCE weighted by a gamma-shaped function of the sequence ratio (VESPO).
    Vespo,
}

impl LossType {
    /// Whether the objective clips the ratio to `[1 - epsilon, 1 + epsilon_high]`.
    pub fn clips(self) -> bool {
        matches!(self, LossType::Grpo | LossType::DrGrpo | LossType::Dapo | LossType::Bnpo | LossType::Luspo)
    }

    /// Whether the loss is divided by the tokens of the whole accumulation window.
    pub fn counts_window_tokens(self) -> bool {
        matches!(self, LossType::Dapo | LossType::Cispo | LossType::Vespo)
    }
}

/// Whether a ratio belongs to each token or to the whole sequence (GSPO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSamplingLevel {
    #[default]
    Token,
    Sequence,
}

/// What `grpo_loss` computes. The defaults are TRL's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LossOptions {
    pub loss_type: LossType,
    pub importance_sampling_level: ImportanceSamplingLevel,
    /// The ratio is clipped below at `1 - epsilon`.
    pub epsilon: f64,
    /// The ratio is clipped above at `1 + epsilon_high`; `None` means `epsilon`. For cispo the cap itself.
    pub epsilon_high: Option<f64>,
    /// Caps the unclipped ratio too, which bounds the loss of negative advantages; at least 1.
    pub delta: Option<f64>,
    /// Weight of the KL divergence from the reference model.
    pub beta: f64,
    /// Multiplies the KL estimate by the importance ratio, which makes its gradient unbiased.
    pub use_bias_correction_kl: bool,
    /// Drops sequences of negative advantage whose mean `log(old / current)` is above this.
    pub off_policy_mask_threshold: Option<f64>,
    /// Keeps the policy loss on this share of tokens, those of highest entropy; 1 keeps all.
    pub top_entropy_quantile: f64,
    /// Weight of the entropy bonus, in adaptive mode its present value.
    pub entropy_coef: f64,
    /// Gives the bonus only while `last_entropy` is at most `entropy_target`, and lets `EntropyController` move the weight.
    pub use_adaptive_entropy: bool,
    pub entropy_coef_min: f64,
    pub entropy_coef_max: f64,
    /// Change of the weight per optimizer step.
    pub entropy_coef_delta: f64,
    /// In nats per token.
    pub entropy_target: f64,
    /// Mean entropy of the last optimizer step's tokens; `None` before the first step, when adaptive mode gives no bonus.
    pub last_entropy: Option<f64>,
    /// Slope of sapo's gate for advantages of at most 0.
    pub sapo_temperature_neg: f64,
    /// Slope of sapo's gate for positive advantages.
    pub sapo_temperature_pos: f64,
    pub vespo_k_pos: f64,
    pub vespo_lambda_pos: f64,
    pub vespo_k_neg: f64,
    pub vespo_lambda_neg: f64,
    /// Denominator of dr_grpo, in tokens.
    pub max_completion_length: i32,
    /// Loss tokens of the whole generation batch, for dapo, cispo and vespo. `None` takes every micro-batch to have as many as this one.
    pub num_items_in_batch: Option<f64>,
    /// Micro-batches in this accumulation window. The losses of a window are meant to be summed.
    pub gradient_accumulation_steps: i32,
    /// Micro-batches in the generation batch; `None` means `gradient_accumulation_steps`.
    pub steps_per_generation: Option<i32>,
    /// Weight of the router's load-balancing loss.
    pub router_aux_loss_coef: f64,
    /// False for evaluation, where nothing is accumulated.
    pub training: bool,
}

impl Default for LossOptions {
    fn default() -> Self {
        LossOptions {
            loss_type: LossType::Dapo,
            importance_sampling_level: ImportanceSamplingLevel::Token,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            beta: 0.0,
            use_bias_correction_kl: true,
            off_policy_mask_threshold: None,
            top_entropy_quantile: 1.0,
            entropy_coef: 0.0,
            use_adaptive_entropy: false,
            entropy_coef_min: 0.0,
            entropy_coef_max: 1.0,
            entropy_coef_delta: 0.005,
            entropy_target: 0.2,
            last_entropy: None,
            sapo_temperature_neg: 1.05,
            sapo_temperature_pos: 1.0,
            vespo_k_pos: 2.0,
            vespo_lambda_pos: 3.0,
            vespo_k_neg: 3.0,
            vespo_lambda_neg: 2.0,
            max_completion_length: 512,
            num_items_in_batch: None,
            gradient_accumulation_steps: 1,
            steps_per_generation: None,
            router_aux_loss_coef: 0.0,
            training: true,
        }
    }
}

impl LossOptions {
    /// Options from a JSON object in camelCase, checked.
    pub fn from_json(value: Value) -> Result<Self> {
        let options: Self = crate::options::from_json(value, "grpoLoss")?;
        options.validate()?;
        Ok(options)
    }

    /// Refuses values outside their range.
    pub fn validate(&self) -> Result<()> {
        let at_least = |name: &str, value: f64, low: f64| match value.is_finite() && value >= low {
            true => Ok(()),
            false => Err(Error::Argument(format!("{name} is {value}; it must be a finite number of at least {low}"))),
        };
        let positive = |name: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::Argument(format!("{name} is {value}; it must be a finite number above 0"))),
        };
        at_least("epsilon", self.epsilon, 0.0)?;
        at_least("epsilonHigh", self.epsilon_high(), 0.0)?;
        if let Some(delta) = self.delta {
            at_least("delta", delta, 1.0)?;
        }
        at_least("beta", self.beta, 0.0)?;
        if let Some(threshold) = self.off_policy_mask_threshold.filter(|threshold| !threshold.is_finite()) {
            return Err(Error::Argument(format!(
                "offPolicyMaskThreshold is {threshold}; it must be finite, or null for no mask"
            )));
        }
        let quantile = self.top_entropy_quantile;
        if !(quantile > 0.0 && quantile <= 1.0) {
            return Err(Error::Argument(format!(
                "topEntropyQuantile is {quantile}; it must lie in (0, 1], and 1 keeps every token"
            )));
        }
        at_least("entropyCoef", self.entropy_coef, 0.0)?;
        at_least("entropyCoefMin", self.entropy_coef_min, 0.0)?;
        at_least("entropyCoefMax", self.entropy_coef_max, self.entropy_coef_min)?;
        at_least("entropyCoefDelta", self.entropy_coef_delta, 0.0)?;
        at_least("entropyTarget", self.entropy_target, 0.0)?;
        positive("sapoTemperatureNeg", self.sapo_temperature_neg)?;
        positive("sapoTemperaturePos", self.sapo_temperature_pos)?;
        at_least("vespoKPos", self.vespo_k_pos, 0.0)?;
        at_least("vespoLambdaPos", self.vespo_lambda_pos, 0.0)?;
        at_least("vespoKNeg", self.vespo_k_neg, 0.0)?;
        at_least("vespoLambdaNeg", self.vespo_lambda_neg, 0.0)?;
        at_least("maxCompletionLength", self.max_completion_length.into(), 1.0)?;
        if let Some(count) = self.num_items_in_batch {
            at_least("numItemsInBatch", count, 0.0)?;
        }
        at_least("gradientAccumulationSteps", self.gradient_accumulation_steps.into(), 1.0)?;
        at_least("stepsPerGeneration", self.steps_per_generation().into(), 1.0)?;
        at_least("routerAuxLossCoef", self.router_aux_loss_coef, 0.0)
    }

    /// `epsilon_high`, or `epsilon` where it is not given.
    pub fn epsilon_high(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }

    pub(super) fn steps_per_generation(&self) -> i32 {
        self.steps_per_generation.unwrap_or(self.gradient_accumulation_steps)
    }

    /// Micro-batches whose losses are summed; 1 in evaluation.
    pub(super) fn accumulation(&self) -> f64 {
        if self.training { self.gradient_accumulation_steps.into() } else { 1.0 }
    }

    /// Whether the loss has an entropy bonus, though adaptive mode may give it the weight 0 for now.
    pub fn has_entropy_bonus(&self) -> bool {
        self.use_adaptive_entropy || self.entropy_coef != 0.0
    }

    /// Whether `grpo_loss` needs per-token entropies for more than a metric.
    pub fn needs_entropies(&self) -> bool {
        self.has_entropy_bonus() || self.top_entropy_quantile < 1.0
    }

    /// The weight that the entropy bonus has in this call.
    pub fn applied_entropy_coef(&self) -> f64 {
        let held_back = self.use_adaptive_entropy && self.last_entropy.is_none_or(|entropy| entropy > self.entropy_target);
        if held_back { 0.0 } else { self.entropy_coef }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_those_of_trl() {
        let options = LossOptions::from_json(json!({})).unwrap();
        assert_eq!(options, LossOptions::default());
        assert_eq!((options.loss_type, options.epsilon_high(), options.beta), (LossType::Dapo, 0.2, 0.0));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (name, value) in [
            ("epsilon", json!(-0.1)),
            ("epsilonHigh", json!(-1)),
            ("delta", json!(0.5)),
            ("beta", json!(-1)),
            ("topEntropyQuantile", json!(0)),
            ("topEntropyQuantile", json!(1.5)),
            ("entropyCoefMax", json!(-1)),
            ("sapoTemperaturePos", json!(0)),
            ("maxCompletionLength", json!(0)),
            ("numItemsInBatch", json!(-3)),
            ("gradientAccumulationSteps", json!(0)),
            ("stepsPerGeneration", json!(0)),
        ] {
            let error = LossOptions::from_json(json!({ name: value })).unwrap_err();
            assert!(error.to_string().contains(name), "{name}: {error}");
            assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
        }
        let error = LossOptions::from_json(json!({ "lossType": "dr-grpo" })).unwrap_err();
        assert!(error.to_string().contains("did you mean 'dr_grpo'?"), "{error}");
        let error = LossOptions::from_json(json!({ "epsilon_high": 0.3 })).unwrap_err();
        assert!(error.to_string().contains("did you mean 'epsilonHigh'?"), "{error}");
    }
}
