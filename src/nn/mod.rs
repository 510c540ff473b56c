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
mod switch;
mod upsample;

pub use attention::{Attention, AttentionShape, Context, ContextMask};
pub use batch_norm::{BatchStatistics, batch_norm, batch_statistics, instance_norm};
pub use bilinear::bilinear;
pub use conv::{ConvShape, conv, conv_transpose};
pub use dropout::dropout;
pub use embedding::Embedding;
pub use linear::Linear;
pub use lora::Lora;
pub use mlp::Mlp;
pub use moe::{FeedForward, MoeShape, Routing, SparseMoe};
pub use norm::{Affine, GroupNorm, LayerNorm, RmsNorm, group_norm, layer_norm};
pub use pool::{Pooling, pool};
pub use positional::{alibi, sinusoidal, sinusoidal_frequencies};
pub use quantized::{QuantizedEmbedding, QuantizedLinear, quantized_embedding, quantized_linear};
pub use recurrent::{Recurrent, gru, lstm, recurrent_inputs};
pub use rope::{LongRope, Rope, RopeConfig, RopeScaling, Yarn};
pub use switch::{
    ExpertLinear, QuantizedSwitchLinear, SORTED_FROM, SortedTokens, SwitchGlu, SwitchLinear, expert_indices,
    quantized_switch_linear, restore_tokens, switch_apply, switch_linear,
};
pub use upsample::{Interpolation, upsample};

use crate::mlx::Array;

/// Something with weights. Names are the checkpoint's keys; the factors of a LoRA adapter are `<module>.lora_a` and
/// `<module>.lora_b`. The order never changes.
pub trait Module {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array));
    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array));
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
}

#[cfg(test)]
mod tests;
