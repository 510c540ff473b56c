//! Reading parts of an array.

use napi_derive::napi;

use super::{ArrayHandle, integer};
use crate::node::error as js;

/// Elements at `indices` along an axis, one for each position; `indices` has the rank of `a`.
#[napi(namespace = "ops", catch_unwind)]
pub fn take_along_axis(a: ArrayHandle, indices: ArrayHandle, axis: f64) -> js::Result<ArrayHandle> {
    Ok(a.take_along_axis(&indices, integer("axis", axis)?)?.into())
}
