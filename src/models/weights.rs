//! From checkpoint files into a model, and back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::experts::{self, Part, expert_name, part_of};
use crate::mlx::io::safetensors::{SafetensorsFile, Source, write};
use crate::mlx::io::write_atomically;
use crate::mlx::{Array, Dtype, Error, Result, ops};
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

/// The shape that a tensor of a checkpoint must have; nothing where the model has no place for it.
fn shape_of(part: &Part, wanted: &HashMap<String, Vec<i32>>) -> Option<Vec<i32>> {
    match part {
        Part::Whole(name) => wanted.get(name).cloned(),
        Part::Expert(name, expert) => wanted.get(name).filter(|shape| *expert < shape[0]).map(|shape| shape[1..].to_vec()),
        Part::GateUp(gate, up) => {
            let shape = wanted.get(gate).filter(|shape| wanted.get(up) == Some(shape))?;
            Some(vec![shape[0], 2 * shape[1], shape[2]])
        }
    }
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
    let mut found: HashSet<(String, Option<i32>)> = HashSet::new();
    let mut total = 0;
    for file in &mut files {
        // Buffers that old versions of transformers stored, and a head that is the embedding anyway.
        file.entries.retain(|entry| !(entry.name.ends_with("rotary_emb.inv_freq") || (tied && entry.name == "lm_head.weight")));
        for entry in &file.entries {
            let bad = |message: String| Err(Error::load(file.path(), message));
            let part = part_of(&entry.name);
            match shape_of(&part, &wanted) {
                None => return bad(format!("holds tensor '{}' {:?}, which this model does not have", entry.name, entry.shape)),
                Some(shape) if shape != entry.shape => {
                    return bad(format!("tensor '{}' is {:?}; config.json makes it {shape:?}", entry.name, entry.shape));
                }
                Some(_) if !matches!(entry.dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) => {
                    let found = entry.dtype.name();
                    return bad(format!("tensor '{}' is {found}; weights must be float32, float16 or bfloat16", entry.name));
                }
                Some(_) => {}
            }
            let places = match part {
                Part::Whole(name) => vec![(name, None)],
                Part::Expert(name, expert) => vec![(name, Some(expert))],
                Part::GateUp(gate, up) => vec![(gate, None), (up, None)],
            };
            for place in places {
                let whole = place.1.is_some() && found.contains(&(place.0.clone(), None));
                if whole || !found.insert(place) {
                    return bad(format!("tensor '{}' is in another file too, or there in another form", entry.name));
                }
            }
            total += entry.length;
        }
    }
    let mut missing = Vec::new();
    for name in &order {
        if found.contains(&(name.clone(), None)) {
            continue;
        }
        let shape = &wanted[name];
        if experts::is_stacked(name) {
            let lacking = (0..shape[0]).filter(|&expert| !found.contains(&(name.clone(), Some(expert))));
            missing.extend(lacking.map(|expert| (expert_name(name, expert), &shape[1..])));
        } else {
            missing.push((name.clone(), &shape[..]));
        }
    }
    if let Some((first, shape)) = missing.first() {
        return Err(Error::load(dir, format!("{} weights are missing, the first is '{first}' {shape:?}", missing.len())));
    }

    let mut loaded = 0;
    let mut weights: HashMap<String, Array> = HashMap::with_capacity(wanted.len());
    let mut stacks: HashMap<String, Vec<Option<Array>>> = HashMap::new();
    progress(loaded, total)?;
    for mut file in files {
        for entry in std::mem::take(&mut file.entries) {
            let mut weight = file.read(&entry)?;
            if weight.dtype() != dtype {
                weight = weight.astype(dtype)?;
                weight.eval()?;
            }
            loaded += entry.length;
            match part_of(&entry.name) {
                Part::Whole(name) => drop(weights.insert(name, weight)),
                Part::GateUp(gate, up) => {
                    let half = weight.dim(1) / 2;
                    for (name, start) in [(gate, 0), (up, half)] {
                        let part = weight.slice_axis(1, start, start + half)?.contiguous()?;
                        part.eval()?;
                        weights.insert(name, part);
                    }
                }
                Part::Expert(name, expert) => {
                    let count = wanted[&name][0] as usize;
                    let stack = stacks.entry(name.clone()).or_insert_with(|| vec![None; count]);
                    stack[expert as usize] = Some(weight);
                    if stack.iter().all(Option::is_some) {
                        // Here, so that the experts of one projection are twice in memory at a time, not those of the model.
                        let experts: Vec<Array> = stacks.remove(&name).into_iter().flatten().flatten().collect();
                        let stacked = ops::stack(&experts, 0)?;
                        stacked.eval()?;
                        weights.insert(name, stacked);
                    }
                }
            }
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
