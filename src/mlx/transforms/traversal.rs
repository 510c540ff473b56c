//! Transforms on one thread beside evaluation on another.
//!
//! A transform walks the graph of what its function returned, all the way down; evaluation takes graphs apart. Both hold one lock while
//! they do, so a lazy array may be in a transform on one thread and in an evaluation on the owner. The lock is let go while a traced
//! function runs: it may read values, which the owner computes. Asking whether an array is computed takes the lock as well: while it is
//! being evaluated the answer may be yes before its elements are there, and asking changes the array.
//!
//! MLX drops the graph of what it has evaluated, except inside a transform, which still needs it. It tells by a flag of the thread. When a
//! traced function reads a value the evaluation happens on the owner, so the flag is carried there.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, TryLockError};

use mlx_sys as sys;

use crate::mlx::array::ArrayVec;
use crate::mlx::{Array, stream};

static GRAPHS: Mutex<()> = Mutex::new(());

thread_local! {
    static HELD: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
    /// Traced functions that are running on this thread.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Whether the job at hand came from inside a traced function of another thread.
    static INHERITED: Cell<bool> = const { Cell::new(false) };
}

fn lock() -> MutexGuard<'static, ()> {
    GRAPHS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs MLX code that walks or takes apart graphs, with no other such code at work.
pub(crate) fn alone<T>(work: impl FnOnce() -> T) -> T {
    if HELD.with_borrow(Option::is_some) {
        return work();
    }
    HELD.set(Some(lock()));
    let result = work();
    HELD.set(None);
    result
}

/// `alone`, where no other such code is at work; nothing otherwise.
pub(crate) fn if_alone<T>(work: impl FnOnce() -> T) -> Option<T> {
    if HELD.with_borrow(Option::is_some) {
        return Some(work());
    }
    let _held = match GRAPHS.try_lock() {
        Ok(held) => held,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    Some(work())
}

/// Runs a traced function from within `alone`, without the lock.
pub(super) fn traced<T>(function: impl FnOnce() -> T) -> T {
    let held = HELD.take();
    let had = held.is_some();
    drop(held);
    DEPTH.set(DEPTH.get() + 1);
    let result = function();
    DEPTH.set(DEPTH.get() - 1);
    if had {
        HELD.set(Some(lock()));
    }
    result
}

/// Whether a traced function is running on this thread, or on the one that waits for it.
pub(crate) fn in_trace() -> bool {
    DEPTH.get() > 0 || INHERITED.get()
}

/// For the time of its life this thread works for a thread that is inside a traced function, or for one that is not.
pub(crate) struct Inherited(bool);

impl Inherited {
    pub fn new(in_trace: bool) -> Self {
        Inherited(INHERITED.replace(in_trace))
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        INHERITED.set(self.0);
    }
}

unsafe extern "C" fn work_inside(
    result: *mut sys::mlx_vector_array,
    _input: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    // SAFETY: the pointer that `retaining` handed over; it outlives the call.
    let work = unsafe { &mut *payload.cast::<&mut dyn FnMut() -> c_int>() };
    let status = work();
    if status == 0 {
        // SAFETY: a valid list; the references are copied.
        unsafe { sys::mlx_vector_array_set(result, ArrayVec::empty().0) };
    }
    status
}

/// Evaluates with graphs kept where a transform of the waiting thread needs them. `work` must not panic.
pub(crate) fn retaining(mut work: impl FnMut() -> c_int) -> c_int {
    // A thread that traces by itself has MLX's flag already.
    if !INHERITED.get() {
        return work();
    }
    stream::current();
    let mut work: &mut dyn FnMut() -> c_int = &mut work;
    let inputs = ArrayVec::new(&[Array::scalar(0.0)]);
    let (mut placeholders, mut outputs) = (ArrayVec::empty(), ArrayVec::empty());
    let unmapped = [-1];
    // SAFETY: MLX sets its flag for the time of the trace, calls the function once and keeps nothing of it.
    unsafe {
        let closure = sys::mlx_closure_new_func_payload(Some(work_inside), (&raw mut work).cast(), None);
        let status =
            sys::mlx_detail_vmap_trace(&mut placeholders.0, &mut outputs.0, closure, inputs.0, unmapped.as_ptr(), unmapped.len());
        sys::mlx_closure_free(closure);
        status
    }
}
