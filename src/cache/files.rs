//! Prompt-cache files in the layout of mlx-lm 0.32.2, holding only what is used.
//!
//! A safetensors file: the layers' states flattened to arrays named `layer.index`, numbers among them as arrays of one element, and in
//! the metadata `0.<key>` for the user's texts, `1.<layer>` for the classes and `2.<n>.0`, `2.<n>.1` for the names and kinds of the
//! numbers. Quantised rotating and batch caches have no class there; they get names of ours.

use std::collections::HashMap;
use std::path::Path;

use super::{BatchKvCache, BatchRotatingKvCache, Cache, KvCache, RotatingKvCache};
use crate::mlx::io::{Contents, Format, LoadOptions, Metadata, Progress, SaveOptions, Saver};
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::{Array, Dtype, Error, Result, io};

/// Texts that a user keeps beside a cache.
pub type Texts = Vec<(String, String)>;

enum Field {
    Array(Array),
    Number(i32),
    Flag(bool),
}

/// A layer's state as mlx-lm's class has it.
fn fields(cache: &Cache) -> Result<Vec<(String, Field)>> {
    let mut fields: Vec<(String, Field)> = Vec::new();
    let parts = cache.state()?;
    for (index, half) in parts.chunks((parts.len() / 2).max(1)).enumerate() {
        match half {
            [array] => fields.push((index.to_string(), Field::Array(array.clone()))),
            codes => fields
                .extend(codes.iter().enumerate().map(|(part, array)| (format!("{index}.{part}"), Field::Array(array.clone())))),
        }
    }
    let list = |numbers: &[i32]| Array::from_slice(numbers, &[numbers.len() as i32]).map(Field::Array);
    let mut rest = match cache {
        Cache::Kv(cache) => vec![Field::Number(cache.len())],
        Cache::Rotating(cache) => {
            [cache.offset(), cache.keep(), cache.max_size(), cache.len()].into_iter().map(Field::Number).collect()
        }
        Cache::Batch(cache) => {
            cache.finalized("save a cache")?;
            vec![list(&cache.offsets())?, list(cache.left_padding())?, Field::Number(cache.len())]
        }
        Cache::BatchRotating(cache) => {
            cache.finalized("save a cache")?;
            if cache.keep() > 0 {
                return Err(Error::Argument(
                    "mlx-lm's files have no place for the first tokens that the rows of a batch keep: extract the rows and save each".into(),
                ));
            }
            let slots = parts.first().map_or(0, |keys| keys.dim(2));
            let numbers = [cache.max_size(), cache.total(), slots].into_iter().map(Field::Number);
            let lists = [list(cache.offsets())?, list(cache.left_padding())?];
            lists.into_iter().chain(numbers).chain([Field::Flag(false)]).collect()
        }
    };
    if let Some(how) = cache.encoding() {
        rest.extend([Field::Number(how.group_size()), Field::Number(how.bits())]);
    }
    fields.extend(rest.into_iter().enumerate().map(|(index, field)| ((index + 2).to_string(), field)));
    Ok(fields)
}

/// Writes the caches of a model's layers; the file appears when it is complete.
pub fn saver(path: &Path, caches: &[Cache], metadata: &Texts, progress: Progress) -> Result<Saver> {
    let mut arrays = Vec::new();
    let mut texts: Texts = metadata.iter().map(|(key, text)| (format!("0.{key}"), text.clone())).collect();
    let mut notes: Texts = Vec::new();
    for (layer, cache) in caches.iter().enumerate() {
        texts.push((format!("1.{layer}"), cache.kind().into()));
        let mut note = |name: &str, kind: &str| notes.push((name.into(), kind.into()));
        if cache.is_empty() {
            for name in [format!("{layer}.0"), format!("{layer}.1")] {
                note(&name, "none");
                arrays.push((name, Array::from_slice::<f32>(&[], &[0])?));
            }
        }
        for (name, field) in fields(cache)? {
            let name = format!("{layer}.{name}");
            let array = match field {
                Field::Array(array) => array,
                Field::Number(number) => {
                    note(&name, "scalar");
                    Array::scalar_i32(number)
                }
                Field::Flag(flag) => {
                    note(&name, "scalar");
                    Array::scalar_of(f64::from(u8::from(flag)), Dtype::Bool)?
                }
            };
            arrays.push((name, array));
        }
    }
    // Never empty, so that it is a list.
    texts.push(("2.0".into(), String::new()));
    for (index, (name, kind)) in (1..).zip(notes) {
        texts.extend([(format!("2.{index}.0"), name), (format!("2.{index}.1"), kind)]);
    }
    let texts = texts.into_iter().map(|(key, text)| (key, Metadata::Text(text))).collect();
    let options = SaveOptions { format: Some(Format::Safetensors), ..SaveOptions::default() };
    Saver::new(path, arrays, texts, options, progress)
}

/// Writes a file and waits for it.
pub fn save(path: &Path, caches: &[Cache], metadata: &Texts) -> Result<()> {
    saver(path, caches, metadata, Progress::default())?.finish()
}

/// Reads a file and waits for it.
pub fn load(path: &Path) -> Result<(Vec<Cache>, Texts)> {
    let options = LoadOptions { format: Some(Format::Safetensors), ..LoadOptions::default() };
    from_contents(path, io::load(path, options, Progress::default())?)
}

/// What a file holds: the caches of a model's layers, and the user's texts.
pub fn from_contents(path: &Path, contents: Contents) -> Result<(Vec<Cache>, Texts)> {
    let arrays: HashMap<String, Array> = contents.arrays.into_iter().collect();
    let (mut classes, mut texts): (HashMap<usize, String>, Texts) = Default::default();
    let mut current = false;
    for (key, value) in contents.metadata {
        let Metadata::Text(text) = value else { continue };
        match key.split_once('.') {
            Some(("0", key)) => texts.push((key.into(), text)),
            Some(("1", layer)) => {
                classes.insert(layer.parse().map_err(|_| Error::load(path, format!("'{key}' names no layer")))?, text);
            }
            Some(("2", "0")) => current = true,
            _ => {}
        }
    }
    if !current || classes.is_empty() {
        return Err(Error::load(path, "this is not a prompt cache as mlx-lm 0.32.2 and this package write them"));
    }
    texts.sort();
    let caches = (0..classes.len()).map(|layer| {
        let class = classes
            .get(&layer)
            .ok_or_else(|| Error::load(path, format!("there is no class for layer {layer} of {}", classes.len())))?;
        Layer { path, arrays: &arrays, layer }.cache(class)
    });
    Ok((caches.collect::<Result<_>>()?, texts))
}

struct Layer<'a> {
    path: &'a Path,
    arrays: &'a HashMap<String, Array>,
    layer: usize,
}

impl Layer<'_> {
    fn array(&self, index: &str) -> Result<&Array> {
        let name = format!("{}.{index}", self.layer);
        self.arrays.get(&name).ok_or_else(|| Error::load(self.path, format!("the array '{name}' is missing")))
    }

    fn numbers(&self, index: usize) -> Result<Vec<i32>> {
        self.array(&index.to_string())?.to_i32()
    }

    fn number(&self, index: usize) -> Result<i32> {
        match self.numbers(index)?.as_slice() {
            [number] => Ok(*number),
            numbers => {
                Err(Error::load(self.path, format!("'{}.{index}' should be a number, not {} of them", self.layer, numbers.len())))
            }
        }
    }

    /// Keys and values, or codes, scales and biases of both; nothing of an empty cache.
    fn parts(&self, coded: bool) -> Result<Vec<Array>> {
        if self.array("0").is_ok_and(|keys| keys.size() == 0) {
            return Ok(Vec::new());
        }
        let names: &[&str] = if coded { &["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"] } else { &["0", "1"] };
        names.iter().map(|name| self.array(name).cloned()).collect()
    }

    fn cache(&self, class: &str) -> Result<Cache> {
        let broken = |error: Error| Error::load(self.path, format!("layer {}: {error}", self.layer));
        self.parse(class).map_err(|error| if matches!(error, Error::Load { .. }) { error } else { broken(error) })
    }

    fn parse(&self, class: &str) -> Result<Cache> {
        let coded = class.contains("Quantized");
        // Numbers before group size and bits.
        let count = match class {
            "KVCache" | "QuantizedKVCache" => 1,
            "RotatingKVCache" | "QuantizedRotatingKVCache" => 4,
            "BatchKVCache" | "BatchQuantizedKVCache" => 3,
            "BatchRotatingKVCache" | "BatchQuantizedRotatingKVCache" => 6,
            _ => {
                return Err(Error::load(
                    self.path,
                    format!("layer {}: a cache of class '{class}' is not known here", self.layer),
                ));
            }
        };
        let encoding = if coded {
            let (group_size, bits) = (self.number(2 + count)?, self.number(3 + count)?);
            Some(Quantization::new(QuantizationMode::Affine, Some(group_size), Some(bits))?)
        } else {
            None
        };
        let parts = self.parts(coded)?;
        Ok(match count {
            1 => KvCache::from_parts(parts, encoding, Some(self.number(2)?))?.into(),
            4 => {
                let [offset, keep, max_size, next] = [self.number(2)?, self.number(3)?, self.number(4)?, self.number(5)?];
                RotatingKvCache::from_parts(parts, encoding, offset, keep, max_size, next)?.into()
            }
            3 => BatchKvCache::from_parts(parts, encoding, Some(self.number(4)?), &self.numbers(3)?)?.into(),
            _ => {
                let [max_size, total, next] = [self.number(4)?, self.number(5)?, self.number(6)?];
                BatchRotatingKvCache::from_parts(parts, encoding, max_size, 0, &self.numbers(2)?, &self.numbers(3)?, total, next)?
                    .into()
            }
        })
    }
}
