//! Function transforms over JavaScript functions. TypeScript flattens arguments and results to lists of arrays and keeps what its
//! function threw: a function that failed returns `null` here.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use napi::Env;
use napi::bindgen_prelude::{FnArgs, Function, FunctionRef};
use napi_derive::napi;

use super::error as js;
use super::handle::{ArrayHandle, TakenHandle, integers};
use super::lifetime::current_env;
use crate::mlx::{self, Array, Error, Result};

type Handles = Option<Vec<TakenHandle>>;
type ArrayFunction<'env> = Function<'env, FnArgs<(Vec<ArrayHandle>,)>, Handles>;
type GradientArguments = FnArgs<(Vec<ArrayHandle>, Vec<ArrayHandle>, Vec<ArrayHandle>)>;
type GradientFunction<'env> = Function<'env, GradientArguments, Handles>;

fn handles(arrays: &[Array]) -> Vec<ArrayHandle> {
    arrays.iter().cloned().map(Into::into).collect()
}

fn arrays(handles: &[ArrayHandle]) -> Vec<Array> {
    handles.iter().map(|handle| Array::clone(handle)).collect()
}

/// What the function returned; its own error waits in TypeScript.
fn returned(result: napi::Result<Handles>) -> Result<Vec<Array>> {
    match result {
        Ok(Some(outputs)) => Ok(outputs.into_iter().map(TakenHandle::into_array).collect()),
        Ok(None) => Err(Error::Internal("the transformed function failed".into())),
        Err(error) => Err(Error::Internal(format!("the transformed function could not be called: {}", error.reason))),
    }
}

fn call(function: &ArrayFunction, inputs: &[Array]) -> Result<Vec<Array>> {
    returned(function.call((handles(inputs),).into()))
}

/// Outputs of a transform and the arrays that belong to its inputs.
#[napi(object, object_from_js = false)]
pub struct Transformed {
    pub outputs: Vec<ArrayHandle>,
    /// Gradients, products with the Jacobian or its transpose.
    pub derivatives: Vec<ArrayHandle>,
}

impl From<(Vec<Array>, Vec<Array>)> for Transformed {
    fn from((outputs, derivatives): (Vec<Array>, Vec<Array>)) -> Self {
        let own = |arrays: Vec<Array>| arrays.into_iter().map(Into::into).collect();
        Transformed { outputs: own(outputs), derivatives: own(derivatives) }
    }
}

/// Outputs of `function` and the gradients of its first output, a scalar, with respect to all inputs.
#[napi(namespace = "transforms", ts_args_type = "fn: ArrayFunction, inputs: Array<ArrayHandle>", catch_unwind)]
pub fn value_and_grad(function: ArrayFunction, inputs: Vec<ArrayHandle>) -> js::Result<Transformed> {
    let argnums: Vec<i32> = (0..inputs.len() as i32).collect();
    Ok(mlx::value_and_grad(|inputs| call(&function, inputs), &arrays(&inputs), &argnums)?.into())
}

/// Outputs of `function` and the products of `cotangents` with its Jacobian.
#[napi(
    namespace = "transforms",
    ts_args_type = "fn: ArrayFunction, primals: Array<ArrayHandle>, cotangents: Array<ArrayHandle>",
    catch_unwind
)]
pub fn vjp(function: ArrayFunction, primals: Vec<ArrayHandle>, cotangents: Vec<ArrayHandle>) -> js::Result<Transformed> {
    Ok(mlx::vjp(|inputs| call(&function, inputs), &arrays(&primals), &arrays(&cotangents))?.into())
}

/// Outputs of `function` and the products of its Jacobian with `tangents`.
#[napi(
    namespace = "transforms",
    ts_args_type = "fn: ArrayFunction, primals: Array<ArrayHandle>, tangents: Array<ArrayHandle>",
    catch_unwind
)]
pub fn jvp(function: ArrayFunction, primals: Vec<ArrayHandle>, tangents: Vec<ArrayHandle>) -> js::Result<Transformed> {
    Ok(mlx::jvp(|inputs| call(&function, inputs), &arrays(&primals), &arrays(&tangents))?.into())
}

/// `function` for every slice of the inputs along their axes (`null`: whole), results stacked along the output axes.
#[napi(
    namespace = "transforms",
    ts_args_type = "fn: ArrayFunction, inputs: Array<ArrayHandle>, inAxes: Array<number | null>, outAxes: Array<number>",
    catch_unwind
)]
pub fn vmap(
    function: ArrayFunction,
    inputs: Vec<ArrayHandle>,
    in_axes: Vec<Option<f64>>,
    out_axes: Vec<f64>,
) -> js::Result<Vec<ArrayHandle>> {
    let in_axes = in_axes
        .into_iter()
        .map(|axis| axis.map(|axis| super::integer("inAxes", axis)).transpose())
        .collect::<Result<Vec<_>>>()?;
    let outputs = mlx::vmap(|inputs| call(&function, inputs), &arrays(&inputs), &in_axes, &integers("outAxes", &out_axes)?)?;
    Ok(outputs.into_iter().map(Into::into).collect())
}

thread_local! {
    /// Functions that MLX may still call, by number: a graph keeps the number and may end on any thread.
    static FUNCTIONS: RefCell<HashMap<u64, Kept>> = RefCell::default();
    static NEXT: Cell<u64> = const { Cell::new(0) };
    /// Numbers of this thread that were let go of, possibly by other threads.
    static DROPPED: Arc<Mutex<Vec<u64>>> = Arc::default();
}

enum Kept {
    Plain(FunctionRef<FnArgs<(Vec<ArrayHandle>,)>, Handles>),
    Gradient(FunctionRef<GradientArguments, Handles>),
}

/// A JavaScript function kept beyond the call that brought it.
struct Lasting {
    number: u64,
    home: Arc<Mutex<Vec<u64>>>,
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.home.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(self.number);
    }
}

impl Lasting {
    fn keep(function: Kept) -> Lasting {
        let home = DROPPED.with(Arc::clone);
        let dropped = std::mem::take(&mut *home.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let number = NEXT.replace(NEXT.get() + 1);
        let freed: Vec<_> = FUNCTIONS.with_borrow_mut(|functions| {
            functions.insert(number, function);
            dropped.iter().filter_map(|number| functions.remove(number)).collect()
        });
        drop(freed);
        Lasting { number, home }
    }

    fn call(&self, use_it: impl FnOnce(&Kept, &Env) -> napi::Result<Handles>) -> Result<Vec<Array>> {
        let env = current_env().filter(|_| DROPPED.with(|own| Arc::ptr_eq(own, &self.home)));
        let Some(env) = env else {
            return Err(Error::Argument("a JavaScript function can only be traced on the thread that made it".into()));
        };
        // Taken out while it runs: it may transform others meanwhile, and may be called again by itself.
        let Some(function) = FUNCTIONS.with_borrow_mut(|functions| functions.remove(&self.number)) else {
            return Err(Error::Argument("a transformed function called itself through its own transform".into()));
        };
        let result = use_it(&function, &env);
        FUNCTIONS.with_borrow_mut(|functions| functions.insert(self.number, function));
        returned(result)
    }

    fn plain(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        self.call(|function, env| match function {
            Kept::Plain(function) => function.borrow_back(env)?.call((handles(inputs),).into()),
            Kept::Gradient(_) => unreachable!("kept as plain"),
        })
    }

    fn gradient(&self, primals: &[Array], cotangents: &[Array], outputs: &[Array]) -> Result<Vec<Array>> {
        self.call(|function, env| match function {
            Kept::Gradient(function) => {
                function.borrow_back(env)?.call((handles(primals), handles(cotangents), handles(outputs)).into())
            }
            Kept::Plain(_) => unreachable!("kept as a gradient"),
        })
    }
}

/// Frees this thread's functions, when its JavaScript environment ends.
pub fn forget_functions() {
    drop(FUNCTIONS.take());
}

fn keep_plain(function: ArrayFunction) -> js::Result<Lasting> {
    Ok(Lasting::keep(Kept::Plain(function.create_ref().map_err(js::argument)?)))
}

/// `function`, computed again by a gradient instead of kept.
#[napi(namespace = "transforms", ts_args_type = "fn: ArrayFunction, inputs: Array<ArrayHandle>", catch_unwind)]
pub fn checkpoint(function: ArrayFunction, inputs: Vec<ArrayHandle>) -> js::Result<Vec<ArrayHandle>> {
    let function = keep_plain(function)?;
    let outputs = mlx::checkpoint(move |inputs| function.plain(inputs), &arrays(&inputs))?;
    Ok(outputs.into_iter().map(Into::into).collect())
}

/// `function` with a gradient of its own: from inputs, cotangents and outputs, one array per input.
#[napi(
    namespace = "transforms",
    ts_args_type = "fn: ArrayFunction, gradient: (primals: Array<ArrayHandle>, cotangents: Array<ArrayHandle>, outputs: Array<ArrayHandle>) => Array<ArrayHandle> | null, inputs: Array<ArrayHandle>",
    catch_unwind
)]
pub fn custom_vjp(function: ArrayFunction, gradient: GradientFunction, inputs: Vec<ArrayHandle>) -> js::Result<Vec<ArrayHandle>> {
    let function = keep_plain(function)?;
    let gradient = Lasting::keep(Kept::Gradient(gradient.create_ref().map_err(js::argument)?));
    let outputs = mlx::custom_vjp(
        move |inputs| function.plain(inputs),
        move |primals, cotangents, outputs| gradient.gradient(primals, cotangents, outputs),
        &arrays(&inputs),
    )?;
    Ok(outputs.into_iter().map(Into::into).collect())
}

/// A function traced once per combination of shapes and dtypes.
#[napi]
pub struct NativeCompiled {
    compiled: mlx::Compiled,
}

#[napi]
impl NativeCompiled {
    #[napi(constructor, ts_args_type = "fn: ArrayFunction, shapeless: boolean", catch_unwind)]
    pub fn new(function: ArrayFunction, shapeless: bool) -> js::Result<Self> {
        let function = keep_plain(function)?;
        Ok(NativeCompiled { compiled: mlx::compiled(move |inputs| function.plain(inputs), shapeless)? })
    }

    #[napi(catch_unwind)]
    pub fn call(&self, inputs: Vec<ArrayHandle>) -> js::Result<Vec<ArrayHandle>> {
        Ok(self.compiled.call(&arrays(&inputs))?.into_iter().map(Into::into).collect())
    }
}

/// Turns compilation on or off for this process, for debugging; compiled functions then run operation by operation.
#[napi(namespace = "transforms")]
pub fn set_compile_enabled(enabled: bool) -> js::Result<()> {
    Ok(mlx::set_compile_enabled(enabled)?)
}
