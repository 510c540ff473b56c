//! Operations on each element.

use napi_derive::napi;

use super::{ArrayHandle, DtypeName, Operand};
use crate::mlx::ops;
use crate::node::error as js;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", catch_unwind)]
        pub fn $name(a: ArrayHandle) -> js::Result<ArrayHandle> {
            Ok(a.$name()?.into())
        }
    )* };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", catch_unwind)]
        pub fn $name(a: Operand, b: Operand) -> js::Result<ArrayHandle> {
            let (a, b) = Operand::pair(a, b)?;
            Ok(a.$name(&b)?.into())
        }
    )* };
}

unary! {
    /// The absolute value.
    abs,
    /// `-a`.
    negative,
    /// -1, 0 or 1.
    sign,
    square,
    sqrt,
    /// `1 / sqrt(a)`.
    rsqrt,
    /// `1 / a`.
    reciprocal,
    exp,
    /// `exp(a) - 1`, exact near 0.
    expm1,
    /// The natural logarithm.
    log,
    log2,
    log10,
    /// `log(1 + a)`, exact near 0.
    log1p,
    sin,
    cos,
    tan,
    sinh,
    cosh,
    tanh,
    arcsin,
    arccos,
    arctan,
    /// `1 / (1 + exp(-a))`.
    sigmoid,
    /// The error function.
    erf,
    floor,
    ceil,
    isnan,
    isinf,
    isfinite,
    logical_not,
    /// `a · sigmoid(a)`.
    silu,
    /// The same values, with no gradient flowing through.
    stop_gradient,
}

binary! {
    /// `a + b`, broadcast.
    add,
    /// `a - b`, broadcast.
    subtract,
    /// `a · b` element by element, broadcast.
    multiply,
    /// `a / b`, broadcast; integers give float32.
    divide,
    /// `a` to the power of `b`.
    power,
    floor_divide,
    /// The remainder with the sign of `b`.
    remainder,
    minimum,
    maximum,
    /// `log(exp(a) + exp(b))`.
    logaddexp,
    equal,
    not_equal,
    less,
    less_equal,
    greater,
    greater_equal,
    logical_and,
    logical_or,
}

/// Another dtype, the values converted.
#[napi(namespace = "ops", catch_unwind)]
pub fn astype(a: ArrayHandle, dtype: DtypeName) -> js::Result<ArrayHandle> {
    Ok(a.astype(dtype.parse()?)?.into())
}

/// `x` where `condition` holds, else `y`; all broadcast.
#[napi(namespace = "ops", js_name = "where", catch_unwind)]
pub fn where_(condition: ArrayHandle, x: ArrayHandle, y: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(ops::where_(&condition, &x, &y)?.into())
}
