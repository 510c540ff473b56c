//! Token embeddings, with an optional adapter on them.

use super::{Layer, Lora, Module, Weight};
use crate::mlx::{Array, Dtype, Result};

#[derive(Clone)]
pub struct Embedding {
    /// `[vocabulary, hidden]`
    pub weight: Weight,
    pub lora: Option<Lora>,
}

impl Embedding {
    /// All zeros, to be filled from a checkpoint. Lazy: takes no memory until then.
    pub fn new(vocabulary: i32, hidden: i32, dtype: Dtype) -> Result<Self> {
        Ok(Embedding { weight: Weight::zeros(&[vocabulary, hidden], dtype)?, lora: None })
    }

    /// `[B, T]` ids to `[B, T, hidden]`. Ids must lie in the vocabulary: nothing checks them on the device.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        match &self.lora {
            Some(lora) if lora.enabled => lora.rows(ids, &self.weight),
            _ => self.weight.rows(ids),
        }
    }
}

impl Module for Embedding {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        self.weight.visit(prefix, f);
        self.lora.visit(prefix, f);
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        self.weight.visit_mut(prefix, f);
        self.lora.visit_mut(prefix, f);
    }

    fn layers<'a>(&'a mut self, prefix: &str, layers: &mut Vec<(String, Layer<'a>)>) {
        layers.push((prefix.to_string(), Layer::Embedding(self)));
    }

    fn weights<'a>(&'a self, prefix: &str, weights: &mut Vec<(String, &'a Weight)>) {
        weights.push((prefix.to_string(), &self.weight));
    }

    fn adapters<'a>(&'a self, prefix: &str, adapters: &mut Vec<(String, &'a Lora)>) {
        adapters.extend(self.lora.as_ref().map(|lora| (prefix.to_string(), lora)));
    }
}
