//! Beginning and end of the addon in each JavaScript environment (the main thread and workers).

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use napi::bindgen_prelude::Object;
use napi::{Env, sys};
use napi_derive::napi;

use crate::runtime;

/// How long the end of the process waits for the slice of work that is running.
const PATIENCE: Duration = Duration::from_millis(300);

static ENVIRONMENTS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static ENV: Cell<sys::napi_env> = const { Cell::new(std::ptr::null_mut()) };
    /// What `account` has told the garbage collector in all.
    static ACCOUNTED: Cell<i64> = const { Cell::new(0) };
}

#[napi(module_exports)]
pub fn start(exports: Object, env: Env) -> napi::Result<()> {
    ENV.set(env.raw());
    super::direct::install(&exports)?;
    ENVIRONMENTS.fetch_add(1, Ordering::AcqRel);
    env.add_env_cleanup_hook((), |()| {
        super::transforms::forget_functions();
        super::handle::clear();
        super::handle::scratch::forget();
        ENV.set(std::ptr::null_mut());
        if ENVIRONMENTS.fetch_sub(1, Ordering::AcqRel) == 1 && !runtime::shut_down(PATIENCE) {
            skip_destructors_at_exit();
        }
    })?;
    Ok(())
}

/// The owner thread is still inside MLX: running MLX's static destructors under it would crash the process.
fn skip_destructors_at_exit() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn on_exit(handler: extern "C" fn(libc::c_int, *mut libc::c_void), argument: *mut libc::c_void) -> libc::c_int;
        }
        extern "C" fn leave(status: libc::c_int, _argument: *mut libc::c_void) {
            // SAFETY: ends the process with the status it was ending with.
            unsafe { libc::_exit(status) }
        }
        // SAFETY: registers a plain function; the last one registered runs first.
        unsafe { on_exit(leave, std::ptr::null_mut()) };
    }
}

/// Tells the garbage collector of this thread's environment about bytes outside its heap; returns what it was told.
pub(super) fn account(bytes: i64) -> i64 {
    let env = ENV.get();
    if env.is_null() || bytes == 0 {
        return 0;
    }
    let mut total = 0;
    // SAFETY: the environment of this thread, alive until its cleanup hook clears it.
    let status = unsafe { sys::napi_adjust_external_memory(env, bytes, &mut total) };
    let told = if status == sys::Status::napi_ok { bytes } else { 0 };
    ACCOUNTED.set(ACCOUNTED.get() + told);
    told
}

/// The JavaScript environment of this thread, until its end.
pub(super) fn current_env() -> Option<Env> {
    let env = ENV.get();
    (!env.is_null()).then(|| Env::from_raw(env))
}

/// The bytes of ours that the garbage collector of this thread has been told about.
pub(super) fn accounted() -> i64 {
    ACCOUNTED.get()
}
