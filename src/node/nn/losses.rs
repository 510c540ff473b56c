//! Losses. `reduction` is 'none', 'mean' or 'sum'.

use napi_derive::napi;

use super::{ArrayHandle, integer, optional};
use crate::nn::losses::{self, CrossEntropy, Reduction, Triplet};
use crate::node::error as js;

fn reduction(name: &str) -> js::Result<Reduction> {
    Ok(Reduction::parse(name)?)
}

macro_rules! of_two {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "nn", catch_unwind)]
        pub fn $name(inputs: ArrayHandle, targets: ArrayHandle, reduction: String) -> js::Result<ArrayHandle> {
            Ok(losses::$name(&inputs, &targets, self::reduction(&reduction)?)?.into())
        }
    )* };
}

of_two! {
    /// `|input - target|`.
    l1_loss,
    /// `(input - target)²`.
    mse_loss,
    /// `max(1 - input · target, 0)`.
    hinge_loss,
    /// `log cosh(input - target)`.
    log_cosh_loss,
}

/// Cross entropy of logits with class numbers or probabilities.
#[napi(namespace = "nn", catch_unwind)]
pub fn cross_entropy(
    logits: ArrayHandle,
    targets: ArrayHandle,
    weights: Option<ArrayHandle>,
    axis: f64,
    label_smoothing: f64,
    reduction: String,
) -> js::Result<ArrayHandle> {
    let options = CrossEntropy {
        weights: optional(&weights),
        axis: integer("axis", axis)?,
        label_smoothing: label_smoothing as f32,
        reduction: self::reduction(&reduction)?,
    };
    Ok(losses::cross_entropy(&logits, &targets, &options)?.into())
}

/// Binary cross entropy of logits or probabilities.
#[napi(namespace = "nn", catch_unwind)]
pub fn binary_cross_entropy(
    inputs: ArrayHandle,
    targets: ArrayHandle,
    weights: Option<ArrayHandle>,
    with_logits: bool,
    reduction: String,
) -> js::Result<ArrayHandle> {
    let reduction = self::reduction(&reduction)?;
    Ok(losses::binary_cross_entropy(&inputs, &targets, optional(&weights), with_logits, reduction)?.into())
}

/// Minus the log-probability of each target.
#[napi(namespace = "nn", catch_unwind)]
pub fn nll_loss(inputs: ArrayHandle, targets: ArrayHandle, axis: f64, reduction: String) -> js::Result<ArrayHandle> {
    Ok(losses::nll_loss(&inputs, &targets, integer("axis", axis)?, self::reduction(&reduction)?)?.into())
}

/// Negative log-likelihood of a normal distribution.
#[napi(namespace = "nn", catch_unwind)]
pub fn gaussian_nll_loss(
    inputs: ArrayHandle,
    targets: ArrayHandle,
    variances: ArrayHandle,
    full: bool,
    eps: f64,
    reduction: String,
) -> js::Result<ArrayHandle> {
    let reduction = self::reduction(&reduction)?;
    Ok(losses::gaussian_nll_loss(&inputs, &targets, &variances, full, eps as f32, reduction)?.into())
}

/// Kullback-Leibler divergence of log-probabilities.
#[napi(namespace = "nn", catch_unwind)]
pub fn kl_div_loss(inputs: ArrayHandle, targets: ArrayHandle, axis: f64, reduction: String) -> js::Result<ArrayHandle> {
    Ok(losses::kl_div_loss(&inputs, &targets, integer("axis", axis)?, self::reduction(&reduction)?)?.into())
}

/// Squared below `beta`, linear above.
#[napi(namespace = "nn", catch_unwind)]
pub fn smooth_l1_loss(inputs: ArrayHandle, targets: ArrayHandle, beta: f64, reduction: String) -> js::Result<ArrayHandle> {
    Ok(losses::smooth_l1_loss(&inputs, &targets, beta as f32, self::reduction(&reduction)?)?.into())
}

/// Squared below `delta`, linear above.
#[napi(namespace = "nn", catch_unwind)]
pub fn huber_loss(inputs: ArrayHandle, targets: ArrayHandle, delta: f64, reduction: String) -> js::Result<ArrayHandle> {
    Ok(losses::huber_loss(&inputs, &targets, delta as f32, self::reduction(&reduction)?)?.into())
}

/// `max(distance to the positive - distance to the negative + margin, 0)`.
#[napi(namespace = "nn", catch_unwind)]
#[allow(clippy::too_many_arguments)]
pub fn triplet_loss(
    anchors: ArrayHandle,
    positives: ArrayHandle,
    negatives: ArrayHandle,
    axis: f64,
    p: f64,
    margin: f64,
    eps: f64,
    reduction: String,
) -> js::Result<ArrayHandle> {
    let options = Triplet {
        axis: integer("axis", axis)?,
        p: p as f32,
        margin: margin as f32,
        eps: eps as f32,
        reduction: self::reduction(&reduction)?,
    };
    Ok(losses::triplet_loss(&anchors, &positives, &negatives, &options)?.into())
}

/// The cosine of the angle between `x1` and `x2`.
#[napi(namespace = "nn", catch_unwind)]
pub fn cosine_similarity_loss(
    x1: ArrayHandle,
    x2: ArrayHandle,
    axis: f64,
    eps: f64,
    reduction: String,
) -> js::Result<ArrayHandle> {
    let reduction = self::reduction(&reduction)?;
    Ok(losses::cosine_similarity_loss(&x1, &x2, integer("axis", axis)?, eps as f32, reduction)?.into())
}

/// `max(0, -target · (input1 - input2) + margin)`.
#[napi(namespace = "nn", catch_unwind)]
pub fn margin_ranking_loss(
    inputs1: ArrayHandle,
    inputs2: ArrayHandle,
    targets: ArrayHandle,
    margin: f64,
    reduction: String,
) -> js::Result<ArrayHandle> {
    let reduction = self::reduction(&reduction)?;
    Ok(losses::margin_ranking_loss(&inputs1, &inputs2, &targets, margin as f32, reduction)?.into())
}
