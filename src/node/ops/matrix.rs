//! placeholder

use napi_derive::napi;

use super::ArrayHandle;
use crate::node::error as js;

/// Matrix product of the last two axes; the others are broadcast.
#[napi(namespace = "ops", catch_unwind)]
pub fn matmul(a: ArrayHandle, b: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.matmul(&b)?.into())
}
