//! Sorting and partitioning along an axis.

use mlx_sys as sys;

use crate::mlx::array::output;
use crate::mlx::{Array, Result, stream};

impl Array {
    pub fn sort(&self, axis: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_sort_axis(result, self.0, axis, stream::current()) })
    }

    pub fn argsort(&self, axis: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_argsort_axis(result, self.0, axis, stream::current()) })
    }

    /// The `kth` smallest is in its sorted place, smaller ones before it.
    pub fn partition(&self, kth: i32, axis: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_partition_axis(result, self.0, kth, axis, stream::current()) })
    }

    pub fn argpartition(&self, kth: i32, axis: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_argpartition_axis(result, self.0, kth, axis, stream::current()) })
    }

    /// The `k` largest values along an axis, in no defined order.
    pub fn topk(&self, k: i32, axis: i32) -> Result<Array> {
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_topk_axis(result, self.0, k, axis, stream::current()) })
    }
}
