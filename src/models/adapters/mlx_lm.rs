//! Adapter folders in mlx-lm's layout: `adapter_config.json` and `adapters.safetensors`.
//!
//! There all layers have one rank and one scale, which multiplies as it is; layers are found by names inside the last `num_layers`
//! blocks, or by whole names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::config::{LoraConfig, MAX_RANK};
use super::targets::{block_of, kinds};
use super::{CONFIG, Factors, Loaded, check_shapes, wide};
use crate::mlx::io::safetensors::{SafetensorsFile, Source, write as write_tensors};
use crate::mlx::{Array, Error, Result};
use crate::models::config::Reader;
use crate::models::weights::write_json;
use crate::nn::{Layer, Lora};

const WEIGHTS: &str = "adapters.safetensors";

pub(super) fn read(dir: &Path, reader: &Reader, layers: &[(String, Layer)]) -> Result<Loaded> {
    let kind = reader.text("fine_tune_type")?.unwrap_or("lora");
    if !matches!(kind, "lora" | "dora") {
        return Err(reader.wrong("fine_tune_type", "\"lora\" or \"dora\": a whole model is loaded as one"));
    }
    let parameters = reader.nested("lora_parameters", "lora_parameters.")?;
    let parameters = parameters.ok_or_else(|| reader.wrong("lora_parameters", "an object with rank and scale"))?;
    let rank = parameters.integer("rank", None, 1, i64::from(MAX_RANK))?;
    let scale = parameters.float("scale", None, 1e-9, 1e9)? as f32;
    let config = LoraConfig {
        rank,
        alpha: scale * rank as f32,
        dropout: parameters.float("dropout", Some(0.0), 0.0, 1.0 - f64::EPSILON)? as f32,
        use_dora: kind == "dora",
        ..LoraConfig::default()
    };
    let path = dir.join(WEIGHTS);
    let bad = |message: String| Error::load(&path, message);
    let mut file = SafetensorsFile::open(&path)?;
    let mut modules: BTreeMap<String, BTreeMap<&str, Array>> = BTreeMap::new();
    for entry in std::mem::take(&mut file.entries) {
        let part = ["lora_a", "lora_b", "m"].into_iter().find_map(|part| {
            let module = entry.name.strip_suffix(part)?.strip_suffix('.')?;
            Some((module.to_string(), part))
        });
        let Some((module, part)) = part else {
            return Err(bad(format!("holds tensor '{}', which is no part of a LoRA or DoRA adapter", entry.name)));
        };
        modules.entry(module).or_default().insert(part, wide(file.read(&entry)?)?);
    }
    if modules.is_empty() {
        return Err(bad("holds no factors".into()));
    }
    let places: BTreeMap<&str, &Layer> = layers.iter().map(|(name, layer)| (name.as_str(), layer)).collect();
    let mut factors = BTreeMap::new();
    for (module, mut parts) in modules {
        let place = places
            .get(module.as_str())
            .ok_or_else(|| bad(format!("is for a layer '{module}', which this model does not have; it has {}", kinds(layers))))?;
        let (Some(lora_a), Some(lora_b)) = (parts.remove("lora_a"), parts.remove("lora_b")) else {
            return Err(bad(format!("holds only a part of '{module}'")));
        };
        let magnitude = parts.remove("m");
        if config.use_dora != magnitude.is_some() {
            return Err(bad(format!("fine_tune_type is \"{kind}\" in {CONFIG}, which does not fit the parts of '{module}'")));
        }
        if config.use_dora && matches!(place, Layer::Switch(_)) {
            return Err(bad(format!("is DoRA of the experts '{module}', which mlx-lm has not")));
        }
        let (a, b) = match place {
            Layer::Linear(_) => (lora_a.swapaxes(-1, -2)?, lora_b.swapaxes(-1, -2)?),
            Layer::Embedding(_) => (lora_b, lora_a),
            Layer::Switch(_) => (lora_a, lora_b),
        };
        let read = Factors { a, b, magnitude, columns: false, scale, on_head: true };
        check_shapes(&module, place, &read, rank).map_err(bad)?;
        factors.insert(module, read);
    }
    Ok(Loaded { config, factors })
}

pub(super) fn write(dir: &Path, base: &str, config: &LoraConfig, layers: &[(String, Layer)], blocks: i32) -> Result<()> {
    let adapted: Vec<(&str, &Layer, &Lora)> =
        layers.iter().filter_map(|(name, place)| Some((name.as_str(), place, place.lora()?))).collect();
    let rank = adapted.iter().map(|(_, _, lora)| lora.rank()).max().unwrap_or(config.rank);
    let scale = adapted.first().map_or(1.0, |(_, _, lora)| lora.scale);
    let mut tensors: Vec<(String, Array)> = Vec::new();
    for (layer, place, lora) in &adapted {
        if lora.dora.as_ref().is_some_and(|dora| dora.columns || matches!(place, Layer::Switch(_))) {
            return Err(Error::Argument(format!(
                "mlx-lm has no such DoRA as that of '{layer}'; save this adapter in PEFT's format"
            )));
        }
        let (a, b) = even(lora, rank, scale)?;
        let (first, second) = match place {
            Layer::Linear(_) => (a.swapaxes(-1, -2)?, b.swapaxes(-1, -2)?),
            Layer::Embedding(_) => (b, a),
            Layer::Switch(_) => (a, b),
        };
        tensors.push((format!("{layer}.lora_a"), first));
        tensors.push((format!("{layer}.lora_b"), second));
        if let Some(dora) = &lora.dora {
            tensors.push((format!("{layer}.m"), dora.magnitude.clone()));
        }
    }
    let sources: Vec<Source> = tensors.iter().map(|(name, array)| Source::held(name.clone(), array)).collect();
    write_tensors(&dir.join(WEIGHTS), &sources.iter().collect::<Vec<_>>())?;
    let (num_layers, keys) = keys(&adapted.iter().map(|(name, _, _)| *name).collect::<Vec<_>>(), blocks);
    let json = json!({
        "fine_tune_type": if config.use_dora { "dora" } else { "lora" },
        "lora_parameters": { "dropout": config.dropout, "keys": keys, "rank": rank, "scale": scale },
        "model": base,
        "num_layers": num_layers,
    });
    write_json(&dir.join(CONFIG), &json)
}

/// Factors of the common rank and scale: zeros fill what a smaller rank leaves, and the second factor takes the rest of the scale.
fn even(lora: &Lora, rank: i32, scale: f32) -> Result<(Array, Array)> {
    let missing = rank - lora.rank();
    let b = if lora.scale == scale { lora.b.clone() } else { lora.b.multiply_scalar(lora.scale / scale)? };
    if missing == 0 {
        return Ok((lora.a.clone(), b));
    }
    let none = vec![0; lora.a.ndim()];
    let mut high = none.clone();
    high[none.len() - 2] = missing;
    let a = lora.a.pad(&none, &high, 0.0)?;
    high.swap(none.len() - 2, none.len() - 1);
    Ok((a, b.pad(&none, &high, 0.0)?))
}

/// How many last blocks, and which names: relative ones where these blocks are alike and the others have none, else whole names.
fn keys(names: &[&str], blocks: i32) -> (i32, Vec<String>) {
    let relative = |name: &str| name.splitn(4, '.').nth(3).unwrap_or_default().to_string();
    let mut of_block: BTreeMap<i32, BTreeSet<String>> = BTreeMap::new();
    for name in names {
        if let Some(block) = block_of(name) {
            of_block.entry(block).or_default().insert(relative(name));
        }
    }
    let outside = names.iter().filter(|name| block_of(name).is_none()).map(|name| name.to_string());
    let first = of_block.keys().next().copied().unwrap_or(blocks);
    let alike = of_block.values().all(|keys| Some(keys) == of_block.values().next());
    if alike && of_block.len() as i32 == blocks - first && first < blocks {
        let keys = of_block.into_values().next().unwrap_or_default();
        return (blocks - first, keys.into_iter().chain(outside).collect());
    }
    (blocks, names.iter().map(|name| name.to_string()).collect())
}
