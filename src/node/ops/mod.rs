//! Operations on arrays, by family as in `mlx/ops`. `scripts/array-api.mjs` writes the TypeScript functions and methods from these
//! declarations: a function whose first parameter is called `a` is also a method of `MxArray`.

mod create;
mod elementwise;
mod index;
mod matrix;
mod random;
mod reduction;
mod shape;
mod slice;
mod sort;

use napi::bindgen_prelude::Either;

use super::{ArrayHandle, DtypeName, FlatAxis, Indices, Operand, RandomKey, integer, integers};
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
