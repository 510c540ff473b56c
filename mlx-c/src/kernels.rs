//! Bindings of our own CPU kernels (`kernels/kernels.h`), where the build has them.

#[cfg(kernels)]
use std::ffi::c_void;
use std::ffi::{c_float, c_int};

use crate::{mlx_array, mlx_stream};

/// Whether this build has the kernels; calling one where it has not fails.
pub const KERNELS: bool = cfg!(kernels);

/// Threads of the pool that the kernels share, the caller's included.
#[cfg(kernels)]
pub(crate) fn threads() -> usize {
    unsafe extern "C" {
        fn mlxn_threads() -> usize;
    }
    // SAFETY: takes nothing and starts the pool's threads at most.
    unsafe { mlxn_threads() }
}

/// Calls `work` with every number below `tasks`, on several threads where they are free; returns when all calls have.
#[cfg(kernels)]
pub(crate) fn parallel<F: Fn(usize) + Sync>(tasks: usize, work: &F) {
    unsafe extern "C" {
        fn mlxn_parallel(tasks: usize, work: unsafe extern "C" fn(*const c_void, usize), context: *const c_void);
    }
    unsafe extern "C" fn call<F: Fn(usize)>(context: *const c_void, index: usize) {
        // SAFETY: `parallel` passes a closure that outlives the calls.
        unsafe { (*context.cast::<F>())(index) }
    }
    // SAFETY: the call returns after the last task has.
    unsafe { mlxn_parallel(tasks, call::<F>, std::ptr::from_ref(work).cast()) }
}

macro_rules! kernels {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?);)*) => {
        #[cfg(kernels)]
        unsafe extern "C" {
            $(pub fn $name($($argument: $type),*) -> c_int;)*
        }
        $(
            /// # Safety
            /// Always safe: it only reports failure.
            #[cfg(not(kernels))]
            pub unsafe fn $name($(_: $type),*) -> c_int {
                1
            }
        )*
    };
}

kernels! {
    fn mlxn_exp(res: *mut mlx_array, x: mlx_array, s: mlx_stream);
    fn mlxn_logsumexp(res: *mut mlx_array, x: mlx_array, s: mlx_stream);
    fn mlxn_top_k(res: *mut mlx_array, x: mlx_array, k: mlx_array, s: mlx_stream);
    fn mlxn_top_p(res: *mut mlx_array, x: mlx_array, p: mlx_array, s: mlx_stream);
    fn mlxn_sum_of_squares(res: *mut mlx_array, x: mlx_array, s: mlx_stream);
    fn mlxn_swiglu(res: *mut mlx_array, gate: mlx_array, up: mlx_array, s: mlx_stream);
    fn mlxn_rms_norm(res: *mut mlx_array, x: mlx_array, weight: mlx_array, eps: c_float, s: mlx_stream);
    fn mlxn_rope(
        res: *mut mlx_array,
        x: mlx_array,
        wavelengths: mlx_array,
        offsets: mlx_array,
        scale: c_float,
        s: mlx_stream,
    );
    fn mlxn_attention(
        res: *mut mlx_array,
        q: mlx_array,
        k: mlx_array,
        v: mlx_array,
        mask: mlx_array,
        scale: c_float,
        causal: bool,
        s: mlx_stream,
    );
    fn mlxn_linear(res: *mut mlx_array, x: mlx_array, weight: mlx_array, bias: mlx_array, s: mlx_stream);
    fn mlxn_packed_product(
        res: *mut mlx_array,
        x: mlx_array,
        codes: mlx_array,
        scales: mlx_array,
        biases: mlx_array,
        indices: mlx_array,
        bits: c_int,
        group: c_int,
        transpose: bool,
        s: mlx_stream,
    );
    fn mlxn_adamw(
        res_weight: *mut mlx_array,
        res_first: *mut mlx_array,
        res_second: *mut mlx_array,
        weight: mlx_array,
        gradient: mlx_array,
        first: mlx_array,
        second: mlx_array,
        scale: mlx_array,
        constants: mlx_array,
        s: mlx_stream,
    );
}
