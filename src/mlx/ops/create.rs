//! New arrays from shapes and ranges.

use mlx_sys as sys;

use crate::mlx::array::{element_count, output};
use crate::mlx::{Array, Dtype, Error, Result, stream};

pub fn zeros(shape: &[i32], dtype: Dtype) -> Result<Array> {
    element_count(shape)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe { sys::mlx_zeros(result, shape.as_ptr(), shape.len(), dtype.raw(), stream::current()) })
}

pub fn ones(shape: &[i32], dtype: Dtype) -> Result<Array> {
    element_count(shape)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe { sys::mlx_ones(result, shape.as_ptr(), shape.len(), dtype.raw(), stream::current()) })
}

pub fn full(shape: &[i32], value: f64, dtype: Dtype) -> Result<Array> {
    element_count(shape)?;
    let value = Array::scalar_of(value, dtype)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe { sys::mlx_full(result, shape.as_ptr(), shape.len(), value.0, dtype.raw(), stream::current()) })
}

pub fn zeros_like(array: &Array) -> Result<Array> {
    // SAFETY: valid handle.
    output(|result| unsafe { sys::mlx_zeros_like(result, array.0, stream::current()) })
}

pub fn ones_like(array: &Array) -> Result<Array> {
    // SAFETY: valid handle.
    output(|result| unsafe { sys::mlx_ones_like(result, array.0, stream::current()) })
}

pub fn full_like(array: &Array, value: f64) -> Result<Array> {
    full(array.shape(), value, array.dtype())
}

/// `[start, stop)` in steps.
pub fn arange(start: f64, stop: f64, step: f64, dtype: Dtype) -> Result<Array> {
    if step == 0.0 || !step.is_finite() || !start.is_finite() || !stop.is_finite() {
        return Err(Error::Argument(format!("arange({start}, {stop}, {step}) needs finite bounds and a step that is not 0")));
    }
    // SAFETY: plain numbers.
    output(|result| unsafe { sys::mlx_arange(result, start, stop, step, dtype.raw(), stream::current()) })
}

/// `count` values from `start` to `stop`, both included.
pub fn linspace(start: f64, stop: f64, count: i32, dtype: Dtype) -> Result<Array> {
    // SAFETY: plain numbers.
    output(|result| unsafe { sys::mlx_linspace(result, start, stop, count, dtype.raw(), stream::current()) })
}

/// Ones on and below the `k`-th diagonal of an `rows` by `columns` matrix.
pub fn tri(rows: i32, columns: i32, k: i32, dtype: Dtype) -> Result<Array> {
    // SAFETY: plain numbers.
    output(|result| unsafe { sys::mlx_tri(result, rows, columns, k, dtype.raw(), stream::current()) })
}
