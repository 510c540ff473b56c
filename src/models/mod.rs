//! Models by `model_type`, and their way from and to checkpoint folders.

mod adapters;
mod base;
mod calibration;
mod checkpoint;
mod config;
mod convert;
mod decoder;
mod experts;
mod foreign;
mod gguf;
mod inspect;
mod model;
mod moe_config;
mod quantization;
mod quantize;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod rope_config;
mod weights;

pub use adapters::{AdapterFormat, DEFAULT_NAME, DEFAULT_TARGETS, LoraConfig, Targets};
pub use base::{CausalLm, Forward, Hidden};
pub use calibration::{CalibrateOptions, CalibratedLayer, Calibration, Method, Watch};
pub use config::ModelConfig;
pub use convert::{Conversion, ConvertOptions, Converted};
pub use decoder::Decoder;
pub use inspect::inspect;
pub use model::{LoadOptions, Model, init, layers_of, load};
pub use moe_config::MoeConfig;
pub use quantization::{Plan, QuantizeOptions, Recipe, Scheme};
pub use quantize::PackedSize;
pub use rope_config::rope_from_json;

use crate::mlx::{Dtype, Result};

/// How a `model_type` is built. A new model is one file with one of these, and a line in `ARCHITECTURES`.
pub struct Architecture {
    pub model_type: &'static str,
    /// The size of a head where `config.json` leaves it out; without one it is hidden size over heads.
    pub default_head_dim: Option<i32>,
    /// Reads what `config.json` says about experts, given the number of layers.
    pub moe: Option<fn(&config::Reader, i32) -> Result<MoeConfig>>,
    /// A model of lazy zeros.
    pub build: fn(ModelConfig, Dtype) -> Result<Box<dyn CausalLm>>,
}

pub const ARCHITECTURES: &[Architecture] =
    &[qwen2::ARCHITECTURE, qwen2_moe::ARCHITECTURE, qwen3::ARCHITECTURE, qwen3_moe::ARCHITECTURE];

#[cfg(test)]
mod tests;
