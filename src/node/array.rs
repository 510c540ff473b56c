//! Arrays in and out of JavaScript, and what can be asked of one. Reading waits for the owner thread.

use napi::Env;
use napi::bindgen_prelude::{
    BigInt64Array, BigUint64Array, Either10, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Object, Uint8Array,
    Uint16Array, Uint32Array, Unknown,
};
use napi_derive::napi;

use super::error as js;
use super::handle::{self, ArrayHandle, integers};
use super::{lifetime, promise};
use crate::mlx::{self, Array, Dtype, Error, Result};

/// A dtype by name.
pub struct DtypeName(String);

impl DtypeName {
    pub fn parse(&self) -> Result<Dtype> {
        Dtype::parse(&self.0)
    }

    pub fn or(name: Option<DtypeName>, default: Dtype) -> Result<Dtype> {
        name.map_or(Ok(default), |name| name.parse())
    }
}

mod conversions {
    use napi::bindgen_prelude::{FromNapiValue, TypeName, ValidateNapiValue};
    use napi::{ValueType, sys};

    use super::DtypeName;

    impl TypeName for DtypeName {
        fn type_name() -> &'static str {
            "DtypeName"
        }

        fn value_type() -> ValueType {
            ValueType::String
        }
    }

    impl ValidateNapiValue for DtypeName {}

    impl FromNapiValue for DtypeName {
        unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
            let mut kind = 0;
            // SAFETY: a value of this environment, in the current scope.
            unsafe { sys::napi_typeof(env, value, &mut kind) };
            if kind != sys::ValueType::napi_string {
                // napi's own message would hold all that an object has in it.
                return Err(napi::Error::new(napi::Status::StringExpected, "a dtype is given by its name"));
            }
            // SAFETY: as the caller promises.
            unsafe { String::from_napi_value(env, value) }.map(DtypeName)
        }
    }
}

/// Frees the array of a handle and the handle itself; one that is not in use is left alone.
#[napi(namespace = "core", ts_args_type = "handle: ArrayHandle")]
pub fn release(handle: i32) {
    handle::release(handle);
}

/// Frees the array of a handle. The handle is not given out again before `release`.
#[napi(namespace = "core", ts_args_type = "handle: ArrayHandle")]
pub fn empty(handle: i32) {
    handle::empty(handle);
}

/// `release` of the first `count` handles of a list.
#[napi(namespace = "core")]
pub fn release_all(handles: Int32Array, count: u32) {
    handle::release_all(&handles[..handles.len().min(count as usize)]);
}

/// Arrays that this thread's JavaScript holds.
#[napi(namespace = "core")]
pub fn live_arrays() -> u32 {
    handle::live() as u32
}

/// Bytes that the garbage collector of this thread is told that arrays and models hold outside its heap: small changes together.
#[napi(namespace = "core")]
pub fn accounted_memory() -> f64 {
    (lifetime::accounted() + handle::untold()) as f64
}

/// Copies the bytes of elements of `dtype`, row-major, into a new array.
#[napi(namespace = "core")]
pub fn from_bytes(bytes: Uint8Array, shape: Vec<f64>, dtype: DtypeName) -> js::Result<ArrayHandle> {
    Ok(Array::from_bytes(&bytes, &integers("shape", &shape)?, dtype.parse()?)?.into())
}

/// A 0-dimensional array.
#[napi(namespace = "core")]
pub fn scalar(value: f64, dtype: DtypeName) -> js::Result<ArrayHandle> {
    Ok(Array::scalar_of(value, dtype.parse()?)?.into())
}

/// A number as an operand beside `like`, whose dtype it takes where that can hold it.
#[napi(namespace = "core")]
pub fn weak_scalar(value: f64, like: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(handle::weak_scalar(value, like.dtype())?.into())
}

/// The doubles through which numbers beside arrays travel.
#[napi(namespace = "core", ts_return_type = "Float64Array")]
pub fn scratch(env: &Env) -> Option<Unknown<'_>> {
    // SAFETY: a value of this environment, made in the current scope.
    handle::scratch::view(env.raw()).map(|view| unsafe { Unknown::from_raw_unchecked(env.raw(), view) })
}

#[napi(namespace = "core")]
pub fn shape(array: ArrayHandle) -> Vec<i32> {
    array.shape().to_vec()
}

#[napi(namespace = "core")]
pub fn ndim(array: ArrayHandle) -> u32 {
    array.ndim() as u32
}

#[napi(namespace = "core")]
pub fn size(array: ArrayHandle) -> f64 {
    array.size() as f64
}

#[napi(namespace = "core")]
pub fn nbytes(array: ArrayHandle) -> f64 {
    array.nbytes() as f64
}

#[napi(namespace = "core")]
pub fn dtype(array: ArrayHandle) -> &'static str {
    array.dtype().name()
}

/// Runs the graphs behind several arrays and waits.
#[napi(namespace = "core")]
pub fn eval(arrays: Vec<ArrayHandle>) -> js::Result<()> {
    Ok(mlx::eval(&arrays)?)
}

/// Runs the graphs behind several arrays without blocking the event loop.
#[napi(namespace = "core", ts_return_type = "Promise<void>")]
pub fn eval_async<'env>(env: &'env Env, arrays: Vec<ArrayHandle>) -> js::Result<Object<'env>> {
    if mlx::in_trace() {
        return Err(Error::Argument("a transformed function cannot wait for evalAsync(); eval() works inside".into()).into());
    }
    let arrays: Vec<Array> = arrays.iter().map(|array| Array::clone(array)).collect();
    promise::once(env, move || mlx::eval(&arrays), |()| ())
}

type Elements = Either10<
    Uint8Array,
    Uint16Array,
    Uint32Array,
    BigUint64Array,
    Int8Array,
    Int16Array,
    Int32Array,
    BigInt64Array,
    Float32Array,
    Float64Array,
>;

/// All elements, row-major: bool as bytes, half precision as float32, complex as pairs of float32.
#[napi(namespace = "core")]
pub fn elements(array: ArrayHandle) -> js::Result<Elements> {
    Ok(match array.dtype() {
        Dtype::Bool | Dtype::Uint8 => Either10::A(array.to_bytes()?.into()),
        Dtype::Uint16 => Either10::B(array.to_vec::<u16>()?.into()),
        Dtype::Uint32 => Either10::C(array.to_vec::<u32>()?.into()),
        Dtype::Uint64 => Either10::D(array.to_vec::<u64>()?.into()),
        Dtype::Int8 => Either10::E(array.to_vec::<i8>()?.into()),
        Dtype::Int16 => Either10::F(array.to_vec::<i16>()?.into()),
        Dtype::Int32 => Either10::G(array.to_vec::<i32>()?.into()),
        Dtype::Int64 => Either10::H(array.to_vec::<i64>()?.into()),
        Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 => Either10::I(array.to_f32()?.into()),
        Dtype::Float64 => Either10::J(array.to_vec::<f64>()?.into()),
        Dtype::Complex64 => Either10::I(array.to_pairs()?.into()),
    })
}

/// The bytes of all elements, row-major, little-endian.
#[napi(namespace = "core")]
pub fn bytes(array: ArrayHandle) -> js::Result<Uint8Array> {
    Ok(array.to_bytes()?.into())
}

/// Copies the bytes of all elements, row-major and little-endian, over those of `target`, of which there must be as many.
#[napi(namespace = "core")]
pub fn read_into(array: ArrayHandle, mut target: Uint8Array) -> js::Result<()> {
    // SAFETY: JavaScript waits for this call, so nobody else writes there.
    Ok(array.read_into(unsafe { target.as_mut() })?)
}

/// All elements converted to float32, row-major.
#[napi(namespace = "core")]
pub fn to_float32(array: ArrayHandle) -> js::Result<Float32Array> {
    Ok(array.to_f32()?.into())
}

/// All elements converted to int32, row-major.
#[napi(namespace = "core")]
pub fn to_int32(array: ArrayHandle) -> js::Result<Int32Array> {
    Ok(array.to_i32()?.into())
}

/// All elements converted to uint32, row-major.
#[napi(namespace = "core")]
pub fn to_uint32(array: ArrayHandle) -> js::Result<Uint32Array> {
    Ok(array.astype(Dtype::Uint32)?.to_vec::<u32>()?.into())
}

/// The only element of an array, as a double.
#[napi(namespace = "core")]
pub fn item(array: ArrayHandle) -> js::Result<f64> {
    if array.size() != 1 {
        return Err(Error::Shape(format!("item() needs one element, this array has shape {:?}", array.shape())).into());
    }
    let exact = |value: f64, text: String| {
        // From 2^53 on whole numbers differ from their neighbours by less than doubles do.
        if value.abs() < 9_007_199_254_740_992. {
            Ok(value)
        } else {
            Err(Error::Dtype(format!("item(): {text} does not fit a JavaScript number; toArray() gives it as a bigint")))
        }
    };
    let values = match array.dtype() {
        Dtype::Float64 => array.to_vec::<f64>()?,
        Dtype::Int64 => {
            array.to_vec::<i64>()?.into_iter().map(|value| exact(value as f64, value.to_string())).collect::<Result<_>>()?
        }
        Dtype::Uint64 => {
            array.to_vec::<u64>()?.into_iter().map(|value| exact(value as f64, value.to_string())).collect::<Result<_>>()?
        }
        Dtype::Uint32 => array.to_vec::<u32>()?.into_iter().map(f64::from).collect(),
        Dtype::Int32 => array.to_vec::<i32>()?.into_iter().map(f64::from).collect(),
        Dtype::Complex64 => {
            return Err(
                Error::Dtype("item(): a complex number is not a JavaScript number; toArray() gives { re, im }".into()).into()
            );
        }
        _ => array.to_f32()?.into_iter().map(f64::from).collect(),
    };
    Ok(values[0])
}

/// As Python's MLX prints it.
#[napi(namespace = "core")]
pub fn text(array: ArrayHandle) -> js::Result<String> {
    Ok(array.text()?)
}

/// Another handle of the same array.
#[napi(namespace = "core")]
pub fn alias(array: ArrayHandle) -> ArrayHandle {
    array
}
