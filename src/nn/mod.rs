//! The blocks of a transformer: each holds its weights and computes one thing.

pub mod activations;
mod attention;
mod batch_norm;
mod bilinear;
mod conv;
mod dropout;
mod embedding;
pub mod init;
mod linear;
mod lora;
pub mod losses;
mod mlp;
mod moe;
mod norm;
mod pool;
mod positional;
mod quantized;
mod recurrent;
mod rope;
mod router;
mod switch;
mod upsample;
mod weight;

pub use attention::{Attention, AttentionShape, Context, ContextMask};
pub use batch_norm::{BatchStatistics, batch_norm, batch_statistics, instance_norm};
pub use bilinear::bilinear;
pub use conv::{ConvShape, conv, conv_transpose};
pub use dropout::dropout;
pub use embedding::Embedding;
pub use linear::Linear;
pub use lora::{AdaptedHead, Dora, Dropout, Head, Lora, factor_shapes};
pub use mlp::Mlp;
pub use moe::{FeedForward, MoeShape, Routing, SparseMoe};
pub use norm::{Affine, GroupNorm, LayerNorm, RmsNorm, group_norm, layer_norm};
pub use pool::{Pooling, pool};
pub use positional::{alibi, sinusoidal, sinusoidal_frequencies};
pub use quantized::{quantized_embedding, quantized_linear};
pub use recurrent::{Recurrent, gru, lstm, recurrent_inputs};
pub use rope::{LongRope, Rope, RopeConfig, RopeScaling, Yarn};
pub use router::RouterUse;
pub use switch::{
    SortedTokens, SwitchGlu, SwitchLinear, expert_indices, quantized_switch_linear, restore_tokens, sorts, switch_apply,
    switch_linear,
};
pub use upsample::{Interpolation, upsample};
pub use weight::{Packed, Weight};

use crate::mlx::{Array, Result};

/// Something with weights. Names are the checkpoint's keys; an adapter's are `<module>.lora_a`, `<module>.lora_b` and, in DoRA,
/// `<module>.lora_magnitude`. The order never changes.
pub trait Module {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array));
    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array));

    /// Its layers that have a weight matrix, by name and in the order of `visit`.
    fn layers<'a>(&'a mut self, _prefix: &str, _layers: &mut Vec<(String, Layer<'a>)>) {}

    /// The weight matrices of those layers, by the layers' names.
    fn weights<'a>(&'a self, _prefix: &str, _weights: &mut Vec<(String, &'a Weight)>) {}

    /// The adapters on its layers, by the layers' names.
    fn adapters<'a>(&'a self, _prefix: &str, _adapters: &mut Vec<(String, &'a Lora)>) {}
}

/// Whether an array that `visit` gives belongs to a packed weight: training cannot change it, and it has no gradient.
pub fn is_packed_part(name: &str, array: &Array) -> bool {
    !array.dtype().is_float() || name.ends_with(".scales") || name.ends_with(".biases")
}

/// A layer with a weight matrix: what can be packed, and what an adapter can be put on.
pub enum Layer<'a> {
    Linear(&'a mut Linear),
    Embedding(&'a mut Embedding),
    Switch(&'a mut SwitchLinear),
}

impl Layer<'_> {
    pub fn weight(&self) -> &Weight {
        match self {
            Layer::Linear(layer) => &layer.weight,
            Layer::Embedding(layer) => &layer.weight,
            Layer::Switch(layer) => &layer.weight,
        }
    }

    pub fn weight_mut(&mut self) -> &mut Weight {
        if let Some(lora) = self.lora_mut() {
            lora.forget();
        }
        match self {
            Layer::Linear(layer) => &mut layer.weight,
            Layer::Embedding(layer) => &mut layer.weight,
            Layer::Switch(layer) => &mut layer.weight,
        }
    }

    pub fn lora(&self) -> Option<&Lora> {
        match self {
            Layer::Linear(layer) => layer.lora.as_ref(),
            Layer::Embedding(layer) => layer.lora.as_ref(),
            Layer::Switch(layer) => layer.lora.as_ref(),
        }
    }

    pub fn lora_mut(&mut self) -> &mut Option<Lora> {
        match self {
            Layer::Linear(layer) => &mut layer.lora,
            Layer::Embedding(layer) => &mut layer.lora,
            Layer::Switch(layer) => &mut layer.lora,
        }
    }

    /// An adapter that changes nothing yet, with `dora` one that learns lengths.
    pub fn fresh_lora(&self, rank: i32, scale: f32, dora: bool, key: &Array) -> Result<Lora> {
        let shape = self.weight().shape();
        let embedding = matches!(self, Layer::Embedding(_));
        let mut lora = if embedding { Lora::embedding(&shape, rank, scale, key)? } else { Lora::new(&shape, rank, scale, key)? };
        if dora {
            lora.dora = Some(Dora::new(self.weight(), embedding)?);
        }
        Ok(lora)
    }
}

/// `prefix.name`, or `name` at the top.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") }
}

/// Implements `Module` for a struct of modules; an `Option` field is visited when it is there.
macro_rules! module_of {
    ($type:ty: $($field:ident),* $(,)?) => {
        impl $crate::nn::Module for $type {
            fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a $crate::mlx::Array)) {
                $(self.$field.visit(&$crate::nn::join(prefix, stringify!($field)), f);)*
            }

            fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut $crate::mlx::Array)) {
                $(self.$field.visit_mut(&$crate::nn::join(prefix, stringify!($field)), f);)*
            }

            fn layers<'a>(&'a mut self, prefix: &str, layers: &mut Vec<(String, $crate::nn::Layer<'a>)>) {
                $(self.$field.layers(&$crate::nn::join(prefix, stringify!($field)), layers);)*
            }

            fn weights<'a>(&'a self, prefix: &str, weights: &mut Vec<(String, &'a $crate::nn::Weight)>) {
                $(self.$field.weights(&$crate::nn::join(prefix, stringify!($field)), weights);)*
            }

            fn adapters<'a>(&'a self, prefix: &str, adapters: &mut Vec<(String, &'a $crate::nn::Lora)>) {
                $(self.$field.adapters(&$crate::nn::join(prefix, stringify!($field)), adapters);)*
            }
        }
    };
}
pub(crate) use module_of;

impl<M: Module> Module for Option<M> {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        if let Some(module) = self {
            module.visit(prefix, f);
        }
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        if let Some(module) = self {
            module.visit_mut(prefix, f);
        }
    }

    fn layers<'a>(&'a mut self, prefix: &str, layers: &mut Vec<(String, Layer<'a>)>) {
        if let Some(module) = self {
            module.layers(prefix, layers);
        }
    }

    fn weights<'a>(&'a self, prefix: &str, weights: &mut Vec<(String, &'a Weight)>) {
        if let Some(module) = self {
            module.weights(prefix, weights);
        }
    }

    fn adapters<'a>(&'a self, prefix: &str, adapters: &mut Vec<(String, &'a Lora)>) {
        if let Some(module) = self {
            module.adapters(prefix, adapters);
        }
    }
}

#[cfg(test)]
mod tests;
