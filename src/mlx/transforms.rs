//! Function transforms. A Rust closure becomes an MLX function; its error or panic comes back as the transform's error.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use mlx_sys as sys;

use super::array::{ArrayVec, vector_to_arrays};
use super::error::check;
use super::{Array, Error, Result, stream};
use crate::runtime::panic_error;

type ErrorSlot = Arc<Mutex<Option<Error>>>;

type Function<'a> = dyn FnMut(&[Array]) -> Result<Vec<Array>> + 'a;

struct Payload<'a> {
    function: Box<Function<'a>>,
    error: ErrorSlot,
}

unsafe extern "C" fn call(result: *mut sys::mlx_vector_array, input: sys::mlx_vector_array, payload: *mut c_void) -> c_int {
    // SAFETY: `payload` is the `Payload` given to MLX together with this function, used by one thread at a time.
    let payload = unsafe { &mut *payload.cast::<Payload>() };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let inputs = vector_to_arrays(input)?;
        (payload.function)(&inputs)
    }))
    .unwrap_or_else(|panic| Err(panic_error(panic)));
    match outcome {
        Ok(outputs) => {
            let list = ArrayVec::new(&outputs);
            // SAFETY: both lists are valid; the references are copied.
            unsafe { sys::mlx_vector_array_set(result, list.0) }
        }
        Err(error) => {
            payload.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
            1
        }
    }
}

unsafe extern "C" fn release(payload: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `Closure::new`, released once by MLX.
    drop(unsafe { Box::from_raw(payload.cast::<Payload<'static>>()) });
}

/// A Rust function in MLX-C's form.
struct Closure {
    raw: sys::mlx_closure,
    error: ErrorSlot,
}

// SAFETY: used by one thread at a time; what it captures is `Send` by the signatures of the public functions.
unsafe impl Send for Closure {}

impl Drop for Closure {
    fn drop(&mut self) {
        // SAFETY: ours, dropped once. MLX keeps its own reference to the payload where it still needs it.
        unsafe { sys::mlx_closure_free(self.raw) };
    }
}

impl Closure {
    /// # Safety
    /// The caller must not let MLX keep the closure longer than `'a`.
    unsafe fn new<'a>(function: impl FnMut(&[Array]) -> Result<Vec<Array>> + 'a) -> Closure {
        let error = ErrorSlot::default();
        // Transforms ask for the thread's default stream before any operation of ours has set it.
        stream::current();
        let payload = Box::new(Payload { function: Box::new(function), error: error.clone() });
        // SAFETY: MLX calls `release` when its last reference goes.
        let raw = unsafe { sys::mlx_closure_new_func_payload(Some(call), Box::into_raw(payload).cast(), Some(release)) };
        Closure { raw, error }
    }

    /// The closure's own error if it had one, else MLX's.
    fn check(&self, status: c_int) -> Result<()> {
        let own = self.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let custom = GRADIENT_ERROR.take();
        check(status).map_err(|error| own.or(custom).unwrap_or(error))
    }

    fn apply(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let list = ArrayVec::new(inputs);
        let mut outputs = ArrayVec::empty();
        // SAFETY: valid handles.
        self.check(unsafe { sys::mlx_closure_apply(&mut outputs.0, self.raw, list.0) })?;
        outputs.to_arrays()
    }
}

/// Evaluates `function` at `inputs` and differentiates its first output, a scalar, with respect to the inputs in `argnums`.
/// Returns all outputs and one gradient per entry of `argnums`.
pub fn value_and_grad(
    function: impl FnMut(&[Array]) -> Result<Vec<Array>>,
    inputs: &[Array],
    argnums: &[i32],
) -> Result<(Vec<Array>, Vec<Array>)> {
    if argnums.is_empty() {
        return Err(Error::Argument("value_and_grad needs at least one argument to differentiate".into()));
    }
    // SAFETY: MLX calls the function during `apply` only; the transformed closure is freed before this returns.
    let closure = unsafe { Closure::new(function) };
    let list = ArrayVec::new(inputs);
    let mut values = ArrayVec::empty();
    let mut gradients = ArrayVec::empty();
    // SAFETY: valid handles; the transformed closure is freed on every path.
    unsafe {
        let mut transformed = sys::mlx_closure_value_and_grad_new();
        let mut status = sys::mlx_value_and_grad(&mut transformed, closure.raw, argnums.as_ptr(), argnums.len());
        if status == 0 {
            status = sys::mlx_closure_value_and_grad_apply(&mut values.0, &mut gradients.0, transformed, list.0);
        }
        sys::mlx_closure_value_and_grad_free(transformed);
        closure.check(status)?;
    }
    Ok((values.to_arrays()?, gradients.to_arrays()?))
}

/// Outputs of `function` at `primals`, and the products of `cotangents` with its Jacobian.
pub fn vjp(
    function: impl FnMut(&[Array]) -> Result<Vec<Array>>,
    primals: &[Array],
    cotangents: &[Array],
) -> Result<(Vec<Array>, Vec<Array>)> {
    // SAFETY: MLX calls the function during `mlx_vjp` only.
    let closure = unsafe { Closure::new(function) };
    let (primals, cotangents) = (ArrayVec::new(primals), ArrayVec::new(cotangents));
    let mut values = ArrayVec::empty();
    let mut gradients = ArrayVec::empty();
    // SAFETY: valid handles.
    closure.check(unsafe { sys::mlx_vjp(&mut values.0, &mut gradients.0, closure.raw, primals.0, cotangents.0) })?;
    Ok((values.to_arrays()?, gradients.to_arrays()?))
}

/// Runs `function` so that a gradient recomputes it instead of keeping what it computed on the way.
/// Everything that needs a gradient must come in through `inputs`.
pub fn checkpoint(function: impl FnMut(&[Array]) -> Result<Vec<Array>> + Send + 'static, inputs: &[Array]) -> Result<Vec<Array>> {
    // SAFETY: a 'static closure may live as long as MLX likes.
    let closure = unsafe { Closure::new(function) };
    let mut wrapped = Closure { raw: sys::mlx_closure { ctx: std::ptr::null_mut() }, error: closure.error.clone() };
    // SAFETY: fills an empty closure.
    closure.check(unsafe { sys::mlx_checkpoint(&mut wrapped.raw, closure.raw) })?;
    wrapped.apply(inputs)
}

/// The gradients of a custom function: from its inputs, the cotangents of its outputs and the outputs, one per input.
pub type CustomGradient = dyn FnMut(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + Send;

thread_local! {
    /// What a custom gradient failed with: it runs inside an outer transform whose slot it cannot know.
    static GRADIENT_ERROR: RefCell<Option<Error>> = const { RefCell::new(None) };
}

unsafe extern "C" fn call_gradient(
    result: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    cotangents: sys::mlx_vector_array,
    outputs: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    // SAFETY: `payload` is the box given to MLX together with this function, used by one thread at a time.
    let function = unsafe { &mut *payload.cast::<Box<CustomGradient>>() };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (primals, cotangents) = (vector_to_arrays(primals)?, vector_to_arrays(cotangents)?);
        let gradients = function(&primals, &cotangents, &vector_to_arrays(outputs)?)?;
        if gradients.len() != primals.len() {
            let counts = format!("{} gradients for {} inputs", gradients.len(), primals.len());
            return Err(Error::Internal(format!("a custom gradient returned {counts}")));
        }
        Ok(gradients)
    }))
    .unwrap_or_else(|panic| Err(panic_error(panic)));
    match outcome {
        Ok(gradients) => {
            let list = ArrayVec::new(&gradients);
            // SAFETY: both lists are valid; the references are copied.
            unsafe { sys::mlx_vector_array_set(result, list.0) }
        }
        Err(error) => {
            GRADIENT_ERROR.set(Some(error));
            1
        }
    }
}

unsafe extern "C" fn release_gradient(payload: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `custom_vjp`, released once by MLX.
    drop(unsafe { Box::from_raw(payload.cast::<Box<CustomGradient>>()) });
}

/// Runs `function` with `gradient` in place of its own differentiation. `gradient` returns one array per input;
/// those of inputs that are not differentiated are never computed. An error in `gradient` surfaces as the outer transform's.
pub fn custom_vjp(
    function: impl FnMut(&[Array]) -> Result<Vec<Array>> + Send + 'static,
    gradient: impl FnMut(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + Send + 'static,
    inputs: &[Array],
) -> Result<Vec<Array>> {
    // SAFETY: a 'static closure may live as long as MLX likes.
    let closure = unsafe { Closure::new(function) };
    let payload: Box<Box<CustomGradient>> = Box::new(Box::new(gradient));
    let mut wrapped = Closure { raw: sys::mlx_closure { ctx: std::ptr::null_mut() }, error: closure.error.clone() };
    // SAFETY: MLX calls `release_gradient` when its last reference to the payload goes; the handle is freed after its last use.
    closure.check(unsafe {
        let raw =
            sys::mlx_closure_custom_new_func_payload(Some(call_gradient), Box::into_raw(payload).cast(), Some(release_gradient));
        let status = sys::mlx_custom_vjp(&mut wrapped.raw, closure.raw, raw);
        sys::mlx_closure_custom_free(raw);
        status
    })?;
    wrapped.apply(inputs)
}

/// The same arrays, computed only after `dependencies` have been: bounds how much of a wide graph is in memory at once.
pub fn depends<A: std::borrow::Borrow<Array>>(inputs: &[Array], dependencies: &[A]) -> Result<Vec<Array>> {
    let (inputs, dependencies) = (ArrayVec::new(inputs), ArrayVec::new(dependencies));
    let mut outputs = ArrayVec::empty();
    // SAFETY: valid handles.
    check(unsafe { sys::mlx_depends(&mut outputs.0, inputs.0, dependencies.0) })?;
    outputs.to_arrays()
}

/// A function traced once per combination of shapes and dtypes, then run as fused kernels.
pub struct Compiled(Closure);

impl Compiled {
    /// Only on the owner thread: the cache of traces belongs to it.
    pub fn call(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        debug_assert!(crate::runtime::is_owner(), "compiled functions belong to the owner thread");
        self.0.apply(inputs)
    }
}

/// Compiles a pure function: all it depends on must come in through its inputs.
pub fn compiled(function: impl FnMut(&[Array]) -> Result<Vec<Array>> + Send + 'static, shapeless: bool) -> Result<Compiled> {
    // SAFETY: a 'static closure may live as long as MLX likes.
    let closure = unsafe { Closure::new(function) };
    let mut wrapped = Closure { raw: sys::mlx_closure { ctx: std::ptr::null_mut() }, error: closure.error.clone() };
    // SAFETY: fills an empty closure.
    closure.check(unsafe { sys::mlx_compile(&mut wrapped.raw, closure.raw, shapeless) })?;
    Ok(Compiled(wrapped))
}

/// On the CPU MLX compiles with `g++` at run time and silently turns itself off without it.
pub fn compile_available() -> bool {
    super::device() == "gpu"
        || std::process::Command::new("g++")
            .arg("--version")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}
