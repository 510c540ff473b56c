//! Raw bindings of MLX-C, and what a platform needs before MLX runs well on it (a fast BLAS, allocator settings).
//!
//! Only `src/mlx` of the root crate uses this.

#[allow(non_camel_case_types, non_snake_case, non_upper_case_globals, clippy::all)]
mod bindings;
#[cfg(target_os = "linux")]
mod blas;
mod kernels;

pub use bindings::*;
pub use kernels::*;

unsafe extern "C" {
    /// Frees arrays, as `mlx_array_free` does each, without waiting for the memory of one after the other.
    pub fn mlxn_free_arrays(arrays: *const mlx_array, count: usize);
}

/// `cpu`, `metal`, `cuda12` or `cuda13`: chosen when this crate was built.
pub const FLAVOUR: &str = env!("MLX_NODE_FLAVOUR");

/// Whether this build runs on a GPU by default.
pub const GPU: bool = !matches!(FLAVOUR.as_bytes(), b"cpu");

/// Whether the GPU of this build is reached through MLX's CUDA backend, some of whose kernels `src/mlx/cuda.rs` goes around.
pub const CUDA: bool = matches!(FLAVOUR.as_bytes(), [b'c', b'u', b'd', b'a', ..]);

/// Prepares the process: binds the BLAS and sets the allocator. Call once, before the first MLX operation.
/// Returns a description of the BLAS in use.
pub fn prepare() -> &'static str {
    #[cfg(target_os = "linux")]
    {
        keep_freed_memory();
        cuda_defaults();
        blas::bind()
    }
    #[cfg(not(target_os = "linux"))]
    {
        "Accelerate"
    }
}

/// Settings that MLX's CUDA library reads from the environment when it starts. What the user has set stays.
#[cfg(target_os = "linux")]
fn cuda_defaults() {
    if !CUDA {
        return;
    }
    for (name, value) in [
        // Batches of many different lengths make many graphs; MLX ends the work with an error when they outgrow its cache of 400.
        ("MLX_CUDA_GRAPH_CACHE_SIZE", "16384"),
        // float32 means float32: products of 10-bit mantissas are far from TRL's numbers. bfloat16, the default there, is not affected.
        ("MLX_ENABLE_TF32", "0"),
    ] {
        if std::env::var_os(name).is_none() {
            // SAFETY: runs once, on the owner thread, before anything of MLX has run.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// Fresh large buffers cost page faults; glibc gives them back at every free unless told to keep them.
/// MLX's element-wise loops on 64 MB arrays run ten times faster with recycled pages.
///
/// Without its lists of small freed pieces, glibc puts neighbours together as they are freed. With them it goes through all of them when a
/// large piece is freed, which happens again and again while the garbage collector's finds, small arrays by the thousand, are.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    const LARGEST: libc::c_int = 1 << 30;
    // SAFETY: mallopt only changes the allocator's settings and is documented as callable at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGEST);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        libc::mallopt(libc::M_MXFAST, 0);
    }
}

#[cfg(all(target_os = "linux", not(target_env = "gnu")))]
fn keep_freed_memory() {}

/// Gives the freed memory that glibc keeps back to the system.
pub fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim is safe to call at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
