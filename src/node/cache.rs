//! Key-value caches, their files, and the cache of prefixes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::Env;
use napi::bindgen_prelude::{ClassInstance, Object};
use napi_derive::napi;

use super::cancel::Cancel;
use super::error as js;
use super::handle::{ArrayHandle, integer, integers};
use super::io::{OnProgress, progress};
use super::promise;
use crate::cache::{
    BatchKvCache, BatchRotatingKvCache, Cache, CacheOptions, Fetched, KvCache, PrefixCache, PrefixOptions, RotatingKvCache,
    Segment, Visible, files,
};
use crate::mlx::fast::Mask;
use crate::mlx::io::{Format, LoadOptions, Loader};
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::{Array, Error, Result};

/// What a cache is made of.
#[napi(object, object_to_js = false)]
pub struct CacheSpec {
    /// KVCache, RotatingKVCache, BatchKVCache or BatchRotatingKVCache.
    pub kind: String,
    pub max_size: Option<f64>,
    pub keep: Option<f64>,
    pub left_padding: Option<Vec<f64>>,
    pub group_size: Option<f64>,
    /// Codes keys and values.
    pub bits: Option<f64>,
}

/// Options of a model's caches.
#[napi(object, object_to_js = false)]
pub struct ModelCacheOptions {
    pub max_kv_size: Option<f64>,
    pub keep: Option<f64>,
    pub kv_bits: Option<f64>,
    pub kv_group_size: Option<f64>,
    pub quantized_kv_start: Option<f64>,
}

impl ModelCacheOptions {
    pub(super) fn parse(&self) -> Result<CacheOptions> {
        let whole = |name: &str, value: Option<f64>| value.map(|value| integer(name, value)).transpose();
        let defaults = CacheOptions::default();
        Ok(CacheOptions {
            max_kv_size: whole("maxKvSize", self.max_kv_size)?,
            keep: whole("keep", self.keep)?,
            kv_bits: whole("kvBits", self.kv_bits)?,
            kv_group_size: whole("kvGroupSize", self.kv_group_size)?.unwrap_or(defaults.kv_group_size),
            quantized_kv_start: whole("quantizedKvStart", self.quantized_kv_start)?.unwrap_or(defaults.quantized_kv_start),
        })
    }
}

/// A mask: causal, or an array, or none.
#[napi(object, object_from_js = false)]
pub struct CacheMask {
    pub causal: bool,
    pub array: Option<ArrayHandle>,
}

/// One attention layer's cache.
#[napi]
pub struct NativeCache {
    pub(super) cache: Cache,
}

fn affine(group_size: Option<f64>, bits: f64) -> Result<Quantization> {
    let group_size = group_size.map(|size| integer("groupSize", size)).transpose()?;
    Quantization::new(QuantizationMode::Affine, group_size, Some(integer("bits", bits)?))
}

fn handles(arrays: Vec<Array>) -> Vec<ArrayHandle> {
    arrays.into_iter().map(ArrayHandle::from).collect()
}

fn optional(what: &str, numbers: Option<Vec<f64>>) -> Result<Option<Vec<i32>>> {
    numbers.map(|numbers| integers(what, &numbers)).transpose()
}

#[napi]
impl NativeCache {
    #[napi(constructor)]
    pub fn new(spec: CacheSpec) -> js::Result<Self> {
        let padding = optional("leftPadding", spec.left_padding)?;
        let missing = |what: &str| Error::Argument(format!("a {} needs {what}", spec.kind));
        let max_size = || integer("maxSize", spec.max_size.ok_or_else(|| missing("maxSize"))?);
        let rows = || padding.as_deref().ok_or_else(|| missing("leftPadding"));
        let cache: Cache = match spec.kind.as_str() {
            "KVCache" => KvCache::new().into(),
            "RotatingKVCache" => RotatingKvCache::new(max_size()?, integer("keep", spec.keep.unwrap_or(0.))?)?.into(),
            "BatchKVCache" => BatchKvCache::new(rows()?)?.into(),
            "BatchRotatingKVCache" => {
                let keep = integer("keep", spec.keep.unwrap_or(0.))?;
                BatchRotatingKvCache::keeping(max_size()?, keep, rows()?)?.into()
            }
            kind => return Err(Error::Argument(format!("there is no cache of kind '{kind}'")).into()),
        };
        let cache = match spec.bits {
            Some(bits) => cache.to_quantized(affine(spec.group_size, bits)?)?,
            None => cache,
        };
        Ok(NativeCache { cache })
    }

    /// The name of its class in mlx-lm, or one like them.
    #[napi(getter)]
    pub fn kind(&self) -> &'static str {
        self.cache.kind()
    }

    /// Tokens seen, the furthest row's of a batch.
    #[napi(getter)]
    pub fn offset(&self) -> i32 {
        self.cache.offset()
    }

    /// Slots that the next token sees beside its own.
    #[napi(getter)]
    pub fn size(&self) -> i32 {
        self.cache.len()
    }

    #[napi(getter)]
    pub fn nbytes(&self) -> f64 {
        self.cache.nbytes() as f64
    }

    #[napi(getter)]
    pub fn is_trimmable(&self) -> bool {
        self.cache.is_trimmable()
    }

    #[napi(getter)]
    pub fn bits(&self) -> Option<i32> {
        self.cache.encoding().map(Quantization::bits)
    }

    #[napi(getter)]
    pub fn group_size(&self) -> Option<i32> {
        self.cache.encoding().map(Quantization::group_size)
    }

    #[napi(getter)]
    pub fn max_size(&self) -> Option<i32> {
        match &self.cache {
            Cache::Rotating(cache) => Some(cache.max_size()),
            Cache::BatchRotating(cache) => Some(cache.max_size()),
            _ => None,
        }
    }

    #[napi(getter)]
    pub fn keep(&self) -> i32 {
        match &self.cache {
            Cache::Rotating(cache) => cache.keep(),
            Cache::BatchRotating(cache) => cache.keep(),
            _ => 0,
        }
    }

    /// Where the next token goes in the buffers of a batch.
    #[napi(getter)]
    pub fn write_position(&self) -> i32 {
        if let Cache::BatchRotating(cache) = &self.cache { cache.write_position() } else { self.cache.len() }
    }

    /// Each row's position, of batches.
    #[napi(getter)]
    pub fn offsets(&self) -> Vec<i32> {
        match &self.cache {
            Cache::Batch(cache) => cache.offsets(),
            Cache::BatchRotating(cache) => cache.offsets().to_vec(),
            cache => vec![cache.offset()],
        }
    }

    #[napi(getter)]
    pub fn left_padding(&self) -> Vec<i32> {
        self.cache.left_padding().map_or(vec![0], <[i32]>::to_vec)
    }

    /// A cache that shares the buffers.
    #[napi]
    pub fn copy(&self) -> NativeCache {
        NativeCache { cache: self.cache.clone() }
    }

    /// Keys and values, or codes, scales and biases of both.
    #[napi(catch_unwind)]
    pub fn update_and_fetch(&mut self, keys: ArrayHandle, values: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
        Ok(match self.cache.update(&keys, &values)? {
            Fetched::Plain(keys, values) => handles(vec![keys, values]),
            Fetched::Quantized { keys, values, .. } => [keys, values]
                .into_iter()
                .flat_map(|codes| [Some(codes.weight), Some(codes.scales), codes.biases])
                .flatten()
                .map(ArrayHandle::from)
                .collect(),
        })
    }

    /// Appends and attends: `[B, T, H, D]`. `mask` matters where `causal` is false.
    #[napi(catch_unwind)]
    pub fn attend(
        &mut self,
        queries: ArrayHandle,
        keys: ArrayHandle,
        values: ArrayHandle,
        scale: f64,
        causal: bool,
        mask: Option<ArrayHandle>,
    ) -> js::Result<ArrayHandle> {
        let mut cache = self.cache.clone();
        let heads = (queries.ndim() == 4 && keys.ndim() == 4).then(|| (queries.dim(1), keys.dim(1)));
        if heads.is_none_or(|(queries, keys)| keys == 0 || queries % keys != 0)
            || queries.dim(0) != keys.dim(0)
            || queries.dim(3) != keys.dim(3)
        {
            let (queries, keys): (&Array, &Array) = (&queries, &keys);
            return Err(Error::Shape(format!(
                "queries must be [B, heads, T, D] and keys [B, heads or a divisor, T, D], not {queries:?} and {keys:?}"
            ))
            .into());
        }
        let mask = match (causal, &mask) {
            (true, _) => Mask::Causal,
            (_, Some(mask)) => Mask::Array(mask),
            _ => Mask::None,
        };
        let attended = cache.attend(&queries, &keys, &values, scale as f32, mask)?;
        self.cache = cache;
        Ok(attended.into())
    }

    /// What the next tokens see.
    #[napi(catch_unwind)]
    pub fn make_mask(&self, tokens: f64, window: Option<f64>, as_array: bool) -> js::Result<CacheMask> {
        let tokens = integer("the number of tokens", tokens)?;
        let window = window.map(|window| integer("windowSize", window)).transpose()?;
        if tokens < 1 || window.is_some_and(|window| window < 1) {
            return Err(Error::Argument(format!("a mask is of at least 1 token and 1 slot, not {tokens} and {window:?}")).into());
        }
        let masks = |causal, array: Option<Array>| CacheMask { causal, array: array.map(ArrayHandle::from) };
        Ok(match self.cache.placement(tokens, window).visible {
            Visible::Masked(mask) => masks(false, Some(mask.array()?)),
            visible if as_array => {
                let keys = self.cache.keys_after(tokens);
                let mask = crate::cache::MaskShape::new(if visible == Visible::All { 1 } else { tokens }, keys);
                masks(false, Some(mask.array()?))
            }
            Visible::Causal => masks(true, None),
            Visible::All => masks(false, None),
        })
    }

    #[napi(catch_unwind)]
    pub fn trim(&mut self, n: f64) -> js::Result<i32> {
        let n = integer("n", n)?;
        if n < 0 {
            return Err(Error::Argument(format!("a cache forgets 0 or more tokens, not {n}")).into());
        }
        Ok(self.cache.trim(n))
    }

    #[napi(catch_unwind)]
    pub fn filter(&mut self, rows: Vec<f64>) -> js::Result<()> {
        Ok(self.cache.filter(&integers("indices", &rows)?)?)
    }

    #[napi(catch_unwind)]
    pub fn repeat_rows(&mut self, times: f64) -> js::Result<()> {
        Ok(self.cache.repeat_rows(integer("times", times)?)?)
    }

    #[napi(catch_unwind)]
    pub fn extend(&mut self, other: ClassInstance<NativeCache>) -> js::Result<()> {
        let other = other.cache.clone();
        Ok(self.cache.extend(&other)?)
    }

    #[napi(catch_unwind)]
    pub fn extract(&self, row: f64) -> js::Result<NativeCache> {
        Ok(NativeCache { cache: self.cache.extract(integer("the row", row)?)? })
    }

    #[napi(catch_unwind)]
    pub fn put_row(&mut self, row: f64, cache: ClassInstance<NativeCache>) -> js::Result<()> {
        let cache = cache.cache.clone();
        Ok(self.cache.put_row(integer("the row", row)?, &cache)?)
    }

    #[napi(catch_unwind)]
    pub fn prepare(
        &mut self,
        left_padding: Option<Vec<f64>>,
        right_padding: Option<Vec<f64>>,
        lengths: Option<Vec<f64>>,
    ) -> js::Result<()> {
        let left = optional("leftPadding", left_padding)?;
        let right = optional("rightPadding", right_padding)?;
        let lengths = optional("lengths", lengths)?;
        Ok(self.cache.prepare(left.as_deref(), right.as_deref(), lengths.as_deref())?)
    }

    #[napi(catch_unwind)]
    pub fn finalize_rows(&mut self) -> js::Result<()> {
        Ok(self.cache.finalize()?)
    }

    #[napi(catch_unwind)]
    pub fn drop_padding(&mut self, least: f64) -> js::Result<i32> {
        Ok(self.cache.drop_padding(integer("least", least)?)?)
    }

    #[napi(catch_unwind)]
    pub fn to_quantized(&self, group_size: f64, bits: f64) -> js::Result<NativeCache> {
        Ok(NativeCache { cache: self.cache.to_quantized(affine(Some(group_size), bits)?)? })
    }

    #[napi]
    pub fn reset(&mut self) {
        self.cache.reset();
    }

    /// The filled slots: keys and values, or codes, scales and biases of both, or nothing.
    #[napi(catch_unwind)]
    pub fn state(&self) -> js::Result<Vec<ArrayHandle>> {
        Ok(handles(self.cache.state()?))
    }

    /// Takes what another one holds, and its kind.
    #[napi]
    pub fn become_other(&mut self, other: &NativeCache) {
        self.cache = other.cache.clone();
    }

    /// Replaces what it holds by arrays as `state` gives them.
    #[napi(catch_unwind)]
    pub fn set_state(&mut self, arrays: Vec<ArrayHandle>) -> js::Result<()> {
        let parts = arrays.iter().map(|array| Array::clone(array)).collect();
        Ok(self.cache.set_state(parts)?)
    }
}

/// A batch of caches of one row each.
#[napi(catch_unwind)]
pub fn merge_caches(caches: Vec<ClassInstance<NativeCache>>) -> js::Result<NativeCache> {
    Ok(NativeCache { cache: Cache::merge(&caches.iter().map(|cache| &cache.cache).collect::<Vec<_>>())? })
}

/// What a prompt-cache file holds.
#[napi(object, object_from_js = false)]
pub struct PromptCacheFile {
    pub caches: Vec<NativeCache>,
    pub keys: Vec<String>,
    pub texts: Vec<String>,
}

/// Writes the caches of a model's layers in mlx-lm's layout.
#[napi(ts_return_type = "Promise<void>")]
pub fn save_prompt_cache<'env>(
    env: &'env Env,
    path: String,
    caches: Vec<ClassInstance<'env, NativeCache>>,
    keys: Vec<String>,
    texts: Vec<String>,
    cancel: Option<&Cancel>,
    #[napi(ts_arg_type = "(loaded: number, total: number) => void")] on_progress: Option<OnProgress>,
) -> js::Result<Object<'env>> {
    let caches: Vec<Cache> = caches.iter().map(|cache| cache.cache.clone()).collect();
    let metadata = keys.into_iter().zip(texts).collect();
    let mut saver = files::saver(&PathBuf::from(path), &caches, &metadata, progress(cancel, on_progress)?)?;
    promise::sliced(env, move || Ok(saver.step()?.then_some(())), |()| ())
}

/// Reads a prompt-cache file.
#[napi(ts_return_type = "Promise<PromptCacheFile>")]
pub fn load_prompt_cache<'env>(
    env: &'env Env,
    path: String,
    cancel: Option<&Cancel>,
    #[napi(ts_arg_type = "(loaded: number, total: number) => void")] on_progress: Option<OnProgress>,
) -> js::Result<Object<'env>> {
    let path = PathBuf::from(path);
    let options = LoadOptions { format: Some(Format::Safetensors), ..LoadOptions::default() };
    let mut loader = Loader::new(&path, options, progress(cancel, on_progress)?);
    promise::sliced(
        env,
        move || loader.step()?.map(|contents| files::from_contents(&path, contents)).transpose(),
        |(caches, texts)| {
            let (keys, texts) = texts.into_iter().unzip();
            PromptCacheFile { caches: caches.into_iter().map(|cache| NativeCache { cache }).collect(), keys, texts }
        },
    )
}

/// Caches of a model's layers by the tokens they have read.
#[napi]
pub struct NativePrefixCache {
    pub(super) cache: Arc<Mutex<PrefixCache>>,
}

impl NativePrefixCache {
    fn lock(&self) -> MutexGuard<'_, PrefixCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Caches that hold the first `cached` tokens.
#[napi(object, object_from_js = false)]
pub struct NativePrefixHit {
    pub caches: Vec<NativeCache>,
    pub cached: u32,
}

/// A count from JavaScript; none is no bound.
fn bound(name: &str, value: Option<f64>, default: usize) -> Result<usize> {
    match value {
        None => Ok(default),
        Some(value) if value >= 0. && (value.fract() == 0. || value == f64::INFINITY) => Ok(value as usize),
        Some(value) => Err(Error::Argument(format!("{name} must be 0 or more, got {value}"))),
    }
}

#[napi]
impl NativePrefixCache {
    #[napi(constructor)]
    pub fn new(max_entries: Option<f64>, max_bytes: Option<f64>) -> js::Result<Self> {
        let defaults = PrefixOptions::default();
        let options = PrefixOptions {
            max_entries: bound("maxEntries", max_entries, defaults.max_entries)?,
            max_bytes: bound("maxBytes", max_bytes, defaults.max_bytes)?,
        };
        Ok(NativePrefixCache { cache: Arc::new(Mutex::new(PrefixCache::new(options))) })
    }

    #[napi(getter)]
    pub fn size(&self) -> u32 {
        self.lock().len() as u32
    }

    #[napi(getter)]
    pub fn nbytes(&self) -> f64 {
        self.lock().nbytes() as f64
    }

    #[napi]
    pub fn fetch(&self, tokens: Vec<f64>, leave: f64) -> js::Result<Option<NativePrefixHit>> {
        let leave = bound("leave", Some(leave), 0)?;
        Ok(self.lock().fetch(&integers("tokens", &tokens)?, leave).map(|hit| NativePrefixHit {
            caches: hit.caches.into_iter().map(|cache| NativeCache { cache }).collect(),
            cached: hit.cached as u32,
        }))
    }

    #[napi]
    pub fn insert(&self, tokens: Vec<f64>, caches: Vec<ClassInstance<NativeCache>>, segment: String) -> js::Result<bool> {
        let segment = match segment.as_str() {
            "assistant" => Segment::Assistant,
            "user" => Segment::User,
            "system" => Segment::System,
            other => {
                return Err(Error::Argument(format!("a prefix ends with assistant, user or system, not '{other}'")).into());
            }
        };
        let caches = caches.iter().map(|cache| cache.cache.clone()).collect();
        Ok(self.lock().insert(&integers("tokens", &tokens)?, caches, segment)?)
    }

    #[napi]
    pub fn trim_to(&self, entries: Option<f64>, bytes: Option<f64>) -> js::Result<()> {
        self.lock().trim_to(bound("maxEntries", entries, usize::MAX)?, bound("maxBytes", bytes, usize::MAX)?);
        Ok(())
    }

    #[napi]
    pub fn clear(&self) {
        self.lock().clear();
    }
}
