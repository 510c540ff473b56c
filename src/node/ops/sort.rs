//! Order. An axis of null stands for the elements in row-major order.

use napi_derive::napi;

use super::{ArrayHandle, FlatAxis, integer};
use crate::node::error as js;

/// Ascending along an axis (-1; null: all elements in row-major order); equal values keep their order.
#[napi(namespace = "ops", catch_unwind)]
pub fn sort(a: ArrayHandle, axis: FlatAxis) -> js::Result<ArrayHandle> {
    let (array, axis) = axis.of(&a, -1)?;
    Ok(array.sort(axis)?.into())
}

/// The indices (uint32) that sort along an axis (-1; null: all elements in row-major order).
#[napi(namespace = "ops", catch_unwind)]
pub fn argsort(a: ArrayHandle, axis: FlatAxis) -> js::Result<ArrayHandle> {
    let (array, axis) = axis.of(&a, -1)?;
    Ok(array.argsort(axis)?.into())
}

/// The `kth` smallest along an axis (-1; null: of all elements) in its sorted place, smaller ones before it, larger ones behind it.
#[napi(namespace = "ops", catch_unwind)]
pub fn partition(a: ArrayHandle, kth: f64, axis: FlatAxis) -> js::Result<ArrayHandle> {
    let (array, axis) = axis.of(&a, -1)?;
    Ok(array.partition(integer("kth", kth)?, axis)?.into())
}

/// The indices (uint32) that partition along an axis (-1; null: all elements in row-major order).
#[napi(namespace = "ops", catch_unwind)]
pub fn argpartition(a: ArrayHandle, kth: f64, axis: FlatAxis) -> js::Result<ArrayHandle> {
    let (array, axis) = axis.of(&a, -1)?;
    Ok(array.argpartition(integer("kth", kth)?, axis)?.into())
}

/// The `k` largest values along an axis (-1; null: of all elements), in no defined order.
#[napi(namespace = "ops", catch_unwind)]
pub fn topk(a: ArrayHandle, k: f64, axis: FlatAxis) -> js::Result<ArrayHandle> {
    let (array, axis) = axis.of(&a, -1)?;
    Ok(array.topk(integer("k", k)?, axis)?.into())
}

/// Where each of `values` would be inserted (uint32, of their shape) into this sorted vector: before its equals, or after them with
/// `side` `right`.
#[napi(namespace = "ops", catch_unwind)]
pub fn searchsorted(a: ArrayHandle, values: ArrayHandle, side: Option<String>) -> js::Result<ArrayHandle> {
    Ok(a.searchsorted(&values, side.as_deref().unwrap_or("left"))?.into())
}

/// What `unique` finds.
#[napi(object, object_from_js = false)]
pub struct UniqueResult {
    /// The distinct elements, ascending, of the array's dtype.
    pub values: ArrayHandle,
    /// Where each first stands among the elements in row-major order, uint32.
    pub index: ArrayHandle,
    /// The place of each element in `values`, uint32, of the array's shape: `values.take(inverse)` is the array again.
    pub inverse: ArrayHandle,
    /// How many elements have each value, int32; 0 for those that fill up.
    pub counts: ArrayHandle,
}

/// Of `unique`.
#[napi(object, object_to_js = false)]
pub struct UniqueOptions {
    /// What stands for values that are missing; the smallest one unless told. An array without elements needs it.
    pub fill_value: Option<ArrayHandle>,
}

/// The smallest `size` distinct elements, ascending, with their first places, their counts and the way back; all lazy. The size
/// does not depend on the values: missing ones are filled up, and of more, those left out count as the last one in `inverse`. NaNs are
/// not equal to each other.
#[napi(namespace = "ops", catch_unwind)]
pub fn unique(a: ArrayHandle, size: f64, options: UniqueOptions) -> js::Result<UniqueResult> {
    let found = a.unique(integer("size", size)?, options.fill_value.as_deref())?;
    Ok(UniqueResult {
        values: found.values.into(),
        index: found.index.into(),
        inverse: found.inverse.into(),
        counts: found.counts.into(),
    })
}
