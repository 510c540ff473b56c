//! A linear layer, with an optional LoRA adapter on it.

use super::{Lora, Module, join};
use crate::mlx::{Array, Dtype, Result, kernels, ops};

/// `x Wᵀ + b`, and a low-rank correction when an adapter is attached.
#[derive(Clone)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Array,
    /// `[out]`
    pub bias: Option<Array>,
    pub lora: Option<Lora>,
}

impl Linear {
    /// All zeros, to be filled from a checkpoint. Lazy: takes no memory until then.
    pub fn new(inputs: i32, outputs: i32, bias: bool, dtype: Dtype) -> Result<Self> {
        let bias = if bias { Some(ops::zeros(&[outputs], dtype)?) } else { None };
        Ok(Linear { weight: ops::zeros(&[outputs, inputs], dtype)?, bias, lora: None })
    }

    /// `[..., in]` to `[..., out]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let y = match &self.bias {
            Some(bias) => ops::addmm(bias, x, &self.weight.t()?, 1.0, 1.0)?,
            None => kernels::linear(x, &self.weight)?,
        };
        match &self.lora {
            Some(lora) if lora.enabled => lora.correct(x, &y),
            _ => Ok(y),
        }
    }
}

impl Module for Linear {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        f(join(prefix, "weight"), &self.weight);
        if let Some(bias) = &self.bias {
            f(join(prefix, "bias"), bias);
        }
        if let Some(lora) = &self.lora {
            f(join(prefix, "lora_a"), &lora.a);
            f(join(prefix, "lora_b"), &lora.b);
        }
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        f(join(prefix, "weight"), &mut self.weight);
        if let Some(bias) = &mut self.bias {
            f(join(prefix, "bias"), bias);
        }
        if let Some(lora) = &mut self.lora {
            f(join(prefix, "lora_a"), &mut lora.a);
            f(join(prefix, "lora_b"), &mut lora.b);
        }
    }
}
