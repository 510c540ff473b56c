//! What `mlx.nn.QuantizedLinear` and `QuantizedEmbedding` compute, with everything checked: for layers that JavaScript assembles.

use super::{Module, join};
use crate::mlx::ops::{self, Quantization, Quantized};
use crate::mlx::{Array, Dtype, Error, Result};

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
    quantized_rows(&ids.bounded(table.weight.dim(0), 1)?, table, how, None)
}

/// `quantized_embedding` for ids that lie in the table, in `dtype` (that of the scales where they have one, else bfloat16).
pub(super) fn quantized_rows(ids: &Array, table: &Quantized, how: Quantization, dtype: Option<Dtype>) -> Result<Array> {
    // A matrix even for a single id: a packed row alone is not one.
    let flat = ids.flatten()?;
    let biases = table.biases.as_ref().map(|biases| biases.take(&flat, 0)).transpose()?;
    let found = ops::dequantize(&table.weight.take(&flat, 0)?, &table.scales.take(&flat, 0)?, biases.as_ref(), how, None, dtype)?;
    found.reshape(&[ids.shape(), &[found.dim(-1)]].concat())
}
