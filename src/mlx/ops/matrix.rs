//! Matrix products.

use std::ffi::CString;

use mlx_sys as sys;

use crate::mlx::array::{ArrayVec, output};
use crate::mlx::{Array, Error, Result, stream};

impl Array {
    /// Matrix product of the last two axes, broadcasting the others.
    pub fn matmul(&self, other: &Array) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_matmul(result, self.0, other.0, stream::current()) })
    }
}

/// `alpha * a @ b + beta * c`.
pub fn addmm(c: &Array, a: &Array, b: &Array, alpha: f32, beta: f32) -> Result<Array> {
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_addmm(result, c.0, a.0, b.0, alpha, beta, stream::current()) })
}

/// Sums of products in Einstein's notation, for example `bij,bjk->bik`.
pub fn einsum<A: std::borrow::Borrow<Array>>(subscripts: &str, operands: &[A]) -> Result<Array> {
    let text = CString::new(subscripts).map_err(|_| Error::Argument("einsum subscripts hold a NUL character".into()))?;
    let list = ArrayVec::new(operands);
    // SAFETY: the string and the list live during the call.
    output(|result| unsafe { sys::mlx_einsum(result, text.as_ptr(), list.0, stream::current()) })
}
