//! One token per row from a distribution, and the random numbers for it.
//!
//! A row's numbers are a function of its seed, its row number and the step, computed on the host before the step runs and sent
//! along: nothing has to come back from the device, and a row draws the same alone and in any batch.

use super::options::SamplerOptions;
use crate::mlx::{Array, Dtype, Result, ops};

/// Numbers that a row gets for each token.
pub(super) const LANES: usize = 3;
/// Vocabularies up to this size are searched in one go.
const ONE_BLOCK: i32 = 1024;

/// The random numbers of a row: SplitMix64 (Steele, Lea, Flood 2014) read at any place.
#[derive(Clone, Copy, Debug)]
pub(super) struct RandomRow(u64);

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl RandomRow {
    pub(super) fn new(options: &SamplerOptions) -> RandomRow {
        let seed = mix(options.seed.wrapping_add(GAMMA));
        RandomRow(mix(seed ^ options.row.wrapping_mul(GAMMA)))
    }

    /// In (0, 1): 23 bits and a half, so that neither end can be reached in float32.
    pub(super) fn uniforms(self, step: u64) -> [f32; LANES] {
        std::array::from_fn(|lane| {
            let place = step.wrapping_mul(LANES as u64).wrapping_add(lane as u64 + 1);
            let bits = mix(self.0.wrapping_add(place.wrapping_mul(GAMMA))) >> 41;
            (bits as f32 + 0.5) / (1 << 23) as f32
        })
    }
}

/// The most likely token, int32 `[B, 1]`; of equals the first.
pub(super) fn best(logits: &Array) -> Result<Array> {
    logits.argmax(-1, true)?.astype(Dtype::Int32)
}

/// The number of neighbours that are summed first. A divisor where the vocabulary has one, so that nothing need be padded.
fn block_size(size: i32) -> i32 {
    if size <= ONE_BLOCK {
        return size;
    }
    let root = (size as f64).sqrt();
    let distance = |&block: &i32| (block as f64 / root).ln().abs();
    (16..size / 16)
        .filter(|block| size % block == 0)
        .filter(|block| distance(block) < 2.1)
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .unwrap_or(256)
}

/// Weights `[B, V]` (not negative) in blocks `[B, N, V / N]`, and their sums `[B, N]`.
pub(super) struct Blocks {
    blocks: Array,
    sums: Array,
}

impl Blocks {
    pub(super) fn new(weights: &Array) -> Result<Blocks> {
        let (rows, size) = (weights.dim(0), weights.dim(1));
        let block = block_size(size);
        let missing = (block - size % block) % block;
        let padded = if missing == 0 { weights.clone() } else { weights.pad(&[0, 0], &[0, missing], 0.)? };
        let blocks = padded.reshape(&[rows, (size + missing) / block, block])?;
        Ok(Blocks { sums: blocks.sum(&[-1], false)?, blocks })
    }

    /// `[B, 1]`
    pub(super) fn total(&self) -> Result<Array> {
        self.sums.sum(&[-1], true)
    }

    /// A token of each row in proportion to the weights, int32 `[B, 1]`: a block from the first column of `uniforms`, a token of
    /// it from the second. Two numbers reach tokens that the 23 bits of one would miss, and short sums round little.
    pub(super) fn draw(&self, uniforms: &Array) -> Result<Array> {
        let (first, second) = (uniforms.slice_axis(1, 0, 1)?, uniforms.slice_axis(1, 1, 2)?);
        let block = self.blocks.dim(2);
        if self.blocks.dim(1) == 1 {
            return pick(&self.blocks.squeeze(&[1])?, &second);
        }
        let which = pick(&self.sums, &first)?;
        let within = self.blocks.take_along_axis(&which.expand_dims(&[2])?, 1)?.squeeze(&[1])?;
        which.multiply(&Array::scalar_i32(block))?.add(&pick(&within, &second)?)
    }
}

/// An index of each row in proportion to `weights` `[B, N]`, by the inverse of the cumulative sum at `uniform` `[B, 1]`. Only weights
/// above 0 are taken, however sums are rounded.
fn pick(weights: &Array, uniform: &Array) -> Result<Array> {
    let cumulative = weights.cumsum(-1, false, true)?;
    let last = cumulative.dim(-1);
    let target = uniform.multiply(&cumulative.slice_axis(1, last - 1, last)?)?;
    let reached = cumulative.greater(&target)?.astype(Dtype::Int32)?.add(&Array::scalar_i32(1))?;
    let score = ops::where_(&weights.greater_scalar(0.)?, &reached, &Array::scalar_i32(0))?;
    score.argmax(-1, true)?.astype(Dtype::Int32)
}

/// Ids and log-probs of the `count` most likely tokens, the best first. Of equal logits any may be named.
pub(super) fn top(scaled: &Array, normalizer: &Array, count: i32) -> Result<(Array, Array)> {
    let size = scaled.dim(-1);
    let places = scaled.argpartition(size - count, -1)?.slice_axis(-1, size - count, size)?;
    let values = scaled.take_along_axis(&places, -1)?;
    let order = values.negative()?.argsort(-1)?;
    let ids = places.take_along_axis(&order, -1)?.astype(Dtype::Int32)?;
    Ok((ids, values.take_along_axis(&order, -1)?.subtract(normalizer)?))
}
