//! LoRA adapters on a model, and their files in PEFT's layout.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::config::Reader;
use super::weights::{read_json, write_json};
use super::{CausalLm, Model};
use crate::mlx::io::safetensors::{SafetensorsFile, Source, write};
use crate::mlx::{Array, Dtype, Error, Result, random};
use crate::nn::{Layer, Linear, Lora};

/// The linear layers that get an adapter when nothing else is asked for.
pub const DEFAULT_TARGETS: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";
const PREFIX: &str = "base_model.model.";

#[derive(Clone, Debug)]
pub struct LoraConfig {
    pub rank: i32,
    pub alpha: f32,
    /// Names of linear layers; one matches by its end, as in PEFT: `q_proj`, `self_attn.q_proj`, `model.layers.0.self_attn.q_proj`.
    pub target_modules: Vec<String>,
    /// Only 0 is supported.
    pub dropout: f32,
    /// Scales by `alpha / √rank` instead of `alpha / rank` (arXiv:2312.03732).
    pub use_rslora: bool,
    pub seed: u64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let target_modules = DEFAULT_TARGETS.iter().map(|name| name.to_string()).collect();
        LoraConfig { rank: 8, alpha: 16.0, target_modules, dropout: 0.0, use_rslora: false, seed: 0 }
    }
}

impl LoraConfig {
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Argument(message));
        if !(1..=1 << 16).contains(&self.rank) {
            return refuse(format!("LoRA rank must be from 1 to {}, not {}", 1 << 16, self.rank));
        }
        if !self.alpha.is_finite() || self.alpha <= 0.0 {
            return refuse(format!("LoRA alpha must be a number above 0, not {}", self.alpha));
        }
        if self.dropout != 0.0 {
            return refuse(format!("LoRA dropout is not supported, so it must be 0, not {}", self.dropout));
        }
        if self.target_modules.is_empty() {
            return refuse(format!("LoRA target_modules is empty; name layers such as {}", DEFAULT_TARGETS.join(", ")));
        }
        Ok(())
    }
}

fn matches(module: &str, target: &str) -> bool {
    module.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The linear layers inside the blocks: what an adapter can be put on. Experts and routers are not among them.
fn adaptable(net: &mut dyn CausalLm) -> Vec<(String, &mut Linear)> {
    let mut layers = Vec::new();
    net.layers("", &mut layers);
    let linear = |(name, layer): (String, _)| match layer {
        Layer::Linear(linear) if name.starts_with("model.layers.") && !name.ends_with("gate") => Some((name, linear)),
        _ => None,
    };
    layers.into_iter().filter_map(linear).collect()
}

/// An adapter on a model.
pub(super) struct Adapter {
    pub config: LoraConfig,
    pub enabled: bool,
}

impl Model {
    /// Puts a fresh adapter on the target layers: the model computes the same until its factors are trained.
    pub fn apply_lora(&mut self, config: LoraConfig) -> Result<()> {
        config.check()?;
        if self.adapter.is_some() {
            return Err(Error::Argument("the model already has an adapter; load the model again for another one".into()));
        }
        let mut linears = adaptable(self.net.as_mut());
        for target in &config.target_modules {
            if !linears.iter().any(|(name, _)| matches(name, target)) {
                return Err(Error::Argument(format!(
                    "LoRA target '{target}' is no layer of this model; there are {}",
                    kinds(&linears)
                )));
            }
        }
        linears.retain(|(name, _)| config.target_modules.iter().any(|target| matches(name, target)));
        let keys = random::split_many(&random::key(config.seed)?, linears.len() as i32)?;
        let mut factors = Vec::with_capacity(linears.len());
        for (index, (_, linear)) in linears.iter().enumerate() {
            let key = keys.slice_axis(0, index as i32, index as i32 + 1)?.reshape(&[2])?;
            let shape = linear.weight.shape();
            factors.push(Lora::new(shape[1], shape[0], config.rank, config.scale(), &key)?);
        }
        for ((_, linear), lora) in linears.into_iter().zip(factors) {
            linear.lora = Some(lora);
        }
        self.adapter = Some(Adapter { config, enabled: true });
        Ok(())
    }

    pub fn adapter(&self) -> Option<&LoraConfig> {
        self.adapter.as_ref().map(|adapter| &adapter.config)
    }

    /// Off: the base model computes, for example as the reference of a KL penalty. On again: the adapter counts.
    pub fn set_adapter_enabled(&mut self, enabled: bool) -> Result<()> {
        let Some(adapter) = &mut self.adapter else {
            return Err(Error::Argument("the model has no adapter to turn on or off".into()));
        };
        adapter.enabled = enabled;
        for (_, linear) in adaptable(self.net.as_mut()) {
            if let Some(lora) = &mut linear.lora {
                lora.enabled = enabled;
            }
        }
        Ok(())
    }

    /// The factors by the name of their layer.
    pub(super) fn factors(&self) -> BTreeMap<String, Lora> {
        let Some(adapter) = &self.adapter else { return BTreeMap::new() };
        let (scale, enabled) = (adapter.config.scale(), adapter.enabled);
        let mut first: Option<(String, Array)> = None;
        let mut factors = BTreeMap::new();
        self.net.visit("", &mut |name, array| {
            if let Some(module) = name.strip_suffix(".lora_a") {
                first = Some((module.to_string(), array.clone()));
            } else if name.ends_with(".lora_b")
                && let Some((module, a)) = first.take()
            {
                factors.insert(module, Lora { a, b: array.clone(), scale, enabled });
            }
        });
        factors
    }

    /// Writes the adapter as PEFT does. `base_model_name` tells a reader which model it belongs to.
    pub fn save_adapter(&self, dir: &Path, base_model_name: &str) -> Result<()> {
        let Some(adapter) = &self.adapter else {
            return Err(Error::Argument("the model has no adapter to save".into()));
        };
        std::fs::create_dir_all(dir).map_err(|error| Error::save(dir, format!("cannot make the folder: {error}")))?;
        let factors = self.factors();
        let tensors: Vec<Source> = factors
            .iter()
            .flat_map(|(module, lora)| {
                [("lora_A", &lora.a), ("lora_B", &lora.b)]
                    .map(|(which, array)| Source::held(format!("{PREFIX}{module}.{which}.weight"), array))
            })
            .collect();
        write(&dir.join(WEIGHTS), &tensors.iter().collect::<Vec<_>>())?;
        let config = &adapter.config;
        let json = json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": base_model_name,
            "bias": "none",
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
            "rank_pattern": {},
            "revision": null,
            "target_modules": config.target_modules,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": config.use_rslora,
        });
        write_json(&dir.join(CONFIG), &json)
    }

    /// Puts a saved adapter on the model, in place of one that is there. Nothing changes when it does not fit.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<()> {
        let mut config = parse(dir)?;
        let path = dir.join(WEIGHTS);
        let bad = |message: String| Error::load(&path, message);
        let mut file = SafetensorsFile::open(&path)?;
        let mut tensors: BTreeMap<String, (Option<Array>, Option<Array>)> = BTreeMap::new();
        for entry in std::mem::take(&mut file.entries) {
            let name = entry.name.strip_prefix(PREFIX).unwrap_or(&entry.name);
            let parts = [(".lora_A.weight", 0), (".lora_B.weight", 1)];
            let part = parts.iter().find_map(|(end, which)| name.strip_suffix(end).map(|module| (module.to_string(), *which)));
            let Some((module, which)) = part else {
                return Err(bad(format!(
                    "holds tensor '{}', which is no LoRA factor; only plain LoRA can be loaded",
                    entry.name
                )));
            };
            let array = file.read(&entry)?.astype(Dtype::Float32)?;
            let slots = tensors.entry(module).or_default();
            *(if which == 0 { &mut slots.0 } else { &mut slots.1 }) = Some(array);
        }
        if tensors.is_empty() {
            return Err(bad("holds no factors".into()));
        }
        let mut linears = adaptable(self.net.as_mut());
        let shapes: BTreeMap<&str, Vec<i32>> =
            linears.iter().map(|(name, linear)| (name.as_str(), linear.weight.shape())).collect();
        let mut factors = BTreeMap::new();
        for (module, slots) in tensors {
            let Some(&[outputs, inputs]) = shapes.get(module.as_str()).map(Vec::as_slice) else {
                return Err(bad(format!(
                    "is for a layer '{module}', which this model does not have; it has {}",
                    kinds(&linears)
                )));
            };
            let (Some(a), Some(b)) = slots else {
                return Err(bad(format!("holds only one of the two factors of '{module}'")));
            };
            let rank = config.rank;
            if a.shape() != [rank, inputs] || b.shape() != [outputs, rank] {
                let (a, b) = (a.shape(), b.shape());
                return Err(bad(format!(
                    "the factors of '{module}' are {a:?} and {b:?}; with rank {rank} this model takes [{rank}, {inputs}] and [{outputs}, {rank}]"
                )));
            }
            factors.insert(module, Lora { a, b, scale: config.scale(), enabled: true });
        }
        config.target_modules = targets(&linears.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), &factors);
        for (name, linear) in &mut linears {
            linear.lora = factors.remove(name);
        }
        self.adapter = Some(Adapter { config, enabled: true });
        Ok(())
    }
}

/// The last parts of the layers' names, each once.
fn kinds<T>(linears: &[(String, T)]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for (name, _) in linears {
        let kind = name.rsplit('.').next().unwrap_or(name);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(", ")
}

/// The shortest list of targets that means exactly the layers with factors.
fn targets(all: &[&str], factors: &BTreeMap<String, Lora>) -> Vec<String> {
    let mut targets = Vec::new();
    for name in all.iter().filter(|name| factors.contains_key(**name)) {
        let kind = name.rsplit('.').next().unwrap_or(name);
        let whole = all.iter().filter(|other| matches(other, kind)).all(|other| factors.contains_key(*other));
        let target = if whole { kind } else { name }.to_string();
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}

/// Settings of `adapter_config.json` that must be absent or empty.
const UNSUPPORTED: &[&str] = &[
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
];

/// Reads `adapter_config.json` and refuses what would not be plain LoRA.
fn parse(dir: &Path) -> Result<LoraConfig> {
    let file = dir.join(CONFIG);
    let json = read_json(&file)?;
    let config = Reader::new(&json, &file)?;
    if config.text("peft_type")?.unwrap_or("LORA") != "LORA" {
        return Err(config.wrong("peft_type", "\"LORA\""));
    }
    for key in ["use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"] {
        if config.boolean(key)?.unwrap_or(false) {
            return Err(config.wrong(key, "false: only plain LoRA is supported"));
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
            return Err(config.wrong(key, "empty: only plain LoRA with one rank is supported"));
        }
    }
    Ok(LoraConfig {
        rank: config.integer("r", None, 1, 1 << 16)?,
        alpha: config.float("lora_alpha", None, 1e-9, 1e9)? as f32,
        target_modules: Vec::new(),
        dropout: 0.0,
        use_rslora: config.boolean("use_rslora")?.unwrap_or(false),
        seed: 0,
    })
}
