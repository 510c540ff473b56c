//! What every causal language model offers.

use crate::cache::{Cache, CacheOptions, KvCache, Placement};
use crate::mlx::{Array, Dtype, Error, Result};
use crate::models::{Decoder, ModelConfig};
use crate::nn::{Context, Head, Module};

/// The input of one forward pass.
pub struct Forward<'a> {
    /// int32 `[B, T]`, each id in the vocabulary (nothing checks them on the device).
    pub ids: &'a Array,
    /// int32 `[B]`: how many of a row's leading slots are padding. Without it no row has any. Only without caches: a batch cache
    /// knows the padding of its rows.
    pub left_padding: Option<&'a Array>,
    /// One per layer; the new tokens follow those in them and are added.
    pub caches: Option<&'a mut [Cache]>,
}

impl<'a> Forward<'a> {
    /// Rows without padding and without a cache.
    pub fn new(ids: &'a Array) -> Self {
        Forward { ids, left_padding: None, caches: None }
    }

    /// Rows that go on after what the caches hold.
    pub fn cached(ids: &'a Array, caches: &'a mut [Cache]) -> Self {
        Forward { ids, left_padding: None, caches: Some(caches) }
    }

    /// Checks the input against the model and says where its tokens stand in each layer. Layers whose caches are alike share a mask.
    pub(crate) fn contexts(&self, layers: usize) -> Result<Vec<Context>> {
        let shape = self.ids.shape();
        if shape.len() != 2 || self.ids.size() == 0 {
            return Err(Error::Shape(format!("input ids must be [B, T] with at least one token per row, not {shape:?}")));
        }
        if self.ids.dtype() != Dtype::Int32 {
            return Err(Error::Dtype(format!("input ids must be int32, not {}", self.ids.dtype().name())));
        }
        let Some(caches) = &self.caches else {
            return Ok(vec![Context::new(shape[0], shape[1], self.left_padding)?; layers]);
        };
        if caches.len() != layers {
            return Err(Error::Argument(format!("the model has {layers} layers and needs as many caches, not {}", caches.len())));
        }
        if self.left_padding.is_some() {
            return Err(Error::Argument("padding of cached rows belongs to a batch cache, not beside it".into()));
        }
        let mut contexts: Vec<Context> = Vec::with_capacity(layers);
        let mut last: Option<Placement> = None;
        for cache in caches.iter() {
            if let Some(rows) = cache.rows().filter(|&rows| rows != shape[0]) {
                return Err(Error::Shape(format!("the cache has {rows} rows, the input ids {shape:?} have {}", shape[0])));
            }
            let placement = cache.placement(shape[1], None);
            let same = contexts.last().filter(|_| last.as_ref() == Some(&placement)).cloned();
            contexts.push(if let Some(context) = same { context } else { Context::placed(&placement)? });
            last = Some(placement);
        }
        Ok(contexts)
    }
}

/// What one forward pass gives.
pub struct Hidden {
    /// `[B, T, H]`, after the final norm.
    pub states: Array,
    /// Of each layer that has experts, in their order: `[B, T, experts]`, before the softmax.
    pub router_logits: Vec<Array>,
}

pub trait CausalLm: Module + Send {
    fn config(&self) -> &ModelConfig;

    fn forward(&self, input: Forward) -> Result<Hidden>;

    /// `[B, T, H]`, after the final norm.
    fn hidden(&self, input: Forward) -> Result<Array> {
        Ok(self.forward(input)?.states)
    }

    /// The head's own weight, or the embedding's where they are tied, with the adapter on it.
    fn head(&self) -> Head<'_>;

    /// `[..., H]` to `[..., V]`.
    fn logits(&self, hidden: &Array) -> Result<Array> {
        self.head().project(hidden)
    }

    /// The network itself, for work that goes through it block by block.
    fn decoder_mut(&mut self) -> Option<&mut Decoder> {
        None
    }

    /// Keeps only each block's input for the gradient and computes the block again: less memory, a third more work.
    fn set_checkpoint_layers(&mut self, on: bool);

    fn num_layers(&self) -> usize {
        self.config().num_hidden_layers as usize
    }

    /// One empty cache per layer, for rows without padding.
    fn new_caches(&self) -> Vec<Cache> {
        (0..self.num_layers()).map(|_| KvCache::new().into()).collect()
    }

    /// The same, bounded or quantised as the options say.
    fn new_caches_with(&self, options: &CacheOptions) -> Result<Vec<Cache>> {
        options.validate(self.config().head_dim)?;
        (0..self.num_layers()).map(|_| options.cache()).collect()
    }

    /// One empty cache per layer for as many rows as numbers, each of which begins with so much padding.
    fn new_batch_caches(&self, left_padding: &[i32]) -> Result<Vec<Cache>> {
        self.new_batch_caches_with(left_padding, &CacheOptions::default())
    }

    /// The same, bounded or quantised as the options say.
    fn new_batch_caches_with(&self, left_padding: &[i32], options: &CacheOptions) -> Result<Vec<Cache>> {
        options.validate(self.config().head_dim)?;
        (0..self.num_layers()).map(|_| options.batch(left_padding)).collect()
    }
}
