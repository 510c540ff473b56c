//! MLX's allocator: what is in use, what it keeps for later, and limits. All in bytes.

use mlx_sys as sys;

use super::error::check;
use super::{Result, stream};
use crate::runtime;

/// Bytes held by MLX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStats {
    /// In live arrays.
    pub active: usize,
    /// Freed by arrays and kept for the next ones.
    pub cache: usize,
    /// The highest `active` since the start or the last reset.
    pub peak: usize,
    /// Above this MLX waits for work to finish before it allocates more.
    pub limit: usize,
}

pub fn stats() -> Result<MemoryStats> {
    stream::ensure_started();
    let mut stats = MemoryStats { active: 0, cache: 0, peak: 0, limit: 0 };
    // SAFETY: each fills one number; the allocator has a lock of its own.
    unsafe {
        check(sys::mlx_get_active_memory(&mut stats.active))?;
        check(sys::mlx_get_cache_memory(&mut stats.cache))?;
        check(sys::mlx_get_peak_memory(&mut stats.peak))?;
        check(sys::mlx_get_memory_limit(&mut stats.limit))?;
    }
    Ok(stats)
}

pub fn reset_peak() -> Result<()> {
    stream::ensure_started();
    // SAFETY: sets a counter.
    check(unsafe { sys::mlx_reset_peak_memory() })
}

/// Gives the kept buffers back to the system.
pub fn clear_cache() -> Result<()> {
    runtime::block_on_owner(|| {
        // SAFETY: the allocator has a lock of its own.
        check(unsafe { sys::mlx_clear_cache() })?;
        sys::release_freed_memory();
        Ok(())
    })
}

type Setter = unsafe extern "C" fn(*mut usize, usize) -> std::ffi::c_int;

fn set_limit(setter: Setter, bytes: usize) -> Result<usize> {
    stream::ensure_started();
    let mut old = 0;
    // SAFETY: fills one number; the allocator has a lock of its own.
    check(unsafe { setter(&mut old, bytes) })?;
    Ok(old)
}

/// Sets how much MLX may keep after arrays are freed; returns the old limit.
pub fn set_cache_limit(bytes: usize) -> Result<usize> {
    set_limit(sys::mlx_set_cache_limit, bytes)
}

/// Sets the memory limit; returns the old one.
pub fn set_memory_limit(bytes: usize) -> Result<usize> {
    set_limit(sys::mlx_set_memory_limit, bytes)
}

/// Sets how much memory Metal keeps resident; returns the old limit. MLX ignores it on other backends.
pub fn set_wired_limit(bytes: usize) -> Result<usize> {
    set_limit(sys::mlx_set_wired_limit, bytes)
}
