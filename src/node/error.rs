//! Rust errors as JavaScript errors with a stable `code`.

use napi::bindgen_prelude::{Object, ToNapiValue, Unknown};
use napi::{Env, Status};

use crate::mlx::Error;

/// The `code` of an error thrown by a synchronous function.
pub struct Code(&'static str);

impl AsRef<str> for Code {
    fn as_ref(&self) -> &str {
        self.0
    }
}

impl From<Status> for Code {
    fn from(_: Status) -> Self {
        Code("ERR_MLX_INTERNAL")
    }
}

pub type Result<T> = napi::Result<T, Code>;

impl From<Error> for napi::Error<Code> {
    fn from(error: Error) -> Self {
        napi::Error::new(Code(error.code()), error.to_string())
    }
}

/// An error of napi's own (a value of the wrong kind, a closing environment).
pub fn argument(error: napi::Error) -> napi::Error<Code> {
    napi::Error::new(Code("ERR_MLX_ARGUMENT"), error.reason.clone())
}

/// The same error for a promise: napi keeps a code there only on an error object made in JavaScript's terms.
pub fn rejection(env: &Env, error: &Error) -> napi::Error {
    let build = || -> napi::Result<napi::Error> {
        let mut object: Object = env.create_error(napi::Error::new(Status::GenericFailure, error.to_string()))?;
        object.set("code", error.code())?;
        // SAFETY: the object belongs to this environment and lives in the current scope.
        let value = unsafe {
            let raw = ToNapiValue::to_napi_value(env.raw(), object)?;
            Unknown::from_raw_unchecked(env.raw(), raw)
        };
        Ok(napi::Error::from_unknown_without_coercion(value))
    };
    build().unwrap_or_else(|_| napi::Error::new(Status::GenericFailure, error.to_string()))
}
