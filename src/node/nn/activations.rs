//! Activation functions.

use napi_derive::napi;

use super::{ArrayHandle, integer};
use crate::nn::activations::{self, GeluApprox};
use crate::node::error as js;

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "nn", catch_unwind)]
        pub fn $name(x: ArrayHandle) -> js::Result<ArrayHandle> {
            Ok(activations::$name(&x)?.into())
        }
    )* };
}

macro_rules! with_number {
    ($($(#[$doc:meta])* $name:ident($number:ident = $default:literal)),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "nn", catch_unwind)]
        pub fn $name(x: ArrayHandle, $number: Option<f64>) -> js::Result<ArrayHandle> {
            Ok(activations::$name(&x, $number.unwrap_or($default) as f32)?.into())
        }
    )* };
}

macro_rules! over_axis {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "nn", catch_unwind)]
        pub fn $name(x: ArrayHandle, axis: Option<f64>) -> js::Result<ArrayHandle> {
            Ok(activations::$name(&x, integer("axis", axis.unwrap_or(-1.0))?)?.into())
        }
    )* };
}

plain! {
    /// `max(x, 0)`.
    relu,
    /// `max(x, 0)²`.
    relu2,
    /// `min(max(x, 0), 6)`.
    relu6,
    /// ELU with the constants of self-normalising networks.
    selu,
    /// `log(1 + e^x)`.
    softplus,
    /// `log(sigmoid(x))`.
    log_sigmoid,
    /// `x / (1 + |x|)`.
    softsign,
    /// `x · tanh(softplus(x))`.
    mish,
    /// `x · min(max(x + 3, 0), 6) / 6`.
    hardswish,
}

with_number! {
    /// `x` where positive, else `negativeSlope · x` (0.01).
    leaky_relu(negative_slope = 0.01),
    /// `x` where positive, else `alpha · (e^x - 1)` (1).
    elu(alpha = 1.0),
    /// `max(x, 0) + min(0, alpha · (e^(x / alpha) - 1))` (1).
    celu(alpha = 1.0),
    /// `x` where `|x| > lambda` (0.5), else 0.
    hard_shrink(lambda = 0.5),
    /// `x` moved by `lambda` (0.5) towards 0, and 0 in between.
    softshrink(lambda = 0.5),
    /// 1 where `x >= threshold` (0), else 0, as int32.
    step(threshold = 0.0),
}

over_axis! {
    /// Softmax of `-x` over an axis (-1).
    softmin,
    /// `x - log Σ e^x` over an axis (-1).
    log_softmax,
    /// The first half of an axis (-1) times the sigmoid of the second.
    glu,
}

/// `min(max(x, low), high)`, between -1 and 1.
#[napi(namespace = "nn", catch_unwind)]
pub fn hard_tanh(x: ArrayHandle, low: Option<f64>, high: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(activations::hard_tanh(&x, low.unwrap_or(-1.0) as f32, high.unwrap_or(1.0) as f32)?.into())
}

/// `max(0, x) + alpha · min(0, x)`.
#[napi(namespace = "nn", catch_unwind)]
pub fn prelu(x: ArrayHandle, alpha: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(activations::prelu(&x, &alpha)?.into())
}

/// Gaussian error linear unit: exact ('none'), through tanh ('precise' or 'tanh'), or through the sigmoid ('fast').
#[napi(namespace = "nn", ts_args_type = "x: ArrayHandle, approx?: 'none' | 'precise' | 'tanh' | 'fast'", catch_unwind)]
pub fn gelu(x: ArrayHandle, approx: Option<String>) -> js::Result<ArrayHandle> {
    Ok(activations::gelu(&x, GeluApprox::parse(approx.as_deref().unwrap_or("none"))?)?.into())
}

/// `silu(gate) · x`.
#[napi(namespace = "nn", catch_unwind)]
pub fn swiglu(gate: ArrayHandle, x: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(activations::swiglu(&gate, &x)?.into())
}
