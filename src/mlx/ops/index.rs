//! Gathering and scattering by index.

use mlx_sys as sys;

use crate::mlx::array::output;
use crate::mlx::{Array, Result, stream};

impl Array {
    /// Slices at `indices` along an axis. Indices are not checked against the size: MLX does not.
    pub fn take(&self, indices: &Array, axis: i32) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_take_axis(result, self.0, indices.0, axis, stream::current()) })
    }

    /// One element per position of `indices`, which has this array's rank.
    pub fn take_along_axis(&self, indices: &Array, axis: i32) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_take_along_axis(result, self.0, indices.0, axis, stream::current()) })
    }

    pub fn put_along_axis(&self, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_put_along_axis(result, self.0, indices.0, values.0, axis, stream::current()) })
    }

    /// Adds `values` at `indices` along an axis; repeated indices add up.
    pub fn scatter_add_axis(&self, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_scatter_add_axis(result, self.0, indices.0, values.0, axis, stream::current()) })
    }
}
