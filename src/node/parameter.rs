//! Parameters that are a number or an array, where it matters which.

use napi::bindgen_prelude::{FromNapiValue, TypeName, ValidateNapiValue};
use napi::{ValueType, sys};

use super::{ArrayHandle, integer};
use crate::mlx::{Array, Result};

/// An array is a number here, so a number arrives in a list of its own.
pub enum NumberOrArray {
    Number(f64),
    Array(ArrayHandle),
}

impl NumberOrArray {
    pub fn or(value: Option<NumberOrArray>, default: f64) -> NumberOrArray {
        value.unwrap_or(NumberOrArray::Number(default))
    }

    /// A float32 scalar, or the array.
    pub fn array(&self) -> Array {
        match self {
            NumberOrArray::Number(value) => Array::scalar(*value as f32),
            NumberOrArray::Array(array) => Array::clone(array),
        }
    }

    /// An int32 scalar from a whole number, or the array.
    pub fn integers(&self, what: &str) -> Result<Array> {
        Ok(match self {
            NumberOrArray::Number(value) => Array::scalar_i32(integer(what, *value)?),
            NumberOrArray::Array(array) => Array::clone(array),
        })
    }
}

impl TypeName for NumberOrArray {
    fn type_name() -> &'static str {
        "NumberOrArray"
    }

    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl ValidateNapiValue for NumberOrArray {}

impl FromNapiValue for NumberOrArray {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        let mut is_list = false;
        // SAFETY: a value of this environment, as the caller promises.
        unsafe {
            if sys::napi_is_array(env, value, &mut is_list) != sys::Status::napi_ok || !is_list {
                return ArrayHandle::from_napi_value(env, value).map(NumberOrArray::Array);
            }
            let number = Vec::<f64>::from_napi_value(env, value)?.first().copied();
            number.map(NumberOrArray::Number).ok_or_else(|| napi::Error::new(napi::Status::InvalidArg, "a number was expected"))
        }
    }
}
