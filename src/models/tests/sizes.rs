//! The arithmetic of docs/moe.md.

use std::path::Path;

use serde_json::json;

use super::super::{ARCHITECTURES, ModelConfig};
use crate::mlx::Dtype;

#[test]
fn qwen3_30b_a3b_has_the_parameters_of_the_docs() {
    let json = json!({
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 151_936,
        "tie_word_embeddings": false, "max_position_embeddings": 40960, "rope_theta": 1_000_000.0, "rms_norm_eps": 1e-6,
    });
    let architecture = ARCHITECTURES.iter().find(|known| known.model_type == "qwen3_moe").unwrap();
    let config = ModelConfig::parse(&json, Path::new("config.json"), architecture).unwrap();
    let head_dim = config.head_dim as usize;
    // Lazy zeros: nothing of it is in memory.
    let net = (architecture.build)(config, Dtype::Bfloat16).unwrap();
    let (mut experts, mut attention, mut ends, mut routers, mut norms, mut largest) = (0, 0, 0, 0, 0, 0);
    net.visit("", &mut |name, weight| {
        let size = weight.shape().iter().map(|&size| size as usize).product::<usize>();
        let part = match name.as_str() {
            name if name.contains("norm") => &mut norms,
            name if name.contains("switch_mlp") => {
                largest = largest.max(size);
                &mut experts
            }
            name if name.contains("self_attn") => &mut attention,
            name if name.contains("mlp.gate.") => &mut routers,
            _ => &mut ends,
        };
        *part += size;
    });
    assert_eq!((experts, attention, ends), (28_991_029_248, 905_969_664, 622_329_856));
    assert_eq!((routers, norms, largest), (12_582_912, 210_944, 201_326_592));
    assert_eq!(experts + attention + ends + routers + norms, 30_532_122_624);
    assert_eq!(experts * 8 / 128 + attention + ends + routers + norms, 3_353_032_704);
    // Factors of LoRA for each unit of the rank: a row of inputs and a column of outputs.
    let (hidden, kv) = (2048, 4 * head_dim);
    let q = 32 * head_dim;
    assert_eq!(48 * (2 * (hidden + q) + 2 * (hidden + kv)), 835_584);
    assert_eq!(48 * 3 * 128 * (hidden + 768), 51_904_512);
    assert_eq!(48 * 2 * kv * 2, 98_304);
}
