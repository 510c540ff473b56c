//! New arrays from shapes and ranges.

use mlx_sys as sys;

use super::check;
use crate::mlx::array::{ArrayVec, element_count, output, output_list};
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

/// A shape filled with an array's values, broadcast.
pub fn full_array(shape: &[i32], values: &Array, dtype: Dtype) -> Result<Array> {
    element_count(shape)?;
    if !check::broadcasts_to(values.shape(), shape) {
        return Err(Error::Shape(format!("full: values of shape {:?} do not broadcast to {shape:?}", values.shape())));
    }
    // SAFETY: the shape lives during the call.
    output(|result| unsafe { sys::mlx_full(result, shape.as_ptr(), shape.len(), values.0, dtype.raw(), stream::current()) })
}

/// `[start, stop)` in steps.
pub fn arange(start: f64, stop: f64, step: f64, dtype: Dtype) -> Result<Array> {
    if step == 0.0 || !step.is_finite() || !start.is_finite() || !stop.is_finite() {
        return Err(Error::Argument(format!("arange({start}, {stop}, {step}) needs finite bounds and a step that is not 0")));
    }
    if (stop - start) / step > f64::from(i32::MAX) {
        return Err(Error::Shape(format!("arange({start}, {stop}, {step}) has more than {} elements", i32::MAX)));
    }
    if (stop - start) / step <= 0.0 {
        // The CUDA backend crashes on an arange of nothing.
        return zeros(&[0], dtype);
    }
    // SAFETY: plain numbers.
    output(|result| unsafe { sys::mlx_arange(result, start, stop, step, dtype.raw(), stream::current()) })
}

/// `count` values from `start` to `stop`, both included.
pub fn linspace(start: f64, stop: f64, count: i32, dtype: Dtype) -> Result<Array> {
    linspace_endpoint(start, stop, count, true, dtype)
}

/// As `linspace`; without `endpoint` the last value is one step before `stop`.
pub fn linspace_endpoint(start: f64, stop: f64, count: i32, endpoint: bool, dtype: Dtype) -> Result<Array> {
    check::at_least("linspace", "the number of values", count, 0)?;
    if !start.is_finite() || !stop.is_finite() {
        return Err(Error::Argument(format!("linspace({start}, {stop}) needs finite bounds")));
    }
    // SAFETY: plain numbers.
    output(|result| unsafe { sys::mlx_linspace_endpoint(result, start, stop, count, endpoint, dtype.raw(), stream::current()) })
}

/// A diagonal that exists or is just outside: MLX computes with it in int32.
fn bounded_diagonal(k: i32, rows: i32, columns: i32) -> i32 {
    k.clamp(-rows.max(0), columns.max(0))
}

/// Ones on and below the `k`-th diagonal of an `rows` by `columns` matrix.
pub fn tri(rows: i32, columns: i32, k: i32, dtype: Dtype) -> Result<Array> {
    element_count(&[rows, columns])?;
    let k = bounded_diagonal(k, rows, columns);
    // SAFETY: plain numbers.
    output(|result| unsafe { sys::mlx_tri(result, rows, columns, k, dtype.raw(), stream::current()) })
}

/// Ones on the `k`-th diagonal of an `rows` by `columns` matrix.
pub fn eye(rows: i32, columns: i32, k: i32, dtype: Dtype) -> Result<Array> {
    if element_count(&[rows, columns])? == 0 {
        return zeros(&[rows, columns], dtype);
    }
    let k = bounded_diagonal(k, rows, columns);
    // SAFETY: plain numbers.
    output(|result| unsafe { sys::mlx_eye(result, rows, columns, k, dtype.raw(), stream::current()) })
}

pub fn identity(size: i32, dtype: Dtype) -> Result<Array> {
    eye(size, size, 0, dtype)
}

macro_rules! windows {
    ($($name:ident $raw:ident $formula:literal),* $(,)?) => { $(
        #[doc = concat!($formula, ", for `n` in `0..count` and `M = count`; float32.")]
        pub fn $name(count: i32) -> Result<Array> {
            check::at_least(stringify!($name), "the number of points", count, 0)?;
            // SAFETY: a plain number.
            output(|result| unsafe { sys::$raw(result, count, stream::current()) })
        }
    )* };
}

windows! {
    bartlett mlx_bartlett "`1 - |2n / (M - 1) - 1|`",
    blackman mlx_blackman "`0.42 - 0.5 cos(2πn / (M - 1)) + 0.08 cos(4πn / (M - 1))`",
    hamming mlx_hamming "`0.54 - 0.46 cos(2πn / (M - 1))`",
    hanning mlx_hanning "`0.5 - 0.5 cos(2πn / (M - 1))`",
}

/// Coordinate matrices of vectors. `indexing` is `xy` (first two axes swapped) or `ij`; `sparse` leaves out the broadcast.
pub fn meshgrid<A: std::borrow::Borrow<Array>>(arrays: &[A], sparse: bool, indexing: &str) -> Result<Vec<Array>> {
    check::one_of("meshgrid", "indexing", indexing, &["xy", "ij"])?;
    if arrays.is_empty() {
        return Err(Error::Argument("meshgrid: at least one array is needed".into()));
    }
    if let Some(array) = arrays.iter().map(|array| array.borrow()).find(|array| array.ndim() > 1) {
        return Err(Error::Shape(format!("meshgrid: vectors are needed, got shape {:?}", array.shape())));
    }
    element_count(&arrays.iter().map(|array| array.borrow().size() as i32).collect::<Vec<_>>())?;
    let list = ArrayVec::new(arrays);
    let indexing = if indexing == "xy" { c"xy" } else { c"ij" };
    // SAFETY: valid handles; the word lives for ever.
    output_list(|result| unsafe { sys::mlx_meshgrid(result, list.0, sparse, indexing.as_ptr(), stream::current()) })
}

impl Array {
    /// On and below the `k`-th diagonal of the last two axes; 0 above.
    pub fn tril(&self, k: i32) -> Result<Array> {
        check::min_ndim("tril", self, 2)?;
        let k = bounded_diagonal(k, self.dim(-2), self.dim(-1));
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_tril(result, self.0, k, stream::current()) })
    }

    /// On and above the `k`-th diagonal of the last two axes; 0 below.
    pub fn triu(&self, k: i32) -> Result<Array> {
        check::min_ndim("triu", self, 2)?;
        let k = bounded_diagonal(k, self.dim(-2), self.dim(-1));
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_triu(result, self.0, k, stream::current()) })
    }

    /// The `k`-th diagonal of a matrix, or a matrix with this vector as its `k`-th diagonal.
    pub fn diag(&self, k: i32) -> Result<Array> {
        match self.shape() {
            &[count] => {
                let size = check::size("diag", i64::from(count) + i64::from(k).abs())?;
                element_count(&[size, size])?;
                if count == 0 {
                    return zeros(&[size, size], self.dtype());
                }
                // SAFETY: valid handle.
                output(|result| unsafe { sys::mlx_diag(result, self.0, k, stream::current()) })
            }
            [_, _] => self.diagonal(k, 0, 1),
            shape => Err(Error::Shape(format!("diag: a vector or matrix is needed, got shape {shape:?}"))),
        }
    }

    /// The diagonal of two axes, which becomes the last axis.
    pub fn diagonal(&self, offset: i32, axis1: i32, axis2: i32) -> Result<Array> {
        let places = check::axes("diagonal", &[axis1, axis2], self.ndim())?;
        let shape = self.shape();
        let offset = bounded_diagonal(offset, shape[places[0]], shape[places[1]]);
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_diagonal(result, self.0, offset, axis1, axis2, stream::current()) })
    }

    /// The sum of a diagonal, in `dtype` or else as MLX sums this one.
    pub fn trace(&self, offset: i32, axis1: i32, axis2: i32, dtype: Option<Dtype>) -> Result<Array> {
        let diagonal = self.diagonal(offset, axis1, axis2)?;
        match dtype {
            Some(dtype) => diagonal.astype(dtype)?.sum(&[-1], false)?.astype(dtype),
            None => diagonal.sum(&[-1], false),
        }
    }
}
