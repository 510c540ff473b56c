//! What a checkpoint is and holds, from its `config.json` and the headers of its weight files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, read_config};
use super::model::parse;
use super::quantization::{Scheme, block_of};
use super::quantize::size_of;
use super::{ModelConfig, experts};
use crate::mlx::{Dtype, Result};
use crate::nn::is_packed_part;

/// Everything about a checkpoint as JSON, after all checks that loading makes.
pub fn inspect(dir: &Path) -> Result<Value> {
    let (config_json, file) = read_config(dir)?;
    let (architecture, config) = parse(&config_json, &file)?;
    let scheme = Scheme::parse(&config_json, &file)?;
    let mut quiet = |_, _| Ok(());
    let checkpoint = Checkpoint::open(dir, config.tie_word_embeddings, &scheme, &mut quiet)?;
    let mut net = (architecture.build)(config, Dtype::Float32)?;
    checkpoint.fit(net.as_mut(), &scheme, Dtype::Float32)?;
    let (tensors, files) = checkpoint.contents();
    let bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let size = size_of(net.as_ref());
    let config = net.config();

    // Of every layer that has experts a token uses some.
    let mut weights = Vec::new();
    net.weights("", &mut weights);
    let numbers = |shape: Vec<i32>| shape.iter().map(|&size| size as u64).product::<u64>();
    let of_experts: u64 =
        weights.iter().filter(|(name, _)| experts::is_stacked(name)).map(|(_, weight)| numbers(weight.shape())).sum();
    let used = config
        .moe
        .as_ref()
        .map_or(0, |moe| of_experts / moe.num_experts.max(1) as u64 * moe.num_experts_per_tok.min(moe.num_experts).max(0) as u64);
    let mut dtypes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for tensor in &tensors {
        let entry = dtypes.entry(tensor.dtype.name()).or_default();
        *entry = (entry.0 + 1, entry.1 + tensor.bytes);
    }
    // Packed parts keep their size in any dtype but for scales; numbers do not.
    let bytes_in = |dtype: Dtype| {
        let mut sum = 0;
        net.visit("", &mut |name, array| {
            let numbers = !is_packed_part(&name, array) || array.dtype().is_float();
            sum += array.size() as u64 * if numbers { dtype.size() } else { array.dtype().size() } as u64;
        });
        sum
    };
    let cached = 2 * u64::from(config.num_hidden_layers.unsigned_abs()) * (config.num_key_value_heads * config.head_dim) as u64;
    let quantization = block_of(&weights).map(|mut block| {
        let packed = weights.iter().filter(|(_, weight)| weight.is_packed()).count();
        block["packed_layers"] = packed.into();
        block["plain_layers"] = (weights.len() - packed).into();
        block
    });
    Ok(json!({
        "model_type": config.model_type,
        "config": summary(config),
        "parameters": {"total": size.parameters, "active": size.parameters - of_experts + used},
        "quantization": quantization,
        "bits_per_weight": bytes as f64 * 8. / size.parameters as f64,
        "bytes": bytes,
        "memory": {
            "weights": {"float32": bytes_in(Dtype::Float32), "bfloat16": bytes_in(Dtype::Bfloat16)},
            "kv_cache_per_token": {"float32": 4 * cached, "bfloat16": 2 * cached},
        },
        "dtypes": dtypes.iter().map(|(name, (count, bytes))| (name.to_string(), json!({"tensors": count, "bytes": bytes})))
            .collect::<serde_json::Map<_, _>>(),
        "files": files.iter().map(|(name, count, bytes)| json!({"name": name, "tensors": count, "bytes": bytes})).collect::<Vec<_>>(),
        "tensors": tensors.iter().map(|tensor| json!({
            "name": tensor.name, "dtype": tensor.dtype.name(), "shape": tensor.shape, "bytes": tensor.bytes, "file": tensor.file,
        })).collect::<Vec<_>>(),
    }))
}

fn summary(config: &ModelConfig) -> Value {
    let mut summary = json!({
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "attention_heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "tied_embeddings": config.tie_word_embeddings,
    });
    if let Some(moe) = &config.moe {
        summary["experts"] = moe.num_experts.into();
        summary["experts_per_token"] = moe.num_experts_per_tok.into();
        summary["expert_intermediate_size"] = moe.moe_intermediate_size.into();
        summary["sparse_layers"] = moe.sparse_layers.iter().filter(|sparse| **sparse).count().into();
    }
    summary
}
