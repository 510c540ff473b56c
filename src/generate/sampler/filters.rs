//! Which tokens may be drawn: the others become -inf.
//!
//! Logits are float32 `[B, V]` and need not be normalised; settings are `[B, 1]` or scalars. A row whose setting is the neutral one
//! keeps its logits bit for bit.

use super::lists::IdLists;
use crate::mlx::{Array, Dtype, Result, kernels, ops};

/// Everything below `threshold` becomes -inf.
fn keep_from(logits: &Array, threshold: &Array) -> Result<Array> {
    ops::where_(&logits.less(threshold)?, &Array::scalar(f32::NEG_INFINITY), logits)
}

/// Keeps the `k` largest and the equals of the last of them; 0 keeps all. `k` is int32; `largest` is the largest `k`.
pub(super) fn top_k(logits: &Array, k: &Array, largest: i32) -> Result<Array> {
    let size = logits.dim(-1);
    if k.ndim() == 0 {
        return if (1..size).contains(&largest) {
            keep_from(logits, &kernels::top_k_threshold(logits, k, largest)?)
        } else {
            Ok(logits.clone())
        };
    }
    let largest = largest.min(size);
    let (zero, last) = (Array::scalar_i32(0), Array::scalar_i32(largest));
    let threshold = kernels::top_k_threshold(logits, &k.maximum(&Array::scalar_i32(1))?.minimum(&last)?, largest)?;
    keep_from(logits, &ops::where_(&k.greater(&zero)?, &threshold, &Array::scalar(f32::NEG_INFINITY))?)
}

/// Keeps the most likely tokens until their mass reaches `p`; the best one and equals of the last always stay. 1 keeps all.
pub(super) fn top_p(logits: &Array, p: &Array) -> Result<Array> {
    keep_from(logits, &kernels::top_p_threshold(logits, p)?)
}

/// Keeps tokens at least `p` times as likely as the best; 0 keeps all. The `least` (int32) best stay in any case; `most` is the
/// largest of them.
pub(super) fn min_p(logits: &Array, p: &Array, least: &Array, most: i32) -> Result<Array> {
    let threshold = logits.max(&[-1], true)?.add(&p.log()?)?;
    if most <= 1 {
        return keep_from(logits, &threshold);
    }
    let most = most.min(logits.dim(-1));
    let stay = kernels::top_k_threshold(logits, &least.minimum(&Array::scalar_i32(most))?, most)?;
    keep_from(logits, &threshold.minimum(&stay)?)
}

/// Log-probs, with probabilities of 0 where the logit is -inf.
fn distribution(logits: &Array) -> Result<(Array, Array)> {
    let logprobs = logits.subtract(&kernels::logsumexp(logits)?)?;
    let probabilities = kernels::exp(&logprobs)?;
    Ok((logprobs, probabilities))
}

/// Entropy in nats, `[B, 1]`.
fn entropy(logprobs: &Array, probabilities: &Array) -> Result<Array> {
    let zero = Array::scalar(0.);
    let terms = ops::where_(&probabilities.greater(&zero)?, &probabilities.multiply(logprobs)?, &zero)?;
    terms.sum(&[-1], true)?.negative()
}

/// Keeps the tokens whose surprise is nearest to the entropy until their mass reaches `p`, and the equals of the last one (locally
/// typical sampling, Meister et al. 2022, as in transformers). 1 keeps all.
pub(super) fn typical_p(logits: &Array, p: &Array) -> Result<Array> {
    let (logprobs, probabilities) = distribution(logits)?;
    let distance = logprobs.add(&entropy(&logprobs, &probabilities)?)?.abs()?;
    let order = distance.argsort(-1)?;
    let before = probabilities.take_along_axis(&order, -1)?.cumsum(-1, false, false)?;
    let near = ops::where_(&before.less(p)?, &distance.take_along_axis(&order, -1)?, &Array::scalar(f32::NEG_INFINITY))?;
    let infinity = Array::scalar(f32::INFINITY);
    let limit = ops::where_(&p.greater_equal(&Array::scalar(1.))?, &infinity, &near.max(&[-1], true)?)?;
    ops::where_(&distance.greater(&limit)?, &infinity.negative()?, logits)
}

/// Keeps logits within `n` standard deviations of the largest (top-n-sigma, Tang et al. 2024); the deviation is that of all logits
/// that are not -inf. 0 keeps all.
pub(super) fn top_n_sigma(logits: &Array, n: &Array) -> Result<Array> {
    let infinity = Array::scalar(f32::NEG_INFINITY);
    let there = logits.greater(&infinity)?;
    let count = there.astype(Dtype::Float32)?.sum(&[-1], true)?;
    let best = logits.max(&[-1], true)?;
    let zero = Array::scalar(0.);
    // From the largest, which keeps the squares small.
    let below = ops::where_(&there, &best.subtract(logits)?, &zero)?;
    let mean = below.sum(&[-1], true)?.divide(&count)?;
    let squares = ops::where_(&there, &below.subtract(&mean)?.square()?, &zero)?;
    let deviation = squares.sum(&[-1], true)?.divide(&count)?.sqrt()?;
    let threshold = best.subtract(&deviation.multiply(n)?)?;
    keep_from(logits, &ops::where_(&n.greater(&zero)?, &threshold, &infinity)?)
}

/// The settings of XTC, `[B, 1]` or scalars.
pub(super) struct Xtc {
    /// 0 is neutral.
    pub(super) probability: Array,
    pub(super) threshold: Array,
    pub(super) special: Option<IdLists>,
}

/// "Exclude top choices" (p-e-w 2024): where `uniform` `[B, 1]` is below the row's probability, removes the tokens above the threshold
/// but for the least likely of them. Special tokens stay.
pub(super) fn xtc(logits: &Array, xtc: &Xtc, uniform: &Array) -> Result<Array> {
    let (_, probabilities) = distribution(logits)?;
    let above = probabilities.greater(&xtc.threshold)?;
    let least = ops::where_(&above, &probabilities, &Array::scalar(f32::INFINITY))?.min(&[-1], true)?;
    let removed = probabilities.greater(&least)?.logical_and(&uniform.less(&xtc.probability)?)?;
    let filtered = ops::where_(&removed, &Array::scalar(f32::NEG_INFINITY), logits)?;
    xtc.special.as_ref().map_or(Ok(filtered.clone()), |special| special.restore(logits, &filtered))
}

/// How the temperature follows the entropy, `[B, 1]` or scalars.
pub(super) struct Dynamic {
    /// 0 is neutral.
    pub(super) range: Array,
    pub(super) exponent: Array,
}

/// The least temperature that a logit is divided by.
const COLDEST: f32 = 1e-4;

/// `[B, 1]`: `temperature - range` (at least 0) at entropy 0, `temperature + range` where all tokens that are left are equally likely
/// (llama.cpp).
pub(super) fn dynamic_temperature(logits: &Array, temperature: &Array, dynamic: &Dynamic) -> Result<Array> {
    let (logprobs, probabilities) = distribution(logits)?;
    let count = logits.greater(&Array::scalar(f32::NEG_INFINITY))?.astype(Dtype::Float32)?.sum(&[-1], true)?;
    // One token has no entropy, whatever it is divided by.
    let most = count.maximum(&Array::scalar(2.))?.log()?;
    let share = entropy(&logprobs, &probabilities)?.divide(&most)?.clip(Some(0.), Some(1.))?.power(&dynamic.exponent)?;
    let low = temperature.subtract(&dynamic.range)?.maximum_scalar(0.)?;
    let high = temperature.add(&dynamic.range)?;
    let moved = high.subtract(&low)?.multiply(&share)?.add(&low)?.maximum_scalar(COLDEST)?;
    ops::where_(&dynamic.range.greater_scalar(0.)?, &moved, temperature)
}

/// Only where `allowed` (bool `[B, V]`) holds.
pub(super) fn only(logits: &Array, allowed: &Array) -> Result<Array> {
    ops::where_(&allowed.astype(Dtype::Bool)?, logits, &Array::scalar(f32::NEG_INFINITY))
}
