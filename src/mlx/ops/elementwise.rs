//! Operations on each element, with broadcasting and MLX's type promotion.

use mlx_sys as sys;

use crate::mlx::array::{optional, output};
use crate::mlx::{Array, Dtype, Error, Result, stream};

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
    arcsinh mlx_arcsinh, arccosh mlx_arccosh, arctanh mlx_arctanh, erfinv mlx_erfinv, degrees mlx_degrees, radians mlx_radians,
    floor mlx_floor, ceil mlx_ceil, trunc mlx_trunc, isnan mlx_isnan, isinf mlx_isinf, isfinite mlx_isfinite,
    isposinf mlx_isposinf, isneginf mlx_isneginf, logical_not mlx_logical_not, bitwise_invert mlx_bitwise_invert,
    conjugate mlx_conjugate, real mlx_real, imag mlx_imag,
    /// The array itself; refuses bool.
    positive mlx_positive,
    /// A copy with memory of its own.
    copy mlx_copy,
    /// The same values, with no gradient flowing through.
    stop_gradient mlx_stop_gradient,
}

binary! {
    add mlx_add, subtract mlx_subtract, multiply mlx_multiply, divide mlx_divide,
    /// An integer to a negative power is 0.
    power mlx_power,
    minimum mlx_minimum, maximum mlx_maximum, logaddexp mlx_logaddexp, arctan2 mlx_arctan2,
    equal mlx_equal, not_equal mlx_not_equal, less mlx_less, less_equal mlx_less_equal,
    greater mlx_greater, greater_equal mlx_greater_equal, logical_and mlx_logical_and, logical_or mlx_logical_or,
    logical_xor mlx_logical_xor, bitwise_and mlx_bitwise_and, bitwise_or mlx_bitwise_or, bitwise_xor mlx_bitwise_xor,
    /// Shifts by less than 0 or by the number of bits and more have no defined result.
    left_shift mlx_left_shift,
    /// Arithmetic for signed integers; otherwise as `left_shift`.
    right_shift mlx_right_shift,
}

impl Array {
    pub fn astype(&self, dtype: Dtype) -> Result<Array> {
        if self.dtype() == dtype {
            return Ok(self.clone());
        }
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_astype(result, self.0, dtype.raw(), stream::holding(&[self.dtype(), dtype])) })
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

    /// Replaces NaN, and infinities by the given values or else by the dtype's largest and smallest.
    pub fn nan_to_num(&self, nan: f32, posinf: Option<f32>, neginf: Option<f32>) -> Result<Array> {
        let float = |value: Option<f32>| sys::mlx_optional_float { value: value.unwrap_or(0.0), has_value: value.is_some() };
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_nan_to_num(result, self.0, nan, float(posinf), float(neginf), stream::current()) })
    }

    /// As `clip`, with arrays that broadcast.
    pub fn clip_array(&self, low: Option<&Array>, high: Option<&Array>) -> Result<Array> {
        if low.is_none() && high.is_none() {
            return Err(Error::Argument("clip: a lower or an upper bound is needed".into()));
        }
        // SAFETY: valid handles; a null bound means none.
        output(|result| unsafe { sys::mlx_clip(result, self.0, optional(low), optional(high), stream::current()) })
    }

    /// The quotient rounded down. Integers divided by 0 give 0, as in NumPy; MLX on a CPU would end the process.
    pub fn floor_divide(&self, other: &Array) -> Result<Array> {
        let raw = |numerator: &Array, divisor: &Array| {
            // SAFETY: valid handles.
            output(|result| unsafe { sys::mlx_floor_divide(result, numerator.0, divisor.0, stream::current()) })
        };
        let Some(divisor) = Divisor::of(self, other)? else { return raw(self, other) };
        let Some(is_minus_one) = &divisor.is_minus_one else {
            return where_(&divisor.is_zero, &divisor.zero, &raw(self, &divisor.safe)?);
        };
        // MLX rounds integers towards 0: without the remainder nothing is left to round.
        let whole = self.subtract(&divisor.remainder(self)?)?;
        let quotient = where_(&divisor.is_zero, &divisor.zero, &raw(&whole, &divisor.safe)?)?;
        where_(is_minus_one, &self.astype(divisor.zero.dtype())?.negative()?, &quotient)
    }

    /// The remainder of `floor_divide`, with the divisor's sign. Integers give 0 where the divisor is 0.
    pub fn remainder(&self, other: &Array) -> Result<Array> {
        match Divisor::of(self, other)? {
            Some(divisor) => divisor.remainder(self),
            None => raw_remainder(self, other),
        }
    }

    /// `[floor_divide, remainder]`.
    pub fn divmod(&self, other: &Array) -> Result<(Array, Array)> {
        Ok((self.floor_divide(other)?, self.remainder(other)?))
    }

    /// Where `|a - b| <= atol + rtol |b|`.
    pub fn isclose(&self, other: &Array, rtol: f64, atol: f64, equal_nan: bool) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_isclose(result, self.0, other.0, rtol, atol, equal_nan, stream::current()) })
    }

    /// Whether `isclose` holds everywhere; a bool scalar.
    pub fn allclose(&self, other: &Array, rtol: f64, atol: f64, equal_nan: bool) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_allclose(result, self.0, other.0, rtol, atol, equal_nan, stream::current()) })
    }

    /// Whether shapes and elements are equal; a bool scalar.
    pub fn array_equal(&self, other: &Array, equal_nan: bool) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_array_equal(result, self.0, other.0, equal_nan, stream::current()) })
    }
}

fn raw_remainder(numerator: &Array, divisor: &Array) -> Result<Array> {
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_remainder(result, numerator.0, divisor.0, stream::current()) })
}

/// An integer divisor without the values that trap on a CPU: 0, and -1 for the most negative number.
struct Divisor {
    safe: Array,
    zero: Array,
    is_zero: Array,
    is_minus_one: Option<Array>,
}

impl Divisor {
    /// 1 stands for 0 and for -1, whose remainders are 0 too.
    fn remainder(&self, numerator: &Array) -> Result<Array> {
        raw_remainder(numerator, &self.safe)
    }

    /// `None` where nothing traps because one side is not an integer.
    fn of(numerator: &Array, divisor: &Array) -> Result<Option<Divisor>> {
        let (a, b) = (numerator.dtype(), divisor.dtype());
        let traps = |dtype: Dtype| dtype.is_integer() || dtype == Dtype::Bool;
        if !traps(a) || !traps(b) {
            return Ok(None);
        }
        // uint64 with a signed integer promotes to float32.
        let promoted = Array::scalar_of(0., a)?.add(&Array::scalar_of(0., b)?)?.dtype();
        if !traps(promoted) {
            return Ok(None);
        }
        let divisor = divisor.astype(promoted)?;
        let scalar = |value: f64| Array::scalar_of(value, promoted);
        let is_zero = divisor.equal(&scalar(0.)?)?;
        let signed = promoted.is_integer() && !promoted.is_unsigned();
        let is_minus_one = if signed { Some(divisor.equal(&scalar(-1.)?)?) } else { None };
        let unsafe_one = match &is_minus_one {
            Some(is_minus_one) => is_zero.logical_or(is_minus_one)?,
            None => is_zero.clone(),
        };
        Ok(Some(Divisor { safe: where_(&unsafe_one, &scalar(1.)?, &divisor)?, zero: scalar(0.)?, is_zero, is_minus_one }))
    }
}

/// `a` where `condition` holds, else `b`.
pub fn where_(condition: &Array, a: &Array, b: &Array) -> Result<Array> {
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_where(result, condition.0, a.0, b.0, stream::current()) })
}
