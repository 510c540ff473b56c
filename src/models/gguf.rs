//! Qwen models in GGUF files, llama.cpp's format: the metadata as a `config.json`, the tensors under transformers' names.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{LoadOptions, Model, model};
use crate::mlx::device;
use crate::mlx::io::{GgufFile, GgufTensor};
use crate::mlx::{Array, Dtype, Error, Result};
use crate::models::CausalLm;
use crate::nn::{Packed, Weight};

/// llama.cpp's names of the architectures, and ours.
const ARCHITECTURES: &[(&str, &str, &str)] = &[
    ("qwen2", "qwen2", "Qwen2ForCausalLM"),
    ("qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM"),
    ("qwen3", "qwen3", "Qwen3ForCausalLM"),
    ("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM"),
];

/// The modules of a block by llama.cpp's names.
const MODULES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

/// The name in our models of a tensor of a file.
fn name_of(tensor: &str) -> Option<String> {
    match tensor {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = tensor.strip_prefix("blk.")?.split_once('.')?;
    let (module, leaf) = rest.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (_, ours) = MODULES.iter().find(|(theirs, _)| *theirs == module)?;
    matches!(leaf, "weight" | "bias").then(|| format!("model.layers.{layer}.{ours}.{leaf}"))
}

/// `config.json` and `generation_config.json` of a file.
fn configs(file: &GgufFile, path: &Path) -> Result<(Value, Value)> {
    let theirs = file.text("general.architecture")?.ok_or_else(|| file.wrong("general.architecture", "a text"))?;
    let Some((prefix, model_type, class)) = ARCHITECTURES.iter().find(|(name, _, _)| *name == theirs) else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _, _)| *name).collect();
        return Err(Error::UnsupportedModel { found: theirs.to_string(), known: known.join(", ") });
    };
    let shape_of = |name: &str| file.entries().find_map(|(held, shape, _)| (held == name).then_some(shape));
    let mut config = Map::new();
    config.insert("architectures".into(), json!([class]));
    config.insert("model_type".into(), json!(model_type));
    let vocabulary = shape_of("token_embd.weight").filter(|shape| shape.len() == 2).map(|shape| shape[0]);
    let vocabulary =
        vocabulary.ok_or_else(|| Error::load(path, "holds no matrix 'token_embd.weight', so it is no language model"))?;
    config.insert("vocab_size".into(), json!(vocabulary));
    config.insert("tie_word_embeddings".into(), json!(shape_of("output.weight").is_none()));
    let integers = [
        ("embedding_length", "hidden_size", true),
        ("block_count", "num_hidden_layers", true),
        ("attention.head_count", "num_attention_heads", true),
        ("attention.head_count_kv", "num_key_value_heads", false),
        ("attention.key_length", "head_dim", false),
        ("context_length", "max_position_embeddings", false),
        ("feed_forward_length", "intermediate_size", false),
        ("expert_count", "num_experts", false),
        ("expert_used_count", "num_experts_per_tok", false),
        ("expert_feed_forward_length", "moe_intermediate_size", false),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size", false),
    ];
    for (theirs, ours, needed) in integers {
        let key = format!("{prefix}.{theirs}");
        match file.integer(&key)? {
            Some(value) => drop(config.insert(ours.into(), json!(value))),
            None if needed => return Err(file.wrong(&key, "one whole number")),
            None => {}
        }
    }
    // Of experts there may be only their own size; no layer is dense then.
    if let Some(size) = config.get("moe_intermediate_size").filter(|_| !config.contains_key("intermediate_size")).cloned() {
        config.insert("intermediate_size".into(), size);
    }
    for (theirs, ours) in [("attention.layer_norm_rms_epsilon", "rms_norm_eps"), ("rope.freq_base", "rope_theta")] {
        if let Some(value) = file.number(&format!("{prefix}.{theirs}"))? {
            config.insert(ours.into(), json!(value));
        }
    }
    if config.contains_key("num_experts") {
        // Fixed by the architecture in llama.cpp, as in all published models.
        config.insert("norm_topk_prob".into(), json!(*prefix == "qwen3moe"));
        config.insert("decoder_sparse_step".into(), json!(1));
        config.insert("mlp_only_layers".into(), json!([]));
    }
    let kind = file.text(&format!("{prefix}.rope.scaling.type"))?.unwrap_or("none");
    if kind != "none" {
        let mut scaling = Map::from_iter([("rope_type".to_string(), json!(kind))]);
        if let Some(factor) = file.number(&format!("{prefix}.rope.scaling.factor"))? {
            scaling.insert("factor".into(), json!(factor));
        }
        if let Some(length) = file.integer(&format!("{prefix}.rope.scaling.original_context_length"))? {
            scaling.insert("original_max_position_embeddings".into(), json!(length));
        }
        for (theirs, ours) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
            if let Some(value) = file.number(&format!("{prefix}.rope.scaling.{theirs}"))? {
                scaling.insert(ours.into(), json!(value));
            }
        }
        // These change what llama.cpp computes in ways of its own.
        for theirs in ["attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier"] {
            let key = format!("{prefix}.rope.scaling.{theirs}");
            if file.value(&key).is_some() {
                return Err(file.wrong(&key, "absent: this scaling of attention is not supported"));
            }
        }
        config.insert("rope_scaling".into(), Value::Object(scaling));
    }
    let mut ends: Vec<i64> = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        let id = file.integer(&format!("tokenizer.ggml.{key}"))?;
        ends.extend(id.filter(|id| !ends.contains(id)));
    }
    let mut generation = Map::new();
    if let Some(first) = ends.first() {
        config.insert("eos_token_id".into(), json!(first));
        generation.insert("eos_token_id".into(), json!(ends));
    }
    for (theirs, ours) in [("bos_token_id", "bos_token_id"), ("padding_token_id", "pad_token_id")] {
        if let Some(id) = file.integer(&format!("tokenizer.ggml.{theirs}"))? {
            generation.insert(ours.into(), json!(id));
        }
    }
    Ok((Value::Object(config), Value::Object(generation)))
}

/// What would be the `config.json` of a file.
pub(super) fn config_json(path: &Path) -> Result<Value> {
    Ok(configs(&GgufFile::open(path)?, path)?.0)
}

/// Loads a file. Without a dtype in the options it is float32 on the CPU and float16, that of the codes' scales, on a GPU.
pub(super) fn open(path: &Path, options: &LoadOptions, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Model> {
    let dtype = options.dtype.unwrap_or(if device() == "gpu" { Dtype::Float16 } else { Dtype::Float32 });
    model::check_dtype(dtype)?;
    let file = GgufFile::open(path)?;
    let (config_json, generation_config) = configs(&file, path)?;
    let (architecture, config) = model::parse(&config_json, path)?;
    let mut net = (architecture.build)(config, dtype)?;
    load(net.as_mut(), file, path, dtype, progress)?;
    Ok(Model::new(net, config_json, Some(generation_config), dtype))
}

/// A weight on its way into the model.
enum Read {
    Plain(Array),
    Packed(Packed),
}

/// Fills a model of lazy zeros. Packed tensors stay packed, in codes that MLX computes with; what else there is becomes `dtype`. Every
/// weight must be there in its shape, and nothing else.
fn load(
    net: &mut dyn CausalLm,
    mut file: GgufFile,
    path: &Path,
    dtype: Dtype,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let bad = |message: String| Err(Error::load(path, message));
    let mut wanted: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    net.visit("", &mut |name, weight| drop(wanted.insert(name, weight.shape().to_vec())));
    let mut names = Vec::new();
    for (tensor, shape, length) in file.entries() {
        let Some((name, want)) = name_of(tensor).and_then(|name| wanted.remove(&name).map(|want| (name, want))) else {
            return bad(format!(
                "holds tensor '{tensor}' {shape:?}, which this model does not have, or has under another name too"
            ));
        };
        // A gate of one row is stored as a vector.
        if shape != want && [&[1], shape].concat() != want {
            return bad(format!("tensor '{tensor}' is {shape:?}; the metadata makes it {want:?}"));
        }
        names.push((name, want, length));
    }
    if let Some((first, shape)) = wanted.first_key_value() {
        return bad(format!("{} weights are missing, the first is '{first}' {shape:?}", wanted.len()));
    }
    let total = names.iter().map(|(_, _, length)| length).sum();
    let mut loaded = 0;
    progress(loaded, total)?;
    let mut read: HashMap<String, Read> = HashMap::with_capacity(names.len());
    for (name, shape, length) in names {
        let Some(tensor) = file.read_next()? else { return bad("ends before its last tensor".into()) };
        let read_weight = match tensor {
            GgufTensor::Plain(array) => Read::Plain(array.reshape(&shape)?.astype(dtype)?),
            GgufTensor::Packed(mut codes, how) => {
                codes.scales = codes.scales.astype(dtype)?;
                codes.biases = codes.biases.map(|biases| biases.astype(dtype)).transpose()?;
                codes.scales.eval()?;
                codes.biases.iter().try_for_each(Array::eval)?;
                Read::Packed(Packed { codes, how, dtype })
            }
        };
        let read_weight = match read_weight {
            // Vectors are not packed in our layers.
            Read::Packed(packed) if shape.len() < 2 || shape[0] == 1 => {
                Read::Plain(Weight::Packed(packed).numbers()?.reshape(&shape)?)
            }
            other => other,
        };
        if let Read::Plain(array) = &read_weight {
            array.eval()?;
        }
        read.insert(name, read_weight);
        loaded += length;
        progress(loaded, total)?;
    }
    let mut layers = Vec::new();
    net.layers("", &mut layers);
    for (name, mut layer) in layers {
        let key = format!("{name}.weight");
        if matches!(read.get(&key), Some(Read::Packed(_)))
            && let Some(Read::Packed(packed)) = read.remove(&key)
        {
            *layer.weight_mut() = Weight::Packed(packed);
        }
    }
    net.visit_mut("", &mut |name, slot| {
        if let Some(Read::Plain(array)) = read.remove(&name) {
            *slot = array;
        }
    });
    match read.keys().next() {
        Some(name) => Err(Error::Internal(format!("'{name}' found no place in the model"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tensors() {
        let same = [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            ("blk.12.ffn_gate_inp_shexp.weight", "model.layers.12.mlp.shared_expert_gate.weight"),
            ("blk.3.ffn_down_exps.weight", "model.layers.3.mlp.switch_mlp.down_proj.weight"),
        ];
        for (theirs, ours) in same {
            assert_eq!(name_of(theirs).as_deref(), Some(ours));
        }
        for unknown in ["rope_freqs.weight", "blk.x.attn_q.weight", "blk.1.attn_q.scale", "blk.1.attn_qkv.weight", "blk.1", ""] {
            assert_eq!(name_of(unknown), None, "{unknown}");
        }
    }
}
