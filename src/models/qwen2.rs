//! Qwen2 and Qwen2.5 (arXiv:2407.10671): biases on queries, keys and values.

use crate::mlx::{Dtype, Result};
use crate::models::{Architecture, CausalLm, Decoder, ModelConfig};
use crate::nn::AttentionShape;

pub const ARCHITECTURE: Architecture = Architecture { model_type: "qwen2", default_head_dim: None, moe: None, build };

pub(super) fn attention(config: &ModelConfig) -> AttentionShape {
    AttentionShape {
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        qkv_bias: true,
        output_bias: false,
        qk_norm: None,
    }
}

fn build(config: ModelConfig, dtype: Dtype) -> Result<Box<dyn CausalLm>> {
    let attention = attention(&config);
    Ok(Box::new(Decoder::new(config, attention, dtype)?))
}
