//! Reading and writing at indices. Indices that come as plain data are checked; those in arrays are not looked at before evaluation:
//! negative ones count from the end, and what then lies outside moves to the nearest place.

use napi_derive::napi;

use super::{ArrayHandle, FlatAxis, Indices, integer, integers};
use crate::mlx::{Array, Error, Result};
use crate::node::error as js;

/// The size of an axis, 0 for one that the operation itself will refuse.
fn size_of(array: &Array, axis: i32) -> i32 {
    let place = if axis < 0 { axis + array.ndim() as i32 } else { axis };
    usize::try_from(place).ok().and_then(|place| array.shape().get(place).copied()).unwrap_or(0)
}

/// Indices along an axis of an array that has it.
fn along<'a>(op: &str, array: &Array, indices: &'a Indices, axis: i32) -> Result<&'a Array> {
    let ndim = array.ndim() as i32;
    if axis < -ndim || axis >= ndim {
        return Err(Error::Shape(format!("{op}: axis {axis} is not one of a {ndim}-dimensional array")));
    }
    indices.within(op, size_of(array, axis), 1)
}

/// Slices at `indices` along an axis, whose place their shape takes; of the elements in row-major order without an axis. Indices in
/// plain numbers must exist; those in arrays are moved to the nearest place.
#[napi(namespace = "ops", catch_unwind)]
pub fn take(a: ArrayHandle, indices: Indices, axis: Option<f64>) -> js::Result<ArrayHandle> {
    let (array, axis) = match axis {
        Some(axis) => (Array::clone(&a), integer("axis", axis)?),
        None => (a.flatten()?, 0),
    };
    let indices = along("take", &array, &indices, axis)?;
    Ok(array.take_bounded(indices, axis)?.into())
}

/// Elements at `indices` along an axis (-1; null: of both, in row-major order), one for each position; `indices` has the rank of
/// `a` and is broadcast with its other axes. Indices in plain numbers must exist; those in arrays are moved to the nearest place.
#[napi(namespace = "ops", catch_unwind)]
pub fn take_along_axis(a: ArrayHandle, indices: Indices, axis: FlatAxis) -> js::Result<ArrayHandle> {
    let (array, place) = axis.of(&a, -1)?;
    let indices = along("takeAlongAxis", &array, &indices, place)?;
    Ok(match axis.or(-1)? {
        Some(_) => array.take_along_axis_bounded(indices, place)?,
        None => array.take_along_axis_bounded(&indices.flatten()?, 0)?,
    }
    .into())
}

/// A copy with `values`, broadcast to `indices`, written at `indices` along an axis; without an axis at places in row-major order.
/// Of several values at one place any may win. Indices in plain numbers must exist; those in arrays are moved to the nearest place.
#[napi(namespace = "ops", catch_unwind)]
pub fn put_along_axis(a: ArrayHandle, indices: Indices, values: ArrayHandle, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(match axis {
        Some(axis) => {
            let axis = integer("axis", axis)?;
            a.put_along_axis_bounded(along("putAlongAxis", &a, &indices, axis)?, &values, axis)?
        }
        None => {
            let flat = a.flatten()?;
            let indices = along("putAlongAxis", &flat, &indices, 0)?;
            let values = values.broadcast_to(indices.shape())?.flatten()?;
            flat.put_along_axis_bounded(&indices.flatten()?, &values, 0)?.reshape(a.shape())?
        }
    }
    .into())
}

/// A copy with `values`, broadcast to `indices`, added at `indices` along an axis; what comes twice is added twice. Indices in plain
/// numbers must exist; those in arrays are moved to the nearest place.
#[napi(namespace = "ops", catch_unwind)]
pub fn scatter_add_axis(a: ArrayHandle, indices: Indices, values: ArrayHandle, axis: f64) -> js::Result<ArrayHandle> {
    let axis = integer("axis", axis)?;
    Ok(a.scatter_add_axis_bounded(along("scatterAddAxis", &a, &indices, axis)?, &values, axis)?.into())
}

/// The index arrays of a gather or scatter of slices of `lengths`.
fn checked(op: &str, array: &Array, indices: &[Indices], axes: &[i32], lengths: &[i32]) -> Result<Vec<Array>> {
    if indices.len() != axes.len() {
        return Err(Error::Shape(format!("{op}: {} axes are named for {} index arrays", axes.len(), indices.len())));
    }
    let place = |axis: i32| usize::try_from(if axis < 0 { axis + array.ndim() as i32 } else { axis }).unwrap_or(usize::MAX);
    indices
        .iter()
        .zip(axes)
        .map(|(indices, &axis)| {
            let length = lengths.get(place(axis)).copied().unwrap_or(1);
            indices.within(op, size_of(array, axis), length).cloned()
        })
        .collect()
}

/// Slices of `sliceSizes` (one size for each axis of `a`) that begin at `indices[i]` on `axes[i]`, and at 0 on other axes. The result has
/// the shape that the indices broadcast to, then the slice sizes. Indices in plain numbers must fit; those in arrays are moved to
/// the nearest place.
#[napi(namespace = "ops", catch_unwind)]
pub fn gather(a: ArrayHandle, indices: Vec<Indices>, axes: Vec<f64>, slice_sizes: Vec<f64>) -> js::Result<ArrayHandle> {
    let (axes, lengths) = (integers("axes", &axes)?, integers("sliceSizes", &slice_sizes)?);
    let indices = checked("gather", &a, &indices, &axes, &lengths)?;
    Ok(a.gather(&indices, &axes, &lengths)?.into())
}

macro_rules! scatters {
    ($($(#[$doc:meta])* $name:ident $js:literal),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "ops", js_name = $js, catch_unwind)]
        pub fn $name(a: ArrayHandle, indices: Vec<Indices>, updates: ArrayHandle, axes: Vec<f64>) -> js::Result<ArrayHandle> {
            let axes = integers("axes", &axes)?;
            let given = updates.shape();
            let lengths = &given[given.len().saturating_sub(a.ndim())..];
            let indices = checked($js, &a, &indices, &axes, lengths)?;
            Ok(a.$name(&indices, &updates, &axes)?.into())
        }
    )* };
}

scatters! {
    /// A copy with slices replaced: `updates` has the shape that the indices broadcast to, then a size for each axis of `a`; the slices begin at `indices[i]` on `axes[i]`. Of several at one place any may win.
    scatter "scatter",
    /// As `scatter`, but the slices are added; what comes twice is added twice.
    scatter_add "scatterAdd",
    /// As `scatter`, but the larger of old and new is kept.
    scatter_max "scatterMax",
    /// As `scatter`, but the smaller of old and new is kept.
    scatter_min "scatterMin",
    /// As `scatter`, but the slices are multiplied; what comes twice multiplies twice.
    scatter_prod "scatterProd",
}

/// A copy in which the elements where `mask` (bool, of the shape of `a` or of its first axes) holds are, in row-major order, those
/// of `source`; a source that is too short repeats its last element.
#[napi(namespace = "ops", catch_unwind)]
pub fn masked_scatter(a: ArrayHandle, mask: ArrayHandle, source: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.masked_scatter(&mask, &source)?.into())
}
