//! What every causal language model offers.

use crate::cache::KvCache;
use crate::mlx::{Array, Dtype, Error, Result};
use crate::models::ModelConfig;
use crate::nn::{Context, Linear, Module};

/// The input of one forward pass.
pub struct Forward<'a> {
    /// int32 `[B, T]`, each id in the vocabulary (nothing checks them on the device).
    pub ids: &'a Array,
    /// int32 `[B]`: how many of a row's leading slots, those in the cache included, are padding. Without it no row has any.
    pub left_padding: Option<&'a Array>,
    /// One per layer; the new tokens follow those in them and are added.
    pub caches: Option<&'a mut [KvCache]>,
}

impl<'a> Forward<'a> {
    /// Rows without padding and without a cache.
    pub fn new(ids: &'a Array) -> Self {
        Forward { ids, left_padding: None, caches: None }
    }

    /// Checks the input against the model and says where its tokens stand.
    pub(crate) fn context(&self, layers: usize) -> Result<Context> {
        let shape = self.ids.shape();
        if shape.len() != 2 || self.ids.size() == 0 {
            return Err(Error::Shape(format!("input ids must be [B, T] with at least one token per row, not {shape:?}")));
        }
        if self.ids.dtype() != Dtype::Int32 {
            return Err(Error::Dtype(format!("input ids must be int32, not {}", self.ids.dtype().name())));
        }
        let cached = match &self.caches {
            Some(caches) if caches.len() != layers => {
                return Err(Error::Argument(format!(
                    "the model has {layers} layers and needs as many caches, not {}",
                    caches.len()
                )));
            }
            Some(caches) => caches.first().map_or(0, KvCache::len),
            None => 0,
        };
        Context::new(shape[0], shape[1], cached, self.left_padding)
    }
}

pub trait CausalLm: Module + Send {
    fn config(&self) -> &ModelConfig;

    /// `[B, T, H]`, after the final norm.
    fn hidden(&self, input: Forward) -> Result<Array>;

    /// `[..., H]` to `[..., V]`.
    fn logits(&self, hidden: &Array) -> Result<Array>;

    /// `[V, H]`: the head's own weight, or the embedding's where they are tied.
    fn head_weight(&self) -> &Array;

    /// Every linear layer inside the blocks by name: what an adapter can be put on.
    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)>;

    /// Keeps only each block's input for the gradient and computes the block again: less memory, a third more work.
    fn set_checkpoint_layers(&mut self, on: bool);

    fn num_layers(&self) -> usize {
        self.config().num_hidden_layers as usize
    }

    /// One empty cache per layer.
    fn new_caches(&self) -> Vec<KvCache> {
        (0..self.num_layers()).map(|_| KvCache::new()).collect()
    }
}
