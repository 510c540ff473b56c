//! Qwen3, dense (arXiv:2505.09388): queries and keys normalised per head, biases only where the configuration asks.

use crate::mlx::{Dtype, Result};
use crate::models::{Architecture, CausalLm, Decoder, ModelConfig};
use crate::nn::AttentionShape;

pub const ARCHITECTURE: Architecture = Architecture { model_type: "qwen3", default_head_dim: Some(128), moe: None, build };

pub(super) fn attention(config: &ModelConfig) -> AttentionShape {
    AttentionShape {
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        qkv_bias: config.attention_bias,
        output_bias: config.attention_bias,
        qk_norm: Some(config.rms_norm_eps),
    }
}

fn build(config: ModelConfig, dtype: Dtype) -> Result<Box<dyn CausalLm>> {
    let attention = attention(&config);
    Ok(Box::new(Decoder::new(config, attention, dtype)?))
}
