//! Token embeddings.

use super::{Module, join};
use crate::mlx::{Array, Dtype, Result, cuda, ops};

#[derive(Clone)]
pub struct Embedding {
    /// `[vocabulary, hidden]`
    pub weight: Array,
}

impl Embedding {
    /// All zeros, to be filled from a checkpoint. Lazy: takes no memory until then.
    pub fn new(vocabulary: i32, hidden: i32, dtype: Dtype) -> Result<Self> {
        Ok(Embedding { weight: ops::zeros(&[vocabulary, hidden], dtype)? })
    }

    /// `[B, T]` ids to `[B, T, hidden]`. Ids must lie in the vocabulary: nothing checks them on the device.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        cuda::embedding(&self.weight, ids)
    }
}

impl Module for Embedding {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        f(join(prefix, "weight"), &self.weight);
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        f(join(prefix, "weight"), &mut self.weight);
    }
}
