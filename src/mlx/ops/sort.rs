//! Sorting, partitioning and searching.

use mlx_sys as sys;

use super::{arange, check, concatenate, full_array, where_, zeros};
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

/// What `Array::unique` finds. All parts are lazy: those that nobody asks for cost nothing.
pub struct Unique {
    /// Ascending, `[size]`, of the array's dtype.
    pub values: Array,
    /// Where each value first stands among the elements in row-major order, uint32 `[size]`.
    pub index: Array,
    /// The place of each element in `values`, uint32, of the array's shape.
    pub inverse: Array,
    /// How many elements have each value, int32 `[size]`.
    pub counts: Array,
}

impl Array {
    /// The smallest `size` distinct elements. Where there are fewer, the rest are `fill`, or the smallest again, with a count of 0 and the
    /// index of the smallest; where there are more, the others count as the last one in `inverse`. NaNs are not equal to each other.
    pub fn unique(&self, size: i32, fill: Option<&Array>) -> Result<Unique> {
        check::at_least("unique", "size", size, 0)?;
        if let Some(fill) = fill.filter(|fill| fill.size() != 1) {
            return Err(Error::Shape(format!("unique: fillValue must be one element, got shape {:?}", fill.shape())));
        }
        let fill = fill.map(|fill| fill.reshape(&[])?.astype(self.dtype())).transpose()?;
        let sizes = [size];
        let total = check::size("unique", self.size() as i64)?;
        if total == 0 {
            let values = match fill {
                Some(fill) => full_array(&sizes, &fill, self.dtype())?,
                None if size == 0 => zeros(&sizes, self.dtype())?,
                None => return Err(Error::Argument("unique: of an array without elements, a fillValue is needed".into())),
            };
            let (index, counts) = (zeros(&sizes, Dtype::Uint32)?, zeros(&sizes, Dtype::Int32)?);
            return Ok(Unique { values, index, inverse: zeros(self.shape(), Dtype::Uint32)?, counts });
        }
        let flat = self.flatten()?;
        let order = flat.argsort(0)?;
        let sorted = flat.take(&order, 0)?;
        let changes = sorted.slice_axis(0, 1, total)?.not_equal(&sorted.slice_axis(0, 0, total - 1)?)?.astype(Dtype::Int32)?;
        // Ascending: the place in `values` of each sorted element.
        let ranks = concatenate(&[zeros(&[1], Dtype::Int32)?, changes], 0)?.cumsum(0, false, true)?;
        let borders = ranks.searchsorted(&arange(0., f64::from(size) + 1., 1., Dtype::Int32)?, "left")?.astype(Dtype::Int32)?;
        let (starts, ends) = (borders.slice_axis(0, 0, size)?, borders.slice_axis(0, 1, size + 1)?);
        let there = starts.less(&Array::scalar_i32(total))?;
        let starts = where_(&there, &starts, &Array::scalar_i32(0))?;
        let found = sorted.take(&starts, 0)?;
        let values = match fill {
            Some(fill) => where_(&there, &found, &fill)?,
            None => found,
        };
        let index = order.take(&starts, 0)?;
        let counts = where_(&there, &ends.subtract(&starts)?, &Array::scalar_i32(0))?;
        let last = Array::scalar_i32((size - 1).max(0));
        let inverse = ranks.take(&order.argsort(0)?, 0)?.minimum(&last)?.astype(Dtype::Uint32)?.reshape(self.shape())?;
        Ok(Unique { values, index, inverse, counts })
    }
}
