//! From checkpoint files into a model, and back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::checkpoint::Checkpoint;
use super::quantization::{QuantizeOptions, Scheme};
use crate::mlx::io::safetensors::{Source, holds, write_with};
use crate::mlx::io::write_atomically;
use crate::mlx::{Array, Dtype, Error, Result};
use crate::models::CausalLm;
use crate::nn::{Module, Weight};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The weights are split into files of at most this many bytes.
pub(super) const SHARD_BYTES: u64 = 5_000_000_000;

/// Reads a JSON file that a checkpoint consists of.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::load(path, format!("cannot read: {error}")))?;
    serde_json::from_str(&text).map_err(|error| Error::Config(format!("{}: not valid JSON: {error}", path.display())))
}

/// Fills a model of lazy zeros, converting to `dtype` tensor by tensor and, with `quantize`, packing layer by layer. Every weight must be
/// there in its shape, and nothing else. `progress` hears of bytes read and bytes in all; its error stops the loading.
pub(crate) fn load(
    net: &mut dyn CausalLm,
    dir: &Path,
    scheme: &Scheme,
    dtype: Dtype,
    quantize: Option<&QuantizeOptions>,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut checkpoint = Checkpoint::open(dir, net.config().tie_word_embeddings, scheme, progress)?;
    checkpoint.fit(net, scheme, dtype)?;
    let blocks = net.num_layers() as i32;
    let mut held = Vec::new();
    net.weights("", &mut held);
    let plan = quantize.map(|options| options.plan(&held, blocks)).transpose()?.unwrap_or_default();
    let mut order = Vec::new();
    net.visit("", &mut |name, _| order.push(name));
    checkpoint.begin()?;
    let mut weights: HashMap<String, Array> = HashMap::with_capacity(order.len());
    for name in order {
        let layer = name.strip_suffix(".weight").and_then(|layer| Some((layer, plan.how(layer)?)));
        match layer {
            Some((layer, how)) => {
                checkpoint.fetch_packed(layer, how, dtype)?.visit(layer, &mut |name, part| {
                    weights.insert(name, part.clone());
                });
            }
            None => drop(weights.insert(name.clone(), checkpoint.fetch(&name, dtype)?)),
        }
    }
    let mut layers = Vec::new();
    net.layers("", &mut layers);
    for (name, mut layer) in layers {
        if let Some(how) = plan.how(&name) {
            *layer.weight_mut() = Weight::packed_zeros(&layer.weight().shape(), how, dtype)?;
        }
    }
    net.visit_mut("", &mut |name, slot| {
        if let Some(weight) = weights.remove(&name) {
            *slot = weight;
        }
    });
    Ok(())
}

/// What becomes of a file of weights that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Replaced,
    /// It is left where it holds the same tensors, by name, dtype and shape.
    Kept,
}

/// Writes weights as `model.safetensors`, or as shards with an index, and removes weight files of an earlier save.
pub(crate) fn save(dir: &Path, tensors: &[Source]) -> Result<()> {
    save_sharded(dir, tensors, SHARD_BYTES, Existing::Replaced, &mut |_, _| Ok(()))
}

/// `progress` hears of bytes written and bytes in all; its error stops the writing.
pub(crate) fn save_sharded(
    dir: &Path,
    tensors: &[Source],
    shard_bytes: u64,
    existing: Existing,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut shards: Vec<Vec<&Source>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled > 0 && filled + tensor.nbytes() > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += tensor.nbytes();
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    let count = shards.len();
    let total: u64 = tensors.iter().map(Source::nbytes).sum();
    let mut done = 0;
    let mut written = HashSet::new();
    let mut weight_map = BTreeMap::new();
    progress(done, total)?;
    for (index, shard) in shards.iter().enumerate() {
        let name = if count == 1 { SINGLE.to_string() } else { format!("model-{:05}-of-{count:05}.safetensors", index + 1) };
        let path = dir.join(&name);
        if existing == Existing::Kept && holds(&path, shard) {
            done += shard.iter().map(|tensor| tensor.nbytes()).sum::<u64>();
            progress(done, total)?;
        } else {
            write_with(&path, shard, &mut |bytes| {
                done += bytes;
                progress(done, total)
            })?;
        }
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone())));
        written.insert(name);
    }
    if count > 1 {
        let parameters: u64 = tensors.iter().map(|tensor| tensor.nbytes() / tensor.dtype.size() as u64).sum();
        let index = json!({"metadata": {"total_parameters": parameters, "total_size": total}, "weight_map": weight_map});
        write_json(&dir.join(INDEX), &index)?;
        written.insert(INDEX.to_string());
    }
    remove_stale(dir, &written)
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let broken = |reason: String| Error::save(path, format!("cannot write: {reason}"));
    let text = serde_json::to_string_pretty(value).map_err(|error| broken(error.to_string()))?;
    write_atomically(path, |file| writeln!(file, "{text}").map_err(|error| broken(error.to_string())))
}

/// A loader would prefer or mix in weight files of an earlier save.
fn remove_stale(dir: &Path, keep: &HashSet<String>) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|error| Error::save(dir, format!("cannot list: {error}")))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let shard = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
        let is_shard = shard.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || "-of".contains(c)));
        if (is_shard || name == SINGLE || name == INDEX) && !keep.contains(&name) {
            let path: PathBuf = entry.path();
            std::fs::remove_file(&path).map_err(|error| Error::save(&path, format!("cannot remove the old file: {error}")))?;
        }
    }
    Ok(())
}
