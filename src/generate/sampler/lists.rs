//! Lists of token ids, one per row and of different lengths.

use crate::mlx::{Array, Dtype, Result, ops};

/// Token ids of each row.
pub(super) struct IdLists {
    /// int32 `[B, N]`; shorter lists repeat their first id, empty ones hold 0.
    ids: Array,
    /// bool `[B, 1]`: rows with any id.
    any: Array,
}

impl IdLists {
    /// `None` where all lists are empty.
    pub(super) fn new<'a>(lists: impl Iterator<Item = &'a [i32]> + Clone) -> Result<Option<IdLists>> {
        let width = lists.clone().map(<[i32]>::len).max().unwrap_or(0);
        if width == 0 {
            return Ok(None);
        }
        let (mut ids, mut any) = (Vec::new(), Vec::new());
        for list in lists {
            ids.extend_from_slice(list);
            ids.extend(std::iter::repeat_n(list.first().copied().unwrap_or(0), width - list.len()));
            any.push(!list.is_empty());
        }
        let rows = any.len() as i32;
        Ok(Some(IdLists { ids: Array::from_slice(&ids, &[rows, width as i32])?, any: Array::from_slice(&any, &[rows, 1])? }))
    }

    /// Whether each row's list has its `token` (int32 `[B, 1]`): bool `[B, 1]`.
    pub(super) fn contain(&self, token: &Array) -> Result<Array> {
        self.ids.equal(token)?.any(&[-1], true)?.logical_and(&self.any)
    }

    /// `changed` with the values of `original` (both `[B, V]`) at the ids.
    pub(super) fn restore(&self, original: &Array, changed: &Array) -> Result<Array> {
        let values = ops::where_(&self.any, &original.take_along_axis(&self.ids, -1)?, &changed.take_along_axis(&self.ids, -1)?)?;
        changed.put_along_axis(&self.ids, &values, -1)
    }
}

/// `logits` `[B, V]` with the smaller of old and new at `ids` (int32 `[B, N]`, repeated as they may be).
pub(super) fn lower(logits: &Array, ids: &Array, values: &Array) -> Result<Array> {
    let rows = ops::arange(0., logits.dim(0) as f64, 1., Dtype::Int32)?.expand_dims(&[1])?;
    logits.scatter_min(&[&rows, ids], &values.expand_dims(&[2, 3])?, &[0, 1])
}
