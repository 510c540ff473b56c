//! What changes single logits before anything else: bias, repetition, presence and frequency penalty, in mlx-lm's order.
//!
//! Settings are `[B, 1]`, one per row. A row whose setting is the neutral one keeps its logits bit for bit.

use crate::mlx::{Array, Dtype, Result, ops};

/// Adds `values` `[B, N]` to the tokens `ids` `[B, N]`. Rows with fewer entries add 0 somewhere.
pub(super) fn bias(logits: &Array, ids: &Array, values: &Array) -> Result<Array> {
    logits.scatter_add_axis(ids, values, -1)
}

/// The tokens that a penalty looks at.
pub(super) struct Seen {
    /// `[B, N]`: every entry names a token of its row's window; entries outside the window repeat the newest token.
    ids: Array,
    /// `[B, N]`: which entries are within the window.
    within: Array,
    /// `[B, 1]`: whether the row has any token at all.
    any: Array,
}

impl Seen {
    /// Of `history` `[B, W]` (-1: none), the last `windows` tokens (int32 `[B, 1]`), none of which is above `widest`.
    pub(super) fn new(history: &Array, windows: &Array, widest: i32) -> Result<Seen> {
        let length = history.dim(1);
        let width = length.min(widest);
        let recent = history.slice_axis(1, length - width, length)?;
        let zero = Array::scalar_i32(0);
        let ages = ops::arange((width - 1) as f64, -1., -1., Dtype::Int32)?;
        let within = ages.less(windows)?.logical_and(&recent.greater_equal(&zero)?)?;
        let newest = history.slice_axis(1, length - 1, length)?;
        let any = newest.greater_equal(&zero)?;
        Ok(Seen { ids: ops::where_(&within, &recent, &newest.maximum(&zero)?)?, within, any })
    }
}

/// Divides positive logits of seen tokens, multiplies negative ones (CTRL, Keskar et al. 2019); 1 is neutral.
pub(super) fn repetition(logits: &Array, seen: &Seen, penalty: &Array) -> Result<Array> {
    let penalty = ops::where_(&seen.any, penalty, &Array::scalar(1.))?;
    let values = logits.take_along_axis(&seen.ids, -1)?;
    let penalised = ops::where_(&values.less_scalar(0.)?, &values.multiply(&penalty)?, &values.divide(&penalty)?)?;
    logits.put_along_axis(&seen.ids, &penalised, -1)
}

/// Subtracts the penalty once from each seen token; 0 is neutral.
pub(super) fn presence(logits: &Array, seen: &Seen, penalty: &Array) -> Result<Array> {
    let penalty = ops::where_(&seen.any, penalty, &Array::scalar(0.))?;
    let values = logits.take_along_axis(&seen.ids, -1)?;
    logits.put_along_axis(&seen.ids, &values.subtract(&penalty)?, -1)
}

/// Subtracts the penalty from a token for each time it was seen; 0 is neutral.
pub(super) fn frequency(logits: &Array, seen: &Seen, penalty: &Array) -> Result<Array> {
    let change = ops::where_(&seen.within, &penalty.negative()?, &Array::scalar(0.))?;
    logits.scatter_add_axis(&seen.ids, &change, -1)
}
