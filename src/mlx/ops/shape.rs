//! Shapes: views, joins and splits. Nothing here computes on values.

use mlx_sys as sys;

use crate::mlx::array::{ArrayVec, output};
use crate::mlx::error::check;
use crate::mlx::{Array, Dtype, Error, Result, stream};

impl Array {
    /// One size may be -1: it takes what the others leave.
    pub fn reshape(&self, shape: &[i32]) -> Result<Array> {
        // SAFETY: the shape lives during the call.
        output(|result| unsafe { sys::mlx_reshape(result, self.0, shape.as_ptr(), shape.len(), stream::current()) })
    }

    pub fn flatten(&self) -> Result<Array> {
        self.reshape(&[-1])
    }

    pub fn transpose(&self, axes: &[i32]) -> Result<Array> {
        // SAFETY: the axes live during the call.
        output(|result| unsafe { sys::mlx_transpose_axes(result, self.0, axes.as_ptr(), axes.len(), stream::current()) })
    }

    pub fn swapaxes(&self, a: i32, b: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_swapaxes(result, self.0, a, b, stream::current()) })
    }

    /// All axes in reverse order.
    pub fn t(&self) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_transpose(result, self.0, stream::current()) })
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
        // SAFETY: the shape lives during the call.
        output(|result| unsafe { sys::mlx_broadcast_to(result, self.0, shape.as_ptr(), shape.len(), stream::current()) })
    }

    /// `[start, stop)` on every axis.
    pub fn slice(&self, start: &[i32], stop: &[i32]) -> Result<Array> {
        self.slice_strided(start, stop, &vec![1; start.len()])
    }

    pub fn slice_strided(&self, start: &[i32], stop: &[i32], strides: &[i32]) -> Result<Array> {
        let ndim = self.ndim();
        if [start.len(), stop.len(), strides.len()].iter().any(|&length| length != ndim) {
            return Err(Error::Shape(format!(
                "slice of a {ndim}-dimensional array needs {ndim} starts, stops and strides; got {}, {} and {}",
                start.len(),
                stop.len(),
                strides.len()
            )));
        }
        // SAFETY: the lists live during the call and have the array's rank.
        output(|result| unsafe {
            sys::mlx_slice(result, self.0, start.as_ptr(), ndim, stop.as_ptr(), ndim, strides.as_ptr(), ndim, stream::current())
        })
    }

    /// `[start, stop)` on one axis, everything on the others.
    pub fn slice_axis(&self, axis: i32, start: i32, stop: i32) -> Result<Array> {
        let ndim = self.ndim() as i32;
        let index = if axis < 0 { axis + ndim } else { axis };
        if index < 0 || index >= ndim {
            return Err(Error::Shape(format!("axis {axis} is not one of a {ndim}-dimensional array")));
        }
        let mut starts = vec![0; ndim as usize];
        let mut stops = self.shape().to_vec();
        starts[index as usize] = start;
        stops[index as usize] = stop;
        self.slice(&starts, &stops)
    }

    /// A copy with `[start, stop)` replaced by `update`. MLX writes in place when nobody else holds the array.
    pub fn slice_update(&self, update: &Array, start: &[i32], stop: &[i32]) -> Result<Array> {
        let ndim = self.ndim();
        if start.len() != ndim || stop.len() != ndim {
            return Err(Error::Shape(format!("slice_update of a {ndim}-dimensional array needs {ndim} starts and stops")));
        }
        let strides = vec![1; ndim];
        // SAFETY: the lists live during the call and have the array's rank.
        output(|result| unsafe {
            sys::mlx_slice_update(
                result,
                self.0,
                update.0,
                start.as_ptr(),
                ndim,
                stop.as_ptr(),
                ndim,
                strides.as_ptr(),
                ndim,
                stream::current(),
            )
        })
    }

    /// Pads each axis with `low` and `high` elements of `value`.
    pub fn pad(&self, low: &[i32], high: &[i32], value: f32) -> Result<Array> {
        let ndim = self.ndim();
        if low.len() != ndim || high.len() != ndim {
            return Err(Error::Shape(format!("pad of a {ndim}-dimensional array needs {ndim} widths on each side")));
        }
        let axes: Vec<i32> = (0..ndim as i32).collect();
        let value = Array::scalar_of(value as f64, self.dtype())?;
        // SAFETY: the lists live during the call.
        output(|result| unsafe {
            sys::mlx_pad(
                result,
                self.0,
                axes.as_ptr(),
                ndim,
                low.as_ptr(),
                ndim,
                high.as_ptr(),
                ndim,
                value.0,
                c"constant".as_ptr(),
                stream::current(),
            )
        })
    }

    pub fn split(&self, parts: i32, axis: i32) -> Result<Vec<Array>> {
        let mut list = ArrayVec::empty();
        // SAFETY: fills the list.
        check(unsafe { sys::mlx_split(&mut list.0, self.0, parts, axis, stream::current()) })?;
        list.to_arrays()
    }

    /// Each element `count` times in a row along an axis.
    pub fn repeat(&self, count: i32, axis: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_repeat_axis(result, self.0, count, axis, stream::current()) })
    }

    pub fn tile(&self, counts: &[i32]) -> Result<Array> {
        // SAFETY: the counts live during the call.
        output(|result| unsafe { sys::mlx_tile(result, self.0, counts.as_ptr(), counts.len(), stream::current()) })
    }

    pub fn roll(&self, shift: i32, axis: i32) -> Result<Array> {
        // SAFETY: the shift lives during the call.
        output(|result| unsafe { sys::mlx_roll_axis(result, self.0, &shift, 1, axis, stream::current()) })
    }

    /// The same bytes in row-major order; no copy where they already are.
    pub fn contiguous(&self) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_contiguous(result, self.0, false, stream::current()) })
    }

    /// The same bytes read as another dtype of the same size.
    pub fn view(&self, dtype: Dtype) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_view(result, self.0, dtype.raw(), stream::current()) })
    }
}

pub fn concatenate<A: std::borrow::Borrow<Array>>(arrays: &[A], axis: i32) -> Result<Array> {
    let list = ArrayVec::new(arrays);
    // SAFETY: a list of valid handles.
    output(|result| unsafe { sys::mlx_concatenate_axis(result, list.0, axis, stream::current()) })
}

pub fn stack<A: std::borrow::Borrow<Array>>(arrays: &[A], axis: i32) -> Result<Array> {
    let list = ArrayVec::new(arrays);
    // SAFETY: a list of valid handles.
    output(|result| unsafe { sys::mlx_stack_axis(result, list.0, axis, stream::current()) })
}
