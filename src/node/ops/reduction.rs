//! Operations that reduce axes, and running ones.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, DtypeName, axes_of, integer, integer_or};
use crate::mlx::{Array, Result};
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
    /// The middle value, or the mean of the two in the middle, over the given axes, or all of them.
    median,
    /// The number (int32) of elements that are not 0, over the given axes, or all of them.
    count_nonzero,
    /// Whether all elements are true, over the given axes or all of them.
    all,
    /// Whether any element is true, over the given axes or all of them.
    any,
    /// `log(sum(exp(a)))` over the given axes, or all of them.
    logsumexp,
}

macro_rules! spreads {
    ($($(#[$doc:meta])* $name:ident $js:literal),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", js_name = $js, catch_unwind)]
        pub fn $name(
            a: ArrayHandle,
            axes: Option<Either<f64, Vec<f64>>>,
            keepdims: Option<bool>,
            ddof: Option<f64>,
        ) -> js::Result<ArrayHandle> {
            let ddof = integer_or("ddof", ddof, 0)?;
            Ok(a.$name(&axes_of(&a, axes)?, keepdims.unwrap_or(false), ddof)?.into())
        }
    )* };
}

// No declaration can be called `var`; `scripts/array-api.mjs` drops the underscore.
spreads! {
    /// The variance over the given axes, or all of them; the divisor is the count less `ddof` (0).
    var "var_",
    /// The standard deviation over the given axes, or all of them; the divisor is the count less `ddof` (0).
    std "std",
}

/// `[min, max]` over the given axes, or all of them.
#[napi(namespace = "ops", ts_return_type = "[ArrayHandle, ArrayHandle]", catch_unwind)]
pub fn minmax(a: ArrayHandle, axes: Option<Either<f64, Vec<f64>>>, keepdims: Option<bool>) -> js::Result<Vec<ArrayHandle>> {
    let (axes, keepdims) = (axes_of(&a, axes)?, keepdims.unwrap_or(false));
    Ok(vec![a.min(&axes, keepdims)?.into(), a.max(&axes, keepdims)?.into()])
}

/// The index (uint32) of the largest value along an axis, or of all elements in row-major order; the first of equals.
#[napi(namespace = "ops", catch_unwind)]
pub fn argmax(a: ArrayHandle, axis: Option<f64>, keepdims: Option<bool>) -> js::Result<ArrayHandle> {
    let keepdims = keepdims.unwrap_or(false);
    Ok(match axis {
        Some(axis) => a.argmax(integer("axis", axis)?, keepdims)?,
        None => a.argmax_all(keepdims)?,
    }
    .into())
}

/// The index (uint32) of the smallest value along an axis, or of all elements in row-major order; the first of equals.
#[napi(namespace = "ops", catch_unwind)]
pub fn argmin(a: ArrayHandle, axis: Option<f64>, keepdims: Option<bool>) -> js::Result<ArrayHandle> {
    let keepdims = keepdims.unwrap_or(false);
    Ok(match axis {
        Some(axis) => a.argmin(integer("axis", axis)?, keepdims)?,
        None => a.argmin_all(keepdims)?,
    }
    .into())
}

/// Of `cummax`, `cummin` and `logcumsumexp`.
#[napi(object, object_to_js = false)]
pub struct ScanOptions {
    /// Runs from the end (false).
    pub reverse: Option<bool>,
    /// Counts the element itself (true).
    pub inclusive: Option<bool>,
}

/// Of `cumsum` and `cumprod`.
#[napi(object, object_to_js = false)]
pub struct CumulativeOptions {
    /// Runs from the end (false).
    pub reverse: Option<bool>,
    /// Counts the element itself (true).
    pub inclusive: Option<bool>,
    /// The dtype to compute in, that of `a` unless named; the running sum of booleans is int32.
    pub dtype: Option<DtypeName>,
}

/// The array to scan and its axis: the elements in row-major order without one.
fn scanned(array: &Array, axis: Option<f64>) -> Result<(Array, i32)> {
    match axis {
        Some(axis) => Ok((array.clone(), integer("axis", axis)?)),
        None => Ok((array.flatten()?, 0)),
    }
}

macro_rules! scans {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", catch_unwind)]
        pub fn $name(a: ArrayHandle, axis: Option<f64>, options: Option<ScanOptions>) -> js::Result<ArrayHandle> {
            let (array, axis) = scanned(&a, axis)?;
            let (reverse, inclusive) = options.map_or((None, None), |options| (options.reverse, options.inclusive));
            Ok(array.$name(axis, reverse.unwrap_or(false), inclusive.unwrap_or(true))?.into())
        }
    )* };
}

macro_rules! cumulatives {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", catch_unwind)]
        pub fn $name(a: ArrayHandle, axis: Option<f64>, options: Option<CumulativeOptions>) -> js::Result<ArrayHandle> {
            let (array, axis) = scanned(&a, axis)?;
            let options = options.unwrap_or(CumulativeOptions { reverse: None, inclusive: None, dtype: None });
            let array = array.astype(DtypeName::or(options.dtype, array.dtype())?)?;
            Ok(array.$name(axis, options.reverse.unwrap_or(false), options.inclusive.unwrap_or(true))?.into())
        }
    )* };
}

scans! {
    /// The largest value so far along an axis, or of the elements in row-major order.
    cummax,
    /// The smallest value so far along an axis, or of the elements in row-major order.
    cummin,
    /// The logarithm of the running sum of exponentials along an axis, or of the elements in row-major order.
    logcumsumexp,
}

cumulatives! {
    /// The running sum along an axis, or of the elements in row-major order.
    cumsum,
    /// The running product along an axis, or of the elements in row-major order.
    cumprod,
}

/// `a - logsumexp(a)` over an axis (-1).
#[napi(namespace = "ops", catch_unwind)]
pub fn log_softmax(a: ArrayHandle, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.log_softmax(integer_or("axis", axis, -1)?)?.into())
}

/// Of `softmax`.
#[napi(object, object_to_js = false)]
pub struct SoftmaxOptions {
    /// Accumulates half precision in float32 (false).
    pub precise: Option<bool>,
}

/// `exp(a) / sum(exp(a))` over the given axes, or all of them.
#[napi(namespace = "ops", catch_unwind)]
pub fn softmax(a: ArrayHandle, axes: Option<Either<f64, Vec<f64>>>, options: Option<SoftmaxOptions>) -> js::Result<ArrayHandle> {
    let precise = options.and_then(|options| options.precise).unwrap_or(false);
    Ok(a.softmax_axes(&axes_of(&a, axes)?, precise)?.into())
}

/// The `n`-th (1) difference of neighbours along an axis (-1), which becomes shorter by `n`.
#[napi(namespace = "ops", catch_unwind)]
pub fn diff(a: ArrayHandle, n: Option<f64>, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.diff(integer_or("n", n, 1)?, integer_or("axis", axis, -1)?)?.into())
}
