//! Views, joins and splits.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, DtypeName, FlatAxis, integer, integer_or, integers, list_of, some_axes};
use crate::mlx::{Array, Error, ops};
use crate::node::error as js;

fn handles(arrays: Vec<Array>) -> Vec<ArrayHandle> {
    arrays.into_iter().map(ArrayHandle::from).collect()
}

/// Another shape of the same elements. One size may be -1: it takes what the others leave.
#[napi(namespace = "ops", catch_unwind)]
pub fn reshape(a: ArrayHandle, shape: Vec<f64>) -> js::Result<ArrayHandle> {
    Ok(a.reshape(&integers("shape", &shape)?)?.into())
}

/// The axes from `startAxis` (0) to `endAxis` (-1), both included, as one.
#[napi(namespace = "ops", catch_unwind)]
pub fn flatten(a: ArrayHandle, start_axis: Option<f64>, end_axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.flatten_axes(integer_or("startAxis", start_axis, 0)?, integer_or("endAxis", end_axis, -1)?)?.into())
}

/// One axis as several of the given sizes, one of which may be -1.
#[napi(namespace = "ops", catch_unwind)]
pub fn unflatten(a: ArrayHandle, axis: f64, shape: Vec<f64>) -> js::Result<ArrayHandle> {
    Ok(a.unflatten(integer("axis", axis)?, &integers("shape", &shape)?)?.into())
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

/// Two axes exchanged.
#[napi(namespace = "ops", catch_unwind)]
pub fn swapaxes(a: ArrayHandle, axis1: f64, axis2: f64) -> js::Result<ArrayHandle> {
    Ok(a.swapaxes(integer("axis1", axis1)?, integer("axis2", axis2)?)?.into())
}

/// The last two axes exchanged.
#[napi(namespace = "ops", catch_unwind)]
pub fn matrix_transpose(a: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.matrix_transpose()?.into())
}

/// One axis moved to another place, the others in their order.
#[napi(namespace = "ops", catch_unwind)]
pub fn moveaxis(a: ArrayHandle, source: f64, destination: f64) -> js::Result<ArrayHandle> {
    Ok(a.moveaxis(integer("source", source)?, integer("destination", destination)?)?.into())
}

/// New axes of size 1, at these places of the result.
#[napi(namespace = "ops", catch_unwind)]
pub fn expand_dims(a: ArrayHandle, axes: Either<f64, Vec<f64>>) -> js::Result<ArrayHandle> {
    Ok(a.expand_dims(&some_axes(axes)?)?.into())
}

/// Without the given axes, which have size 1, or without all axes of size 1.
#[napi(namespace = "ops", catch_unwind)]
pub fn squeeze(a: ArrayHandle, axes: Option<Either<f64, Vec<f64>>>) -> js::Result<ArrayHandle> {
    Ok(match axes {
        Some(axes) => a.squeeze(&some_axes(axes)?)?,
        None => a.squeeze_all()?,
    }
    .into())
}

/// With one axis at least.
#[napi(namespace = "ops", js_name = "atleast1d", catch_unwind)]
pub fn atleast_1d(a: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.atleast_1d()?.into())
}

/// With two axes at least: a vector becomes a row.
#[napi(namespace = "ops", js_name = "atleast2d", catch_unwind)]
pub fn atleast_2d(a: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.atleast_2d()?.into())
}

/// With three axes at least: a vector becomes `[1, n, 1]`, a matrix `[m, n, 1]`.
#[napi(namespace = "ops", js_name = "atleast3d", catch_unwind)]
pub fn atleast_3d(a: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.atleast_3d()?.into())
}

/// Repeated along axes of size 1 and new leading axes, without a copy.
#[napi(namespace = "ops", catch_unwind)]
pub fn broadcast_to(a: ArrayHandle, shape: Either<f64, Vec<f64>>) -> js::Result<ArrayHandle> {
    Ok(a.broadcast_to(&list_of("shape", shape)?)?.into())
}

/// The arrays in the shape that all of them broadcast to.
#[napi(namespace = "ops", catch_unwind)]
pub fn broadcast_arrays(arrays: Vec<ArrayHandle>) -> js::Result<Vec<ArrayHandle>> {
    Ok(handles(ops::broadcast_arrays(&arrays)?))
}

/// The shape that all of these shapes broadcast to.
#[napi(namespace = "ops", catch_unwind)]
pub fn broadcast_shapes(shapes: Vec<Vec<f64>>) -> js::Result<Vec<i32>> {
    let shapes = shapes.iter().map(|shape| integers("shapes", shape)).collect::<crate::mlx::Result<Vec<_>>>()?;
    Ok(ops::broadcast_shapes(&shapes)?)
}

/// Elements in reverse order along the given axes, or all of them.
#[napi(namespace = "ops", catch_unwind)]
pub fn flip(a: ArrayHandle, axes: Option<Either<f64, Vec<f64>>>) -> js::Result<ArrayHandle> {
    Ok(a.flip(&super::axes_of(&a, axes)?)?.into())
}

/// Each element `repeats` times in a row along an axis; of the elements in row-major order without one.
#[napi(namespace = "ops", catch_unwind)]
pub fn repeat(a: ArrayHandle, repeats: f64, axis: Option<f64>) -> js::Result<ArrayHandle> {
    let repeats = integer("repeats", repeats)?;
    Ok(match axis {
        Some(axis) => a.repeat(repeats, integer("axis", axis)?)?,
        None => a.flatten()?.repeat(repeats, 0)?,
    }
    .into())
}

/// The whole array several times along its last axes; more numbers than axes add axes in front.
#[napi(namespace = "ops", catch_unwind)]
pub fn tile(a: ArrayHandle, reps: Either<f64, Vec<f64>>) -> js::Result<ArrayHandle> {
    Ok(a.tile(&list_of("reps", reps)?)?.into())
}

/// Elements shifted along axes, those that leave at the end come back at the start; in row-major order without an axis. Several
/// shifts go with as many axes, or all along one; one shift goes along each of several axes.
#[napi(namespace = "ops", catch_unwind)]
pub fn roll(a: ArrayHandle, shift: Either<f64, Vec<f64>>, axes: Option<Either<f64, Vec<f64>>>) -> js::Result<ArrayHandle> {
    let one = matches!(shift, Either::A(_));
    let shifts = list_of("shift", shift)?;
    let total = |shifts: &[i32], size: i32| {
        let sum: i64 = shifts.iter().copied().map(i64::from).sum();
        sum.checked_rem_euclid(i64::from(size)).unwrap_or(0) as i32
    };
    Ok(match axes {
        None => a.roll_all(total(&shifts, i32::try_from(a.size()).unwrap_or(i32::MAX)))?,
        Some(Either::A(axis)) => {
            let axis = integer("axes", axis)?;
            let shifts = if one { shifts } else { vec![total(&shifts, i32::MAX)] };
            a.roll_axes(&shifts, &[axis])?
        }
        Some(Either::B(axes)) => {
            let axes = integers("axes", &axes)?;
            let shifts = if one { vec![shifts[0]; axes.len()] } else { shifts };
            a.roll_axes(&shifts, &axes)?
        }
    }
    .into())
}

/// Joined along an existing axis (0); null: the elements of all of them in row-major order.
#[napi(namespace = "ops", catch_unwind)]
pub fn concatenate(arrays: Vec<ArrayHandle>, axis: FlatAxis) -> js::Result<ArrayHandle> {
    Ok(match axis.or(0)? {
        Some(axis) => ops::concatenate(&arrays, axis)?,
        None => {
            let flat = arrays.iter().map(|array| array.flatten()).collect::<crate::mlx::Result<Vec<_>>>()?;
            ops::concatenate(&flat, 0)?
        }
    }
    .into())
}

/// Joined along a new axis (0).
#[napi(namespace = "ops", catch_unwind)]
pub fn stack(arrays: Vec<ArrayHandle>, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(ops::stack(&arrays, integer_or("axis", axis, 0)?)?.into())
}

/// A number of equal parts along an axis (0), or the parts that begin at 0 and at each of the given places, which ascend.
#[napi(namespace = "ops", catch_unwind)]
pub fn split(a: ArrayHandle, indices_or_sections: Either<f64, Vec<f64>>, axis: Option<f64>) -> js::Result<Vec<ArrayHandle>> {
    let axis = integer_or("axis", axis, 0)?;
    Ok(handles(match indices_or_sections {
        Either::A(parts) => a.split(integer("indicesOrSections", parts)?, axis)?,
        Either::B(places) => a.split_at(&integers("indicesOrSections", &places)?, axis)?,
    }))
}

/// The slices along an axis (0), without it.
#[napi(namespace = "ops", catch_unwind)]
pub fn unstack(a: ArrayHandle, axis: Option<f64>) -> js::Result<Vec<ArrayHandle>> {
    Ok(handles(a.unstack(integer_or("axis", axis, 0)?)?))
}

/// A view of the elements in row-major order at `offset` (0) `+ Σ index · stride`, counted in elements. `shape` is that of `a` and the
/// strides are row-major unless given; every place that the view reaches must exist.
#[napi(namespace = "ops", catch_unwind)]
pub fn as_strided(
    a: ArrayHandle,
    shape: Option<Vec<f64>>,
    strides: Option<Vec<f64>>,
    offset: Option<f64>,
) -> js::Result<ArrayHandle> {
    let shape = shape.map_or_else(|| Ok(a.shape().to_vec()), |shape| integers("shape", &shape))?;
    let strides = match strides {
        Some(strides) => integers("strides", &strides)?.into_iter().map(i64::from).collect(),
        None => {
            let mut strides: Vec<i64> = vec![1; shape.len()];
            for place in (1..shape.len()).rev() {
                strides[place - 1] = strides[place].saturating_mul(i64::from(shape[place]));
            }
            strides
        }
    };
    let offset = integer_or("offset", offset, 0)?;
    let offset = usize::try_from(offset).map_err(|_| Error::Argument(format!("offset must be at least 0, got {offset}")))?;
    Ok(a.as_strided(&shape, &strides, offset)?.into())
}

/// The same elements in row-major order in memory; no copy where they already are.
#[napi(namespace = "ops", catch_unwind)]
pub fn contiguous(a: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.contiguous()?.into())
}

/// The same bytes read as another dtype. Where its size differs the last axis shrinks or grows.
#[napi(namespace = "ops", catch_unwind)]
pub fn view(a: ArrayHandle, dtype: DtypeName) -> js::Result<ArrayHandle> {
    Ok(a.view(dtype.parse()?)?.into())
}
