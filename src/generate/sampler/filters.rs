//! Which tokens may be drawn: the others become -inf.
//!
//! Logits are float32 `[B, V]` and need not be normalised; settings are `[B, 1]` or scalars. A row whose setting is the neutral one
//! keeps its logits bit for bit.

use crate::mlx::{Array, Dtype, Result, ops};

/// Everything below `threshold` becomes -inf.
fn keep_from(logits: &Array, threshold: &Array) -> Result<Array> {
    ops::where_(&logits.less(threshold)?, &Array::scalar(f32::NEG_INFINITY), logits)
}

/// The `ranks`-th largest logits, int32 `[B, 1]` or scalar; none is above `largest`.
fn ranked(logits: &Array, ranks: &Array, largest: i32) -> Result<Array> {
    let best = logits.topk(largest, -1)?;
    if ranks.ndim() == 0 {
        return best.min(&[-1], true);
    }
    let places = Array::scalar_i32(largest).subtract(ranks)?;
    best.sort(-1)?.take_along_axis(&places.broadcast_to(&[logits.dim(0), 1])?, -1)
}

/// Keeps the `k` largest and the equals of the last of them; 0 keeps all. `k` is int32; `largest` is the largest `k`.
pub(super) fn top_k(logits: &Array, k: &Array, largest: i32) -> Result<Array> {
    let size = logits.dim(-1);
    if k.ndim() == 0 {
        return if (1..size).contains(&largest) { keep_from(logits, &ranked(logits, k, largest)?) } else { Ok(logits.clone()) };
    }
    let largest = largest.min(size);
    let (zero, last) = (Array::scalar_i32(0), Array::scalar_i32(largest));
    let threshold = ranked(logits, &k.maximum(&Array::scalar_i32(1))?.minimum(&last)?, largest)?;
    keep_from(logits, &ops::where_(&k.greater(&zero)?, &threshold, &Array::scalar(f32::NEG_INFINITY))?)
}

/// Keeps the most likely tokens until their mass reaches `p`; the best one and equals of the last always stay. 1 keeps all.
pub(super) fn top_p(logits: &Array, p: &Array) -> Result<Array> {
    let ascending = logits.sort(-1)?;
    // Mass strictly above each token; the best token has none.
    let above = ascending.softmax(-1)?.cumsum(-1, true, false)?;
    let kept = ops::where_(&above.less(p)?, &ascending, &Array::scalar(f32::INFINITY))?;
    let off = p.greater_equal(&Array::scalar(1.))?;
    keep_from(logits, &ops::where_(&off, &Array::scalar(f32::NEG_INFINITY), &kept.min(&[-1], true)?)?)
}

/// Keeps tokens at least `p` times as likely as the best; 0 keeps all. The `least` (int32) best stay in any case; `most` is the
/// largest of them.
pub(super) fn min_p(logits: &Array, p: &Array, least: &Array, most: i32) -> Result<Array> {
    let threshold = logits.max(&[-1], true)?.add(&p.log()?)?;
    if most <= 1 {
        return keep_from(logits, &threshold);
    }
    let most = most.min(logits.dim(-1));
    let stay = ranked(logits, &least.minimum(&Array::scalar_i32(most))?, most)?;
    keep_from(logits, &threshold.minimum(&stay)?)
}

/// Only where `allowed` (bool `[B, V]`) holds.
pub(super) fn only(logits: &Array, allowed: &Array) -> Result<Array> {
    ops::where_(&allowed.astype(Dtype::Bool)?, logits, &Array::scalar(f32::NEG_INFINITY))
}
