//! Packing and unpacking the layers of a model in memory.

use serde_json::Value;

use super::checkpoint::eval_codes;
use super::quantization::{Plan, QuantizeOptions, block_of};
use super::{CausalLm, Model};
use crate::mlx::ops::Quantization;
use crate::mlx::{Error, Result};
use crate::nn::{Layer, Weight};

/// How large a model is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackedSize {
    /// Of all its arrays but adapter factors.
    pub bytes: u64,
    /// Numbers that they stand for.
    pub parameters: u64,
}

impl Model {
    pub fn is_quantized(&self) -> bool {
        let mut weights = Vec::new();
        self.net.weights("", &mut weights);
        weights.iter().any(|(_, weight)| weight.is_packed())
    }

    /// The block `quantization` of `config.json` for the model as it is; nothing where no layer is packed.
    pub fn quantization(&self) -> Option<Value> {
        let mut weights = Vec::new();
        self.net.weights("", &mut weights);
        block_of(&weights)
    }

    /// Layers that are packed, or are not.
    pub fn layer_names(&self, packed: bool) -> Vec<String> {
        let mut weights = Vec::new();
        self.net.weights("", &mut weights);
        weights.into_iter().filter(|(_, weight)| weight.is_packed() == packed).map(|(name, _)| name).collect()
    }

    /// What is to be done to each layer that is not packed yet. Not below a DoRA adapter, which holds the lengths of the weights as
    /// they are.
    pub fn plan_quantization(&self, options: &QuantizeOptions) -> Result<Plan> {
        if let Some(name) = self.dora_adapter() {
            return Err(Error::Argument(format!(
                "quantize: the adapter '{name}' is DoRA and was made for the weights as they are; save and delete it, quantise, and load it again, or fuse it first"
            )));
        }
        let mut weights = Vec::new();
        self.net.weights("", &mut weights);
        options.plan(&weights, self.net.num_layers() as i32)
    }

    /// Packs one layer; its numbers are freed. An adapter on it stays.
    pub fn pack_layer(&mut self, name: &str, how: Quantization) -> Result<()> {
        self.change(name, |weight| {
            let packed = weight.pack(how)?;
            if let Weight::Packed(packed) = &packed {
                eval_codes(&packed.codes)?;
            }
            Ok(packed)
        })
    }

    /// Unpacks one layer; its codes are freed.
    pub fn unpack_layer(&mut self, name: &str) -> Result<()> {
        self.change(name, |weight| {
            let numbers = weight.numbers()?;
            numbers.eval()?;
            Ok(Weight::Plain(numbers))
        })
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&Weight) -> Result<Weight>) -> Result<()> {
        let mut layers: Vec<(String, Layer)> = Vec::new();
        self.net.layers("", &mut layers);
        let layer = layers.iter_mut().find(|(candidate, _)| candidate == name);
        let (_, layer) = layer.ok_or_else(|| Error::Argument(format!("the model has no layer '{name}'")))?;
        *layer.weight_mut() = change(layer.weight())?;
        self.changed();
        Ok(())
    }

    pub fn size(&self) -> PackedSize {
        size_of(self.net.as_ref())
    }
}

pub(super) fn size_of(net: &dyn CausalLm) -> PackedSize {
    let (mut bytes, mut parameters) = (0, 0);
    net.visit("", &mut |name, array| {
        if super::model::is_adapter(&name) {
            return;
        }
        bytes += (array.size() * array.dtype().size()) as u64;
        if !crate::nn::is_packed_part(&name, array) {
            parameters += array.size() as u64;
        }
    });
    let mut weights = Vec::new();
    net.weights("", &mut weights);
    for (_, weight) in weights.iter().filter(|(_, weight)| weight.is_packed()) {
        parameters += weight.shape().iter().map(|&size| size as u64).product::<u64>();
    }
    PackedSize { bytes, parameters }
}
