//! Which layers of a model are packed, and how: what `config.json` says, and what a user asks for. Names are mlx-lm's.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::Reader;
use super::foreign::Foreign;
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::{Error, Result};
use crate::nn::Weight;

/// The block `quantization` of a `config.json`, or its copy `quantization_config`: what holds for single layers. Layers that it does not
/// name are packed as their tensors show.
#[derive(Clone, Debug, Default)]
pub struct Scheme {
    /// Of a checkpoint that is not in mlx-lm's format.
    pub(super) foreign: Option<Foreign>,
    layers: HashMap<String, Option<Quantization>>,
}

impl Scheme {
    pub fn parse(config_json: &Value, file: &Path) -> Result<Self> {
        let config = Reader::new(config_json, file)?;
        let key = if config.get("quantization").is_some() { "quantization" } else { "quantization_config" };
        let Some(value) = config.get(key) else { return Ok(Self::default()) };
        let block = value.as_object().ok_or_else(|| config.wrong(key, "an object with group_size, bits and mode"))?;
        let wrong = |place: &str, reason: String| Error::Config(format!("{}: {key}{place}: {reason}", file.display()));
        if let Some(method) = block.get("quant_method").filter(|_| key == "quantization_config") {
            return match Foreign::parse(block).map_err(|reason| wrong("", reason))? {
                Some(foreign) => Ok(Scheme { foreign: Some(foreign), ..Scheme::default() }),
                None => Err(wrong("", unsupported(method))),
            };
        }
        let default = how_of(block).map_err(|reason| wrong("", reason))?;
        let mut layers = HashMap::new();
        for (name, value) in block {
            let how = match value {
                Value::Bool(packed) => packed.then_some(default),
                Value::Object(options) => Some(how_of(options).map_err(|reason| wrong(&format!("['{name}']"), reason))?),
                _ => continue,
            };
            layers.insert(name.clone(), how);
        }
        Ok(Scheme { layers, foreign: None })
    }

    /// What the block says of a layer by name: nothing, that it is not packed, or how it is.
    pub fn layer(&self, name: &str) -> Option<Option<Quantization>> {
        self.layers.get(name).copied()
    }
}

fn unsupported(method: &Value) -> String {
    format!(
        "quant_method is {method}; quantised checkpoints are supported in mlx-lm's format, AWQ's and GPTQ's only. Take one of these, or the unquantised checkpoint and quantise it"
    )
}

fn how_of(options: &Map<String, Value>) -> std::result::Result<Quantization, String> {
    let integer = |key: &str| match options.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
            number.map(Some).ok_or_else(|| format!("{key} is {value}; it must be a whole number"))
        }
    };
    if options.get("global_scale").is_some_and(|value| *value != Value::Bool(false) && !value.is_null()) {
        return Err("global_scale is not supported: take a checkpoint without tensor scales".into());
    }
    let mode = match options.get("mode") {
        None | Some(Value::Null) => QuantizationMode::Affine,
        Some(Value::String(name)) => QuantizationMode::parse(name).map_err(|error| error.to_string())?,
        Some(value) => return Err(format!("mode is {value}; it must be one of {}", QuantizationMode::NAMES.join(", "))),
    };
    Quantization::new(mode, integer("group_size")?, integer("bits")?).map_err(|error| error.to_string())
}

fn json_of(how: Quantization) -> Value {
    json!({"group_size": how.group_size(), "bits": how.bits(), "mode": how.mode().name()})
}

/// The block for `config.json`: how most layers are packed, and each that is packed otherwise. Nothing where none is.
pub fn block_of(weights: &[(String, &Weight)]) -> Option<Value> {
    let packed: Vec<(&str, Quantization)> =
        weights.iter().filter_map(|(name, weight)| Some((name.as_str(), weight.quantization()?))).collect();
    let count = |how: Quantization| packed.iter().filter(|(_, other)| *other == how).count();
    // Of equally many the first.
    let default = packed.iter().rev().map(|(_, how)| *how).max_by_key(|how| count(*how))?;
    let mut block = json_of(default);
    for (name, how) in packed.iter().filter(|(_, how)| *how != default) {
        block[*name] = json_of(*how);
    }
    Some(block)
}

/// Some layers get more bits than others: values and down-projections of the first and last eighth of the blocks and of every third
/// between them, and the head. mlx-lm's recipes, after llama.cpp's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    Mixed2To6,
    Mixed3To4,
    Mixed3To6,
    Mixed4To6,
}

impl Recipe {
    pub const NAMES: [&str; 4] = ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"];

    pub fn parse(name: &str) -> Result<Self> {
        let all = [Self::Mixed2To6, Self::Mixed3To4, Self::Mixed3To6, Self::Mixed4To6];
        let found = Self::NAMES.iter().position(|known| *known == name).map(|index| all[index]);
        found.ok_or_else(|| {
            let hint =
                crate::options::nearest(name, &Self::NAMES).map_or(String::new(), |near| format!("; did you mean '{near}'?"));
            Error::Argument(format!("quantize: unknown recipe '{name}'{hint} There are {}", Self::NAMES.join(", ")))
        })
    }

    fn bits(self, layer: &str, blocks: i32) -> i32 {
        let (low, high) = match self {
            Self::Mixed2To6 => (2, 6),
            Self::Mixed3To4 => (3, 4),
            Self::Mixed3To6 => (3, 6),
            Self::Mixed4To6 => (4, 6),
        };
        let index: i32 = layer.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or(0);
        let eighth = blocks / 8;
        // Python's remainder is never negative.
        let favoured = index < eighth || index >= 7 * blocks / 8 || (index - eighth).rem_euclid(3) == 2;
        let important = layer.contains("v_proj") || layer.contains("down_proj");
        if (important && favoured) || layer.contains("lm_head") { high } else { low }
    }
}

/// How a model is to be packed.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    pub how: Quantization,
    /// Affine only; takes the group size of `how` and chooses the bits.
    pub recipe: Option<Recipe>,
    /// Layers by name, of which the first that fits counts, and how they are packed, if at all. A name fits by its end, as in
    /// `target_modules` of LoRA; `*` stands for anything.
    pub rules: Vec<(String, Option<Quantization>)>,
}

/// What is done to each layer.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub packed: Vec<(String, Quantization)>,
    /// Layers that stay as they are, and why.
    pub left: Vec<(String, String)>,
}

impl Plan {
    pub fn how(&self, layer: &str) -> Option<Quantization> {
        self.packed.iter().find(|(name, _)| name == layer).map(|(_, how)| *how)
    }
}

impl QuantizeOptions {
    /// `blocks` is how many the model has.
    pub fn plan(&self, weights: &[(String, &Weight)], blocks: i32) -> Result<Plan> {
        if self.recipe.is_some() && self.how.mode() != QuantizationMode::Affine {
            let mode = self.how.mode().name();
            return Err(Error::Argument(format!("quantize: recipes are for mode affine; {mode} has one number of bits only")));
        }
        for (pattern, _) in &self.rules {
            if !weights.iter().any(|(name, _)| fits(pattern, name)) {
                let names: Vec<&str> = weights.iter().map(|(name, _)| name.rsplit('.').next().unwrap_or(name)).collect();
                let mut kinds: Vec<&str> = Vec::new();
                names.iter().for_each(|kind| {
                    if !kinds.contains(kind) {
                        kinds.push(kind)
                    }
                });
                return Err(Error::Argument(format!(
                    "quantize: the rule '{pattern}' fits no layer of this model; its layers end in {}",
                    kinds.join(", ")
                )));
            }
        }
        let mut plan = Plan::default();
        for (name, weight) in weights {
            if weight.is_packed() {
                continue;
            }
            let width = weight.shape().last().copied().unwrap_or(0);
            match self.choose(name, width, blocks) {
                None => plan.left.push((name.clone(), "a rule leaves it out".into())),
                Some(how) if how.divides(width) => plan.packed.push((name.clone(), how)),
                Some(how) => {
                    let reason = format!("its width {width} is no multiple of the group size {}", how.group_size());
                    plan.left.push((name.clone(), reason));
                }
            }
        }
        match plan.left.first() {
            _ if !plan.packed.is_empty() => Ok(plan),
            Some((name, reason)) => {
                Err(Error::Argument(format!("quantize: no layer can be packed: '{name}' and others are left because {reason}")))
            }
            None => Err(Error::Argument("quantize: every layer is quantised already; dequantize() takes that back".into())),
        }
    }

    fn choose(&self, layer: &str, width: i32, blocks: i32) -> Option<Quantization> {
        if let Some((_, how)) = self.rules.iter().find(|(pattern, _)| fits(pattern, layer)) {
            return *how;
        }
        let affine = |group, bits| Quantization::new(QuantizationMode::Affine, Some(group), Some(bits)).ok();
        if let Some(recipe) = self.recipe {
            return affine(self.how.group_size(), recipe.bits(layer, blocks));
        }
        // A router sends whole tokens astray where other layers are a little off; it is small.
        if layer.ends_with("mlp.gate") {
            return affine(if width % 64 == 0 { 64 } else { 32 }, 8);
        }
        Some(self.how)
    }
}

/// Whether a layer's name fits: all of it or its last parts, or, with `*`, all of it where `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    if first.len() == pattern.len() {
        return name.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    }
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return false };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_ends_or_with_stars_anything() {
        for (pattern, name, want) in [
            ("q_proj", "model.layers.0.self_attn.q_proj", true),
            ("proj", "model.layers.0.self_attn.q_proj", false),
            ("self_attn.q_proj", "model.layers.0.self_attn.q_proj", true),
            ("lm_head", "lm_head", true),
            ("*.0.*", "model.layers.0.self_attn.q_proj", true),
            ("*.0.*", "model.layers.10.self_attn.q_proj", false),
            ("model.layers.*.down_proj", "model.layers.3.mlp.down_proj", true),
            ("model.layers.*.down_proj", "model.layers.3.mlp.up_proj", false),
            ("*a*a", "a", false),
            ("*", "lm_head", true),
            ("", "lm_head", false),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn recipes_favour_the_layers_that_mlx_lm_favours() {
        // Recorded from mlx-lm 0.32.2 for 8 blocks.
        let high = |blocks| -> Vec<i32> {
            let bits = |index| Recipe::Mixed2To6.bits(&format!("model.layers.{index}.mlp.down_proj"), blocks);
            (0..blocks).filter(|index| bits(*index) == 6).collect()
        };
        assert_eq!(high(8), [0, 3, 6, 7]);
        // Of 4 blocks none is in the first eighth.
        assert_eq!(high(4), [2, 3]);
        assert_eq!(Recipe::Mixed3To4.bits("lm_head", 4), 4);
        assert_eq!(Recipe::Mixed3To4.bits("model.embed_tokens", 4), 3);
        assert_eq!(Recipe::Mixed4To6.bits("model.layers.3.self_attn.q_proj", 4), 4);
        assert!(Recipe::parse("mixed_2_5").unwrap_err().to_string().contains("mixed_2_6"));
    }

    #[test]
    fn a_configuration_names_its_layers() {
        let file = Path::new("config.json");
        let parse = |text: &str| Scheme::parse(&serde_json::from_str(text).unwrap(), file);
        let affine = |group, bits| Quantization::new(QuantizationMode::Affine, Some(group), Some(bits)).unwrap();
        let scheme = parse(
            r#"{"quantization": {"group_size": 32, "bits": 4, "a": false, "b": true, "c": {"bits": 8, "group_size": null}}}"#,
        );
        let scheme = scheme.unwrap();
        assert_eq!(scheme.layer("a"), Some(None));
        assert_eq!(scheme.layer("b"), Some(Some(affine(32, 4))));
        assert_eq!(scheme.layer("c"), Some(Some(affine(64, 8))));
        assert_eq!(scheme.layer("d"), None);
        assert!(parse("{}").unwrap().layers.is_empty());
        for (text, part) in [
            (r#"{"quantization": 4}"#, "quantization is 4"),
            (r#"{"quantization": {"group_size": 48, "bits": 4}}"#, "48"),
            (r#"{"quantization": {"group_size": 64, "bits": 7}}"#, "7"),
            (r#"{"quantization": {"group_size": 64, "bits": "4"}}"#, "bits is \"4\""),
            (r#"{"quantization": {"group_size": 1e30, "bits": 4}}"#, "group_size"),
            (r#"{"quantization": {"mode": "int4"}}"#, "int4"),
            (r#"{"quantization": {"mode": 3}}"#, "mode is 3"),
            (r#"{"quantization": {"bits": 4, "x.y": {"bits": 9}}}"#, "quantization['x.y']"),
            (r#"{"quantization": {"bits": 4, "x": {"mode": "nvfp4", "global_scale": true}}}"#, "global_scale"),
            (r#"{"quantization_config": {"quant_method": "bitsandbytes"}}"#, "bitsandbytes"),
            (r#"{"quantization_config": {"quant_method": "awq", "bits": 3, "group_size": 128}}"#, "bits is 3"),
            (r#"{"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": -1}}"#, "group_size is -1"),
            (r#"{"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemv"}}"#, "gemv"),
            (
                r#"{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "marlin"}}"#,
                "marlin",
            ),
            (r#"{"quantization_config": {"quant_method": "fp8"}}"#, "fp8"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code(), "ERR_MLX_CONFIG");
            assert!(error.to_string().contains(part) && error.to_string().contains("config.json"), "{error}");
        }
    }
}
