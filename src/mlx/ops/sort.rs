//! Sorting, partitioning and searching.

use mlx_sys as sys;

use super::{check, zeros};
use crate::mlx::array::output;
use crate::mlx::{Array, Dtype, Error, Result, stream};

macro_rules! sorts {
    ($($(#[$doc:meta])* $name:ident $raw:ident $empty:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            pub fn $name(&self, axis: i32) -> Result<Array> {
                check::axis(stringify!($name), axis, self.ndim())?;
                if self.size() == 0 {
                    return self.$empty();
                }
                // SAFETY: valid handle.
                output(|result| unsafe { sys::$raw(result, self.0, axis, stream::current()) })
            }
        )* }
    };
}

macro_rules! partitions {
    ($($(#[$doc:meta])* $name:ident $raw:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            pub fn $name(&self, kth: i32, axis: i32) -> Result<Array> {
                let place = check::axis(stringify!($name), axis, self.ndim())?;
                let size = self.shape()[place];
                if kth < -size || kth >= size {
                    return Err(Error::Shape(format!(
                        "{}: kth {kth} is not a place on an axis of size {size}", stringify!($name)
                    )));
                }
                check::not_empty(stringify!($name), self)?;
                // SAFETY: valid handle.
                output(|result| unsafe { sys::$raw(result, self.0, kth, axis, stream::current()) })
            }
        )* }
    };
}

sorts! {
    /// Ascending along an axis; equal values keep their order.
    sort mlx_sort_axis nothing,
    /// The indices (uint32) that sort along an axis.
    argsort mlx_argsort_axis no_indices,
}

partitions! {
    /// The `kth` smallest is in its sorted place, smaller ones before it.
    partition mlx_partition_axis,
    /// The indices (uint32) that partition along an axis.
    argpartition mlx_argpartition_axis,
}

impl Array {
    fn nothing(&self) -> Result<Array> {
        Ok(self.clone())
    }

    fn no_indices(&self) -> Result<Array> {
        zeros(self.shape(), Dtype::Uint32)
    }

    /// The `k` largest values along an axis, in no defined order.
    pub fn topk(&self, k: i32, axis: i32) -> Result<Array> {
        let place = check::axis("topk", axis, self.ndim())?;
        let mut shape = self.shape().to_vec();
        if k < 0 || k > shape[place] {
            return Err(Error::Shape(format!("topk: {k} values of an axis of size {}", shape[place])));
        }
        shape[place] = k;
        if shape.contains(&0) {
            return zeros(&shape, self.dtype());
        }
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_topk_axis(result, self.0, k, axis, stream::current()) })
    }

    /// Where each of `values` would be inserted (uint32) into this sorted vector: before equals, or after them on the `right`.
    pub fn searchsorted(&self, values: &Array, side: &str) -> Result<Array> {
        check::one_of("searchsorted", "side", side, &["left", "right"])?;
        if self.ndim() != 1 {
            return Err(Error::Shape(format!("searchsorted: a sorted vector is needed, got shape {:?}", self.shape())));
        }
        if self.size() == 0 || values.size() == 0 {
            return zeros(values.shape(), Dtype::Uint32);
        }
        let side = if side == "left" { c"left" } else { c"right" };
        // SAFETY: valid handles; the word lives for ever.
        output(|result| unsafe { sys::mlx_searchsorted(result, self.0, values.0, side.as_ptr(), stream::current()) })
    }
}
