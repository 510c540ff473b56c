//! Checkpoints into other checkpoints, tensor by tensor: in another dtype, packed or unpacked. The model is never in memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::checkpoint::{Checkpoint, read_config};
use super::model::{parse, saved_config};
use super::quantization::{Plan, QuantizeOptions, Scheme, block_of};
use super::quantize::{PackedSize, size_of};
use super::weights::{self, Existing, read_json, write_json};
use super::{CausalLm, experts};
use crate::mlx::io::safetensors::Source;
use crate::mlx::ops::{self, Quantization, Quantized};
use crate::mlx::{Array, Dtype, Error, Result};
use crate::nn::{Module, Weight};

#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Of the numbers, and of scales. Without it that of `config.json`, else that of the first weight.
    pub dtype: Option<Dtype>,
    pub quantize: Option<QuantizeOptions>,
    pub dequantize: bool,
    /// A file of weights is no larger, unless one weight is.
    pub shard_bytes: u64,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        ConvertOptions { dtype: None, quantize: None, dequantize: false, shard_bytes: weights::SHARD_BYTES }
    }
}

/// What comes out of a conversion.
pub struct Converted {
    pub dtype: Dtype,
    pub size: PackedSize,
    pub plan: Plan,
}

/// What is made of a layer's weight.
#[derive(Clone, Copy)]
enum Change {
    Pack(Quantization),
    Unpack(Quantization),
}

/// A conversion that has been checked and not begun.
pub struct Conversion {
    config_json: Value,
    dtype: Dtype,
    /// The model as it comes out, of zeros.
    net: Box<dyn CausalLm>,
    changes: HashMap<String, Change>,
    plan: Plan,
    tied: bool,
    scheme: Scheme,
    options: ConvertOptions,
}

/// Reads what is to be written. Parts of a layer come one after the other and are made together: those of the last layer stay.
struct Reader<'a> {
    checkpoint: Checkpoint<'a>,
    dtype: Dtype,
    last: Option<(String, Vec<(String, Array)>)>,
}

impl Reader<'_> {
    fn fetch(&mut self, name: &str, change: Option<(&str, Change)>) -> Result<Array> {
        let Some((layer, change)) = change else { return self.checkpoint.fetch(name, self.dtype) };
        if self.last.as_ref().is_none_or(|(held, _)| held != layer) {
            self.last = None;
            let mut parts = Vec::new();
            match change {
                Change::Pack(how) => {
                    let codes = self.checkpoint.fetch_packed(layer, how, self.dtype)?;
                    codes.visit(layer, &mut |name, part| parts.push((name, part.clone())));
                }
                Change::Unpack(how) => {
                    let mut part = |part: &str| self.checkpoint.fetch(&format!("{layer}.{part}"), self.dtype);
                    let affine = how.mode() == ops::QuantizationMode::Affine;
                    let biases = if affine { Some(part("biases")?) } else { None };
                    let codes = Quantized { weight: part("weight")?, scales: part("scales")?, biases };
                    let Quantized { weight, scales, biases } = &codes;
                    let numbers = ops::dequantize(weight, scales, biases.as_ref(), how, None, Some(self.dtype))?;
                    numbers.eval()?;
                    parts.push((format!("{layer}.weight"), numbers));
                }
            }
            self.last = Some((layer.to_string(), parts));
        }
        let part = self.last.iter().flat_map(|(_, parts)| parts).find(|(held, _)| held == name);
        part.map(|(_, array)| array.clone()).ok_or_else(|| Error::Internal(format!("layer '{layer}' has no part '{name}'")))
    }

    /// One expert of a weight that holds all.
    fn fetch_expert(&mut self, name: &str, expert: i32, change: Option<(&str, Change)>) -> Result<Array> {
        if change.is_none() {
            if let Some(array) = self.checkpoint.fetch_expert(name, expert, self.dtype)? {
                return Ok(array);
            }
            if self.last.as_ref().is_none_or(|(held, _)| held != name) {
                self.last = None;
                let whole = self.checkpoint.fetch(name, self.dtype)?;
                self.last = Some((name.to_string(), vec![(name.to_string(), whole)]));
            }
        }
        let whole = match (&self.last, change) {
            (Some((_, parts)), None) => parts[0].1.clone(),
            _ => self.fetch(name, change)?,
        };
        whole.slice_axis(0, expert, expert + 1)?.squeeze(&[0])
    }
}

fn known_dtype(config_json: &Value) -> Option<Dtype> {
    let name = ["torch_dtype", "dtype"].iter().find_map(|key| config_json.get(key)?.as_str())?;
    Dtype::parse(name).ok().filter(|dtype| matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16))
}

impl Conversion {
    pub fn plan(dir: &Path, options: ConvertOptions) -> Result<Self> {
        if options.dequantize && options.quantize.is_some() {
            return Err(Error::Argument("convert: a checkpoint is either quantised or dequantised, not both".into()));
        }
        if options.dtype.is_some_and(|dtype| !matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)) {
            return Err(Error::Dtype("convert: the dtype must be float32, float16 or bfloat16".into()));
        }
        let (config_json, file) = read_config(dir)?;
        let (architecture, config) = parse(&config_json, &file)?;
        let (scheme, tied) = (Scheme::parse(&config_json, &file)?, config.tie_word_embeddings);
        let mut quiet = |_, _| Ok(());
        let checkpoint = Checkpoint::open(dir, tied, &scheme, &mut quiet)?;
        let mut net = (architecture.build)(config, Dtype::Float32)?;
        let mut names = Vec::new();
        net.visit("", &mut |name, _| names.push(name));
        let stored = || checkpoint.dtype_of(names.into_iter());
        let dtype = options.dtype.or_else(|| known_dtype(&config_json)).or_else(stored).unwrap_or(Dtype::Float32);
        net.visit_mut("", &mut |_, weight| {
            if let Ok(zeros) = ops::zeros(weight.shape(), dtype) {
                *weight = zeros;
            }
        });
        checkpoint.fit(net.as_mut(), &scheme, dtype)?;
        drop(checkpoint);
        let mut held = Vec::new();
        net.weights("", &mut held);
        let blocks = net.num_layers() as i32;
        let plan = options.quantize.as_ref().map(|options| options.plan(&held, blocks)).transpose()?.unwrap_or_default();
        let mut changes: HashMap<String, Change> =
            plan.packed.iter().map(|(name, how)| (name.clone(), Change::Pack(*how))).collect();
        if options.dequantize {
            let packed = held.iter().filter_map(|(name, weight)| Some((name.clone(), Change::Unpack(weight.quantization()?))));
            changes.extend(packed);
            if changes.is_empty() {
                return Err(Error::Argument(format!("{}: the checkpoint is not quantised", dir.display())));
            }
        }
        let mut layers = Vec::new();
        net.layers("", &mut layers);
        for (name, mut layer) in layers {
            let shape = layer.weight().shape();
            match changes.get(&name) {
                Some(Change::Pack(how)) => *layer.weight_mut() = Weight::packed_zeros(&shape, *how, dtype)?,
                Some(Change::Unpack(_)) => *layer.weight_mut() = Weight::zeros(&shape, dtype)?,
                None => {}
            }
        }
        Ok(Conversion { config_json, dtype, net, changes, plan, tied, scheme, options })
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn into_plan(self) -> Plan {
        self.plan
    }

    pub fn size(&self) -> PackedSize {
        size_of(self.net.as_ref())
    }

    /// Writes the checkpoint into a folder. Files of weights that are there and have the right names, dtypes and shapes in them are kept:
    /// the caller knows that they are of the same conversion. `progress` hears of bytes written and bytes in all; its error stops the work.
    pub fn run(self, dir: &Path, out: &Path, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Converted> {
        let size = self.size();
        std::fs::create_dir_all(out).map_err(|error| Error::save(out, format!("cannot make the folder: {error}")))?;
        let progress = RefCell::new(progress);
        // Experts take many readings for one tensor written.
        let mut between = |_, _| Ok(());
        let checkpoint = Checkpoint::open(dir, self.tied, &self.scheme, &mut between)?;
        let reader = RefCell::new(Reader { checkpoint, dtype: self.dtype, last: None });
        let mut weights = Vec::new();
        self.net.weights("", &mut weights);
        let block = block_of(&weights);
        let mut tensors = Vec::new();
        self.net.visit("", &mut |name, array| {
            let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
            let change = match name.ends_with(".bias") {
                true => None,
                false => self.changes.get_key_value(layer).map(|(layer, change)| (layer.as_str(), *change)),
            };
            let (shape, dtype, reader) = (array.shape().to_vec(), array.dtype(), &reader);
            if experts::is_stacked(&name) && block.is_none() {
                for expert in 0..shape[0] {
                    let (whole, own) = (name.clone(), experts::expert_name(&name, expert));
                    let make = move || reader.borrow_mut().fetch_expert(&whole, expert, change);
                    tensors.push(Source { name: own, shape: shape[1..].to_vec(), dtype, make: Box::new(make) });
                }
                return;
            }
            let held = name.clone();
            let make = move || reader.borrow_mut().fetch(&held, change);
            tensors.push(Source { name, shape, dtype, make: Box::new(make) });
        });
        weights::save_sharded(out, &tensors, self.options.shard_bytes, Existing::Kept, &mut |done, total| {
            (progress.borrow_mut())(done, total)
        })?;
        write_json(&out.join("config.json"), &saved_config(&self.config_json, self.dtype, block.as_ref()))?;
        let generation = dir.join("generation_config.json");
        if generation.exists() {
            write_json(&out.join("generation_config.json"), &read_json(&generation)?)?;
        }
        drop(tensors);
        Ok(Converted { dtype: self.dtype, size, plan: self.plan })
    }
}
