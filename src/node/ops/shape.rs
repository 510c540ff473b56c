//! Views, joins and splits.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, integer_or, integers, some_axes};
use crate::mlx::ops;
use crate::node::error as js;

/// Another shape of the same elements. One size may be -1: it takes what the others leave.
#[napi(namespace = "ops", catch_unwind)]
pub fn reshape(a: ArrayHandle, shape: Vec<f64>) -> js::Result<ArrayHandle> {
    Ok(a.reshape(&integers("shape", &shape)?)?.into())
}

/// All axes reversed, or in the order given.
#[napi(namespace = "ops", catch_unwind)]
pub fn transpose(a: ArrayHandle, axes: Option<Vec<f64>>) -> js::Result<ArrayHandle> {
    Ok(match axes {
        Some(axes) => a.transpose(&integers("axes", &axes)?)?,
        None => a.t()?,
    }
    .into())
}

/// New axes of size 1.
#[napi(namespace = "ops", catch_unwind)]
pub fn expand_dims(a: ArrayHandle, axes: Either<f64, Vec<f64>>) -> js::Result<ArrayHandle> {
    Ok(a.expand_dims(&some_axes(axes)?)?.into())
}

/// Without the given axes, which have size 1.
#[napi(namespace = "ops", catch_unwind)]
pub fn squeeze(a: ArrayHandle, axes: Either<f64, Vec<f64>>) -> js::Result<ArrayHandle> {
    Ok(a.squeeze(&some_axes(axes)?)?.into())
}

/// Repeated along axes of size 1 and new leading axes, without a copy.
#[napi(namespace = "ops", catch_unwind)]
pub fn broadcast_to(a: ArrayHandle, shape: Vec<f64>) -> js::Result<ArrayHandle> {
    Ok(a.broadcast_to(&integers("shape", &shape)?)?.into())
}

/// Joined along an existing axis (0).
#[napi(namespace = "ops", catch_unwind)]
pub fn concatenate(arrays: Vec<ArrayHandle>, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(ops::concatenate(&arrays, integer_or("axis", axis, 0)?)?.into())
}

/// Joined along a new axis (0).
#[napi(namespace = "ops", catch_unwind)]
pub fn stack(arrays: Vec<ArrayHandle>, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(ops::stack(&arrays, integer_or("axis", axis, 0)?)?.into())
}
