//! Arguments of operations that are more than a number: an axis that may be null, and indices.

use napi::bindgen_prelude::{FromNapiValue, TypeName, ValidateNapiValue};
use napi::{ValueType, sys};

use super::handle::{self, ArrayHandle, integer};
use crate::mlx::{Array, Dtype, Error, Result};

/// An axis as Python gives it: left out it is a default, `null` (Python's None) stands for the elements in row-major order.
pub struct FlatAxis(Option<Option<f64>>);

impl FlatAxis {
    /// The axis, `None` for the elements in row-major order.
    pub fn or(&self, default: i32) -> Result<Option<i32>> {
        match self.0 {
            None => Ok(Some(default)),
            Some(None) => Ok(None),
            Some(Some(axis)) => integer("axis", axis).map(Some),
        }
    }

    /// The array to work on and its axis.
    pub fn of(&self, array: &Array, default: i32) -> Result<(Array, i32)> {
        match self.or(default)? {
            Some(axis) => Ok((array.clone(), axis)),
            None => Ok((array.flatten()?, 0)),
        }
    }
}

impl TypeName for FlatAxis {
    fn type_name() -> &'static str {
        "FlatAxis"
    }

    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl ValidateNapiValue for FlatAxis {}

impl FromNapiValue for FlatAxis {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        let mut kind = 0;
        // SAFETY: a value of this environment, in the current scope.
        unsafe { sys::napi_typeof(env, value, &mut kind) };
        match kind {
            sys::ValueType::napi_undefined => Ok(FlatAxis(None)),
            sys::ValueType::napi_null => Ok(FlatAxis(Some(None))),
            // SAFETY: as the caller promises.
            _ => unsafe { f64::from_napi_value(env, value) }.map(|axis| FlatAxis(Some(Some(axis)))),
        }
    }
}

/// Whole numbers that name places along an axis. Those that came as plain JavaScript data are known, and checked; arrays are not
/// looked at before evaluation, their operations move what lies outside to the nearest place.
pub struct Indices {
    array: Array,
    plain: bool,
}

impl Indices {
    /// The indices of slices of `length` along an axis of `size` elements.
    pub fn within(&self, op: &str, size: i32, length: i32) -> Result<&Array> {
        let (size, length) = (i64::from(size), i64::from(length));
        // Of single elements, negative places count from the end; so do those of slices.
        let valid = |index: i64| if index < 0 { index >= -size && index + size <= size - length } else { index <= size - length };
        match self.values()?.into_iter().find(|&index| !valid(index)) {
            Some(index) if length == 1 => Err(Error::Shape(format!("{op}: index {index} is outside an axis of {size} elements"))),
            Some(index) => {
                Err(Error::Shape(format!("{op}: a slice of {length} that starts at {index} leaves an axis of {size} elements")))
            }
            None => Ok(&self.array),
        }
    }

    /// One start for each of several axes, where slices of `lengths` begin.
    pub fn starts(&self, op: &str, array: &Array, axes: &[i32], lengths: &[i32]) -> Result<&Array> {
        for (&start, &axis) in self.values()?.iter().zip(axes) {
            let place = if axis < 0 { i64::from(axis) + array.ndim() as i64 } else { i64::from(axis) } as usize;
            let (Some(&size), Some(&length)) = (array.shape().get(place), lengths.get(place)) else { continue };
            if start < 0 || start + i64::from(length) > i64::from(size) {
                return Err(Error::Shape(format!(
                    "{op}: a slice of {length} that starts at {start} leaves axis {axis} of {size} elements"
                )));
            }
        }
        Ok(&self.array)
    }

    /// The places, where they are known.
    fn values(&self) -> Result<Vec<i64>> {
        let array = &self.array;
        if !self.plain {
            return Ok(Vec::new());
        }
        macro_rules! read {
            ($($dtype:ident $type:ty),*) => {
                match array.dtype() {
                    $(Dtype::$dtype => array.to_vec::<$type>()?.into_iter().map(i64::from).collect(),)*
                    Dtype::Uint64 => {
                        array.to_vec::<u64>()?.into_iter().map(|index| i64::try_from(index).unwrap_or(i64::MAX)).collect()
                    }
                    // Other dtypes are refused by the operation.
                    _ => Vec::new(),
                }
            };
        }
        Ok(read!(Uint8 u8, Uint16 u16, Uint32 u32, Int8 i8, Int16 i16, Int32 i32, Int64 i64))
    }
}

impl TypeName for Indices {
    fn type_name() -> &'static str {
        "Indices"
    }

    fn value_type() -> ValueType {
        ValueType::Number
    }
}

impl ValidateNapiValue for Indices {}

impl FromNapiValue for Indices {
    /// The handle of plain data arrives with a minus.
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        // SAFETY: as the caller promises.
        let handle = unsafe { handle::read(env, value) };
        let array = ArrayHandle::find(handle.saturating_abs()).map_err(handle::refused)?;
        Ok(Indices { array, plain: handle < 0 })
    }
}
