//! Positions of tokens.

use napi_derive::napi;

use super::{ArrayHandle, DtypeName, integer};
use crate::mlx::fast::RopeOffset;
use crate::models::rope_from_json;
use crate::nn::{self, Rope};
use crate::node::error as js;

/// Sines and cosines of `x` times each frequency, in a new last axis.
#[napi(namespace = "nn", catch_unwind)]
pub fn sinusoidal(x: ArrayHandle, frequencies: ArrayHandle, scale: f64, cos_first: bool) -> js::Result<ArrayHandle> {
    Ok(nn::sinusoidal(&x, &frequencies, scale as f32, cos_first)?.into())
}

/// Angular frequencies `[dims / 2]`.
#[napi(namespace = "nn", catch_unwind)]
pub fn sinusoidal_frequencies(dims: f64, min_freq: f64, max_freq: f64, full_turns: bool) -> js::Result<ArrayHandle> {
    Ok(nn::sinusoidal_frequencies(integer("dims", dims)?, min_freq, max_freq, full_turns)?.into())
}

/// Biases of attention that grow with the distance, `[1, heads, queries - offset, keys]`.
#[napi(namespace = "nn", catch_unwind)]
pub fn alibi(queries: f64, keys: f64, num_heads: f64, offset: f64, dtype: DtypeName) -> js::Result<ArrayHandle> {
    let (queries, keys) = (integer("queries", queries)?, integer("keys", keys)?);
    Ok(nn::alibi(queries, keys, integer("numHeads", num_heads)?, integer("offset", offset)?, dtype.parse()?)?.into())
}

/// Rotary position embeddings with their tables.
#[napi]
pub struct NativeRope {
    rope: Rope,
}

#[napi]
impl NativeRope {
    /// `config` has the keys of `config.json` that speak of rotary embeddings.
    #[napi(constructor, catch_unwind)]
    pub fn new(dims: f64, traditional: bool, scale: f64, config: serde_json::Value) -> js::Result<Self> {
        let config = rope_from_json(&config, integer("dims", dims)?)?;
        Ok(NativeRope { rope: Rope::new(&config)?.with(traditional, scale as f32) })
    }

    /// Rotates `x`, whose first slot stands at `offset`, or at `offsets[b]` in row `b`.
    #[napi(catch_unwind)]
    pub fn forward(&self, x: ArrayHandle, offset: f64, offsets: Option<ArrayHandle>) -> js::Result<ArrayHandle> {
        let offset = match &offsets {
            Some(offsets) => RopeOffset::PerRow(offsets),
            None => RopeOffset::Same(integer("offset", offset)?),
        };
        Ok(self.rope.forward(&x, offset)?.into())
    }
}
