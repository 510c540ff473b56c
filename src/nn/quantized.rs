//! Layers over packed weights, as `mlx.nn.QuantizedLinear` and `QuantizedEmbedding`. Packed weights are not trained: gradients flow
//! to the inputs (and to a bias), not to them.

use super::{Embedding, Linear, Module, join};
use crate::mlx::ops::{self, Quantization, Quantized};
use crate::mlx::{Array, Error, Result};

impl Module for Quantized {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        f(join(prefix, "weight"), &self.weight);
        f(join(prefix, "scales"), &self.scales);
        if let Some(biases) = &self.biases {
            f(join(prefix, "biases"), biases);
        }
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        f(join(prefix, "weight"), &mut self.weight);
        f(join(prefix, "scales"), &mut self.scales);
        if let Some(biases) = &mut self.biases {
            f(join(prefix, "biases"), biases);
        }
    }
}

/// `x wᵀ + bias` for `x` `[.., in]`, a packed `w` `[out, in]` and a bias `[out]`.
pub fn quantized_linear(x: &Array, w: &Quantized, bias: Option<&Array>, how: Quantization) -> Result<Array> {
    let y = ops::quantized_matmul(x, &w.weight, &w.scales, w.biases.as_ref(), true, how)?;
    match bias {
        Some(bias) if bias.shape() != [w.weight.dim(0)] => {
            Err(Error::Shape(format!("a bias of a linear layer must be [{}], got shape {:?}", w.weight.dim(0), bias.shape())))
        }
        Some(bias) => y.add(bias),
        None => Ok(y),
    }
}

/// Rows of a packed table `[vocabulary, hidden]`: ids `[..]` to `[.., hidden]`. Ids outside count as `Array::bounded` says.
pub fn quantized_embedding(ids: &Array, table: &Quantized, how: Quantization) -> Result<Array> {
    if table.weight.ndim() != 2 {
        return Err(Error::Shape(format!("an embedding needs a matrix, got shape {:?}", table.weight.shape())));
    }
    rows(&ids.bounded(table.weight.dim(0), 1)?, table, how)
}

/// `quantized_embedding` for ids that lie in the table.
fn rows(ids: &Array, table: &Quantized, how: Quantization) -> Result<Array> {
    // A matrix even for a single id: a packed row alone is not one.
    let flat = ids.flatten()?;
    let biases = table.biases.as_ref().map(|biases| biases.take(&flat, 0)).transpose()?;
    let found = ops::dequantize(&table.weight.take(&flat, 0)?, &table.scales.take(&flat, 0)?, biases.as_ref(), how, None, None)?;
    found.reshape(&[ids.shape(), &[found.dim(-1)]].concat())
}

/// A linear layer over packed weights.
#[derive(Clone, Debug)]
pub struct QuantizedLinear {
    /// `[out, in]`
    pub weight: Quantized,
    /// `[out]`
    pub bias: Option<Array>,
    pub how: Quantization,
}

impl QuantizedLinear {
    /// Packs the weight of a layer; an adapter on it is not part of it.
    pub fn from_linear(linear: &Linear, how: Quantization) -> Result<Self> {
        Ok(QuantizedLinear { weight: ops::quantize(&linear.weight, how, None)?, bias: linear.bias.clone(), how })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        quantized_linear(x, &self.weight, self.bias.as_ref(), self.how)
    }
}

impl Module for QuantizedLinear {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        self.weight.visit(prefix, f);
        if let Some(bias) = &self.bias {
            f(join(prefix, "bias"), bias);
        }
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        self.weight.visit_mut(prefix, f);
        if let Some(bias) = &mut self.bias {
            f(join(prefix, "bias"), bias);
        }
    }
}

/// Token embeddings in a packed table.
#[derive(Clone, Debug)]
pub struct QuantizedEmbedding {
    /// `[vocabulary, hidden]`
    pub weight: Quantized,
    pub how: Quantization,
}

impl QuantizedEmbedding {
    pub fn from_embedding(embedding: &Embedding, how: Quantization) -> Result<Self> {
        Ok(QuantizedEmbedding { weight: ops::quantize(&embedding.weight, how, None)?, how })
    }

    /// `[B, T]` ids to `[B, T, hidden]`. Ids must lie in the vocabulary: nothing checks them on the device.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        rows(ids, &self.weight, self.how)
    }

    /// As the output layer of a model with tied embeddings: `[.., hidden]` to `[.., vocabulary]`.
    pub fn as_linear(&self, x: &Array) -> Result<Array> {
        quantized_linear(x, &self.weight, None, self.how)
    }
}

impl Module for QuantizedEmbedding {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        self.weight.visit(prefix, f);
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        self.weight.visit_mut(prefix, f);
    }
}
