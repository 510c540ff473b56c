//! `config.json` as transformers 4 and 5 write it. Values are checked here, so that the models can trust them.

use std::path::Path;

use serde_json::{Map, Value};

use super::Architecture;
use super::moe_config::MoeConfig;
use super::rope_config::rope;
use crate::mlx::{Error, Result};
use crate::nn::RopeConfig;

/// What a Qwen model is made of.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    pub model_type: String,
    pub vocab_size: i32,
    pub hidden_size: i32,
    pub intermediate_size: i32,
    pub num_hidden_layers: i32,
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    pub head_dim: i32,
    pub rms_norm_eps: f32,
    pub max_position_embeddings: i32,
    pub attention_bias: bool,
    pub tie_word_embeddings: bool,
    pub rope: RopeConfig,
    /// Where the architecture has experts.
    pub moe: Option<MoeConfig>,
}

/// The largest size of one axis that is taken for real.
pub(super) const MAX_SIZE: i64 = 1 << 24;

impl ModelConfig {
    /// The experts, where at least one layer has them.
    pub fn experts(&self) -> Option<&MoeConfig> {
        self.moe.as_ref().filter(|moe| moe.sparse_layers.contains(&true))
    }

    /// `file` is only named in errors.
    pub fn parse(json: &Value, file: &Path, architecture: &Architecture) -> Result<Self> {
        let config = Reader::new(json, file)?;
        config.refuse_unsupported()?;
        let hidden_size = config.size("hidden_size")?;
        let num_hidden_layers = config.integer("num_hidden_layers", None, 1, 10_000)?;
        let heads = config.size("num_attention_heads")?;
        let kv_heads = config.integer("num_key_value_heads", Some(heads), 1, MAX_SIZE)?;
        if heads % kv_heads != 0 {
            return Err(config.wrong("num_key_value_heads", &format!("a divisor of num_attention_heads, {heads}")));
        }
        let head_dim = match architecture.default_head_dim {
            None if hidden_size % heads != 0 && config.get("head_dim").is_none() => {
                return Err(
                    config.wrong("hidden_size", &format!("a multiple of num_attention_heads, {heads}, when head_dim is absent"))
                );
            }
            default => config.integer("head_dim", Some(default.unwrap_or(hidden_size / heads)), 1, 1 << 16)?,
        };
        if head_dim % 2 != 0 {
            return Err(config.wrong("head_dim", "even, because rotary embeddings rotate pairs"));
        }
        config.refuse_sliding_window(num_hidden_layers)?;
        let max_position_embeddings = config.integer("max_position_embeddings", Some(32768), 1, i32::MAX as i64)?;
        Ok(ModelConfig {
            model_type: config.text("model_type")?.unwrap_or_default().to_string(),
            vocab_size: config.integer("vocab_size", None, 1, 1 << 28)?,
            hidden_size,
            intermediate_size: config.size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            rms_norm_eps: config.float("rms_norm_eps", Some(1e-6), f64::MIN_POSITIVE, 1.0)? as f32,
            max_position_embeddings,
            attention_bias: config.boolean("attention_bias")?.unwrap_or(false),
            tie_word_embeddings: config.boolean("tie_word_embeddings")?.unwrap_or(false),
            rope: rope(&config, head_dim, max_position_embeddings)?,
            moe: architecture.moe.map(|parse| parse(&config, num_hidden_layers)).transpose()?,
        })
    }
}

/// One object of a configuration file, read key by key with errors that name file, key and value. `null` means absent.
pub struct Reader<'a> {
    object: &'a Map<String, Value>,
    file: &'a Path,
    /// Where the object lies in the file: empty, or a key and a dot.
    scope: &'a str,
}

impl<'a> Reader<'a> {
    pub fn new(json: &'a Value, file: &'a Path) -> Result<Self> {
        match json.as_object() {
            Some(object) => Ok(Reader { object, file, scope: "" }),
            None => Err(Error::Config(format!("{}: not a JSON object", file.display()))),
        }
    }

    /// The object under a key.
    pub fn nested(&self, key: &str, scope: &'a str) -> Result<Option<Reader<'a>>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Reader { object, file: self.file, scope })),
            Some(_) => Err(self.wrong(key, "an object or null")),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// An error about a key: what it must be, and what it is.
    pub fn wrong(&self, key: &str, wanted: &str) -> Error {
        let (file, scope) = (self.file.display(), self.scope);
        match self.object.get(key) {
            Some(value) => {
                let mut shown = value.to_string();
                if shown.chars().count() > 80 {
                    shown = shown.chars().take(80).chain("...".chars()).collect();
                }
                Error::Config(format!("{file}: {scope}{key} is {shown}; it must be {wanted}"))
            }
            None => Error::Config(format!("{file}: {scope}{key} is missing; it must be {wanted}")),
        }
    }

    pub fn integer(&self, key: &str, default: Option<i32>, low: i64, high: i64) -> Result<i32> {
        let wanted = || format!("a whole number from {low} to {high}");
        let value = match (self.get(key), default) {
            (Some(value), _) => value.as_i64().ok_or_else(|| self.wrong(key, &wanted()))?,
            (None, Some(default)) => default as i64,
            (None, None) => return Err(self.wrong(key, &wanted())),
        };
        if value < low || value > high {
            return Err(self.wrong(key, &wanted()));
        }
        i32::try_from(value).map_err(|_| self.wrong(key, &wanted()))
    }

    /// A list of whole numbers; empty when absent.
    pub fn integers(&self, key: &str, low: i64, high: i64) -> Result<Vec<i32>> {
        let wanted = || self.wrong(key, &format!("a list of whole numbers from {low} to {high}"));
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let number = |value: &Value| value.as_i64().filter(|number| (low..=high).contains(number)).map(|number| number as i32);
        value.as_array().and_then(|list| list.iter().map(number).collect()).ok_or_else(wanted)
    }

    fn size(&self, key: &str) -> Result<i32> {
        self.integer(key, None, 1, MAX_SIZE)
    }

    pub fn float(&self, key: &str, default: Option<f64>, low: f64, high: f64) -> Result<f64> {
        let wanted = || format!("a number from {low:e} to {high:e}");
        let value = match (self.get(key), default) {
            (Some(value), _) => value.as_f64().ok_or_else(|| self.wrong(key, &wanted()))?,
            (None, Some(default)) => default,
            (None, None) => return Err(self.wrong(key, &wanted())),
        };
        if (low..=high).contains(&value) { Ok(value) } else { Err(self.wrong(key, &wanted())) }
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|value| value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))).transpose()
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|value| value.as_str().ok_or_else(|| self.wrong(key, "a string"))).transpose()
    }

    fn refuse_unsupported(&self) -> Result<()> {
        if !matches!(self.text("hidden_act")?, None | Some("silu" | "swish")) {
            return Err(self.wrong("hidden_act", "\"silu\""));
        }
        Ok(())
    }

    /// A window over some layers would change what they compute; one that no layer uses changes nothing.
    fn refuse_sliding_window(&self, layers: i32) -> Result<()> {
        if let Some(types) = self.get("layer_types") {
            let wanted = format!("a list of {layers} times \"full_attention\"; other layers are not supported");
            let types = types.as_array().ok_or_else(|| self.wrong("layer_types", &wanted))?;
            if types.len() != layers as usize || types.iter().any(|kind| kind != "full_attention") {
                return Err(self.wrong("layer_types", &wanted));
            }
            return Ok(());
        }
        let used =
            self.boolean("use_sliding_window")?.unwrap_or(false) && self.object.get("sliding_window") != Some(&Value::Null);
        if used && self.integer("max_window_layers", Some(28), 0, i32::MAX as i64)? < layers {
            let wanted = format!("false, or max_window_layers at least {layers}: sliding-window attention is not supported");
            return Err(self.wrong("use_sliding_window", &wanted));
        }
        Ok(())
    }
}
