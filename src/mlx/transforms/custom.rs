//! Functions with a differentiation of their own.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlx_sys as sys;

use super::closure::{Closure, answer, some_output};
use crate::mlx::array::vector_to_arrays;
use crate::mlx::{Array, Error, Result};

/// Runs `function` so that a gradient recomputes it instead of keeping what it computed on the way.
/// Everything that needs a gradient must come in through `inputs`. The graph keeps the function: see the module's notes.
pub fn checkpoint(
    mut function: impl FnMut(&[Array]) -> Result<Vec<Array>> + Send + 'static,
    inputs: &[Array],
) -> Result<Vec<Array>> {
    // SAFETY: a 'static closure may live as long as MLX likes.
    let closure = unsafe { Closure::new(move |inputs: &[Array]| some_output("checkpoint", function(inputs)?)) };
    // SAFETY: fills an empty closure.
    Closure::filled(|result| unsafe { sys::mlx_checkpoint(result, closure.0) })?.apply(inputs)
}

/// The gradients of a custom function: from its inputs, the cotangents of its outputs and the outputs, one per input.
type CustomGradient = dyn FnMut(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + Send;

unsafe extern "C" fn call_gradient(
    result: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    cotangents: sys::mlx_vector_array,
    outputs: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    // SAFETY: `payload` is the box given to MLX together with this function, used by one thread at a time.
    let function = unsafe { &mut *payload.cast::<Box<CustomGradient>>() };
    answer(result, || {
        let (primals, cotangents) = (vector_to_arrays(primals)?, vector_to_arrays(cotangents)?);
        let gradients = function(&primals, &cotangents, &vector_to_arrays(outputs)?)?;
        if gradients.len() != primals.len() {
            let counts = format!("{} gradients for {} inputs", gradients.len(), primals.len());
            return Err(Error::Argument(format!("a custom gradient returned {counts}")));
        }
        for (index, (gradient, primal)) in gradients.iter().zip(&primals).enumerate() {
            if gradient.shape() != primal.shape() {
                let (found, wanted) = (gradient.shape(), primal.shape());
                return Err(Error::Shape(format!(
                    "a custom gradient returned shape {found:?} for input {index}, which has {wanted:?}"
                )));
            }
        }
        Ok(gradients)
    })
}

unsafe extern "C" fn release_gradient(payload: *mut c_void) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: made by `Box::into_raw` in `custom_vjp`, released once by MLX.
        drop(unsafe { Box::from_raw(payload.cast::<Box<CustomGradient>>()) });
    }));
}

/// Runs `function` with `gradient` in place of its own differentiation. `gradient` returns one array per input, of its shape;
/// those of inputs that are not differentiated are never computed. An error in `gradient` surfaces as the outer transform's.
/// The graph keeps `gradient`: see the module's notes.
pub fn custom_vjp(
    mut function: impl FnMut(&[Array]) -> Result<Vec<Array>> + Send + 'static,
    gradient: impl FnMut(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + Send + 'static,
    inputs: &[Array],
) -> Result<Vec<Array>> {
    // SAFETY: a 'static closure may live as long as MLX likes.
    let closure = unsafe { Closure::new(move |inputs: &[Array]| some_output("custom_vjp", function(inputs)?)) };
    let payload: Box<Box<CustomGradient>> = Box::new(Box::new(gradient));
    // SAFETY: MLX calls `release_gradient` when its last reference to the payload goes; the handle is freed after its last use.
    let wrapped = Closure::filled(|result| unsafe {
        let raw =
            sys::mlx_closure_custom_new_func_payload(Some(call_gradient), Box::into_raw(payload).cast(), Some(release_gradient));
        let status = sys::mlx_custom_vjp(result, closure.0, raw);
        sys::mlx_closure_custom_free(raw);
        status
    })?;
    wrapped.apply(inputs)
}
