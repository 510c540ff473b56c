//! What MLX leaves unchecked: axes, sizes, dtypes and indices of arguments that come from outside.

use crate::mlx::{Array, Dtype, Error, Result};

/// The place of an axis that may count from the end.
pub(crate) fn axis(op: &str, axis: i32, ndim: usize) -> Result<usize> {
    let place = if axis < 0 { i64::from(axis) + ndim as i64 } else { i64::from(axis) };
    if place < 0 || place >= ndim as i64 {
        return Err(Error::Shape(format!("{op}: axis {axis} is not one of a {ndim}-dimensional array")));
    }
    Ok(place as usize)
}

/// Places of axes that may count from the end; none may come twice.
pub(crate) fn axes(op: &str, axes: &[i32], ndim: usize) -> Result<Vec<usize>> {
    let places = axes.iter().map(|&one| axis(op, one, ndim)).collect::<Result<Vec<_>>>()?;
    let mut seen = vec![false; ndim];
    match places.iter().find(|&&place| std::mem::replace(&mut seen[place], true)) {
        Some(place) => Err(Error::Shape(format!("{op}: axis {place} is given more than once in {axes:?}"))),
        None => Ok(places),
    }
}

/// A size that MLX can hold: its shapes are lists of int32.
pub(crate) fn size(op: &str, size: i64) -> Result<i32> {
    i32::try_from(size)
        .ok()
        .filter(|&size| size >= 0)
        .ok_or_else(|| Error::Shape(format!("{op}: an axis of size {size} is not between 0 and {}", i32::MAX)))
}

/// As many entries as wanted.
pub(crate) fn length(op: &str, what: &str, got: usize, want: usize) -> Result<()> {
    if got == want { Ok(()) } else { Err(Error::Shape(format!("{op}: {want} {what} are needed, got {got}"))) }
}

/// A number of at least `low`.
pub(crate) fn at_least(op: &str, what: &str, value: i32, low: i32) -> Result<()> {
    if value >= low { Ok(()) } else { Err(Error::Argument(format!("{op}: {what} must be at least {low}, got {value}"))) }
}

/// One of the known words.
pub(crate) fn one_of(op: &str, what: &str, value: &str, known: &[&str]) -> Result<()> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(Error::Argument(format!("{op}: unknown {what} '{value}'; known are {}", known.join(", "))))
}

pub(crate) fn min_ndim(op: &str, array: &Array, ndim: usize) -> Result<()> {
    if array.ndim() >= ndim {
        return Ok(());
    }
    Err(Error::Shape(format!("{op}: at least {ndim} dimensions are needed, got shape {:?}", array.shape())))
}

pub(crate) fn integer(op: &str, what: &str, array: &Array) -> Result<()> {
    if array.dtype().is_integer() {
        return Ok(());
    }
    Err(Error::Dtype(format!("{op}: {what} must have an integer dtype, got {}", array.dtype().name())))
}

pub(crate) fn float(op: &str, what: &str, array: &Array) -> Result<()> {
    if array.dtype().is_float() {
        return Ok(());
    }
    Err(Error::Dtype(format!("{op}: {what} must have a floating dtype, got {}", array.dtype().name())))
}

pub(crate) fn not_empty(op: &str, array: &Array) -> Result<()> {
    if array.size() > 0 {
        return Ok(());
    }
    Err(Error::Shape(format!("{op}: an array of shape {:?} has no elements", array.shape())))
}

/// The axis must hold something: MLX divides by its size.
pub(crate) fn filled_axis(op: &str, array: &Array, place: usize) -> Result<()> {
    if array.shape()[place] > 0 {
        return Ok(());
    }
    Err(Error::Shape(format!("{op}: axis {place} of shape {:?} has no elements", array.shape())))
}

/// Whether `from` broadcasts to exactly `to`.
pub(crate) fn broadcasts_to(from: &[i32], to: &[i32]) -> bool {
    from.len() <= to.len() && from.iter().rev().zip(to.iter().rev()).all(|(&from, &to)| from == to || from == 1)
}

/// The shape that two shapes broadcast to.
pub(crate) fn broadcast(op: &str, a: &[i32], b: &[i32]) -> Result<Vec<i32>> {
    let ndim = a.len().max(b.len());
    let at = |shape: &[i32], place: usize| (place + shape.len()).checked_sub(ndim).map_or(1, |index| shape[index]);
    (0..ndim)
        .map(|place| match (at(a, place), at(b, place)) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            _ => Err(Error::Shape(format!("{op}: shapes {a:?} and {b:?} do not broadcast together"))),
        })
        .collect()
}

impl Array {
    /// These indices made safe for an axis of `size` elements, of which `length` are read from each: negative ones count from the
    /// end, and what then still lies outside moves to the nearest valid index. MLX itself reads and writes where an index points.
    pub fn bounded(&self, size: i32, length: i32) -> Result<Array> {
        integer("indices", "an index array", self)?;
        if self.size() == 0 {
            return Ok(self.clone());
        }
        if length > size || size == 0 {
            return Err(Error::Shape(format!("indices: an axis of size {size} has no place for {length} elements")));
        }
        let last = Array::scalar_of(f64::from(size - length), self.dtype())?;
        if self.dtype().is_unsigned() {
            return self.minimum(&last);
        }
        let wrapped = if length == 1 {
            // MLX counts negative indices from the end itself.
            self.maximum(&Array::scalar_of(-f64::from(size), self.dtype())?)?
        } else {
            let wide = if self.dtype() == Dtype::Int64 { self.clone() } else { self.astype(Dtype::Int32)? };
            let zero = Array::scalar_of(0., wide.dtype())?;
            let shifted = wide.add(&Array::scalar_of(f64::from(size), wide.dtype())?)?;
            super::where_(&wide.less(&zero)?, &shifted, &wide)?.maximum(&zero)?
        };
        wrapped.minimum(&Array::scalar_of(f64::from(size - length), wrapped.dtype())?)
    }
}
