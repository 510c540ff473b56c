//! A loaded model: the network, what its folder said about it, and its adapter.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::adapters::Adapters;
use super::quantization::{QuantizeOptions, Scheme, block_of};
use super::weights::{self, read_json, write_json};
use super::{ARCHITECTURES, Architecture, CausalLm, ModelConfig, experts, gguf};
use crate::mlx::io::is_gguf;
use crate::mlx::io::safetensors::Source;
use crate::mlx::{Array, Dtype, Error, Result, device, ops, random};
use crate::nn::{Packed, Weight};

#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// float32, float16 or bfloat16. Without it float32 on the CPU, where half precision is slow, and bfloat16 on a GPU.
    pub dtype: Option<Dtype>,
    /// Packs the layers while they are read, so that the unpacked model is never in memory.
    pub quantize: Option<QuantizeOptions>,
}

pub struct Model {
    pub net: Box<dyn CausalLm>,
    /// `config.json` as it was read.
    pub config_json: Value,
    pub generation_config: Option<Value>,
    /// Of all numbers but adapter factors; codes stand for numbers of it.
    pub dtype: Dtype,
    pub(super) adapters: Adapters,
    /// A number of these weights that no others in the process have: what was computed with them is that of an older version once any
    /// of them changes, or an adapter comes, goes, or is turned on or off.
    version: u64,
}

/// The next version.
static VERSIONS: AtomicU64 = AtomicU64::new(1);

fn next_version() -> u64 {
    VERSIONS.fetch_add(1, Ordering::Relaxed)
}

/// Loads a checkpoint folder, or a file in GGUF. `progress` hears of bytes read and bytes in all; returning an error from it stops the loading.
pub fn load(dir: &Path, options: &LoadOptions, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Model> {
    if is_gguf(dir) {
        let mut model = gguf::open(dir, options, progress)?;
        if let Some(options) = &options.quantize {
            for (name, how) in model.plan_quantization(options)?.packed {
                model.pack_layer(&name, how)?;
            }
        }
        return Ok(model);
    }
    let dtype = options.dtype.unwrap_or(if device() == "gpu" { Dtype::Bfloat16 } else { Dtype::Float32 });
    check_dtype(dtype)?;
    if !dir.is_dir() {
        let wanted = "a model is a folder with config.json and safetensors files, or a .gguf file";
        return Err(Error::load(dir, format!("there is no such folder; {wanted}")));
    }
    let file = dir.join("config.json");
    let config_json = read_json(&file)?;
    let (architecture, config) = parse(&config_json, &file)?;
    let generation_file = dir.join("generation_config.json");
    let generation_config = if generation_file.exists() { Some(read_json(&generation_file)?) } else { None };
    let mut net = (architecture.build)(config, dtype)?;
    let scheme = Scheme::parse(&config_json, &file)?;
    weights::load(net.as_mut(), dir, &scheme, dtype, options.quantize.as_ref(), progress)?;
    Ok(Model::new(net, config_json, generation_config, dtype))
}

pub(super) fn check_dtype(dtype: Dtype) -> Result<()> {
    if matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) {
        return Ok(());
    }
    Err(Error::Dtype(format!("models can be held in float32, float16 or bfloat16, not {}", dtype.name())))
}

/// The layers of a checkpoint that have a weight matrix, with their shapes, from its `config.json`, or the metadata of a
/// file in GGUF, alone.
pub fn layers_of(dir: &Path) -> Result<Vec<(String, Vec<i32>)>> {
    let file = dir.join("config.json");
    let config_json = if is_gguf(dir) { gguf::config_json(dir)? } else { read_json(&file)? };
    let (architecture, config) = parse(&config_json, &file)?;
    let net = (architecture.build)(config, Dtype::Float32)?;
    let mut weights = Vec::new();
    net.weights("", &mut weights);
    Ok(weights.into_iter().map(|(name, weight)| (name, weight.shape())).collect())
}

pub(super) fn parse(config_json: &Value, file: &Path) -> Result<(&'static Architecture, ModelConfig)> {
    let model_type = config_json.get("model_type").and_then(Value::as_str).ok_or_else(|| {
        Error::Config(format!("{}: model_type is missing; it must name the architecture, as in \"qwen3\"", file.display()))
    })?;
    let architecture = ARCHITECTURES.iter().find(|known| known.model_type == model_type).ok_or_else(|| {
        let known: Vec<_> = ARCHITECTURES.iter().map(|known| known.model_type).collect();
        Error::UnsupportedModel { found: model_type.to_string(), known: known.join(", ") }
    })?;
    let config = ModelConfig::parse(config_json, file, architecture)?;
    Ok((architecture, config))
}

/// A model of random weights for training from scratch: normal with the configuration's `initializer_range` (0.02), as
/// transformers initialises; norms are ones and biases zeros. `source` names the configuration in errors.
pub fn init(config_json: Value, source: &Path, dtype: Dtype, seed: u64) -> Result<Model> {
    let (architecture, config) = parse(&config_json, source)?;
    let std = config_json.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02) as f32;
    let mut net = (architecture.build)(config, dtype)?;
    let mut key = random::key(seed)?;
    let mut failed = None;
    net.visit_mut("", &mut |name, weight| {
        let fresh = || -> Result<(Array, Array)> {
            let (next, current) = random::split(&key)?;
            let shape = weight.shape().to_vec();
            let values = match weight.ndim() {
                1 if name.ends_with("bias") => ops::zeros(&shape, dtype)?,
                1 => ops::ones(&shape, dtype)?,
                _ => random::normal(0., std, &shape, Dtype::Float32, &current)?.astype(dtype)?,
            };
            Ok((next, values))
        };
        match fresh() {
            Ok((next, values)) => {
                key = next;
                *weight = values;
            }
            Err(error) => failed = Some(error),
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(Model::new(net, config_json, None, dtype)),
    }
}

impl Model {
    pub(super) fn new(net: Box<dyn CausalLm>, config_json: Value, generation_config: Option<Value>, dtype: Dtype) -> Self {
        Model { net, config_json, generation_config, dtype, adapters: Adapters::default(), version: next_version() }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whatever changes what the model computes says so here.
    pub(super) fn changed(&mut self) {
        self.version = next_version();
    }

    /// Runs `work`, which puts back what it changes, so that the model is of the same version afterwards.
    pub fn unchanged<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let version = self.version;
        let result = work(self)?;
        self.version = version;
        Ok(result)
    }

    /// Ids that end a text: those of the generation configuration, else those of the model's.
    pub fn eos_token_ids(&self) -> Vec<i32> {
        let of = |json: &Value| match json.get("eos_token_id")? {
            Value::Array(ids) => ids.iter().map(|id| id.as_i64().and_then(|id| i32::try_from(id).ok())).collect(),
            id => Some(vec![i32::try_from(id.as_i64()?).ok()?]),
        };
        self.generation_config.as_ref().and_then(of).or_else(|| of(&self.config_json)).unwrap_or_default()
    }

    /// All weights by name, adapter factors included; the order never changes.
    pub fn parameters(&self) -> Vec<(String, Array)> {
        let mut parameters = Vec::new();
        self.net.visit("", &mut |name, weight| parameters.push((name, weight.clone())));
        parameters
    }

    /// The names of what training changes: the adapter's factors if there is one, else everything. A quantised model without an adapter
    /// has nothing that training could change.
    pub fn trainable(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.net.visit("", &mut |name, _| names.push(name));
        if self.active_adapter().is_some() {
            names.retain(|name| is_adapter(name));
        } else if self.is_quantized() {
            names.clear();
        }
        names
    }

    /// Replaces weights by name. Nothing changes when a name is unknown or a shape differs.
    pub fn set(&mut self, names: &[String], arrays: &[Array]) -> Result<()> {
        if names.len() != arrays.len() {
            return Err(Error::Argument(format!("{} names for {} arrays", names.len(), arrays.len())));
        }
        let mut given: HashMap<&str, &Array> = names.iter().map(String::as_str).zip(arrays).collect();
        if given.len() != names.len() {
            return Err(Error::Argument("a weight is named twice".into()));
        }
        let (mut known, mut misfit) = (0, None);
        self.net.visit("", &mut |name, held| {
            if let Some(array) = given.get(name.as_str()) {
                known += 1;
                if array.shape() != held.shape() {
                    misfit.get_or_insert(format!("weight '{name}' is {:?}; {:?} cannot replace it", held.shape(), array.shape()));
                } else if !held.dtype().is_float() && array.dtype() != held.dtype() {
                    let (held, given) = (held.dtype().name(), array.dtype().name());
                    misfit.get_or_insert(format!("weight '{name}' is codes of {held}; {given} cannot replace them"));
                }
            }
        });
        if let Some(message) = misfit {
            return Err(Error::Shape(message));
        }
        if known != names.len() {
            let held: HashSet<String> = self.parameters().into_iter().map(|(name, _)| name).collect();
            let unknown = names.iter().find(|name| !held.contains(*name)).map_or("", String::as_str);
            return Err(Error::Argument(format!("the model has no weight '{unknown}'")));
        }
        self.changed();
        self.net.visit_mut("", &mut |name, slot| {
            if let Some(array) = given.remove(name.as_str()) {
                *slot = array.clone();
            }
        });
        Ok(())
    }

    /// Writes `config.json`, `generation_config.json` and the weights in the dtype held, with an enabled adapter merged into
    /// them: what is saved is what generates. Each file is complete or as it was.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.save_as(dir, self.dtype)
    }

    /// The same with numbers and scales in another dtype.
    pub fn save_as(&self, dir: &Path, dtype: Dtype) -> Result<()> {
        check_dtype(dtype)?;
        std::fs::create_dir_all(dir).map_err(|error| Error::save(dir, format!("cannot make the folder: {error}")))?;
        let mut held = Vec::new();
        self.net.weights("", &mut held);
        let block = block_of(&held);
        let config = saved_config(&self.config_json, dtype, block.as_ref());
        let packed: HashMap<String, &Packed> = held
            .into_iter()
            .filter_map(|(name, weight)| match weight {
                Weight::Packed(packed) => Some((name, packed)),
                Weight::Plain(_) => None,
            })
            .collect();
        let mut factors = self.factors();
        factors.retain(|_, lora| lora.enabled);
        let mut tensors = Vec::new();
        self.net.visit("", &mut |name, weight| {
            if is_adapter(&name) {
                return;
            }
            // mlx-lm looks for the experts of quantised models in one tensor.
            if experts::is_stacked(&name) && block.is_none() {
                return tensors.extend(experts::sources(
                    &name,
                    weight,
                    name.strip_suffix(".weight").and_then(|module| factors.remove(module)),
                ));
            }
            let (module, part) = name.rsplit_once('.').map_or(("", ""), |(module, part)| (module, part));
            let lora = factors.get(module).cloned();
            let (packed, part) = (packed.get(module).copied(), part.to_string());
            let mut source = Source::held(name, weight);
            // Computed when its turn to be written comes, so that one merged weight is in memory at a time.
            match (lora, packed) {
                (Some(lora), Some(packed)) if part != "bias" => {
                    source.make = Box::new(move || packed.merged(|numbers| lora.merge(numbers))?.part(&part));
                }
                (Some(lora), None) if part == "weight" => source.make = Box::new(move || lora.merge(weight)),
                _ => {}
            }
            tensors.push(source);
        });
        for source in tensors.iter_mut().filter(|source| source.dtype.is_float() && source.dtype != dtype) {
            source.dtype = dtype;
            let make = std::mem::replace(&mut source.make, Box::new(|| Err(Error::Internal("a weight was lost".into()))));
            source.make = Box::new(move || make()?.astype(dtype));
        }
        weights::save(dir, &tensors)?;
        write_json(&dir.join("config.json"), &config)?;
        match &self.generation_config {
            Some(generation) => write_json(&dir.join("generation_config.json"), generation),
            None => Ok(()),
        }
    }
}

/// `config.json` for weights of a dtype, some of them packed. The number of experts and rotary parameters in transformers 5's place only are repeated in the older
/// one: mlx-lm looks for those of several models (qwen2) nowhere else, and takes its own defaults without a word.
pub(super) fn saved_config(read: &Value, dtype: Dtype, quantization: Option<&Value>) -> Value {
    let mut config = read.clone();
    let Some(object) = config.as_object_mut() else { return config };
    // The copy is where transformers and the hub look.
    for key in ["quantization", "quantization_config"] {
        object.shift_remove(key);
        if let Some(block) = quantization {
            object.insert(key.into(), block.clone());
        }
    }
    let keys: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|key| object.contains_key(*key)).collect();
    for key in if keys.is_empty() { vec!["torch_dtype"] } else { keys } {
        object.insert(key.into(), dtype.name().into());
    }
    if let Some(experts) = object.get("num_local_experts").filter(|_| !object.contains_key("num_experts")).cloned() {
        object.insert("num_experts".into(), experts);
    }
    if let Some(rope) = object.get("rope_parameters").filter(|rope| rope.is_object()).cloned() {
        let absent = |key: &str| object.get(key).is_none_or(Value::is_null);
        let (theta_absent, scaling_absent) = (absent("rope_theta"), absent("rope_scaling"));
        if let Some(theta) = rope.get("rope_theta").filter(|_| theta_absent) {
            object.insert("rope_theta".into(), theta.clone());
        }
        let plain = rope.get("rope_type").is_none_or(|kind| kind == "default");
        if scaling_absent && !plain {
            object.insert("rope_scaling".into(), rope);
        }
    }
    config
}

pub(super) fn is_adapter(name: &str) -> bool {
    [".lora_a", ".lora_b", ".lora_magnitude"].iter().any(|end| name.ends_with(end))
}
