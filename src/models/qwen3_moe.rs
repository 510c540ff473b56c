//! Qwen3 with experts (arXiv:2505.09388): Qwen3's attention; each token of a sparse layer goes through its likeliest experts.

use crate::mlx::{Dtype, Result};
use crate::models::{Architecture, CausalLm, Decoder, ModelConfig, moe_config, qwen3};

pub const ARCHITECTURE: Architecture =
    Architecture { model_type: "qwen3_moe", default_head_dim: None, moe: Some(moe_config::qwen3_moe), build };

fn build(config: ModelConfig, dtype: Dtype) -> Result<Box<dyn CausalLm>> {
    let attention = qwen3::attention(&config);
    Ok(Box::new(Decoder::new(config, attention, dtype)?))
}
