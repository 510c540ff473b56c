//! The owner thread's streams. Any thread may build graphs on them; only the owner evaluates.

use std::cell::Cell;
use std::sync::OnceLock;

use mlx_sys as sys;

use super::device::{Device, no_gpu};
use super::{Dtype, Result, error};
use crate::runtime;

struct Streams {
    default: sys::mlx_stream,
    cpu: sys::mlx_stream,
    blas: &'static str,
}

// SAFETY: a stream is an index into MLX's table, never changed after `start_owner`.
unsafe impl Send for Streams {}
unsafe impl Sync for Streams {}

static STREAMS: OnceLock<Streams> = OnceLock::new();

thread_local! {
    /// Where this thread places operations; nothing before its first one.
    static CURRENT: Cell<Option<sys::mlx_stream>> = const { Cell::new(None) };
}

/// Called once, on the owner thread, before any other MLX operation of the process.
pub(crate) fn start_owner() {
    error::install_handler();
    let blas = sys::prepare();
    STREAMS.get_or_init(|| {
        // SAFETY: plain constructors; a failing one leaves a null context, which MLX-C turns into an error at first use.
        unsafe {
            let cpu_device = sys::mlx_device_new_type(sys::mlx_device_type__MLX_CPU, 0);
            let cpu = sys::mlx_stream_new_device(cpu_device);
            let default = if sys::GPU && gpu_available() {
                let gpu = sys::mlx_device_new_type(sys::mlx_device_type__MLX_GPU, 0);
                sys::mlx_set_default_device(gpu);
                let stream = sys::mlx_stream_new_device(gpu);
                sys::mlx_device_free(gpu);
                stream
            } else {
                sys::mlx_set_default_device(cpu_device);
                cpu
            };
            sys::mlx_device_free(cpu_device);
            Streams { default, cpu, blas }
        }
    });
    adopt();
}

/// Whether this build has a GPU flavour and the machine a GPU for it.
pub fn gpu_available() -> bool {
    // SAFETY: queries that take no data of ours.
    unsafe {
        let device = sys::mlx_device_new_type(sys::mlx_device_type__MLX_GPU, 0);
        let mut available = false;
        sys::mlx_device_is_available(&mut available, device);
        sys::mlx_device_free(device);
        available
    }
}

/// `gpu` or `cpu`: where arrays are computed.
pub fn device() -> &'static str {
    let streams = streams();
    if streams.default.ctx == streams.cpu.ctx { "cpu" } else { "gpu" }
}

/// The BLAS behind CPU matrix products.
pub fn blas() -> &'static str {
    streams().blas
}

fn streams() -> &'static Streams {
    if let Some(streams) = STREAMS.get() {
        return streams;
    }
    // Starting the owner thread fills STREAMS.
    let _ = runtime::block_on_owner(|| Ok(()));
    STREAMS.get().expect("the owner thread sets the streams before it takes work")
}

/// Some C++ helpers ask for the calling thread's default stream; it must be the owner's.
fn adopt() -> sys::mlx_stream {
    let streams = STREAMS.get().expect("called after start_owner");
    // SAFETY: the streams live for the whole process.
    unsafe {
        sys::mlx_set_default_stream(streams.cpu);
        sys::mlx_set_default_stream(streams.default);
    }
    CURRENT.set(Some(streams.default));
    streams.default
}

/// The CPU's stream, for what MLX has on the CPU only.
pub(crate) fn cpu() -> sys::mlx_stream {
    current();
    streams().cpu
}

/// The stream for copies and conversions of an array: GPUs have no float64.
pub(crate) fn holding(dtypes: &[Dtype]) -> sys::mlx_stream {
    if dtypes.contains(&Dtype::Float64) { cpu() } else { current() }
}

/// The stream on which this thread places operations.
pub(crate) fn current() -> sys::mlx_stream {
    CURRENT.get().unwrap_or_else(|| {
        streams();
        adopt()
    })
}

/// Where this thread places operations.
pub fn default_device() -> Device {
    if current().ctx == streams().cpu.ctx { Device::Cpu } else { Device::Gpu }
}

/// Places this thread's later operations on a device; returns the one before. What is built already stays where it is.
pub fn set_default_device(device: Device) -> Result<Device> {
    let old = default_device();
    let streams = streams();
    CURRENT.set(Some(match device {
        Device::Cpu => streams.cpu,
        Device::Gpu if streams.default.ctx != streams.cpu.ctx => streams.default,
        Device::Gpu => return Err(no_gpu()),
    }));
    Ok(old)
}

/// Waits until everything that has been started on the streams is done.
pub fn synchronize() -> Result<()> {
    let streams = streams();
    runtime::block_on_owner(|| {
        // SAFETY: the owner's streams, on the owner thread.
        error::check(unsafe { sys::mlx_synchronize(streams.default) })?;
        // SAFETY: as above.
        error::check(unsafe { sys::mlx_synchronize(streams.cpu) })
    })
}

/// Starts the owner thread, with which MLX's error handler is in place.
pub(crate) fn ensure_started() {
    streams();
}
