//! What is running: versions, device, memory.

use napi_derive::napi;

use super::error as js;
use crate::mlx;
use crate::mlx::memory;

/// How this build of MLX runs.
#[napi(object)]
pub struct BuildInfo {
    /// The package's version.
    pub version: String,
    /// The loaded MLX's version.
    pub mlx_version: String,
    /// `cpu`, `metal`, `cuda12` or `cuda13`: what the addon was built for.
    pub flavour: String,
    /// `cpu` or `gpu`: where arrays are computed.
    pub device: String,
    /// The library behind CPU matrix products.
    pub blas: String,
    /// Whether `compile` works here (on the CPU it needs g++ at run time).
    pub compile_available: bool,
}

/// Versions, device and libraries of this process.
#[napi]
pub fn build_info() -> js::Result<BuildInfo> {
    Ok(BuildInfo {
        version: env!("CARGO_PKG_VERSION").to_string(),
        mlx_version: mlx::version()?,
        flavour: mlx::flavour().to_string(),
        device: mlx::device().to_string(),
        blas: mlx::blas().to_string(),
        compile_available: mlx::compile_available(),
    })
}

/// Memory held by MLX, in bytes.
#[napi(object)]
pub struct MemoryStats {
    /// In live arrays.
    pub active: f64,
    /// Freed by arrays and kept for the next ones.
    pub cache: f64,
    /// The highest `active` since the start or `resetPeakMemory()`.
    pub peak: f64,
    /// Above this MLX waits for running work before it allocates.
    pub limit: f64,
}

/// Memory held by MLX, in bytes.
#[napi]
pub fn memory_stats() -> js::Result<MemoryStats> {
    let stats = memory::stats()?;
    Ok(MemoryStats { active: stats.active as f64, cache: stats.cache as f64, peak: stats.peak as f64, limit: stats.limit as f64 })
}

/// Starts the measurement of `peak` anew.
#[napi]
pub fn reset_peak_memory() -> js::Result<()> {
    Ok(memory::reset_peak()?)
}

/// Gives buffers that MLX keeps for later back to the system. Waits for running work.
#[napi]
pub fn clear_cache() -> js::Result<()> {
    Ok(memory::clear_cache()?)
}

/// Limits what MLX keeps after arrays are freed; returns the old limit. Bytes.
#[napi]
pub fn set_cache_limit(bytes: f64) -> js::Result<f64> {
    Ok(memory::set_cache_limit(checked_bytes(bytes)?)? as f64)
}

/// Sets the memory limit; returns the old one. Bytes.
#[napi]
pub fn set_memory_limit(bytes: f64) -> js::Result<f64> {
    Ok(memory::set_memory_limit(checked_bytes(bytes)?)? as f64)
}

/// Sets how much memory Metal keeps resident; returns the old limit. Bytes.
#[napi]
pub fn set_wired_limit(bytes: f64) -> js::Result<f64> {
    Ok(memory::set_wired_limit(checked_bytes(bytes)?)? as f64)
}

fn checked_bytes(bytes: f64) -> crate::mlx::Result<usize> {
    if bytes.is_finite() && bytes >= 0. && bytes <= usize::MAX as f64 {
        Ok(bytes as usize)
    } else {
        Err(crate::mlx::Error::Argument(format!("a limit in bytes must be 0 or more, got {bytes}")))
    }
}
