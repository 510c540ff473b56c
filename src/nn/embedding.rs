//! Token embeddings.

use super::{Layer, Module, Weight};
use crate::mlx::{Array, Dtype, Result};

#[derive(Clone)]
pub struct Embedding {
    /// `[vocabulary, hidden]`
    pub weight: Weight,
}

impl Embedding {
    /// All zeros, to be filled from a checkpoint. Lazy: takes no memory until then.
    pub fn new(vocabulary: i32, hidden: i32, dtype: Dtype) -> Result<Self> {
        Ok(Embedding { weight: Weight::zeros(&[vocabulary, hidden], dtype)? })
    }

    /// `[B, T]` ids to `[B, T, hidden]`. Ids must lie in the vocabulary: nothing checks them on the device.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        self.weight.rows(ids)
    }
}

impl Module for Embedding {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        self.weight.visit(prefix, f);
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        self.weight.visit_mut(prefix, f);
    }

    fn layers<'a>(&'a mut self, prefix: &str, layers: &mut Vec<(String, Layer<'a>)>) {
        layers.push((prefix.to_string(), Layer::Embedding(self)));
    }

    fn weights<'a>(&'a self, prefix: &str, weights: &mut Vec<(String, &'a Weight)>) {
        weights.push((prefix.to_string(), &self.weight));
    }
}
