//! Root-mean-square normalisation.

use super::{Module, join};
use crate::mlx::{Array, Dtype, Result, kernels, ops};

/// `x / √(mean(x²) + eps) · weight` over the last axis, accumulated in float32.
#[derive(Clone)]
pub struct RmsNorm {
    pub weight: Array,
    pub eps: f32,
}

impl RmsNorm {
    pub fn new(size: i32, eps: f32, dtype: Dtype) -> Result<Self> {
        Ok(RmsNorm { weight: ops::zeros(&[size], dtype)?, eps })
    }

    pub fn forward(&self, x: &Array) -> Result<Array> {
        kernels::rms_norm(x, &self.weight, self.eps)
    }
}

impl Module for RmsNorm {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        f(join(prefix, "weight"), &self.weight);
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        f(join(prefix, "weight"), &mut self.weight);
    }
}
