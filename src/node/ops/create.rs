//! New arrays from shapes and ranges, and diagonals.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, DtypeName, Operand, integer, integer_or, list_of};
use crate::mlx::{Dtype, ops};
use crate::node::error as js;

/// Zeros of a shape (a number: a vector of that length), float32 unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn zeros(shape: Either<f64, Vec<f64>>, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    Ok(ops::zeros(&list_of("shape", shape)?, DtypeName::or(dtype, Dtype::Float32)?)?.into())
}

/// Ones of a shape (a number: a vector of that length), float32 unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn ones(shape: Either<f64, Vec<f64>>, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    Ok(ops::ones(&list_of("shape", shape)?, DtypeName::or(dtype, Dtype::Float32)?)?.into())
}

/// A shape (a number: a vector of that length) filled with a number, in float32 unless named, or with an array's values, broadcast,
/// in its dtype unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn full(shape: Either<f64, Vec<f64>>, vals: Operand, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    let named = dtype.map(|dtype| dtype.parse()).transpose()?;
    let values = vals.alone(named.unwrap_or(Dtype::Float32))?;
    Ok(ops::full_array(&list_of("shape", shape)?, &values, named.unwrap_or(values.dtype()))?.into())
}

/// Zeros of an array's shape, in its dtype unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn zeros_like(a: ArrayHandle, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    Ok(ops::zeros(a.shape(), DtypeName::or(dtype, a.dtype())?)?.into())
}

/// Ones of an array's shape, in its dtype unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn ones_like(a: ArrayHandle, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    Ok(ops::ones(a.shape(), DtypeName::or(dtype, a.dtype())?)?.into())
}

/// An array's shape filled with a number or another array's values, broadcast; in the first array's dtype unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn full_like(a: ArrayHandle, vals: Operand, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    let dtype = DtypeName::or(dtype, a.dtype())?;
    Ok(ops::full_array(a.shape(), &vals.alone(dtype)?, dtype)?.into())
}

/// `[start, stop)` in steps (1); `arange(stop)` starts at 0. Whole numbers give int32, or int64 where they need it, others float32,
/// unless a dtype is named.
#[napi(namespace = "ops", catch_unwind)]
pub fn arange(start: f64, stop: Option<f64>, step: Option<f64>, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    let (start, stop) = stop.map_or((0., start), |stop| (start, stop));
    let step = step.unwrap_or(1.);
    let all = |test: fn(f64) -> bool| [start, stop, step].into_iter().all(test);
    let default = match (all(|value| value.fract() == 0.), all(|value| value.abs() < 2_147_483_648.)) {
        (true, true) => Dtype::Int32,
        (true, false) => Dtype::Int64,
        _ => Dtype::Float32,
    };
    Ok(ops::arange(start, stop, step, DtypeName::or(dtype, default)?)?.into())
}

/// Of `linspace`.
#[napi(object, object_to_js = false)]
pub struct LinspaceOptions {
    /// Whether `stop` is the last value (true), or comes one step after it.
    pub endpoint: Option<bool>,
    /// float32 unless named.
    pub dtype: Option<DtypeName>,
}

/// `num` (50) values from `start` to `stop`, evenly spaced.
#[napi(namespace = "ops", catch_unwind)]
pub fn linspace(start: f64, stop: f64, num: Option<f64>, options: Option<LinspaceOptions>) -> js::Result<ArrayHandle> {
    let count = integer_or("num", num, 50)?;
    let (endpoint, dtype) = options.map_or((None, None), |options| (options.endpoint, options.dtype));
    let dtype = DtypeName::or(dtype, Dtype::Float32)?;
    Ok(ops::linspace_endpoint(start, stop, count, endpoint.unwrap_or(true), dtype)?.into())
}

/// Ones on the `k`-th diagonal (0) of an `n` by `m` (`n`) matrix, float32 unless named; 0 elsewhere.
#[napi(namespace = "ops", catch_unwind)]
pub fn eye(n: f64, m: Option<f64>, k: Option<f64>, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    let rows = integer("n", n)?;
    let dtype = DtypeName::or(dtype, Dtype::Float32)?;
    Ok(ops::eye(rows, integer_or("m", m, rows)?, integer_or("k", k, 0)?, dtype)?.into())
}

/// The identity matrix `[n, n]`, float32 unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn identity(n: f64, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    Ok(ops::identity(integer("n", n)?, DtypeName::or(dtype, Dtype::Float32)?)?.into())
}

/// Ones on and below the `k`-th diagonal (0) of an `n` by `m` (`n`) matrix, float32 unless named; 0 above.
#[napi(namespace = "ops", catch_unwind)]
pub fn tri(n: f64, m: Option<f64>, k: Option<f64>, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    let rows = integer("n", n)?;
    let dtype = DtypeName::or(dtype, Dtype::Float32)?;
    Ok(ops::tri(rows, integer_or("m", m, rows)?, integer_or("k", k, 0)?, dtype)?.into())
}

/// What lies on and below the `k`-th diagonal (0) of the last two axes; 0 above.
#[napi(namespace = "ops", catch_unwind)]
pub fn tril(a: ArrayHandle, k: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.tril(integer_or("k", k, 0)?)?.into())
}

/// What lies on and above the `k`-th diagonal (0) of the last two axes; 0 below.
#[napi(namespace = "ops", catch_unwind)]
pub fn triu(a: ArrayHandle, k: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.triu(integer_or("k", k, 0)?)?.into())
}

/// The `k`-th diagonal (0) of a matrix, or a matrix with this vector as its `k`-th diagonal.
#[napi(namespace = "ops", catch_unwind)]
pub fn diag(a: ArrayHandle, k: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.diag(integer_or("k", k, 0)?)?.into())
}

/// The diagonal, `offset` (0) beside the main one, of two axes (0 and 1); it becomes the last axis.
#[napi(namespace = "ops", catch_unwind)]
pub fn diagonal(a: ArrayHandle, offset: Option<f64>, axis1: Option<f64>, axis2: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.diagonal(integer_or("offset", offset, 0)?, integer_or("axis1", axis1, 0)?, integer_or("axis2", axis2, 1)?)?.into())
}

/// The sum of the diagonal, `offset` (0) beside the main one, of two axes (0 and 1); in `dtype`, or as `sum` chooses.
#[napi(namespace = "ops", catch_unwind)]
pub fn trace(
    a: ArrayHandle,
    offset: Option<f64>,
    axis1: Option<f64>,
    axis2: Option<f64>,
    dtype: Option<DtypeName>,
) -> js::Result<ArrayHandle> {
    let (axis1, axis2) = (integer_or("axis1", axis1, 0)?, integer_or("axis2", axis2, 1)?);
    let dtype = dtype.map(|dtype| dtype.parse()).transpose()?;
    Ok(a.trace(integer_or("offset", offset, 0)?, axis1, axis2, dtype)?.into())
}

macro_rules! windows {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", catch_unwind)]
        pub fn $name(count: f64) -> js::Result<ArrayHandle> {
            Ok(ops::$name(integer("count", count)?)?.into())
        }
    )* };
}

windows! {
    /// The Bartlett window of `count` points, a triangle: `1 - |2n / (count - 1) - 1|`; float32.
    bartlett,
    /// The Blackman window of `count` points: `0.42 - 0.5 cos(2πn / (count - 1)) + 0.08 cos(4πn / (count - 1))`; float32.
    blackman,
    /// The Hamming window of `count` points: `0.54 - 0.46 cos(2πn / (count - 1))`; float32.
    hamming,
    /// The Hann window of `count` points: `0.5 - 0.5 cos(2πn / (count - 1))`; float32.
    hanning,
}

/// Of `meshgrid`.
#[napi(object, object_to_js = false)]
pub struct MeshgridOptions {
    /// Leaves the results unbroadcast: each has size 1 on the axes of the others (false).
    pub sparse: Option<bool>,
    /// `xy` (the default; the first two axes are swapped, as for plots) or `ij`.
    pub indexing: Option<String>,
}

/// Coordinate arrays of several vectors: one axis for each.
#[napi(namespace = "ops", catch_unwind)]
pub fn meshgrid(arrays: Vec<ArrayHandle>, options: Option<MeshgridOptions>) -> js::Result<Vec<ArrayHandle>> {
    let (sparse, indexing) = options.map_or((None, None), |options| (options.sparse, options.indexing));
    let grids = ops::meshgrid(&arrays, sparse.unwrap_or(false), indexing.as_deref().unwrap_or("xy"))?;
    Ok(grids.into_iter().map(ArrayHandle::from).collect())
}
