//! A Rust function in MLX-C's form.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use mlx_sys as sys;

use super::traversal::{alone, traced};
use crate::mlx::array::{ArrayVec, vector_to_arrays};
use crate::mlx::error::check;
use crate::mlx::{Array, Error, Result, stream};
use crate::runtime::panic_error;

type Function<'a> = dyn FnMut(&[Array]) -> Result<Vec<Array>> + 'a;

/// The lock is never waited for: it finds out a function that calls itself through its own transform.
type Payload<'a> = Mutex<Box<Function<'a>>>;

thread_local! {
    /// What the innermost traced function of this thread failed with. MLX only knows that it failed.
    static FAILURE: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Runs a traced function and hands its outputs to MLX; an error or panic is kept for `run`.
pub(super) fn answer(result: *mut sys::mlx_vector_array, function: impl FnOnce() -> Result<Vec<Array>>) -> c_int {
    match traced(|| catch_unwind(AssertUnwindSafe(function)).unwrap_or_else(|panic| Err(panic_error(panic)))) {
        Ok(outputs) => {
            let list = ArrayVec::new(&outputs);
            // SAFETY: both lists are valid; the references are copied.
            unsafe { sys::mlx_vector_array_set(result, list.0) }
        }
        Err(error) => {
            FAILURE.set(Some(error));
            1
        }
    }
}

/// Runs a transform. The error of a traced function goes before MLX's.
pub(super) fn run(transform: impl FnOnce() -> c_int) -> Result<()> {
    // Transforms ask for the thread's default stream before any operation of ours has set it.
    stream::current();
    FAILURE.set(None);
    let status = alone(transform);
    let failure = FAILURE.take();
    check(status).map_err(|error| failure.unwrap_or(error))
}

unsafe extern "C" fn call(result: *mut sys::mlx_vector_array, input: sys::mlx_vector_array, payload: *mut c_void) -> c_int {
    // SAFETY: `payload` is the `Payload` given to MLX together with this function.
    let payload = unsafe { &*payload.cast::<Payload>() };
    answer(result, || {
        let inputs = vector_to_arrays(input)?;
        let mut function = match payload.try_lock() {
            Ok(function) => function,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => {
                return Err(Error::Argument(
                    "a function calls itself through its own transform (compile, checkpoint or custom_vjp): it would never end"
                        .into(),
                ));
            }
        };
        function(&inputs)
    })
}

unsafe extern "C" fn release(payload: *mut c_void) {
    // A panic in the drop of what a closure captured must not unwind into C++.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: made by `Box::into_raw` in `Closure::new`, released once by MLX.
        drop(unsafe { Box::from_raw(payload.cast::<Payload<'static>>()) });
    }));
}

pub(super) struct Closure(pub(super) sys::mlx_closure);

// SAFETY: a counted reference; what the functions capture is `Send` by the signatures of the public functions, and two calls at once are
// refused by the payload's lock.
unsafe impl Send for Closure {}
unsafe impl Sync for Closure {}

impl Drop for Closure {
    fn drop(&mut self) {
        // SAFETY: ours, dropped once. MLX keeps its own reference to the payload where it still needs it.
        unsafe { sys::mlx_closure_free(self.0) };
    }
}

impl Closure {
    /// # Safety
    /// The caller must not let MLX keep the closure longer than `'a`, nor drop it on another thread unless the function is `Send`.
    pub unsafe fn new<'a>(function: impl FnMut(&[Array]) -> Result<Vec<Array>> + 'a) -> Closure {
        let payload: Box<Payload<'a>> = Box::new(Mutex::new(Box::new(function)));
        // SAFETY: MLX calls `release` when its last reference goes.
        Closure(unsafe { sys::mlx_closure_new_func_payload(Some(call), Box::into_raw(payload).cast(), Some(release)) })
    }

    /// A closure that `fill` makes, for example from another one.
    pub fn filled(fill: impl FnOnce(*mut sys::mlx_closure) -> c_int) -> Result<Closure> {
        let mut closure = Closure(sys::mlx_closure { ctx: std::ptr::null_mut() });
        run(|| fill(&mut closure.0))?;
        Ok(closure)
    }

    pub fn apply(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let list = ArrayVec::new(inputs);
        let mut outputs = ArrayVec::empty();
        // SAFETY: valid handles.
        run(|| unsafe { sys::mlx_closure_apply(&mut outputs.0, self.0, list.0) })?;
        outputs.to_arrays()
    }
}

/// MLX indexes outputs before it counts them.
pub(super) fn some_output(transform: &str, outputs: Vec<Array>) -> Result<Vec<Array>> {
    if outputs.is_empty() {
        return Err(Error::Argument(format!("{transform} needs a function with at least one output; this one returned none")));
    }
    Ok(outputs)
}
