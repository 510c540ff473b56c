//! Adapters on a model: several by name, of which one counts and is trained.

mod config;
mod mlx_lm;
mod peft;
mod targets;

use std::collections::BTreeMap;
use std::path::Path;

pub use config::LoraConfig;
pub use targets::{DEFAULT_TARGETS, Targets};

use super::config::Reader;
use super::weights::read_json;
use super::{CausalLm, Model};
use crate::mlx::{Array, Dtype, Error, Result, random};
use crate::nn::{Dora, Dropout, Layer, Lora, factor_shapes};

/// What an adapter is called when nobody names it, as in PEFT.
pub const DEFAULT_NAME: &str = "default";

const CONFIG: &str = "adapter_config.json";

/// A layout of adapter folders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterFormat {
    #[default]
    Peft,
    MlxLm,
}

impl AdapterFormat {
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "peft" => Ok(AdapterFormat::Peft),
            "mlx-lm" => Ok(AdapterFormat::MlxLm),
            _ => Err(Error::Argument(format!("the format of an adapter is 'peft' or 'mlx-lm', not '{name}'"))),
        }
    }
}

/// The adapters of a model.
#[derive(Default)]
pub(super) struct Adapters {
    /// In the order in which they came.
    known: Vec<Adapter>,
    active: Option<String>,
}

struct Adapter {
    name: String,
    config: LoraConfig,
    /// By layer; empty while it is active: the layers hold them then.
    stored: BTreeMap<String, Lora>,
}

impl Model {
    /// The name of an adapter that is DoRA.
    pub(super) fn dora_adapter(&self) -> Option<&str> {
        self.adapters.known.iter().find(|adapter| adapter.config.use_dora).map(|adapter| adapter.name.as_str())
    }
}

/// An adapter as a folder has it.
pub(super) struct Loaded {
    pub config: LoraConfig,
    pub factors: BTreeMap<String, Factors>,
}

/// A layer's factors, float32, in the shapes of `Lora`.
pub(super) struct Factors {
    pub a: Array,
    pub b: Array,
    pub magnitude: Option<Array>,
    /// DoRA of an embedding is of its columns, as in PEFT, not of its rows, as in mlx-lm.
    pub columns: bool,
    pub scale: f32,
    pub on_head: bool,
}

impl Adapters {
    fn active(&self) -> Option<&Adapter> {
        let name = self.active.as_ref()?;
        self.known.iter().find(|adapter| adapter.name == *name)
    }

    fn names(&self) -> String {
        if self.known.is_empty() {
            return "it has none".into();
        }
        let names: Vec<String> = self.known.iter().map(|adapter| format!("'{}'", adapter.name)).collect();
        format!("it has {}", names.join(", "))
    }

    fn position(&self, name: &str) -> Result<usize> {
        let found = self.known.iter().position(|adapter| adapter.name == name);
        found.ok_or_else(|| Error::Argument(format!("the model has no adapter '{name}'; {}", self.names())))
    }
}

impl Model {
    /// `add_adapter` under the usual name.
    pub fn apply_lora(&mut self, config: LoraConfig) -> Result<()> {
        self.add_adapter(DEFAULT_NAME, config)
    }

    /// Puts a fresh adapter on the target layers, which counts from now on: the model computes the same until it is trained.
    pub fn add_adapter(&mut self, name: &str, config: LoraConfig) -> Result<()> {
        check_name(name)?;
        let blocks = self.net.config().num_hidden_layers;
        config.check(blocks)?;
        if self.adapters.position(name).is_ok() {
            return Err(Error::Argument(format!(
                "the model already has an adapter '{name}'; delete it, or give this one another name"
            )));
        }
        let layers = layers_of(self.net.as_mut());
        let chosen = targets::choose(&config, &layers, blocks)?;
        let count = chosen.iter().filter(|chosen| **chosen).count();
        let keys = random::split_many(&random::key(config.seed)?, count as i32)?;
        let mut factors = BTreeMap::new();
        for (index, ((layer, place), _)) in layers.iter().zip(chosen).filter(|(_, chosen)| *chosen).enumerate() {
            let key = keys.slice_axis(0, index as i32, index as i32 + 1)?.reshape(&[2])?;
            let (rank, scale) = config.size(layer)?;
            factors.insert(layer.clone(), place.fresh_lora(rank, scale, config.use_dora, &key)?);
        }
        self.adapters.known.push(Adapter { name: name.into(), config, stored: factors });
        self.set_adapter(Some(name))
    }

    /// `load_adapter_as` under the usual name.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<()> {
        self.load_adapter_as(DEFAULT_NAME, dir)
    }

    /// Puts a saved adapter of PEFT or mlx-lm on the model, in place of one of the same name. It counts from now on. Nothing
    /// changes when it does not fit.
    pub fn load_adapter_as(&mut self, name: &str, dir: &Path) -> Result<()> {
        check_name(name)?;
        let file = dir.join(CONFIG);
        let json = read_json(&file)?;
        let reader = Reader::new(&json, &file)?;
        let mlx_lm = reader.get("peft_type").is_none()
            && (reader.get("lora_parameters").is_some() || reader.get("fine_tune_type").is_some());
        let layers = layers_of(self.net.as_mut());
        let Loaded { mut config, factors } =
            if mlx_lm { mlx_lm::read(dir, &reader, &layers)? } else { peft::read(dir, &reader, &layers)? };
        let mut stored = BTreeMap::new();
        for (layer, place) in &layers {
            if let Some(factors) = factors.get(layer) {
                stored.insert(layer.clone(), factors.put_on(place)?);
            }
        }
        let names: Vec<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
        config.target_modules = Targets::Names(targets::shortest(&names, &|name| factors.contains_key(name)));
        let adapter = Adapter { name: name.into(), config, stored };
        match self.adapters.position(name) {
            Ok(at) => {
                if self.adapters.active.as_deref() == Some(name) {
                    self.set_adapter(None)?;
                }
                self.adapters.known[at] = adapter;
            }
            Err(_) => self.adapters.known.push(adapter),
        }
        self.set_adapter(Some(name))
    }

    /// Writes the active adapter. `base_model_name` tells a reader which model it belongs to.
    pub fn save_adapter(&mut self, dir: &Path, base_model_name: &str, format: AdapterFormat) -> Result<()> {
        let Some(adapter) = self.adapters.active() else {
            return Err(Error::Argument(format!("the model has no active adapter to save; {}", self.adapters.names())));
        };
        std::fs::create_dir_all(dir).map_err(|error| Error::save(dir, format!("cannot make the folder: {error}")))?;
        let (tied, blocks) = (self.net.config().tie_word_embeddings, self.net.config().num_hidden_layers);
        let layers = layers_of(self.net.as_mut());
        match format {
            AdapterFormat::Peft => peft::write(dir, base_model_name, &adapter.config, &layers, tied),
            AdapterFormat::MlxLm => mlx_lm::write(dir, base_model_name, &adapter.config, &layers, blocks),
        }
    }

    /// The adapter that counts from now on; with `None` the base model computes. The base's weights stay where they are.
    pub fn set_adapter(&mut self, name: Option<&str>) -> Result<()> {
        let next = name.map(|name| self.adapters.position(name)).transpose()?;
        if self.adapters.active.as_deref() == name {
            return self.set_enabled(true);
        }
        self.changed();
        self.set_enabled(true)?;
        let present = self.adapters.active.take();
        let mut taken = BTreeMap::new();
        let mut given = next.map(|at| std::mem::take(&mut self.adapters.known[at].stored)).unwrap_or_default();
        for (layer, mut place) in layers_of(self.net.as_mut()) {
            let slot = place.lora_mut();
            if let Some(lora) = slot.take() {
                taken.insert(layer.clone(), lora);
            }
            *slot = given.remove(&layer);
        }
        if let Some(at) = present.and_then(|name| self.adapters.position(&name).ok()) {
            self.adapters.known[at].stored = taken;
        }
        self.adapters.active = name.map(str::to_string);
        Ok(())
    }

    /// Takes an adapter off; of the active one nothing stays, and the base model computes.
    pub fn delete_adapter(&mut self, name: &str) -> Result<()> {
        let at = self.adapters.position(name)?;
        if self.adapters.active.as_deref() == Some(name) {
            self.set_adapter(None)?;
        }
        self.adapters.known.remove(at);
        Ok(())
    }

    /// The names of all adapters, in the order in which they came.
    pub fn adapter_names(&self) -> Vec<String> {
        self.adapters.known.iter().map(|adapter| adapter.name.clone()).collect()
    }

    pub fn active_adapter(&self) -> Option<&str> {
        self.adapters.active.as_deref()
    }

    /// The configuration of the active one.
    pub fn adapter(&self) -> Option<&LoraConfig> {
        self.adapters.active().map(|adapter| &adapter.config)
    }

    /// Off: the base model computes, for example as the reference of a KL penalty. On again: the active adapter counts.
    pub fn set_adapter_enabled(&mut self, enabled: bool) -> Result<()> {
        if self.adapters.active.is_none() {
            return Err(Error::Argument("the model has no adapter to turn on or off".into()));
        }
        self.set_enabled(enabled)
    }

    fn set_enabled(&mut self, enabled: bool) -> Result<()> {
        let mut changes = false;
        for (_, mut layer) in layers_of(self.net.as_mut()) {
            if let Some(lora) = layer.lora_mut() {
                changes |= lora.enabled != enabled;
                lora.enabled = enabled;
            }
        }
        if changes {
            self.changed();
        }
        Ok(())
    }

    /// Whether training drops inputs of the active adapter.
    pub fn has_dropout(&self) -> bool {
        self.adapter().is_some_and(|config| config.dropout > 0.0)
    }

    /// From now on the active adapter drops inputs, which ones follows from the seed; without one it drops none.
    pub fn set_dropout(&mut self, seed: Option<u64>) -> Result<()> {
        let probability = self.adapter().map_or(0.0, |config| config.dropout);
        let mut key = seed.filter(|_| probability > 0.0).map(random::key).transpose()?;
        for (_, mut layer) in layers_of(self.net.as_mut()) {
            let Some(lora) = layer.lora_mut() else { continue };
            lora.dropout = match &key {
                None => None,
                Some(present) => {
                    let (next, own) = random::split(present)?;
                    key = Some(next);
                    Some(Dropout { probability, key: own })
                }
            };
        }
        Ok(())
    }

    /// Merges the active adapter into the weights and takes it off: packed weights are unpacked, changed and packed again as they
    /// were. `dequantize` leaves all weights of the model in numbers, as mlx-lm's does.
    pub fn fuse(&mut self, dequantize: bool) -> Result<()> {
        let active = self.adapters.active.clone();
        let others: Vec<String> = self.adapter_names().into_iter().filter(|name| Some(name) != active.as_ref()).collect();
        if !others.is_empty() {
            return Err(Error::Argument(format!(
                "fuse() changes the weights that the adapter{} '{}' belong{} to; delete {} first",
                if others.len() > 1 { "s" } else { "" },
                others.join("', '"),
                if others.len() > 1 { "" } else { "s" },
                if others.len() > 1 { "them" } else { "it" },
            )));
        }
        if active.is_none() && !(dequantize && layers_of(self.net.as_mut()).iter().any(|(_, layer)| layer.weight().is_packed())) {
            return Err(Error::Argument("fuse() needs an active adapter, or packed weights and dequantize".into()));
        }
        let tied = self.net.config().tie_word_embeddings;
        let split = |(_, layer): &(String, Layer)| {
            tied && matches!(layer, Layer::Embedding(_)) && layer.lora().is_some_and(|lora| !lora.on_head)
        };
        if layers_of(self.net.as_mut()).iter().any(split) {
            return Err(Error::Argument(
                "this adapter changes the embedding but not the head, which are one weight here, so it cannot be merged into it"
                    .into(),
            ));
        }
        self.set_enabled(true)?;
        self.changed();
        for (_, mut layer) in layers_of(self.net.as_mut()) {
            let merged = match layer.lora() {
                Some(lora) => lora.merge_weight(layer.weight(), dequantize)?,
                None if dequantize && layer.weight().is_packed() => layer.weight().numbers()?.into(),
                None => continue,
            };
            // One after the other, so that the numbers of one packed weight are in memory at a time.
            crate::mlx::eval(&merged.parts())?;
            *layer.weight_mut() = merged;
            *layer.lora_mut() = None;
        }
        if dequantize && let Some(config) = self.config_json.as_object_mut() {
            config.shift_remove("quantization");
            config.shift_remove("quantization_config");
        }
        self.adapters = Adapters::default();
        Ok(())
    }

    /// The active adapter's parts by the name of their layer.
    pub(super) fn factors(&self) -> BTreeMap<String, Lora> {
        let mut found = Vec::new();
        self.net.adapters("", &mut found);
        found.into_iter().map(|(name, lora)| (name, lora.clone())).collect()
    }
}

/// The layers of a model, by name.
fn layers_of(net: &mut dyn CausalLm) -> Vec<(String, Layer<'_>)> {
    let mut layers = Vec::new();
    net.layers("", &mut layers);
    layers
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains('.') {
        return Err(Error::Argument(format!("an adapter's name must be a text without dots, not '{name}'")));
    }
    Ok(())
}

impl Factors {
    /// On its layer, whose shape was checked.
    fn put_on(&self, layer: &Layer) -> Result<Lora> {
        let mut lora = Lora::of(self.a.contiguous()?, self.b.contiguous()?, self.scale);
        lora.on_head = self.on_head;
        if let Some(magnitude) = &self.magnitude {
            let mut dora = Dora::new(layer.weight(), self.columns && matches!(layer, Layer::Embedding(_)))?;
            dora.magnitude = magnitude.clone();
            lora.dora = Some(dora);
        }
        Ok(lora)
    }
}

/// The shape of DoRA's magnitudes of a layer.
fn magnitude_shape(layer: &Layer, columns: bool) -> Vec<i32> {
    let shape = layer.weight().shape();
    match layer {
        Layer::Embedding(_) if columns => vec![shape[1]],
        _ => shape[..shape.len() - 1].to_vec(),
    }
}

/// A file's tensor in float32.
fn wide(array: Array) -> Result<Array> {
    array.astype(Dtype::Float32)
}

/// Says what is wrong with the shapes of a layer's factors.
fn check_shapes(layer: &str, place: &Layer, factors: &Factors, rank: i32) -> std::result::Result<(), String> {
    let Factors { a, b, magnitude, columns, .. } = factors;
    let (want_a, want_b) = factor_shapes(&place.weight().shape(), rank);
    if a.shape() != want_a || b.shape() != want_b {
        let (a, b) = (a.shape(), b.shape());
        return Err(format!(
            "the factors of '{layer}' are {a:?} and {b:?}; with rank {rank} this model takes {want_a:?} and {want_b:?}"
        ));
    }
    let wanted = magnitude_shape(place, *columns);
    match magnitude {
        Some(magnitude) if magnitude.shape() != wanted => {
            Err(format!("the magnitudes of '{layer}' are {:?}; this model takes {wanted:?}", magnitude.shape()))
        }
        _ => Ok(()),
    }
}
