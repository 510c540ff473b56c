//! Slices whose place is an array, and padding. Index expressions cut out slices at known places.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, Indices, integers};
use crate::mlx::{Array, Error, Result};
use crate::node::error as js;

/// A slice of `sliceSize` (one size for each axis) that begins at `startIndices` (whole numbers `[axes]`) on `axes`, and at 0 on other axes.
/// Starts in plain numbers must fit; those in an array are moved to the nearest place.
#[napi(namespace = "ops", catch_unwind)]
pub fn slice(a: ArrayHandle, start_indices: Indices, axes: Vec<f64>, slice_size: Vec<f64>) -> js::Result<ArrayHandle> {
    let (axes, lengths) = (integers("axes", &axes)?, integers("sliceSize", &slice_size)?);
    Ok(a.slice_dynamic(start_indices.starts("slice", &a, &axes, &lengths)?, &axes, &lengths)?.into())
}

/// A copy with `update`, which has the rank of `a`, written from `startIndices` (whole numbers `[axes]`) on `axes`, from 0 on other axes.
/// Starts in plain numbers must fit; those in an array are moved to the nearest place.
#[napi(namespace = "ops", catch_unwind)]
pub fn slice_update(a: ArrayHandle, update: ArrayHandle, start_indices: Indices, axes: Vec<f64>) -> js::Result<ArrayHandle> {
    let axes = integers("axes", &axes)?;
    let start = start_indices.starts("sliceUpdate", &a, &axes, update.shape())?;
    Ok(a.slice_update_dynamic(&update, start, &axes)?.into())
}

/// Widths before and after each axis.
fn widths(array: &Array, given: Either<f64, Vec<Either<f64, Vec<f64>>>>) -> Result<(Vec<i32>, Vec<i32>)> {
    let ndim = array.ndim();
    let pair = |list: &[f64]| match *integers("padWidth", list)? {
        [width] => Ok((width, width)),
        [before, after] => Ok((before, after)),
        _ => Err(Error::Argument(format!("padWidth: an axis has a width before and one after it, not {list:?}"))),
    };
    let entries = match given {
        Either::A(width) => return pair(&[width]).map(|(width, _)| (vec![width; ndim], vec![width; ndim])),
        Either::B(entries) => entries,
    };
    let numbers: Option<Vec<f64>> =
        entries.iter().map(|entry| if let Either::A(width) = entry { Some(*width) } else { None }).collect();
    if let Some(numbers) = numbers.filter(|numbers| !numbers.is_empty()) {
        return pair(&numbers).map(|(before, after)| (vec![before; ndim], vec![after; ndim]));
    }
    let pairs = entries
        .iter()
        .map(|entry| match entry {
            Either::A(width) => pair(&[*width]),
            Either::B(list) => pair(list),
        })
        .collect::<Result<Vec<_>>>()?;
    match pairs.len() {
        1 => Ok((vec![pairs[0].0; ndim], vec![pairs[0].1; ndim])),
        _ => Ok(pairs.into_iter().unzip()),
    }
}

/// More elements around the array. `padWidth` is a width for every side, a pair `[before, after]` for every axis, or a pair for each
/// axis. `mode` is `constant` (with `constantValues`, 0), `edge` (the border repeated), `reflect` (mirrored at the border element) or
/// `symmetric` (mirrored beyond it).
#[napi(namespace = "ops", catch_unwind)]
pub fn pad(
    a: ArrayHandle,
    pad_width: Either<f64, Vec<Either<f64, Vec<f64>>>>,
    mode: Option<String>,
    constant_values: Option<ArrayHandle>,
) -> js::Result<ArrayHandle> {
    let (low, high) = widths(&a, pad_width)?;
    let mode = mode.as_deref().unwrap_or("constant");
    Ok(match constant_values {
        Some(value) => a.pad_with(&low, &high, &value, mode)?,
        None => a.pad_with(&low, &high, &Array::scalar_of(0., a.dtype())?, mode)?,
    }
    .into())
}
