//! Functions that are called so often that napi-rs's own conversions would be most of what they cost: their callbacks talk to Node-API
//! themselves. They take the places of the functions that `#[napi]` has declared, under the same names.

use std::ffi::{CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use napi::bindgen_prelude::{JsObjectValue, Object};
use napi::{JsError, JsValue, sys};

use super::error::Code;
use super::handle;
use super::ops::elementwise;
use crate::mlx::{Array, Result};
use crate::runtime::panic_error;

pub type Unary = fn(&Array) -> Result<Array>;
pub type Binary = fn(&Array, &Array) -> Result<Array>;
type Free = fn(i32);

/// The arguments that are handles (0 for those that are none) and the data of the function.
unsafe fn arguments<const N: usize>(env: sys::napi_env, info: sys::napi_callback_info) -> ([i32; N], *mut c_void) {
    let (mut count, mut values, mut data) = (N, [null_mut(); N], null_mut());
    // SAFETY: as the caller promises, inside a callback of this environment. What is missing is undefined.
    unsafe {
        let status = sys::napi_get_cb_info(env, info, &mut count, values.as_mut_ptr(), null_mut(), &mut data);
        debug_assert_eq!(status, sys::Status::napi_ok);
        (values.map(|value| handle::read(env, value)), data)
    }
}

/// The handle that `work` makes, or its error thrown.
unsafe fn answer(env: sys::napi_env, work: impl FnOnce() -> Result<i32>) -> sys::napi_value {
    let made = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panic_error(panic)));
    let mut value = null_mut();
    // SAFETY: makes a number, or an error, in the current scope.
    unsafe {
        match made {
            Ok(handle) => {
                sys::napi_create_int32(env, handle, &mut value);
            }
            Err(error) => JsError::<Code>::from(napi::Error::<Code>::from(error)).throw_into(env),
        }
    }
    value
}

unsafe extern "C" fn unary(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: called by Node; the data is what `install` gave with this callback.
    unsafe {
        let ([a], data) = arguments(env, info);
        let operation = std::mem::transmute::<*mut c_void, Unary>(data);
        answer(env, || handle::with(a, operation))
    }
}

unsafe extern "C" fn binary(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: as in `unary`.
    unsafe {
        let ([a, b], data) = arguments(env, info);
        let operation = std::mem::transmute::<*mut c_void, Binary>(data);
        answer(env, || handle::with_pair(a, b, operation))
    }
}

/// `undefined`; a panic, which only a destructor could cause, is dropped.
unsafe extern "C" fn freeing(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: as in `unary`.
    unsafe {
        let ([array], data) = arguments(env, info);
        let work = std::mem::transmute::<*mut c_void, Free>(data);
        let _ = catch_unwind(AssertUnwindSafe(|| work(array)));
    }
    null_mut()
}

/// `log_two` is `logTwo` in JavaScript.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_string();
    words.fold(first, |name, word| name + &word[..1].to_ascii_uppercase() + &word[1..])
}

/// Puts a function into the place of the one of that name.
fn replace(space: &Object, name: &str, callback: sys::napi_callback, data: *mut c_void) -> napi::Result<()> {
    if !space.has_named_property(name)? {
        return Err(napi::Error::from_reason(format!("a bug in mlx-node: there is no function '{name}' to replace")));
    }
    let (env, text) = (space.value().env, CString::new(name)?);
    let mut function = null_mut();
    // SAFETY: a callback that lives as long as the process, in this environment.
    let made = unsafe {
        let length = name.len() as isize;
        sys::napi_create_function(env, text.as_ptr(), length, callback, data, &mut function) == sys::Status::napi_ok
            && sys::napi_set_named_property(env, space.value().value, text.as_ptr(), function) == sys::Status::napi_ok
    };
    if made { Ok(()) } else { Err(napi::Error::from_reason(format!("'{name}' could not be replaced"))) }
}

/// Called with the exports of each environment.
pub fn install(exports: &Object) -> napi::Result<()> {
    let ops = exports.get_named_property::<Object>("ops")?;
    for (name, operation) in elementwise::UNARY {
        replace(&ops, &camel_case(name), Some(unary), *operation as *mut c_void)?;
    }
    for (name, operation) in elementwise::BINARY {
        replace(&ops, &camel_case(name), Some(binary), *operation as *mut c_void)?;
    }
    let core = exports.get_named_property::<Object>("core")?;
    for (name, work) in [("release", handle::release as Free), ("empty", handle::empty)] {
        replace(&core, name, Some(freeing), work as *mut c_void)?;
    }
    Ok(())
}
