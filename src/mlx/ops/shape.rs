//! Shapes: reshaping, joining, splitting and repeating. Nothing here computes on values.

use std::borrow::Borrow;

use mlx_sys as sys;

use super::{check, zeros};
use crate::mlx::array::{ArrayVec, element_count, output, output_list};
use crate::mlx::{Array, Dtype, Error, Result, stream};

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident $raw:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            pub fn $name(&self) -> Result<Array> {
                // SAFETY: valid handle.
                output(|result| unsafe { sys::$raw(result, self.0, stream::current()) })
            }
        )* }
    };
}

unary! {
    /// All axes in reverse order.
    t mlx_transpose,
    /// Without the axes of size 1.
    squeeze_all mlx_squeeze,
    atleast_1d mlx_atleast_1d,
    atleast_2d mlx_atleast_2d,
    atleast_3d mlx_atleast_3d,
}

/// Sizes of a reshape: -1 may stand for one of them.
fn check_sizes(op: &str, shape: &[i32]) -> Result<()> {
    match shape.iter().find(|&&size| size < -1) {
        Some(size) => Err(Error::Shape(format!("{op}: size {size} in {shape:?} is negative"))),
        None => element_count(&shape.iter().copied().filter(|&size| size >= 0).collect::<Vec<_>>()).map(|_| ()),
    }
}

/// Arrays that a split may make: more are a mistake, and would cost gigabytes before anything is computed.
const MOST_PARTS: i32 = 1 << 20;

fn check_parts(op: &str, parts: i32) -> Result<()> {
    if parts <= MOST_PARTS {
        return Ok(());
    }
    Err(Error::Shape(format!("{op}: {parts} arrays are too many; at most {MOST_PARTS} are made at once")))
}

impl Array {
    /// One size may be -1: it takes what the others leave.
    pub fn reshape(&self, shape: &[i32]) -> Result<Array> {
        check_sizes("reshape", shape)?;
        // SAFETY: the shape lives during the call.
        output(|result| unsafe { sys::mlx_reshape(result, self.0, shape.as_ptr(), shape.len(), stream::current()) })
    }

    pub fn flatten(&self) -> Result<Array> {
        self.reshape(&[check::size("flatten", self.size() as i64)?])
    }

    /// Axes `start` to `end`, both included, become one.
    pub fn flatten_axes(&self, start: i32, end: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_flatten(result, self.0, start, end, stream::current()) })
    }

    /// One axis becomes several; one of their sizes may be -1.
    pub fn unflatten(&self, axis: i32, shape: &[i32]) -> Result<Array> {
        let place = check::axis("unflatten", axis, self.ndim())?;
        check_sizes("unflatten", shape)?;
        if shape.contains(&-1) && shape.contains(&0) {
            return Err(Error::Shape(format!("unflatten: -1 stands for no size beside the 0 in {shape:?}")));
        }
        if self.shape()[place] == 0 && shape.contains(&-1) {
            let shape: Vec<i32> = shape.iter().map(|&size| size.max(0)).collect();
            return self.unflatten(axis, &shape);
        }
        // SAFETY: the shape lives during the call.
        output(|result| unsafe { sys::mlx_unflatten(result, self.0, axis, shape.as_ptr(), shape.len(), stream::current()) })
    }

    pub fn transpose(&self, axes: &[i32]) -> Result<Array> {
        // SAFETY: the axes live during the call.
        output(|result| unsafe { sys::mlx_transpose_axes(result, self.0, axes.as_ptr(), axes.len(), stream::current()) })
    }

    pub fn swapaxes(&self, a: i32, b: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_swapaxes(result, self.0, a, b, stream::current()) })
    }

    /// The last two axes swapped.
    pub fn matrix_transpose(&self) -> Result<Array> {
        check::min_ndim("matrix_transpose", self, 2)?;
        self.swapaxes(-1, -2)
    }

    pub fn moveaxis(&self, source: i32, destination: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_moveaxis(result, self.0, source, destination, stream::current()) })
    }

    pub fn expand_dims(&self, axes: &[i32]) -> Result<Array> {
        // SAFETY: the axes live during the call.
        output(|result| unsafe { sys::mlx_expand_dims_axes(result, self.0, axes.as_ptr(), axes.len(), stream::current()) })
    }

    pub fn squeeze(&self, axes: &[i32]) -> Result<Array> {
        // SAFETY: the axes live during the call.
        output(|result| unsafe { sys::mlx_squeeze_axes(result, self.0, axes.as_ptr(), axes.len(), stream::current()) })
    }

    pub fn broadcast_to(&self, shape: &[i32]) -> Result<Array> {
        element_count(shape)?;
        // SAFETY: the shape lives during the call.
        output(|result| unsafe { sys::mlx_broadcast_to(result, self.0, shape.as_ptr(), shape.len(), stream::current()) })
    }

    /// Elements in reverse order along some axes.
    pub fn flip(&self, axes: &[i32]) -> Result<Array> {
        check::axes("flip", axes, self.ndim())?;
        if self.size() == 0 {
            return Ok(self.clone());
        }
        // SAFETY: the axes live during the call.
        output(|result| unsafe { sys::mlx_flip_axes(result, self.0, axes.as_ptr(), axes.len(), stream::current()) })
    }

    /// A view of the elements in row-major order, at `offset + Σ index · stride`, counted in elements. Every place that the view
    /// reaches must exist.
    pub fn as_strided(&self, shape: &[i32], strides: &[i64], offset: usize) -> Result<Array> {
        check::length("as_strided", "strides", strides.len(), shape.len())?;
        if element_count(shape)? == 0 {
            return zeros(shape, self.dtype());
        }
        let (mut low, mut high) = (offset as i128, offset as i128);
        for (&size, &stride) in shape.iter().zip(strides) {
            let reach = i128::from(size - 1) * i128::from(stride);
            if reach < 0 { low += reach } else { high += reach }
        }
        if low < 0 || high >= self.size() as i128 {
            return Err(Error::Shape(format!(
                "as_strided: shape {shape:?}, strides {strides:?} and offset {offset} reach elements {low} to {high} of {}",
                self.size()
            )));
        }
        // SAFETY: the lists live during the call, and the view stays inside the buffer.
        output(|result| unsafe {
            sys::mlx_as_strided(
                result,
                self.0,
                shape.as_ptr(),
                shape.len(),
                strides.as_ptr(),
                strides.len(),
                offset,
                stream::current(),
            )
        })
    }

    /// Equal parts along an axis.
    pub fn split(&self, parts: i32, axis: i32) -> Result<Vec<Array>> {
        let size = self.shape()[check::axis("split", axis, self.ndim())?];
        check::at_least("split", "the number of parts", parts, 1)?;
        check_parts("split", parts)?;
        if size % parts != 0 {
            return Err(Error::Shape(format!("split: an axis of size {size} has no {parts} equal parts")));
        }
        if parts == 1 {
            return Ok(vec![self.clone()]);
        }
        // SAFETY: valid handle.
        output_list(|result| unsafe { sys::mlx_split(result, self.0, parts, axis, stream::current()) })
    }

    /// Parts along an axis that begin at 0 and at each of `indices`, which ascend.
    pub fn split_at(&self, indices: &[i32], axis: i32) -> Result<Vec<Array>> {
        let size = self.shape()[check::axis("split", axis, self.ndim())?];
        let ascending = indices.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ascending || indices.iter().any(|&index| index < 0 || index > size) {
            return Err(Error::Shape(format!("split: indices {indices:?} must ascend within 0 to {size}")));
        }
        if indices.is_empty() {
            return Ok(vec![self.clone()]);
        }
        // SAFETY: the indices live during the call.
        output_list(|result| unsafe {
            sys::mlx_split_sections(result, self.0, indices.as_ptr(), indices.len(), axis, stream::current())
        })
    }

    /// The slices along an axis, without it.
    pub fn unstack(&self, axis: i32) -> Result<Vec<Array>> {
        let place = check::axis("unstack", axis, self.ndim())?;
        check_parts("unstack", self.shape()[place])?;
        if self.shape()[place] == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: valid handle.
        output_list(|result| unsafe { sys::mlx_unstack_axis(result, self.0, axis, stream::current()) })
    }

    /// Each element `count` times in a row along an axis.
    pub fn repeat(&self, count: i32, axis: i32) -> Result<Array> {
        let place = check::axis("repeat", axis, self.ndim())?;
        check::at_least("repeat", "the count", count, 0)?;
        let mut shape = self.shape().to_vec();
        shape[place] = check::size("repeat", i64::from(shape[place]) * i64::from(count))?;
        if element_count(&shape)? == 0 {
            return zeros(&shape, self.dtype());
        }
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_repeat_axis(result, self.0, count, axis, stream::current()) })
    }

    /// The whole array `counts` times along its last axes; more counts than axes add axes in front.
    pub fn tile(&self, counts: &[i32]) -> Result<Array> {
        let ndim = counts.len().max(self.ndim());
        let pad = |list: &[i32]| [vec![1; ndim - list.len()], list.to_vec()].concat();
        counts.iter().try_for_each(|&count| check::at_least("tile", "a count", count, 0))?;
        let sizes = pad(self.shape()).into_iter().zip(pad(counts));
        let shape =
            sizes.map(|(size, count)| check::size("tile", i64::from(size) * i64::from(count))).collect::<Result<Vec<_>>>()?;
        if element_count(&shape)? == 0 {
            return zeros(&shape, self.dtype());
        }
        // SAFETY: the counts live during the call.
        output(|result| unsafe { sys::mlx_tile(result, self.0, counts.as_ptr(), counts.len(), stream::current()) })
    }

    pub fn roll(&self, shift: i32, axis: i32) -> Result<Array> {
        self.roll_axes(&[shift], &[axis])
    }

    /// Shifts elements along axes; those that leave at the end come back at the start.
    pub fn roll_axes(&self, shifts: &[i32], axes: &[i32]) -> Result<Array> {
        check::length("roll", "shifts", shifts.len(), axes.len())?;
        let places = axes.iter().map(|&axis| check::axis("roll", axis, self.ndim())).collect::<Result<Vec<_>>>()?;
        if self.size() == 0 {
            return Ok(self.clone());
        }
        let shifts: Vec<i32> = shifts.iter().zip(places).map(|(shift, place)| shift.rem_euclid(self.shape()[place])).collect();
        // SAFETY: the lists live during the call.
        output(|result| unsafe {
            sys::mlx_roll_axes(result, self.0, shifts.as_ptr(), shifts.len(), axes.as_ptr(), axes.len(), stream::current())
        })
    }

    /// Shifts elements in row-major order.
    pub fn roll_all(&self, shift: i32) -> Result<Array> {
        self.flatten()?.roll(shift, 0)?.reshape(self.shape())
    }

    /// The same bytes in row-major order; no copy where they already are.
    pub fn contiguous(&self) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_contiguous(result, self.0, false, stream::holding(&[self.dtype()])) })
    }

    /// The same bytes read as another dtype. Where its size differs the last axis shrinks or grows.
    pub fn view(&self, dtype: Dtype) -> Result<Array> {
        let (old, new) = (self.dtype().size(), dtype.size());
        if old != new {
            let last = *self.shape().last().ok_or_else(|| {
                Error::Shape(format!("view: a scalar of {} has no {} in it", self.dtype().name(), dtype.name()))
            })?;
            let bytes = last as usize * old;
            if !bytes.is_multiple_of(new) {
                return Err(Error::Shape(format!(
                    "view: the {bytes} bytes of the last axis do not divide into {}",
                    dtype.name()
                )));
            }
            check::size("view", (bytes / new) as i64)?;
        }
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_view(result, self.0, dtype.raw(), stream::current()) })
    }
}

/// Shapes of arrays that are about to be joined.
fn check_joined<A: Borrow<Array>>(op: &str, arrays: &[A]) -> Result<()> {
    if arrays.is_empty() { Err(Error::Argument(format!("{op}: at least one array is needed"))) } else { Ok(()) }
}

pub fn concatenate<A: Borrow<Array>>(arrays: &[A], axis: i32) -> Result<Array> {
    check_joined("concatenate", arrays)?;
    let place = check::axis("concatenate", axis, arrays[0].borrow().ndim())?;
    let sizes = arrays.iter().map(|array| i64::from(array.borrow().shape().get(place).copied().unwrap_or(0)));
    check::size("concatenate", sizes.sum())?;
    let list = ArrayVec::new(arrays);
    // SAFETY: a list of valid handles.
    output(|result| unsafe { sys::mlx_concatenate_axis(result, list.0, axis, stream::current()) })
}

pub fn stack<A: Borrow<Array>>(arrays: &[A], axis: i32) -> Result<Array> {
    check_joined("stack", arrays)?;
    let list = ArrayVec::new(arrays);
    // SAFETY: a list of valid handles.
    output(|result| unsafe { sys::mlx_stack_axis(result, list.0, axis, stream::current()) })
}

/// The shape that all of these broadcast to.
pub fn broadcast_shapes<S: AsRef<[i32]>>(shapes: &[S]) -> Result<Vec<i32>> {
    shapes.iter().map(AsRef::as_ref).try_fold(Vec::new(), |shape, next| {
        element_count(next)?;
        check::broadcast("broadcast_shapes", &shape, next)
    })
}

/// The arrays in the shape that all of them broadcast to.
pub fn broadcast_arrays<A: Borrow<Array>>(arrays: &[A]) -> Result<Vec<Array>> {
    check_joined("broadcast_arrays", arrays)?;
    let shapes: Vec<&[i32]> = arrays.iter().map(|array| array.borrow().shape()).collect();
    let shape = broadcast_shapes(&shapes)?;
    arrays.iter().map(|array| array.borrow().broadcast_to(&shape)).collect()
}
