//! Order.

use napi_derive::napi;

use super::{ArrayHandle, integer_or};
use crate::node::error as js;

/// Ascending along an axis (-1).
#[napi(namespace = "ops", catch_unwind)]
pub fn sort(a: ArrayHandle, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.sort(integer_or("axis", axis, -1)?)?.into())
}

/// The indices (uint32) that sort along an axis (-1).
#[napi(namespace = "ops", catch_unwind)]
pub fn argsort(a: ArrayHandle, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.argsort(integer_or("axis", axis, -1)?)?.into())
}
