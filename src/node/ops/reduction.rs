//! Operations that reduce axes, and running ones.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, axes_of, integer, integer_or};
use crate::node::error as js;

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", catch_unwind)]
        pub fn $name(a: ArrayHandle, axes: Option<Either<f64, Vec<f64>>>, keepdims: Option<bool>) -> js::Result<ArrayHandle> {
            Ok(a.$name(&axes_of(&a, axes)?, keepdims.unwrap_or(false))?.into())
        }
    )* };
}

reductions! {
    /// The sum over the given axes, or all of them.
    sum,
    /// The mean over the given axes, or all of them.
    mean,
    /// The product over the given axes, or all of them.
    prod,
    /// The largest value over the given axes, or all of them.
    max,
    /// The smallest value over the given axes, or all of them.
    min,
    /// Whether all elements are true, over the given axes or all of them.
    all,
    /// Whether any element is true, over the given axes or all of them.
    any,
    /// `log(sum(exp(a)))` over the given axes, or all of them.
    logsumexp,
}

/// The index (uint32) of the largest value along an axis (-1); the first of equals.
#[napi(namespace = "ops", catch_unwind)]
pub fn argmax(a: ArrayHandle, axis: Option<f64>, keepdims: Option<bool>) -> js::Result<ArrayHandle> {
    Ok(a.argmax(integer_or("axis", axis, -1)?, keepdims.unwrap_or(false))?.into())
}

/// The index (uint32) of the smallest value along an axis (-1); the first of equals.
#[napi(namespace = "ops", catch_unwind)]
pub fn argmin(a: ArrayHandle, axis: Option<f64>, keepdims: Option<bool>) -> js::Result<ArrayHandle> {
    Ok(a.argmin(integer_or("axis", axis, -1)?, keepdims.unwrap_or(false))?.into())
}

/// The running sum along an axis.
#[napi(namespace = "ops", catch_unwind)]
pub fn cumsum(a: ArrayHandle, axis: f64) -> js::Result<ArrayHandle> {
    Ok(a.cumsum(integer("axis", axis)?, false, true)?.into())
}

/// `a - logsumexp(a)` over an axis (-1).
#[napi(namespace = "ops", catch_unwind)]
pub fn log_softmax(a: ArrayHandle, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.log_softmax(integer_or("axis", axis, -1)?)?.into())
}

/// `exp(a) / sum(exp(a))` over an axis (-1).
#[napi(namespace = "ops", catch_unwind)]
pub fn softmax(a: ArrayHandle, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.softmax(integer_or("axis", axis, -1)?)?.into())
}
