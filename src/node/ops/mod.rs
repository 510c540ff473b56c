//! Operations on arrays, by family as in `mlx/ops`. `scripts/array-api.mjs` writes the TypeScript functions and methods from these
//! declarations: a function whose first parameter is called `a` is also a method of `MxArray`.

mod conv;
mod create;
pub(super) mod elementwise;
mod fast;
mod fft;
mod index;
mod linalg;
mod matrix;
mod quantized;
mod random;
mod reduction;
mod shape;
mod slice;
mod sort;

use napi::bindgen_prelude::Either;

use super::{ArrayHandle, DtypeName, FlatAxis, Indices, NumberOrArray, Operand, RandomKey, integer, integers};
use crate::mlx::{Array, Result};

// Signatures spell types out: napi does not look behind an alias when it writes the declarations.

/// One axis, several, or all of them.
fn axes_of(array: &Array, axes: Option<Either<f64, Vec<f64>>>) -> Result<Vec<i32>> {
    match axes {
        None => Ok((0..array.ndim() as i32).collect()),
        Some(axes) => some_axes(axes),
    }
}

fn some_axes(axes: Either<f64, Vec<f64>>) -> Result<Vec<i32>> {
    list_of("axes", axes)
}

/// Several whole numbers, or one that stands for a list of it.
fn list_of(what: &str, values: Either<f64, Vec<f64>>) -> Result<Vec<i32>> {
    match values {
        Either::A(value) => Ok(vec![integer(what, value)?]),
        Either::B(values) => integers(what, &values),
    }
}

/// A size, count or offset; `default` when it is not given.
fn integer_or(what: &str, value: Option<f64>, default: i32) -> Result<i32> {
    value.map_or(Ok(default), |value| integer(what, value))
}

/// Sizes or axes that may be absent.
fn optional_integers(what: &str, values: Option<Vec<f64>>) -> Result<Option<Vec<i32>>> {
    values.map(|values| integers(what, &values)).transpose()
}

/// A size, count or offset that may be absent.
fn optional_integer(what: &str, value: Option<f64>) -> Result<Option<i32>> {
    value.map(|value| integer(what, value)).transpose()
}
