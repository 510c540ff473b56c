//! Operations on each element.

use napi_derive::napi;

use super::{ArrayHandle, DtypeName, Operand, integer_or};
use crate::mlx::{Array, ops, transforms};
use crate::node::direct;
use crate::node::error as js;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", catch_unwind)]
        pub fn $name(a: ArrayHandle) -> js::Result<ArrayHandle> {
            Ok(a.$name()?.into())
        }
    )*
        pub(in crate::node) const UNARY: &[(&str, direct::Unary)] = &[$((stringify!($name), Array::$name)),*];
    };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", catch_unwind)]
        pub fn $name(a: Operand, b: Operand) -> js::Result<ArrayHandle> {
            let (a, b) = Operand::pair(a, b)?;
            Ok(a.$name(&b)?.into())
        }
    )*
        pub(in crate::node) const BINARY: &[(&str, direct::Binary)] = &[$((stringify!($name), Array::$name)),*];
    };
}

unary! {
    /// The absolute value; of complex numbers the modulus.
    abs,
    /// `-a`.
    negative,
    /// `a` itself; refuses bool.
    positive,
    /// -1, 0 or 1.
    sign,
    /// `a · a`.
    square,
    /// The square root.
    sqrt,
    /// `1 / sqrt(a)`.
    rsqrt,
    /// `1 / a`.
    reciprocal,
    /// `e` to the power of `a`.
    exp,
    /// `exp(a) - 1`, exact near 0.
    expm1,
    /// The natural logarithm.
    log,
    /// The logarithm to base 2.
    log2,
    /// The logarithm to base 10.
    log10,
    /// The sine of an angle in radians.
    sin,
    /// The cosine of an angle in radians.
    cos,
    /// The tangent of an angle in radians.
    tan,
    /// The hyperbolic sine.
    sinh,
    /// The hyperbolic cosine.
    cosh,
    /// The hyperbolic tangent.
    tanh,
    /// The inverse sine, in radians.
    arcsin,
    /// The inverse cosine, in radians.
    arccos,
    /// The inverse tangent, in radians.
    arctan,
    /// The inverse hyperbolic sine.
    arcsinh,
    /// The inverse hyperbolic cosine.
    arccosh,
    /// The inverse hyperbolic tangent.
    arctanh,
    /// Radians in degrees.
    degrees,
    /// Degrees in radians.
    radians,
    /// `1 / (1 + exp(-a))`.
    sigmoid,
    /// The error function.
    erf,
    /// The inverse of the error function.
    erfinv,
    /// Rounded down.
    floor,
    /// Rounded up.
    ceil,
    /// Rounded towards 0.
    trunc,
    /// Where `a` is NaN (bool).
    isnan,
    /// Where `a` is infinite (bool).
    isinf,
    /// Where `a` is positive infinity (bool).
    isposinf,
    /// Where `a` is negative infinity (bool).
    isneginf,
    /// Where `a` is neither infinite nor NaN (bool).
    isfinite,
    /// Where `a` is 0 (bool).
    logical_not,
    /// All bits flipped.
    bitwise_invert,
    /// The complex conjugate.
    conjugate,
    /// The real part.
    real,
    /// The imaginary part.
    imag,
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
    /// `a` to the power of `b`, broadcast. An integer to a negative power is 0.
    power,
    /// `a / b` rounded down, broadcast. Integers divided by 0 give 0.
    floor_divide,
    /// The remainder of `floorDivide`, with the sign of `b`. Integers divided by 0 give 0.
    remainder,
    /// The smaller of two values, broadcast; NaN if one is.
    minimum,
    /// The larger of two values, broadcast; NaN if one is.
    maximum,
    /// `log(exp(a) + exp(b))`, broadcast.
    logaddexp,
    /// The angle (radians, -π to π) of the point with the ordinate `a` and the abscissa `b`.
    arctan2,
    /// Where `a = b` (bool), broadcast.
    equal,
    /// Where `a ≠ b` (bool), broadcast.
    not_equal,
    /// Where `a < b` (bool), broadcast.
    less,
    /// Where `a ≤ b` (bool), broadcast.
    less_equal,
    /// Where `a > b` (bool), broadcast.
    greater,
    /// Where `a ≥ b` (bool), broadcast.
    greater_equal,
    /// Where both are not 0 (bool), broadcast.
    logical_and,
    /// Where one is not 0 (bool), broadcast.
    logical_or,
    /// Where exactly one is not 0 (bool), broadcast.
    logical_xor,
    /// The bits that both have, broadcast.
    bitwise_and,
    /// The bits that one has, broadcast.
    bitwise_or,
    /// The bits that exactly one has, broadcast.
    bitwise_xor,
    /// Bits moved up by `b` places, broadcast; by less than 0 or by the width and more the result is not defined.
    left_shift,
    /// Bits moved down by `b` places, broadcast; signed numbers keep their sign.
    right_shift,
}

/// `log(1 + a)`, exact near 0.
#[napi(namespace = "ops", js_name = "log1p", catch_unwind)]
pub fn log1p(a: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.log1p()?.into())
}

/// The complex conjugate.
#[napi(namespace = "ops", catch_unwind)]
pub fn conj(a: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.conjugate()?.into())
}

/// `[floorDivide(a, b), remainder(a, b)]`.
#[napi(namespace = "ops", ts_return_type = "[ArrayHandle, ArrayHandle]", catch_unwind)]
pub fn divmod(a: Operand, b: Operand) -> js::Result<Vec<ArrayHandle>> {
    let (a, b) = Operand::pair(a, b)?;
    let (quotient, remainder) = a.divmod(&b)?;
    Ok(vec![quotient.into(), remainder.into()])
}

/// Another dtype, the values converted.
#[napi(namespace = "ops", catch_unwind)]
pub fn astype(a: ArrayHandle, dtype: DtypeName) -> js::Result<ArrayHandle> {
    Ok(a.astype(dtype.parse()?)?.into())
}

/// Rounded to a number of decimals (0), halves to even.
#[napi(namespace = "ops", catch_unwind)]
pub fn round(a: ArrayHandle, decimals: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.round(integer_or("decimals", decimals, 0)?)?.into())
}

/// Values below `aMin` and above `aMax` become the bound; null leaves that side open. The bounds are broadcast.
#[napi(namespace = "ops", catch_unwind)]
pub fn clip(a: ArrayHandle, a_min: Option<ArrayHandle>, a_max: Option<ArrayHandle>) -> js::Result<ArrayHandle> {
    Ok(a.clip_array(a_min.as_deref(), a_max.as_deref())?.into())
}

/// NaN becomes `nan` (0), the infinities `posinf` and `neginf` (the largest and smallest number of the dtype).
#[napi(namespace = "ops", catch_unwind)]
pub fn nan_to_num(a: ArrayHandle, nan: Option<f64>, posinf: Option<f64>, neginf: Option<f64>) -> js::Result<ArrayHandle> {
    let float = |value: f64| value as f32;
    Ok(a.nan_to_num(nan.map_or(0., float), posinf.map(float), neginf.map(float))?.into())
}

/// `x` where `condition` holds, else `y`; all broadcast.
#[napi(namespace = "ops", js_name = "where", catch_unwind)]
pub fn where_(condition: ArrayHandle, x: ArrayHandle, y: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(ops::where_(&condition, &x, &y)?.into())
}

/// Of `isclose` and `allclose`.
#[napi(object, object_to_js = false)]
pub struct CloseOptions {
    /// Whether NaN equals NaN (false).
    pub equal_nan: Option<bool>,
}

fn equal_nan(options: Option<CloseOptions>) -> bool {
    options.and_then(|options| options.equal_nan).unwrap_or(false)
}

/// Where `|a - b| ≤ atol + rtol · |b|` (bool), broadcast; `rtol` is 1e-5 and `atol` 1e-8 unless given.
#[napi(namespace = "ops", catch_unwind)]
pub fn isclose(
    a: Operand,
    b: Operand,
    rtol: Option<f64>,
    atol: Option<f64>,
    options: Option<CloseOptions>,
) -> js::Result<ArrayHandle> {
    let (a, b) = Operand::pair(a, b)?;
    Ok(a.isclose(&b, rtol.unwrap_or(1e-5), atol.unwrap_or(1e-8), equal_nan(options))?.into())
}

/// Whether `isclose` holds everywhere (bool scalar).
#[napi(namespace = "ops", catch_unwind)]
pub fn allclose(
    a: Operand,
    b: Operand,
    rtol: Option<f64>,
    atol: Option<f64>,
    options: Option<CloseOptions>,
) -> js::Result<ArrayHandle> {
    let (a, b) = Operand::pair(a, b)?;
    Ok(a.allclose(&b, rtol.unwrap_or(1e-5), atol.unwrap_or(1e-8), equal_nan(options))?.into())
}

/// Whether shapes and elements are equal (bool scalar); with `equalNan` NaN equals NaN.
#[napi(namespace = "ops", catch_unwind)]
pub fn array_equal(a: Operand, b: Operand, equal_nan: Option<bool>) -> js::Result<ArrayHandle> {
    let (a, b) = Operand::pair(a, b)?;
    Ok(a.array_equal(&b, equal_nan.unwrap_or(false))?.into())
}

/// The same arrays, computed only after `dependencies`: for effects that must come first.
#[napi(namespace = "ops", catch_unwind)]
pub fn depends(inputs: Vec<ArrayHandle>, dependencies: Vec<ArrayHandle>) -> js::Result<Vec<ArrayHandle>> {
    let inputs: Vec<Array> = inputs.iter().map(|array| Array::clone(array)).collect();
    let dependencies: Vec<Array> = dependencies.iter().map(|array| Array::clone(array)).collect();
    Ok(transforms::depends(&inputs, &dependencies)?.into_iter().map(ArrayHandle::from).collect())
}
