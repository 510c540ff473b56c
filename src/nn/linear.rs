//! A linear layer, with an optional adapter on it.

use super::{Layer, Lora, Module, Weight, join};
use crate::mlx::{Array, Dtype, Result, ops};

/// `x Wᵀ + b`, and a low-rank correction when an adapter is attached.
#[derive(Clone)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Weight,
    /// `[out]`
    pub bias: Option<Array>,
    pub lora: Option<Lora>,
}

impl Linear {
    /// All zeros, to be filled from a checkpoint. Lazy: takes no memory until then.
    pub fn new(inputs: i32, outputs: i32, bias: bool, dtype: Dtype) -> Result<Self> {
        let bias = if bias { Some(ops::zeros(&[outputs], dtype)?) } else { None };
        Ok(Linear { weight: Weight::zeros(&[outputs, inputs], dtype)?, bias, lora: None })
    }

    /// `[..., in]` to `[..., out]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        match (&self.lora, &self.bias) {
            (Some(lora), bias) if lora.enabled => lora.linear(x, &self.weight, bias.as_ref()),
            (_, Some(bias)) => self.weight.affine(x, bias),
            (_, None) => self.weight.project(x),
        }
    }
}

impl Module for Linear {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        self.weight.visit(prefix, f);
        if let Some(bias) = &self.bias {
            f(join(prefix, "bias"), bias);
        }
        self.lora.visit(prefix, f);
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        self.weight.visit_mut(prefix, f);
        if let Some(bias) = &mut self.bias {
            f(join(prefix, "bias"), bias);
        }
        self.lora.visit_mut(prefix, f);
    }

    fn layers<'a>(&'a mut self, prefix: &str, layers: &mut Vec<(String, Layer<'a>)>) {
        layers.push((prefix.to_string(), Layer::Linear(self)));
    }

    fn weights<'a>(&'a self, prefix: &str, weights: &mut Vec<(String, &'a Weight)>) {
        weights.push((prefix.to_string(), &self.weight));
    }

    fn adapters<'a>(&'a self, prefix: &str, adapters: &mut Vec<(String, &'a Lora)>) {
        adapters.extend(self.lora.as_ref().map(|lora| (prefix.to_string(), lora)));
    }
}
