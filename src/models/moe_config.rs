//! What `config.json` says about experts, for Qwen3-MoE and Qwen2-MoE.

use super::config::{MAX_SIZE, Reader};
use crate::mlx::Result;

/// The experts of a model whose layers are in part sparse.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeConfig {
    pub num_experts: i32,
    /// Experts that each token uses.
    pub num_experts_per_tok: i32,
    pub moe_intermediate_size: i32,
    /// Whether the weights of a token's experts are divided by their sum.
    pub norm_topk_prob: bool,
    /// The size of the expert that every token uses beside the chosen ones (Qwen2-MoE).
    pub shared_expert_intermediate_size: Option<i32>,
    /// Weight of the load-balancing loss in training.
    pub router_aux_loss_coef: f64,
    /// Which layers have experts; the others are dense.
    pub sparse_layers: Vec<bool>,
}

/// What a configuration leaves out is this, as in transformers.
struct Defaults {
    experts: i32,
    experts_per_tok: i32,
    intermediate: i32,
}

/// Qwen3-MoE. transformers 5 writes `num_local_experts`, earlier ones `num_experts`.
pub fn qwen3_moe(config: &Reader, layers: i32) -> Result<MoeConfig> {
    parse(config, layers, Defaults { experts: 128, experts_per_tok: 8, intermediate: 768 })
}

/// Qwen2-MoE: the same, and a shared expert.
pub fn qwen2_moe(config: &Reader, layers: i32) -> Result<MoeConfig> {
    let shared = config.integer("shared_expert_intermediate_size", Some(5632), 1, MAX_SIZE)?;
    let moe = parse(config, layers, Defaults { experts: 60, experts_per_tok: 4, intermediate: 1408 })?;
    Ok(MoeConfig { shared_expert_intermediate_size: Some(shared), ..moe })
}

fn parse(config: &Reader, layers: i32, defaults: Defaults) -> Result<MoeConfig> {
    let key = if config.get("num_experts").is_some() { "num_experts" } else { "num_local_experts" };
    let num_experts = config.integer(key, Some(defaults.experts), 0, 1 << 16)?;
    // Without experts every layer is dense, and nothing else here is read.
    let most = if num_experts == 0 { i32::MAX } else { num_experts };
    let default = defaults.experts_per_tok.min(most);
    let step = config.integer("decoder_sparse_step", Some(1), 1, i32::MAX as i64)?;
    let dense = config.integers("mlp_only_layers", 0, layers as i64 - 1)?;
    let sparse = |layer: i32| num_experts > 0 && !dense.contains(&layer) && (layer + 1) % step == 0;
    Ok(MoeConfig {
        num_experts,
        num_experts_per_tok: config.integer("num_experts_per_tok", Some(default), 1, most as i64)?,
        moe_intermediate_size: config.integer("moe_intermediate_size", Some(defaults.intermediate), 1, MAX_SIZE)?,
        norm_topk_prob: config.boolean("norm_topk_prob")?.unwrap_or(false),
        shared_expert_intermediate_size: None,
        router_aux_loss_coef: config.float("router_aux_loss_coef", Some(0.001), 0.0, f64::MAX)?,
        sparse_layers: (0..layers).map(sparse).collect(),
    })
}
