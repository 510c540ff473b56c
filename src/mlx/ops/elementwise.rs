//! Operations on each element, with broadcasting and MLX's type promotion.

use mlx_sys as sys;

use crate::mlx::array::output;
use crate::mlx::{Array, Dtype, Result, stream};

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident $raw:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            pub fn $name(&self) -> Result<Array> {
                // SAFETY: valid handles.
                output(|result| unsafe { sys::$raw(result, self.0, stream::current()) })
            }
        )* }
    };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident $raw:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            pub fn $name(&self, other: &Array) -> Result<Array> {
                // SAFETY: valid handles.
                output(|result| unsafe { sys::$raw(result, self.0, other.0, stream::current()) })
            }
        )* }
    };
}

unary! {
    abs mlx_abs, negative mlx_negative, sign mlx_sign, square mlx_square, sqrt mlx_sqrt, rsqrt mlx_rsqrt,
    reciprocal mlx_reciprocal, exp mlx_exp, expm1 mlx_expm1, log mlx_log, log2 mlx_log2, log10 mlx_log10, log1p mlx_log1p,
    sin mlx_sin, cos mlx_cos, tan mlx_tan, sinh mlx_sinh, cosh mlx_cosh, tanh mlx_tanh,
    arcsin mlx_arcsin, arccos mlx_arccos, arctan mlx_arctan, sigmoid mlx_sigmoid, erf mlx_erf,
    floor mlx_floor, ceil mlx_ceil, isnan mlx_isnan, isinf mlx_isinf, isfinite mlx_isfinite, logical_not mlx_logical_not,
    /// The same values, with no gradient flowing through.
    stop_gradient mlx_stop_gradient,
}

binary! {
    add mlx_add, subtract mlx_subtract, multiply mlx_multiply, divide mlx_divide, power mlx_power,
    floor_divide mlx_floor_divide, remainder mlx_remainder, minimum mlx_minimum, maximum mlx_maximum, logaddexp mlx_logaddexp,
    equal mlx_equal, not_equal mlx_not_equal, less mlx_less, less_equal mlx_less_equal,
    greater mlx_greater, greater_equal mlx_greater_equal, logical_and mlx_logical_and, logical_or mlx_logical_or,
}

impl Array {
    pub fn astype(&self, dtype: Dtype) -> Result<Array> {
        if self.dtype() == dtype {
            return Ok(self.clone());
        }
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_astype(result, self.0, dtype.raw(), stream::current()) })
    }

    /// A scalar of this array's dtype if that is a float, else float32, so that it does not promote the array.
    fn like_scalar(&self, value: f32) -> Result<Array> {
        let dtype = self.dtype();
        Array::scalar_of(value as f64, if dtype.is_float() { dtype } else { Dtype::Float32 })
    }

    pub fn add_scalar(&self, value: f32) -> Result<Array> {
        self.add(&self.like_scalar(value)?)
    }

    pub fn multiply_scalar(&self, value: f32) -> Result<Array> {
        self.multiply(&self.like_scalar(value)?)
    }

    pub fn divide_scalar(&self, value: f32) -> Result<Array> {
        self.divide(&self.like_scalar(value)?)
    }

    pub fn minimum_scalar(&self, value: f32) -> Result<Array> {
        self.minimum(&self.like_scalar(value)?)
    }

    pub fn maximum_scalar(&self, value: f32) -> Result<Array> {
        self.maximum(&self.like_scalar(value)?)
    }

    pub fn greater_scalar(&self, value: f32) -> Result<Array> {
        self.greater(&self.like_scalar(value)?)
    }

    pub fn less_scalar(&self, value: f32) -> Result<Array> {
        self.less(&self.like_scalar(value)?)
    }

    /// Values outside `[low, high]` become the bound; `None` leaves that side open.
    pub fn clip(&self, low: Option<f32>, high: Option<f32>) -> Result<Array> {
        let raised = match low {
            Some(low) => self.maximum_scalar(low)?,
            None => self.clone(),
        };
        match high {
            Some(high) => raised.minimum_scalar(high),
            None => Ok(raised),
        }
    }

    /// `x * sigmoid(x)`.
    pub fn silu(&self) -> Result<Array> {
        self.multiply(&self.sigmoid()?)
    }

    /// Rounds to a number of decimals, halves to even.
    pub fn round(&self, decimals: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_round(result, self.0, decimals, stream::current()) })
    }

    pub fn nan_to_num(&self, nan: f32) -> Result<Array> {
        let unset = sys::mlx_optional_float { value: 0.0, has_value: false };
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_nan_to_num(result, self.0, nan, unset, unset, stream::current()) })
    }
}

/// `a` where `condition` holds, else `b`.
pub fn where_(condition: &Array, a: &Array, b: &Array) -> Result<Array> {
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_where(result, condition.0, a.0, b.0, stream::current()) })
}
