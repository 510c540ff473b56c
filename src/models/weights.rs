//! From checkpoint files into a model, and back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::mlx::io::safetensors::{SafetensorsFile, Source, write};
use crate::mlx::io::write_atomically;
use crate::mlx::{Array, Dtype, Error, Result};
use crate::models::CausalLm;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weights are split into files of at most this many bytes.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Reads a JSON file that a checkpoint consists of.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::load(path, format!("cannot read: {error}")))?;
    serde_json::from_str(&text).map_err(|error| Error::Config(format!("{}: not valid JSON: {error}", path.display())))
}

/// The weight files of a folder, opened and checked.
fn open(dir: &Path) -> Result<Vec<SafetensorsFile>> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(vec![SafetensorsFile::open(&single)?]);
    }
    let index = dir.join(INDEX);
    if !index.exists() {
        return Err(Error::load(dir, format!("holds neither {SINGLE} nor {INDEX}; only safetensors checkpoints can be loaded")));
    }
    let bad = |message: String| Error::load(&index, message);
    let json = read_json(&index)?;
    let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(|| bad("has no weight_map object".into()))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| bad(format!("weight_map['{tensor}'] is {file}, not a file name")))?;
        // The index comes with the weights: it must not send the reader to other folders.
        if !file.ends_with(".safetensors") || file.starts_with('.') || file.contains(['/', '\\', ':', '\0']) {
            return Err(bad(format!("weight_map['{tensor}'] is '{file}', not the name of a safetensors file beside the index")));
        }
        shards.entry(file).or_default().push(tensor);
    }
    let mut files = Vec::with_capacity(shards.len());
    for (name, tensors) in shards {
        let file = SafetensorsFile::open(&dir.join(name))?;
        let held: HashSet<&str> = file.entries.iter().map(|entry| entry.name.as_str()).collect();
        if let Some(missing) = tensors.iter().find(|tensor| !held.contains(*tensor)) {
            return Err(bad(format!("says that '{missing}' is in {name}, which does not hold it")));
        }
        files.push(file);
    }
    Ok(files)
}

/// Fills a model of lazy zeros, converting to `dtype` tensor by tensor. Every weight must be there in its shape, and
/// nothing else. `progress` hears of bytes read and bytes in all; its error stops the loading.
pub(crate) fn load(
    net: &mut dyn CausalLm,
    dir: &Path,
    dtype: Dtype,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut files = open(dir)?;
    let mut wanted: HashMap<String, Vec<i32>> = HashMap::new();
    let mut order = Vec::new();
    net.visit("", &mut |name, weight| {
        order.push(name.clone());
        wanted.insert(name, weight.shape().to_vec());
    });
    let tied = net.config().tie_word_embeddings;
    let mut found: HashSet<String> = HashSet::new();
    let mut total = 0;
    for file in &mut files {
        // Buffers that old versions of transformers stored, and a head that is the embedding anyway.
        file.entries.retain(|entry| !(entry.name.ends_with("rotary_emb.inv_freq") || (tied && entry.name == "lm_head.weight")));
        for entry in &file.entries {
            let bad = |message: String| Err(Error::load(file.path(), message));
            match wanted.get(&entry.name) {
                None => return bad(format!("holds tensor '{}' {:?}, which this model does not have", entry.name, entry.shape)),
                Some(shape) if *shape != entry.shape => {
                    return bad(format!("tensor '{}' is {:?}; config.json makes it {shape:?}", entry.name, entry.shape));
                }
                Some(_) if !matches!(entry.dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) => {
                    let found = entry.dtype.name();
                    return bad(format!("tensor '{}' is {found}; weights must be float32, float16 or bfloat16", entry.name));
                }
                Some(_) => {}
            }
            if !found.insert(entry.name.clone()) {
                return bad(format!("tensor '{}' is in another file too", entry.name));
            }
            total += entry.length;
        }
    }
    let missing: Vec<&str> = order.iter().map(String::as_str).filter(|name| !found.contains(*name)).collect();
    if let Some(first) = missing.first() {
        let shape = &wanted[*first];
        return Err(Error::load(dir, format!("{} weights are missing, the first is '{first}' {shape:?}", missing.len())));
    }
    let mut loaded = 0;
    let mut weights: HashMap<String, Array> = HashMap::with_capacity(found.len());
    progress(loaded, total)?;
    for mut file in files {
        for entry in std::mem::take(&mut file.entries) {
            let mut weight = file.read(&entry)?;
            if weight.dtype() != dtype {
                weight = weight.astype(dtype)?;
                weight.eval()?;
            }
            loaded += entry.length;
            weights.insert(entry.name, weight);
            progress(loaded, total)?;
        }
    }
    net.visit_mut("", &mut |name, slot| {
        if let Some(weight) = weights.remove(&name) {
            *slot = weight;
        }
    });
    Ok(())
}

/// Writes weights as `model.safetensors`, or as shards with an index, and removes weight files of an earlier save.
pub(crate) fn save(dir: &Path, tensors: &[Source]) -> Result<()> {
    save_sharded(dir, tensors, SHARD_BYTES)
}

pub(crate) fn save_sharded(dir: &Path, tensors: &[Source], shard_bytes: u64) -> Result<()> {
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
    let mut written = HashSet::new();
    let mut weight_map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = if count == 1 { SINGLE.to_string() } else { format!("model-{:05}-of-{count:05}.safetensors", index + 1) };
        write(&dir.join(&name), shard)?;
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone())));
        written.insert(name);
    }
    if count > 1 {
        let parameters: u64 = tensors.iter().map(|tensor| tensor.nbytes() / tensor.dtype.size() as u64).sum();
        let bytes: u64 = tensors.iter().map(Source::nbytes).sum();
        let index = json!({"metadata": {"total_parameters": parameters, "total_size": bytes}, "weight_map": weight_map});
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
