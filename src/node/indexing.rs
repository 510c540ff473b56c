//! Index expressions, as `lib/array/indexing.ts` writes them.

use napi_derive::napi;

use super::error as js;
use super::handle::{ArrayHandle, integer};
use crate::mlx::ops::{Index, UpdateMode};
use crate::mlx::{Array, Dtype, Error, Result};

/// Numbers of an entry of `codes`: its kind and three values.
const WIDTH: usize = 4;

/// Entries are `0, place`; `1, start, stop, step` with NaN for what is not given; `2` for a new axis; `3` for an ellipsis; `4` for
/// the next of `arrays`; `5` for the next of `arrays` with values that are known and checked here, against the size of its axis.
fn parse(op: &str, a: &Array, codes: &[f64], arrays: &[ArrayHandle]) -> Result<Vec<Index>> {
    let mut arrays = arrays.iter();
    let entries = codes.chunks_exact(WIDTH);
    let after_ellipsis = |place: usize| {
        let rest = codes.chunks_exact(WIDTH).skip(place).filter(|entry| entry[0] != 2.).count();
        a.ndim().wrapping_sub(rest)
    };
    let mut axis = 0;
    let mut indices = Vec::with_capacity(entries.len());
    for (place, entry) in entries.enumerate() {
        let optional = |value: f64| if value.is_nan() { Ok(None) } else { integer("an index", value).map(Some) };
        let missing = || Error::Internal("an index expression names more arrays than it brings".into());
        indices.push(match entry[0] as u8 {
            0 => Index::At(integer("an index", entry[1])?),
            1 => Index::Slice { start: optional(entry[1])?, stop: optional(entry[2])?, step: optional(entry[3])?.unwrap_or(1) },
            2 => Index::NewAxis,
            3 => Index::Ellipsis,
            kind => {
                let array = arrays.next().ok_or_else(missing)?;
                if kind == 5 {
                    inside(op, array, axis, a.shape())?;
                }
                Index::Gather(Array::clone(array))
            }
        });
        match entry[0] as u8 {
            2 => {}
            3 => axis = after_ellipsis(place + 1),
            _ => axis += 1,
        }
    }
    Ok(indices)
}

/// The values of a list that JavaScript gave.
fn inside(op: &str, places: &Array, axis: usize, shape: &[i32]) -> Result<()> {
    let Some(&size) = shape.get(axis) else { return Ok(()) };
    if places.dtype() != Dtype::Int32 {
        return Ok(());
    }
    match places.to_vec::<i32>()?.iter().find(|&&place| place < -size || place >= size) {
        Some(place) => Err(Error::Shape(format!("{op}: index {place} is outside axis {axis} of size {size}"))),
        None => Ok(()),
    }
}

/// What an index expression selects.
#[napi(namespace = "core", catch_unwind)]
pub fn index(a: ArrayHandle, codes: Vec<f64>, arrays: Vec<ArrayHandle>) -> js::Result<ArrayHandle> {
    Ok(a.index(parse("index", &a, &codes, &arrays)?)?.into())
}

/// A copy in which what an index expression selects is changed.
#[napi(namespace = "core", catch_unwind)]
pub fn index_update(
    a: ArrayHandle,
    codes: Vec<f64>,
    arrays: Vec<ArrayHandle>,
    values: ArrayHandle,
    mode: String,
) -> js::Result<ArrayHandle> {
    let indices = parse("indexUpdate", &a, &codes, &arrays)?;
    Ok(a.index_update(indices, &values, UpdateMode::parse(&mode)?)?.into())
}
