//! Gathering and scattering by index.
//!
//! MLX reads and writes wherever an index points. `take`, `take_along_axis`, `put_along_axis` and `scatter_add_axis` pass indices
//! on as they are, for callers that made them themselves; everything else here goes through `Array::bounded` (negative indices
//! count from the end, what then lies outside moves to the nearest valid index), and so do the forms of those four with
//! `_bounded` in their name. Indices from outside must take that way.

use std::borrow::Borrow;

use mlx_sys as sys;

use super::{check, where_};
use crate::mlx::array::{ArrayVec, output};
use crate::mlx::{Array, Dtype, Error, Result, stream};

impl Array {
    /// Slices at `indices` along an axis. Indices are not checked against the size: MLX does not.
    pub fn take(&self, indices: &Array, axis: i32) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_take_axis(result, self.0, indices.0, axis, stream::current()) })
    }

    /// One element per position of `indices`, which has this array's rank.
    pub fn take_along_axis(&self, indices: &Array, axis: i32) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_take_along_axis(result, self.0, indices.0, axis, stream::current()) })
    }

    pub fn put_along_axis(&self, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_put_along_axis(result, self.0, indices.0, values.0, axis, stream::current()) })
    }

    /// Adds `values` at `indices` along an axis; repeated indices add up.
    pub fn scatter_add_axis(&self, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_scatter_add_axis(result, self.0, indices.0, values.0, axis, stream::current()) })
    }

    /// `take` for indices from outside.
    pub fn take_bounded(&self, indices: &Array, axis: i32) -> Result<Array> {
        let place = check::axis("take", axis, self.ndim())?;
        self.take(&indices.bounded(self.shape()[place], 1)?, axis)
    }

    /// `take_bounded` from the elements in row-major order.
    pub fn take_flat(&self, indices: &Array) -> Result<Array> {
        self.flatten()?.take_bounded(indices, 0)
    }

    /// Indices for one axis: of this array's rank, and broadcast with its other axes.
    fn along(&self, op: &str, indices: &Array, axis: i32) -> Result<Array> {
        let place = check::axis(op, axis, self.ndim())?;
        let (shape, given) = (self.shape(), indices.shape());
        let fits = |(other, (&size, &given)): (usize, (&i32, &i32))| other == place || given == size || given == 1 || size == 1;
        if given.len() != shape.len() || !shape.iter().zip(given).enumerate().all(fits) {
            return Err(Error::Shape(format!("{op}: indices of shape {given:?} do not fit shape {shape:?} beside axis {axis}")));
        }
        indices.bounded(shape[place], 1)
    }

    /// `take_along_axis` for indices from outside.
    pub fn take_along_axis_bounded(&self, indices: &Array, axis: i32) -> Result<Array> {
        self.take_along_axis(&self.along("take_along_axis", indices, axis)?, axis)
    }

    /// `put_along_axis` for indices from outside.
    pub fn put_along_axis_bounded(&self, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
        let indices = self.written("put_along_axis", indices, values, axis)?;
        self.put_along_axis(&indices, values, axis)
    }

    /// `scatter_add_axis` for indices from outside.
    pub fn scatter_add_axis_bounded(&self, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
        let indices = self.written("scatter_add_axis", indices, values, axis)?;
        self.scatter_add_axis(&indices, values, axis)
    }

    /// Indices whose values are written: they must not be wider than the array.
    fn written(&self, op: &str, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
        let bounded = self.along(op, indices, axis)?;
        let place = check::axis(op, axis, self.ndim())?;
        let mut target = self.shape().to_vec();
        target[place] = indices.shape()[place];
        if !check::broadcasts_to(indices.shape(), &target) || !check::broadcasts_to(values.shape(), &target) {
            let (indices, values) = (indices.shape(), values.shape());
            return Err(Error::Shape(format!("{op}: indices {indices:?} and values {values:?} do not broadcast to {target:?}")));
        }
        Ok(bounded)
    }

    /// Slices of `lengths` that begin at `indices[i]` on `axes[i]`: the broadcast shape of the indices, then the lengths.
    pub fn gather<A: Borrow<Array>>(&self, indices: &[A], axes: &[i32], lengths: &[i32]) -> Result<Array> {
        check::length("gather", "lengths", lengths.len(), self.ndim())?;
        if let Some((length, size)) = lengths.iter().zip(self.shape()).find(|&(&length, &size)| length < 0 || length > size) {
            return Err(Error::Shape(format!("gather: a slice of {length} does not fit an axis of size {size}")));
        }
        let (list, index_shape, axes) = self.index_list("gather", indices, axes, lengths)?;
        let shape = [&index_shape, lengths].concat();
        if shape.contains(&0) {
            return super::zeros(&shape, self.dtype());
        }
        // SAFETY: the lists live during the call.
        output(|result| unsafe {
            sys::mlx_gather(result, self.0, list.0, axes.as_ptr(), axes.len(), lengths.as_ptr(), lengths.len(), stream::current())
        })
    }

    /// Bounded indices for slices of `lengths`, the shape that they broadcast to, and their axes counted from the front.
    fn index_list<A: Borrow<Array>>(
        &self,
        op: &str,
        indices: &[A],
        axes: &[i32],
        lengths: &[i32],
    ) -> Result<(ArrayVec, Vec<i32>, Vec<i32>)> {
        check::length(op, "index arrays", indices.len(), axes.len())?;
        let places = check::axes(op, axes, self.ndim())?;
        let mut shape = Vec::new();
        let mut bounded = Vec::with_capacity(indices.len());
        for (index, &place) in indices.iter().map(|index| index.borrow()).zip(&places) {
            shape = check::broadcast(op, &shape, index.shape())?;
            bounded.push(index.bounded(self.shape()[place], lengths[place])?);
        }
        let axes = places.into_iter().map(|place| place as i32).collect();
        Ok((ArrayVec::new(&bounded), shape, axes))
    }

    /// A copy in which the elements where `mask` holds are, in row-major order, those of `source`. The mask has the shape of this
    /// array or of its first axes; a source that is too short repeats its last element.
    pub fn masked_scatter(&self, mask: &Array, source: &Array) -> Result<Array> {
        if mask.dtype() != Dtype::Bool {
            return Err(Error::Dtype(format!("masked_scatter: the mask must be bool, got {}", mask.dtype().name())));
        }
        if !self.shape().starts_with(mask.shape()) {
            let (mask, shape) = (mask.shape(), self.shape());
            return Err(Error::Shape(format!("masked_scatter: a mask of shape {mask:?} does not cover {shape:?}")));
        }
        if self.size() == 0 {
            return Ok(self.clone());
        }
        check::not_empty("masked_scatter: source", source)?;
        let inner = [mask.shape(), &vec![1; self.ndim() - mask.ndim()]].concat();
        let mask = mask.reshape(&inner)?.broadcast_to(self.shape())?;
        let places = mask.flatten()?.astype(Dtype::Int32)?.cumsum(0, false, true)?.subtract(&Array::scalar_i32(1))?;
        let limit = Array::scalar_i32(i32::try_from(source.size() - 1).unwrap_or(i32::MAX));
        let chosen = source.flatten()?.take(&places.maximum(&Array::scalar_i32(0))?.minimum(&limit)?, 0)?;
        where_(&mask, &chosen.reshape(self.shape())?.astype(self.dtype())?, self)
    }
}

macro_rules! scatters {
    ($($(#[$doc:meta])* $name:ident $raw:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            ///
            /// `updates` has the broadcast shape of the indices, then one size per axis of this array: the slice that is written
            /// at each index.
            pub fn $name<A: Borrow<Array>>(&self, indices: &[A], updates: &Array, axes: &[i32]) -> Result<Array> {
                let op = stringify!($name);
                let given = updates.shape();
                let split = given.len().checked_sub(self.ndim()).ok_or_else(|| {
                    Error::Shape(format!("{op}: updates of shape {given:?} have fewer axes than {:?}", self.shape()))
                })?;
                let lengths = &given[split..];
                if lengths.iter().zip(self.shape()).any(|(length, size)| length > size) {
                    return Err(Error::Shape(format!("{op}: slices {lengths:?} do not fit shape {:?}", self.shape())));
                }
                let (list, index_shape, axes) = self.index_list(op, indices, axes, lengths)?;
                if index_shape != given[..split] {
                    return Err(Error::Shape(format!(
                        "{op}: updates of shape {given:?} do not begin with the shape {index_shape:?} of the indices"
                    )));
                }
                if updates.size() == 0 {
                    return Ok(self.clone());
                }
                // SAFETY: the lists live during the call.
                output(|result| unsafe {
                    sys::$raw(result, self.0, list.0, updates.0, axes.as_ptr(), axes.len(), stream::current())
                })
            }
        )* }
    };
}

scatters! {
    /// A copy with slices replaced; of several at one place any may win.
    scatter mlx_scatter,
    /// A copy with slices added; repeated indices add up.
    scatter_add mlx_scatter_add,
    /// A copy with the larger of old and new.
    scatter_max mlx_scatter_max,
    /// A copy with the smaller of old and new.
    scatter_min mlx_scatter_min,
    /// A copy with slices multiplied; repeated indices multiply.
    scatter_prod mlx_scatter_prod,
}
