//! Operations that reduce axes. Negative axes count from the end.

use mlx_sys as sys;

use crate::mlx::array::output;
use crate::mlx::{Array, Result, stream};

macro_rules! reductions {
    ($($(#[$doc:meta])* $axes:ident $all:ident $raw_axes:ident $raw_all:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            pub fn $axes(&self, axes: &[i32], keepdims: bool) -> Result<Array> {
                // SAFETY: the axes live during the call.
                output(|result| unsafe { sys::$raw_axes(result, self.0, axes.as_ptr(), axes.len(), keepdims, stream::current()) })
            }

            /// Over all axes.
            pub fn $all(&self) -> Result<Array> {
                // SAFETY: valid handle.
                output(|result| unsafe { sys::$raw_all(result, self.0, false, stream::current()) })
            }
        )* }
    };
}

reductions! {
    sum sum_all mlx_sum_axes mlx_sum,
    mean mean_all mlx_mean_axes mlx_mean,
    prod prod_all mlx_prod_axes mlx_prod,
    max max_all mlx_max_axes mlx_max,
    min min_all mlx_min_axes mlx_min,
    all all_all mlx_all_axes mlx_all,
    any any_all mlx_any_axes mlx_any,
    logsumexp logsumexp_all mlx_logsumexp_axes mlx_logsumexp,
}

impl Array {
    /// Variance with `ddof` taken off the divisor.
    pub fn var(&self, axes: &[i32], keepdims: bool, ddof: i32) -> Result<Array> {
        // SAFETY: the axes live during the call.
        output(|result| unsafe {
            sys::mlx_var_axes(result, self.0, axes.as_ptr(), axes.len(), keepdims, ddof, stream::current())
        })
    }

    pub fn std(&self, axes: &[i32], keepdims: bool, ddof: i32) -> Result<Array> {
        // SAFETY: the axes live during the call.
        output(|result| unsafe {
            sys::mlx_std_axes(result, self.0, axes.as_ptr(), axes.len(), keepdims, ddof, stream::current())
        })
    }

    /// Index (uint32) of the largest value along an axis; the first of equals.
    pub fn argmax(&self, axis: i32, keepdims: bool) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_argmax_axis(result, self.0, axis, keepdims, stream::current()) })
    }

    pub fn argmin(&self, axis: i32, keepdims: bool) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_argmin_axis(result, self.0, axis, keepdims, stream::current()) })
    }

    /// Running sum along an axis; `reverse` runs from the end, `inclusive` counts the element itself.
    pub fn cumsum(&self, axis: i32, reverse: bool, inclusive: bool) -> Result<Array> {
        let unset = sys::mlx_optional_dtype { value: 0, has_value: false };
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_cumsum_axis(result, self.0, axis, reverse, inclusive, unset, stream::current()) })
    }

    pub fn cumprod(&self, axis: i32, reverse: bool, inclusive: bool) -> Result<Array> {
        let unset = sys::mlx_optional_dtype { value: 0, has_value: false };
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_cumprod_axis(result, self.0, axis, reverse, inclusive, unset, stream::current()) })
    }

    /// Softmax over an axis, accumulated in float32.
    pub fn softmax(&self, axis: i32) -> Result<Array> {
        // SAFETY: the axis lives during the call.
        output(|result| unsafe { sys::mlx_softmax_axes(result, self.0, &axis, 1, true, stream::current()) })
    }

    /// `x - logsumexp(x)` over an axis.
    pub fn log_softmax(&self, axis: i32) -> Result<Array> {
        self.subtract(&self.logsumexp(&[axis], true)?)
    }
}
