//! Operations that reduce or scan axes. Negative axes count from the end.

use mlx_sys as sys;

use super::{check, zeros};
use crate::mlx::array::output;
use crate::mlx::{Array, Dtype, Result, stream};

/// Nothing to check: an empty reduction has a neutral element.
fn any_size(_: &str, _: &Array, _: &[i32]) -> Result<()> {
    Ok(())
}

/// The reduced axes must hold something.
fn filled(op: &str, array: &Array, axes: &[i32]) -> Result<()> {
    if axes.is_empty() && op == "median" {
        return Err(crate::mlx::Error::Argument("median: at least one axis is needed".into()));
    }
    check::axes(op, axes, array.ndim())?.into_iter().try_for_each(|place| check::filled_axis(op, array, place))
}

macro_rules! reductions {
    ($check:ident; $($(#[$doc:meta])* $axes:ident $all:ident $raw_axes:ident $raw_all:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            pub fn $axes(&self, axes: &[i32], keepdims: bool) -> Result<Array> {
                $check(stringify!($axes), self, axes)?;
                // SAFETY: the axes live during the call.
                output(|result| unsafe { sys::$raw_axes(result, self.0, axes.as_ptr(), axes.len(), keepdims, stream::current()) })
            }

            /// Over all axes.
            pub fn $all(&self) -> Result<Array> {
                if self.size() == 0 {
                    return self.$axes(&(0..self.ndim() as i32).collect::<Vec<_>>(), false);
                }
                // SAFETY: valid handle.
                output(|result| unsafe { sys::$raw_all(result, self.0, false, stream::current()) })
            }
        )* }
    };
}

reductions! {
    any_size;
    sum sum_all mlx_sum_axes mlx_sum,
    mean mean_all mlx_mean_axes mlx_mean,
    prod prod_all mlx_prod_axes mlx_prod,
    all all_all mlx_all_axes mlx_all,
    any any_all mlx_any_axes mlx_any,
    /// The number of elements that are not 0.
    count_nonzero count_nonzero_all mlx_count_nonzero_axes mlx_count_nonzero,
}

reductions! {
    filled;
    max max_all mlx_max_axes mlx_max,
    min min_all mlx_min_axes mlx_min,
    logsumexp logsumexp_all mlx_logsumexp_axes mlx_logsumexp,
    /// The middle value, or the mean of the two in the middle.
    median median_all mlx_median_axes mlx_median,
}

macro_rules! arg_reductions {
    ($($(#[$doc:meta])* $axis:ident $all:ident $raw_axis:ident $raw_all:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            pub fn $axis(&self, axis: i32, keepdims: bool) -> Result<Array> {
                filled(stringify!($axis), self, &[axis])?;
                // SAFETY: valid handle.
                output(|result| unsafe { sys::$raw_axis(result, self.0, axis, keepdims, stream::current()) })
            }

            /// Of all elements in row-major order.
            pub fn $all(&self, keepdims: bool) -> Result<Array> {
                check::not_empty(stringify!($axis), self)?;
                if self.ndim() == 0 {
                    return zeros(&[], Dtype::Uint32);
                }
                // SAFETY: valid handle.
                output(|result| unsafe { sys::$raw_all(result, self.0, keepdims, stream::current()) })
            }
        )* }
    };
}

arg_reductions! {
    /// Index (uint32) of the largest value along an axis; the first of equals.
    argmax argmax_all mlx_argmax_axis mlx_argmax,
    /// Index (uint32) of the smallest value along an axis; the first of equals.
    argmin argmin_all mlx_argmin_axis mlx_argmin,
}

macro_rules! scans {
    ($($(#[$doc:meta])* $name:ident $raw:ident $($dtype:ident)? $(($kind:ident))?),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            ///
            /// `reverse` runs from the end, `inclusive` counts the element itself.
            pub fn $name(&self, axis: i32, reverse: bool, inclusive: bool) -> Result<Array> {
                check::axis(stringify!($name), axis, self.ndim())?;
                let array = self$(.$kind()?)?.clone();
                if array.size() == 0 {
                    return Ok(array);
                }
                // SAFETY: valid handle.
                output(|result| unsafe {
                    sys::$raw(result, array.0, axis, reverse, inclusive, $($dtype(),)? stream::current())
                })
            }
        )* }
    };
}

fn unset() -> sys::mlx_optional_dtype {
    sys::mlx_optional_dtype { value: 0, has_value: false }
}

scans! {
    /// Running sum along an axis.
    cumsum mlx_cumsum_axis unset,
    /// Running product along an axis.
    cumprod mlx_cumprod_axis unset,
    /// Largest value so far along an axis.
    cummax mlx_cummax_axis,
    /// Smallest value so far along an axis.
    cummin mlx_cummin_axis,
    /// Logarithm of the running sum of exponentials along an axis. Of whole numbers it is float32, as in Python since MLX 0.32.4.
    logcumsumexp mlx_logcumsumexp_axis (fractional),
}

impl Array {
    /// Variance with `ddof` taken off the divisor.
    pub fn var(&self, axes: &[i32], keepdims: bool, ddof: i32) -> Result<Array> {
        // SAFETY: the axes live during the call.
        output(|result| unsafe {
            sys::mlx_var_axes(result, self.0, axes.as_ptr(), axes.len(), keepdims, ddof, stream::current())
        })
    }

    /// Square root of the variance.
    pub fn std(&self, axes: &[i32], keepdims: bool, ddof: i32) -> Result<Array> {
        // SAFETY: the axes live during the call.
        output(|result| unsafe {
            sys::mlx_std_axes(result, self.0, axes.as_ptr(), axes.len(), keepdims, ddof, stream::current())
        })
    }

    /// Softmax over an axis, accumulated in float32.
    pub fn softmax(&self, axis: i32) -> Result<Array> {
        self.softmax_axes(&[axis], true)
    }

    /// This array, or float32 where its dtype has whole numbers only.
    fn fractional(&self) -> Result<Array> {
        let dtype = self.dtype();
        if dtype.is_float() || dtype == Dtype::Complex64 { Ok(self.clone()) } else { self.astype(Dtype::Float32) }
    }

    /// Softmax over several axes together. `precise` accumulates half precision in float32.
    pub fn softmax_axes(&self, axes: &[i32], precise: bool) -> Result<Array> {
        if self.size() == 0 {
            check::axes("softmax", axes, self.ndim())?;
            return self.fractional();
        }
        // Over all axes MLX rounds the result back to the whole numbers' dtype.
        let array = self.fractional()?;
        // SAFETY: the axes live during the call.
        output(|result| unsafe { sys::mlx_softmax_axes(result, array.0, axes.as_ptr(), axes.len(), precise, stream::current()) })
    }

    /// `x - logsumexp(x)` over an axis.
    pub fn log_softmax(&self, axis: i32) -> Result<Array> {
        self.subtract(&self.logsumexp(&[axis], true)?)
    }

    /// The product of the sizes of some axes as a scalar; 1 over it with `inverted`.
    pub fn number_of_elements(&self, axes: &[i32], inverted: bool, dtype: Dtype) -> Result<Array> {
        check::axes("number_of_elements", axes, self.ndim())?;
        // SAFETY: the axes live during the call.
        output(|result| unsafe {
            sys::mlx_number_of_elements(result, self.0, axes.as_ptr(), axes.len(), inverted, dtype.raw(), stream::current())
        })
    }

    /// The `n`-th difference of neighbours along an axis.
    pub fn diff(&self, n: i32, axis: i32) -> Result<Array> {
        let place = check::axis("diff", axis, self.ndim())?;
        check::at_least("diff", "n", n, 0)?;
        let n = n.min(self.shape()[place]);
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_diff(result, self.0, n, axis, stream::current()) })
    }
}
