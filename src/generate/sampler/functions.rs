//! Penalties and filters as functions of arrays, with arguments checked.
//!
//! Logits are `[.., V]` of any float dtype, which the result keeps. Probabilities are computed in float32.

use super::filters;
use super::penalties::{self, Seen};
use crate::mlx::{Array, Dtype, Error, Result};

/// Runs in float32 and gives back the dtype of the logits.
fn in_float32(logits: &Array, apply: impl FnOnce(&Array) -> Result<Array>) -> Result<Array> {
    apply(&logits.astype(Dtype::Float32)?)?.astype(logits.dtype())
}

/// Penalises the tokens of `history` `[B, N]` (int32) in `logits` `[B, V]`: positive logits are divided, negative multiplied.
pub fn apply_repetition_penalty(logits: &Array, history: &Array, penalty: f32) -> Result<Array> {
    if history.dim(1) == 0 {
        return Ok(logits.clone());
    }
    let seen = Seen::new(history, &Array::scalar_i32(i32::MAX), i32::MAX)?;
    in_float32(logits, |logits| penalties::repetition(logits, &seen, &Array::scalar(penalty)))
}

/// Everything below the `k`-th largest becomes -inf. Equals of the `k`-th stay.
pub fn apply_top_k(logits: &Array, k: i32) -> Result<Array> {
    if k < 1 {
        return Err(Error::Argument(format!("top-k needs k of at least 1, got {k}")));
    }
    in_float32(logits, |logits| filters::top_k(logits, &Array::scalar_i32(k), k))
}

/// Keeps the most likely tokens until their mass reaches `p`; the best one and equals of the last always stay.
pub fn apply_top_p(logits: &Array, p: f32) -> Result<Array> {
    if !(p > 0. && p <= 1.) {
        return Err(Error::Argument(format!("top-p must be above 0 and at most 1, got {p}")));
    }
    in_float32(logits, |logits| filters::top_p(logits, &Array::scalar(p)))
}

/// Keeps tokens at least `p` times as likely as the best.
pub fn apply_min_p(logits: &Array, p: f32) -> Result<Array> {
    if !(0. ..=1.).contains(&p) {
        return Err(Error::Argument(format!("min-p must be between 0 and 1, got {p}")));
    }
    let one = Array::scalar_i32(1);
    in_float32(logits, |logits| filters::min_p(logits, &Array::scalar(p), &one, 1))
}
