//! Adapter folders in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Experts are a module each, as in transformers 4 (`experts.3.up_proj`); what PEFT makes of transformers 5's stacked parameters is
//! read too.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{LoraConfig, MAX_RANK};
use super::targets::{self, kinds};
use super::{CONFIG, Factors, Loaded, check_shapes, wide};
use crate::mlx::io::safetensors::{SafetensorsFile, Source, write as write_tensors};
use crate::mlx::{Array, Error, Result, ops};
use crate::models::config::Reader;
use crate::models::experts::{Part, expert_name, part_of};
use crate::models::weights::write_json;
use crate::nn::{Layer, Lora};

const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Settings of `adapter_config.json` that must be absent or empty.
const UNSUPPORTED: &[&str] = &[
    "modules_to_save",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "use_bdlora",
];

/// The parts of a module in a file, by the ends of their names.
const PARTS: &[(&str, Piece)] = &[
    (".lora_A.weight", Piece::A),
    (".lora_B.weight", Piece::B),
    (".lora_embedding_A", Piece::EmbeddingA),
    (".lora_embedding_B", Piece::EmbeddingB),
    (".lora_magnitude_vector", Piece::Magnitude),
    (".lora_magnitude_vector.weight", Piece::Magnitude),
];

#[derive(Clone, Copy)]
enum Piece {
    A,
    B,
    /// `[rank, vocabulary]`
    EmbeddingA,
    /// `[hidden, rank]`
    EmbeddingB,
    Magnitude,
}

/// What a file holds of a module, in the shapes of `Lora`.
#[derive(Default)]
struct Slots {
    a: Option<Array>,
    b: Option<Array>,
    magnitude: Option<Array>,
}

/// The layer that a module of PEFT's is, or belongs to.
enum Place {
    Layer(String),
    Expert(String, i32),
    /// Stacked gates and ups, or downs, of a block's experts.
    Fused(String),
}

fn place_of(module: &str) -> Place {
    let whole = module.trim_end_matches(".base_layer");
    if let Some(block) = whole.strip_suffix(".experts") {
        return Place::Fused(format!("{block}.switch_mlp"));
    }
    match part_of(&format!("{module}.weight")) {
        Part::Expert(stacked, expert) => Place::Expert(stacked.trim_end_matches(".weight").to_string(), expert),
        _ => Place::Layer(module.to_string()),
    }
}

/// The frozen weights that PEFT writes beside adapters of embeddings.
fn is_base(name: &str) -> bool {
    let weights = ["model.embed_tokens", "lm_head"];
    weights.iter().any(|module| name == format!("{module}.weight") || name == format!("{module}.base_layer.weight"))
}

pub(super) fn read(dir: &Path, reader: &Reader, layers: &[(String, Layer)]) -> Result<Loaded> {
    let (config, tying) = parse(reader)?;
    let path = dir.join(WEIGHTS);
    let bad = |message: String| Error::load(&path, message);
    let mut file = SafetensorsFile::open(&path)?;
    let mut modules: BTreeMap<String, Slots> = BTreeMap::new();
    for entry in std::mem::take(&mut file.entries) {
        let name = entry.name.strip_prefix(PREFIX).unwrap_or(&entry.name);
        if is_base(name) {
            continue;
        }
        let part = PARTS.iter().find_map(|(end, part)| name.strip_suffix(end).map(|module| (module.to_string(), *part)));
        let Some((module, part)) = part else {
            return Err(bad(format!("holds tensor '{}', which is no part of a LoRA or DoRA adapter", entry.name)));
        };
        let array = wide(file.read(&entry)?)?;
        let slots = modules.entry(module).or_default();
        match part {
            Piece::A => slots.a = Some(array),
            Piece::B => slots.b = Some(array),
            Piece::EmbeddingA => slots.b = Some(array.swapaxes(-1, -2)?),
            Piece::EmbeddingB => slots.a = Some(array.swapaxes(-1, -2)?),
            Piece::Magnitude => slots.magnitude = Some(array.flatten()?),
        }
    }
    if modules.is_empty() {
        return Err(bad("holds no factors".into()));
    }
    let places: BTreeMap<&str, &Layer> = layers.iter().map(|(name, layer)| (name.as_str(), layer)).collect();
    let unknown = |module: &str| {
        let hint = if module == "lm_head" { ": its head is the embedding, whose adapter counts for both" } else { "" };
        bad(format!("is for a layer '{module}', which this model does not have{hint}; it has {}", kinds(layers)))
    };
    // PEFT writes a tied adapter twice.
    if tying
        && !places.contains_key("lm_head")
        && let Some(head) = modules.remove("lm_head")
        && !is_same(&head, modules.get("model.embed_tokens"))?
    {
        return Err(bad("has other factors of lm_head than of the embedding, which are one here".into()));
    }
    let mut factors = BTreeMap::new();
    let mut experts: BTreeMap<String, BTreeMap<i32, Factors>> = BTreeMap::new();
    for (module, slots) in modules {
        let (Some(a), Some(b)) = (slots.a, slots.b) else {
            return Err(bad(format!("holds only one of the two factors of '{module}'")));
        };
        if config.use_dora != slots.magnitude.is_some() {
            let (has, says) = if config.use_dora { ("no magnitudes", "true") } else { ("magnitudes", "false") };
            return Err(bad(format!("holds {has} of '{module}', but use_dora is {says} in {CONFIG}")));
        }
        match place_of(&module) {
            Place::Layer(layer) => {
                let place = places.get(layer.as_str()).ok_or_else(|| unknown(&module))?;
                let (rank, scale) = config.size(&module)?;
                let read = Factors { a, b, magnitude: slots.magnitude, columns: true, scale, on_head: tying };
                check_shapes(&module, place, &read, rank).map_err(bad)?;
                factors.insert(layer, read);
            }
            Place::Expert(stacked, expert) => {
                let shape = places.get(stacked.as_str()).map(|place| place.weight().shape()).ok_or_else(|| unknown(&module))?;
                let (rank, scale) = config.size(&module)?;
                let (want_a, want_b) = ([rank, shape[2]], [shape[1], rank]);
                if a.shape() != want_a || b.shape() != want_b || expert >= shape[0] {
                    let (a, b) = (a.shape(), b.shape());
                    return Err(bad(format!(
                        "the factors of '{module}' are {a:?} and {b:?}; with rank {rank} this model takes {want_a:?} and {want_b:?} of {} experts",
                        shape[0]
                    )));
                }
                let part = Factors { a, b, magnitude: slots.magnitude, columns: true, scale, on_head: true };
                experts.entry(stacked).or_default().insert(expert, part);
            }
            Place::Fused(switch) => {
                for (layer, part) in split_fused(&config, &module, &switch, &places, &a, &b).map_err(bad)? {
                    factors.insert(layer, part);
                }
            }
        }
    }
    for (stacked, parts) in experts {
        let count = places[stacked.as_str()].weight().shape()[0];
        if parts.len() as i32 != count {
            return Err(bad(format!("holds factors of {} experts of '{stacked}', which has {count}", parts.len())));
        }
        factors.insert(stacked, stack(parts.into_values().collect())?);
    }
    Ok(Loaded { config, factors })
}

/// Whether a tied head's factors are those of the embedding.
fn is_same(head: &Slots, embedding: Option<&Slots>) -> Result<bool> {
    let same = |a: &Option<Array>, b: &Option<Array>| match (a, b) {
        (Some(a), Some(b)) => Ok(a.shape() == b.shape() && a.to_f32()? == b.to_f32()?),
        _ => Ok(false),
    };
    match embedding {
        Some(embedding) => Ok(same(&head.a, &embedding.a)? && same(&head.b, &embedding.b)?),
        None => Ok(false),
    }
}

/// Experts' factors as one stack's.
fn stack(parts: Vec<Factors>) -> Result<Factors> {
    let joined = |of: &dyn Fn(&Factors) -> Array| ops::stack(&parts.iter().map(of).collect::<Vec<_>>(), 0);
    let magnitudes: Option<Vec<Array>> = parts.iter().map(|part| part.magnitude.clone()).collect();
    Ok(Factors {
        a: joined(&|part| part.a.clone())?,
        b: joined(&|part| part.b.clone())?,
        magnitude: magnitudes.map(|magnitudes| ops::stack(&magnitudes, 0)).transpose()?,
        columns: true,
        scale: parts[0].scale,
        on_head: true,
    })
}

/// Factors of a stacked parameter: `a` is `[experts · rank, in]`, expert by expert, and `b` `[out, rank · experts]`, rank by rank. Gates
/// and ups share `a`.
fn split_fused(
    config: &LoraConfig,
    module: &str,
    switch: &str,
    places: &BTreeMap<&str, &Layer>,
    a: &Array,
    b: &Array,
) -> std::result::Result<Vec<(String, Factors)>, String> {
    let shape = |projection: &str| places.get(format!("{switch}.{projection}").as_str()).map(|place| place.weight().shape());
    let (Some(up), Some(down)) = (shape("up_proj"), shape("down_proj")) else {
        return Err(format!("is for experts '{module}', which this model does not have"));
    };
    let experts = up[0];
    let fits = |shape: &[i32], copies: i32| b.shape()[0] == copies * shape[1] && a.shape()[1] == shape[2];
    let (projections, parameter, out): (&[&str], _, _) = if fits(&up, 2) {
        (&["gate_proj", "up_proj"], "gate_up_proj", up[1])
    } else if fits(&down, 1) {
        (&["down_proj"], "down_proj", down[1])
    } else {
        return Err(format!(
            "the factors of '{module}' are {:?} and {:?}, which fit neither gates and ups nor downs",
            a.shape(),
            b.shape()
        ));
    };
    let failed = |error: Error| error.to_string();
    let name = format!("{}.{parameter}", module.trim_end_matches(".base_layer"));
    let (rank, scale) = config.size(&name).map_err(failed)?;
    if a.dim(0) != rank * experts || b.dim(1) != rank * experts {
        return Err(format!(
            "the factors of '{module}' are {:?} and {:?}, which is not rank {rank} for {experts} experts",
            a.shape(),
            b.shape()
        ));
    }
    let make = || -> Result<Vec<(String, Factors)>> {
        let a = a.reshape(&[experts, rank, -1])?;
        let b = b.reshape(&[b.dim(0), rank, experts])?.transpose(&[2, 0, 1])?;
        let part = |(index, projection): (usize, &&str)| {
            let start = index as i32 * out;
            let b = b.slice_axis(1, start, start + out)?;
            Ok((
                format!("{switch}.{projection}"),
                Factors { a: a.clone(), b, magnitude: None, columns: true, scale, on_head: true },
            ))
        };
        projections.iter().enumerate().map(part).collect()
    };
    make().map_err(failed)
}

/// Reads `adapter_config.json`, and whether an adapter of a tied embedding counts for the head; refuses what would be no LoRA or DoRA.
fn parse(config: &Reader) -> Result<(LoraConfig, bool)> {
    if config.text("peft_type")?.unwrap_or("LORA") != "LORA" {
        return Err(config.wrong("peft_type", "\"LORA\""));
    }
    for key in ["fan_in_fan_out", "lora_bias", "use_qalora"] {
        if config.boolean(key)?.unwrap_or(false) {
            return Err(config.wrong(key, "false: only LoRA and DoRA are supported"));
        }
    }
    if config.text("bias")?.unwrap_or("none") != "none" {
        return Err(config.wrong("bias", "\"none\": trained biases are not supported"));
    }
    // Variants that compute something else, or (PiSSA, OLoRA, LoftQ, CorDA) count from a changed base.
    let plain_start = match config.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => true,
        Some(start) => ["gaussian", "orthogonal", "eva"].iter().any(|plain| start == plain),
    };
    if !plain_start {
        return Err(config.wrong("init_lora_weights", "true, false, \"gaussian\", \"orthogonal\" or \"eva\""));
    }
    for key in UNSUPPORTED {
        let empty = match config.get(key) {
            None => true,
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(items)) => items.is_empty(),
            Some(other) => *other == Value::Bool(false),
        };
        if !empty {
            return Err(config.wrong(key, "empty: only LoRA and DoRA are supported"));
        }
    }
    let rank = |value: &Value| value.as_i64().filter(|rank| (1..=i64::from(MAX_RANK)).contains(rank)).map(|rank| rank as i32);
    let alpha = |value: &Value| value.as_f64().filter(|alpha| *alpha > 0.0 && alpha.is_finite()).map(|alpha| alpha as f32);
    let parsed = LoraConfig {
        rank: config.integer("r", None, 1, i64::from(MAX_RANK))?,
        alpha: config.float("lora_alpha", None, 1e-9, 1e9)? as f32,
        rank_pattern: patterns(config, "rank_pattern", "whole numbers above 0", rank)?,
        alpha_pattern: patterns(config, "alpha_pattern", "numbers above 0", alpha)?,
        dropout: config.float("lora_dropout", Some(0.0), 0.0, 1.0 - f64::EPSILON)? as f32,
        use_rslora: config.boolean("use_rslora")?.unwrap_or(false),
        use_dora: config.boolean("use_dora")?.unwrap_or(false),
        ..LoraConfig::default()
    };
    Ok((parsed, config.boolean("ensure_weight_tying")?.unwrap_or(false)))
}

fn patterns<T>(config: &Reader, key: &str, wanted: &str, value: impl Fn(&Value) -> Option<T>) -> Result<Vec<(String, T)>> {
    let wrong = || config.wrong(key, &format!("an object of {wanted} by the ends of layer names, as regular expressions"));
    let object = match config.get(key) {
        None => return Ok(Vec::new()),
        Some(object) => object.as_object().ok_or_else(wrong)?,
    };
    let mut found = Vec::with_capacity(object.len());
    for (pattern, number) in object {
        targets::matches_pattern(pattern, "").map_err(|_| wrong())?;
        found.push((pattern.clone(), value(number).ok_or_else(wrong)?));
    }
    Ok(found)
}

pub(super) fn write(dir: &Path, base: &str, config: &LoraConfig, layers: &[(String, Layer)], tied: bool) -> Result<()> {
    let mut tensors: Vec<(String, Array)> = Vec::new();
    for (layer, place) in layers {
        let Some(lora) = place.lora() else { continue };
        if lora.dora.as_ref().is_some_and(|dora| !dora.columns) && matches!(place, Layer::Embedding(_)) {
            return Err(Error::Argument(format!(
                "this adapter is DoRA of the rows of '{layer}', which PEFT has not; save it in mlx-lm's format"
            )));
        }
        if tied && matches!(place, Layer::Embedding(_)) && config.use_dora && lora.on_head {
            return Err(Error::Argument(
                "PEFT has no DoRA for an embedding that is the head too; save in mlx-lm's format is not possible either".into(),
            ));
        }
        match place {
            Layer::Linear(_) => push(&mut tensors, layer, lora, false)?,
            Layer::Embedding(_) => push(&mut tensors, layer, lora, true)?,
            Layer::Switch(_) => {
                for expert in 0..lora.a.dim(0) {
                    push(&mut tensors, &expert_name(layer, expert), &lora.expert(expert)?, false)?;
                }
            }
        }
    }
    let sources: Vec<Source> = tensors.iter().map(|(name, array)| Source::held(name.clone(), array)).collect();
    write_tensors(&dir.join(WEIGHTS), &sources.iter().collect::<Vec<_>>())?;
    // PEFT's option for an adapter of the embedding that counts for the head.
    let tying = tied
        && layers
            .iter()
            .any(|(_, place)| matches!(place, Layer::Embedding(layer) if layer.lora.as_ref().is_some_and(|lora| lora.on_head)));
    let json = json!({
        "alpha_pattern": object(&config.alpha_pattern),
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "ensure_weight_tying": tying,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": object(&config.rank_pattern),
        "revision": null,
        "target_modules": target_modules(layers),
        "task_type": "CAUSAL_LM",
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
    });
    write_json(&dir.join(CONFIG), &json)
}

fn push(tensors: &mut Vec<(String, Array)>, module: &str, lora: &Lora, embedding: bool) -> Result<()> {
    let name = |part: &str| format!("{PREFIX}{module}.{part}");
    if embedding {
        tensors.push((name("lora_embedding_A"), lora.b.swapaxes(-1, -2)?));
        tensors.push((name("lora_embedding_B"), lora.a.swapaxes(-1, -2)?));
    } else {
        tensors.push((name("lora_A.weight"), lora.a.clone()));
        tensors.push((name("lora_B.weight"), lora.b.clone()));
    }
    if let Some(dora) = &lora.dora {
        tensors.push((name("lora_magnitude_vector"), dora.magnitude.clone()));
    }
    Ok(())
}

/// The names by which PEFT finds the layers: those of transformers.
fn target_modules(layers: &[(String, Layer)]) -> Vec<String> {
    let mut all: Vec<(String, bool)> = Vec::new();
    for (name, place) in layers {
        let has = place.lora().is_some();
        match place {
            Layer::Switch(layer) => all.extend((0..layer.weight.shape()[0]).map(|expert| (expert_name(name, expert), has))),
            _ => all.push((name.clone(), has)),
        }
    }
    let has: BTreeMap<&str, bool> = all.iter().map(|(name, has)| (name.as_str(), *has)).collect();
    targets::shortest(&all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), &|name| has[name])
}

/// Patterns in the order in which they are tried; experts have numbers there.
fn object<T: Copy + Into<Value>>(patterns: &[(String, T)]) -> Value {
    let name = |pattern: &str| {
        let mut name = pattern.replace("switch_mlp", "experts");
        for projection in ["gate_proj", "up_proj", "down_proj"] {
            for dot in [".", r"\."] {
                name = name.replace(&format!("experts{dot}{projection}"), &format!(r"experts{dot}\d+{dot}{projection}"));
            }
        }
        name
    };
    Value::Object(patterns.iter().map(|(pattern, value)| (name(pattern), (*value).into())).collect::<Map<_, _>>())
}
