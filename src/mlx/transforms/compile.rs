//! Compiled functions.
//!
//! MLX keeps the traces of compiled functions per thread, under the function's address, and removes them from the cache of the thread that
//! compiled it, without a lock, when the function goes. A call on another thread would leave a trace behind for whatever comes to lie at
//! that address, and a drop there would touch a cache in use. So a function belongs to the thread of its first call; dropped elsewhere, it
//! waits for that thread to come by or end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use mlx_sys as sys;

use super::closure::Closure;
use crate::mlx::error::check;
use crate::mlx::{Array, Error, Result};

/// Functions of a thread that were dropped on others; `None` when the thread has ended and its cache is gone.
type Dropped = Arc<Mutex<Option<Vec<Closure>>>>;

struct Home(Dropped);

impl Drop for Home {
    fn drop(&mut self) {
        let left = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        drop(left);
    }
}

thread_local! {
    static HOME: Home = {
        // Makes the thread's cache first, so that it goes last.
        // SAFETY: fills and frees a handle.
        unsafe {
            let mut cache = sys::mlx_compile_cache_new();
            sys::mlx_detail_compile_cache(&mut cache);
            sys::mlx_compile_cache_free(cache);
        }
        Home(Arc::new(Mutex::new(Some(Vec::new()))))
    };
}

/// The calling thread's list, emptied. `None` while the thread ends.
fn home() -> Option<Dropped> {
    let home = HOME.try_with(|home| home.0.clone()).ok()?;
    let waiting = home.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).as_mut().map(std::mem::take);
    // Without the lock: what they captured may hold compiled functions too.
    drop(waiting);
    Some(home)
}

struct Bound {
    home: Dropped,
    closure: Option<Closure>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let at_home = home().is_some_and(|home| Arc::ptr_eq(&home, &self.home));
        if !at_home && let Some(waiting) = &mut *self.home.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            waiting.extend(self.closure.take());
        }
    }
}

/// A function traced once per combination of shapes and dtypes, then run as fused kernels. It belongs to the thread of its first call and
/// may be dropped on any. What its trace captures besides the inputs is frozen.
pub struct Compiled {
    function: Closure,
    shapeless: bool,
    bound: OnceLock<Result<Bound>>,
}

impl Compiled {
    /// The outputs, lazy. An error of the function leaves nothing behind: the next call traces again.
    pub fn call(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        if !ENABLED.load(Ordering::Relaxed) {
            // What MLX compiles now would stay uncompiled.
            return self.function.apply(inputs);
        }
        let here = home().ok_or_else(|| Error::Internal("a compiled function was called by a thread that ends".into()))?;
        let compile = || {
            // SAFETY: fills an empty closure.
            let closure = Closure::filled(|result| unsafe { sys::mlx_compile(result, self.function.0, self.shapeless) })?;
            Ok(Bound { home: here.clone(), closure: Some(closure) })
        };
        let bound = self.bound.get_or_init(compile).as_ref().map_err(Clone::clone)?;
        match &bound.closure {
            Some(closure) if Arc::ptr_eq(&bound.home, &here) => closure.apply(inputs),
            _ => Err(Error::Argument("a compiled function can only be called by the thread that called it first".into())),
        }
    }
}

/// Compiles a pure function: all it depends on must come in through its inputs, and nothing but its outputs may leave it.
/// `shapeless`: one trace for all shapes of the same ranks.
pub fn compiled(function: impl FnMut(&[Array]) -> Result<Vec<Array>> + Send + 'static, shapeless: bool) -> Result<Compiled> {
    // SAFETY: a 'static closure may live as long as MLX likes.
    let function = unsafe { Closure::new(function) };
    Ok(Compiled { function, shapeless, bound: OnceLock::new() })
}

/// On the CPU MLX compiles with `g++` at run time and silently turns itself off without it.
pub fn compile_available() -> bool {
    crate::mlx::device() == "gpu"
        || std::process::Command::new("g++")
            .arg("--version")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// As MLX begins.
static ENABLED: LazyLock<AtomicBool> = LazyLock::new(|| AtomicBool::new(std::env::var_os("MLX_DISABLE_COMPILE").is_none()));

/// Turns compilation on or off for this process: off, compiled functions run operation by operation.
pub fn set_compile_enabled(enabled: bool) -> Result<()> {
    // SAFETY: each sets a mode.
    check(unsafe { if enabled { sys::mlx_enable_compile() } else { sys::mlx_disable_compile() } })?;
    ENABLED.store(enabled, Ordering::Relaxed);
    Ok(())
}
