//! The safe wrapper over MLX-C. The only `unsafe` outside `mlx-c/` is here and in `runtime/`.

mod array;
pub(crate) mod cuda;
mod device;
mod dtype;
mod error;
pub mod fast;
pub mod fft;
pub mod io;
pub mod kernels;
pub mod linalg;
pub mod memory;
pub mod ops;
pub mod random;
pub mod stft;
pub(crate) mod stream;
pub(crate) mod transforms;

#[cfg(feature = "node")]
pub(crate) use array::free_all;
pub use array::{Array, async_eval, element_count, eval};
pub use device::{Device, Property};
pub use dtype::{Dtype, Element};
pub use error::{Error, Result};
pub use stream::{blas, default_device, device, gpu_available, set_default_device, synchronize};
pub(crate) use transforms::in_trace;
pub use transforms::{
    Compiled, checkpoint, compile_available, compiled, custom_vjp, depends, jvp, set_compile_enabled, value_and_grad, vjp, vmap,
};

/// The flavour this build was made for: `cpu`, `metal`, `cuda12` or `cuda13`.
pub fn flavour() -> &'static str {
    mlx_sys::FLAVOUR
}

/// The version of MLX that is loaded.
pub fn version() -> Result<String> {
    // SAFETY: makes, fills and frees a string of MLX-C's.
    unsafe {
        let mut text = mlx_sys::mlx_string_new();
        let status = mlx_sys::mlx_version(&mut text);
        let version = std::ffi::CStr::from_ptr(mlx_sys::mlx_string_data(text)).to_string_lossy().into_owned();
        mlx_sys::mlx_string_free(text);
        error::check(status)?;
        Ok(version)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod kernels_tests;
#[cfg(all(test, target_os = "linux"))]
mod packed_tests;
#[cfg(test)]
mod tests;
