//! Qwen2 with experts (arXiv:2407.10671): Qwen2's attention, experts as in Qwen3-MoE, and a gated expert that all tokens share.

use crate::mlx::{Dtype, Result};
use crate::models::{Architecture, CausalLm, Decoder, ModelConfig, moe_config, qwen2};

pub const ARCHITECTURE: Architecture =
    Architecture { model_type: "qwen2_moe", default_head_dim: None, moe: Some(moe_config::qwen2_moe), build };

fn build(config: ModelConfig, dtype: Dtype) -> Result<Box<dyn CausalLm>> {
    let attention = qwen2::attention(&config);
    Ok(Box::new(Decoder::new(config, attention, dtype)?))
}
