//! Importance ratios: of the current policy to the old one, and of the trainer to the sampler.

use serde::{Deserialize, Serialize};

use super::ImportanceSamplingLevel;
use crate::mlx::{Array, Dtype, Error, Result, ops::where_};

/// Larger logarithms of ratios are cut here, so that an overflow cannot turn a clipped token's zero gradient into NaN.
pub(super) const LARGEST_LOG_RATIO: f32 = 40.0;

/// `current / old` per token `[B, T]`, or per sequence `[B, 1]` as the exponential of the masked mean of the logarithms.
/// Log-probs are `[B, T]`; without old ones the ratio is 1 with the gradient of the current ones. Masked tokens have ratio 1.
pub fn importance_ratios(
    per_token_logps: &Array,
    old_per_token_logps: Option<&Array>,
    completion_mask: &Array,
    level: ImportanceSamplingLevel,
) -> Result<Array> {
    let shape = check_batch(per_token_logps, "perTokenLogps")?;
    check_same(completion_mask, "completionMask", shape)?;
    let mask = as_mask(completion_mask)?;
    let log_ratio = log_ratio(per_token_logps, old_per_token_logps, &mask)?;
    let tokens = mask.astype(Dtype::Float32)?.sum(&[1], true)?.maximum_scalar(1.0)?;
    importance_weights(&log_ratio, &tokens, level)
}

/// `current - old` in float32, 0 outside the mask.
pub(super) fn log_ratio(per_token_logps: &Array, old_per_token_logps: Option<&Array>, mask: &Array) -> Result<Array> {
    let current = masked(per_token_logps, mask)?;
    let old = match old_per_token_logps {
        Some(old) => {
            check_same(old, "oldPerTokenLogps", per_token_logps.shape())?;
            masked(old, mask)?
        }
        None => current.stop_gradient()?,
    };
    current.subtract(&old)
}

/// The exponential of the log ratios, per token or of their mean per sequence.
pub(super) fn importance_weights(log_ratio: &Array, tokens: &Array, level: ImportanceSamplingLevel) -> Result<Array> {
    let log_weights = match level {
        ImportanceSamplingLevel::Token => log_ratio.clone(),
        ImportanceSamplingLevel::Sequence => log_ratio.sum(&[1], true)?.divide(tokens)?,
    };
    log_weights.minimum_scalar(LARGEST_LOG_RATIO)?.exp()
}

/// How the ratio of the trainer's to the sampler's probabilities is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerRatioMode {
    /// Per token, clamped to the bounds.
    TokenTruncate,
    /// Per token, 0 outside the bounds.
    TokenMask,
    /// One product per sequence, clamped to the bounds.
    SequenceTruncate,
    /// One product per sequence, 0 outside the bounds.
    #[default]
    SequenceMask,
}

impl SamplerRatioMode {
    pub fn per_sequence(self) -> bool {
        matches!(self, SamplerRatioMode::SequenceTruncate | SamplerRatioMode::SequenceMask)
    }
}

/// Options of `sampler_ratio`; the defaults are TRL's `vllm_importance_sampling_*`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SamplerRatioOptions {
    pub mode: SamplerRatioMode,
    pub clip_min: Option<f64>,
    pub clip_max: Option<f64>,
}

impl Default for SamplerRatioOptions {
    fn default() -> Self {
        SamplerRatioOptions { mode: SamplerRatioMode::default(), clip_min: None, clip_max: Some(3.0) }
    }
}

impl SamplerRatioOptions {
    pub fn validate(&self) -> Result<()> {
        for (name, bound) in [("clipMin", self.clip_min), ("clipMax", self.clip_max)] {
            if let Some(bound) = bound.filter(|bound| !(bound.is_finite() && *bound >= 0.0)) {
                return Err(Error::Argument(format!(
                    "{name} is {bound}; it must be a finite ratio of at least 0, or null for no bound"
                )));
            }
        }
        if let (Some(low), Some(high)) = (self.clip_min, self.clip_max)
            && low >= high
        {
            return Err(Error::Argument(format!("clipMin {low} must be below clipMax {high}")));
        }
        let truncates = matches!(self.mode, SamplerRatioMode::TokenTruncate | SamplerRatioMode::SequenceTruncate);
        if truncates && self.clip_min.is_none() && self.clip_max.is_none() {
            return Err(Error::Argument("a truncating sampler ratio needs clipMin or clipMax".into()));
        }
        Ok(())
    }
}

/// The ratio of old (trainer's) to sampler's probabilities, `[B, T]` or `[B, 1]`, without gradient, and TRL's `sampling/*` metrics.
/// Unknown (NaN) sampler log-probs count as equal. All inputs are `[B, T]`.
pub fn sampler_ratio(
    old_per_token_logps: &Array,
    sampling_per_token_logps: &Array,
    mask: &Array,
    options: &SamplerRatioOptions,
) -> Result<(Array, Vec<(&'static str, Array)>)> {
    options.validate()?;
    let shape = check_batch(old_per_token_logps, "oldPerTokenLogps")?;
    check_same(sampling_per_token_logps, "samplingPerTokenLogps", shape)?;
    check_same(mask, "completionMask", shape)?;
    let difference = old_per_token_logps.subtract(sampling_per_token_logps)?.astype(Dtype::Float32)?.stop_gradient()?;
    let mask = as_mask(mask)?;
    let known = mask.logical_and(&difference.isnan()?.logical_not()?)?;
    let zero = Array::scalar(0.0);
    let difference = where_(&known, &difference, &zero)?;
    let log_ratio = if options.mode.per_sequence() { difference.sum(&[1], true)? } else { difference.clone() };
    let ratio = log_ratio.exp()?;
    let (low, high) = (options.clip_min.map(|low| low as f32), options.clip_max.map(|high| high as f32));
    let ratio = match options.mode {
        SamplerRatioMode::TokenTruncate | SamplerRatioMode::SequenceTruncate => ratio.clip(low, high)?,
        SamplerRatioMode::TokenMask | SamplerRatioMode::SequenceMask => {
            let below = ratio.less_scalar(low.unwrap_or(f32::NEG_INFINITY))?;
            let above = ratio.greater_scalar(high.unwrap_or(f32::INFINITY))?;
            where_(&below.logical_or(&above)?, &zero, &ratio)?
        }
    };

    let distance = difference.abs()?;
    let count = |mask: &Array| mask.astype(Dtype::Float32)?.sum_all()?.maximum_scalar(1.0);
    // What has no element is reported as 0.
    let or_zero = |value: Array| where_(&value.isinf()?, &zero, &value);
    let counted = if options.mode.per_sequence() { crate::mlx::ops::ones_like(&ratio)?.astype(Dtype::Bool)? } else { mask };
    let extreme = |sign: f32| {
        let signed = where_(&counted, &ratio.multiply_scalar(sign)?, &Array::scalar(f32::NEG_INFINITY))?;
        or_zero(signed.max_all()?.multiply_scalar(sign)?)
    };
    let metrics = vec![
        ("sampling/sampling_logp_difference/mean", distance.sum_all()?.divide(&count(&known)?)?),
        ("sampling/sampling_logp_difference/max", distance.max_all()?),
        ("sampling/importance_sampling_ratio/min", extreme(-1.0)?),
        ("sampling/importance_sampling_ratio/mean", where_(&counted, &ratio, &zero)?.sum_all()?.divide(&count(&counted)?)?),
        ("sampling/importance_sampling_ratio/max", extreme(1.0)?),
    ];
    Ok((ratio, metrics))
}

/// Values in float32, 0 outside the mask, so that nothing there can reach a gradient.
pub(super) fn masked(values: &Array, mask: &Array) -> Result<Array> {
    where_(mask, &values.astype(Dtype::Float32)?, &Array::scalar(0.0))
}

/// True where a mask of any dtype is not 0.
pub(super) fn as_mask(mask: &Array) -> Result<Array> {
    if mask.dtype() == Dtype::Bool {
        return Ok(mask.clone());
    }
    mask.not_equal(&Array::scalar_of(0.0, mask.dtype())?)
}

/// The shape of `[B, T]` input, neither of them 0.
pub(super) fn check_batch<'a>(array: &'a Array, name: &str) -> Result<&'a [i32]> {
    match array.shape() {
        shape @ [rows, tokens] if *rows > 0 && *tokens > 0 => Ok(shape),
        shape => Err(Error::Shape(format!("{name} has shape {shape:?}; it must be [batch, tokens], neither of them 0"))),
    }
}

pub(super) fn check_same(array: &Array, name: &str, shape: &[i32]) -> Result<()> {
    if array.shape() != shape {
        return Err(Error::Shape(format!("{name} has shape {:?}; it must be {shape:?} like the log-probs", array.shape())));
    }
    Ok(())
}
