//! One layer's cache, of whatever kind.

use super::{BatchKvCache, BatchRotatingKvCache, Fetched, KvCache, Placement, RotatingKvCache, attend};
use crate::mlx::fast::Mask;
use crate::mlx::ops::Quantization;
use crate::mlx::{Array, Error, Result};

/// One layer's cache. A clone shares the buffers: the first of the two that appends copies them once.
#[derive(Clone)]
pub enum Cache {
    Kv(KvCache),
    Rotating(RotatingKvCache),
    Batch(BatchKvCache),
    BatchRotating(BatchRotatingKvCache),
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} of {} tokens", self.kind(), self.offset())
    }
}

/// The same call on whatever kind it is.
macro_rules! each {
    ($cache:expr, $inner:ident => $call:expr) => {
        match $cache {
            Cache::Kv($inner) => $call,
            Cache::Rotating($inner) => $call,
            Cache::Batch($inner) => $call,
            Cache::BatchRotating($inner) => $call,
        }
    };
}

macro_rules! from {
    ($($kind:ident: $cache:ty),*) => {$(
        impl From<$cache> for Cache {
            fn from(cache: $cache) -> Self {
                Cache::$kind(cache)
            }
        }
    )*};
}

from!(Kv: KvCache, Rotating: RotatingKvCache, Batch: BatchKvCache, BatchRotating: BatchRotatingKvCache);

impl Cache {
    /// The name of its class in mlx-lm, or one like them.
    pub fn kind(&self) -> &'static str {
        match (self, self.encoding().is_some()) {
            (Cache::Kv(_), false) => "KVCache",
            (Cache::Kv(_), true) => "QuantizedKVCache",
            (Cache::Rotating(_), false) => "RotatingKVCache",
            (Cache::Rotating(_), true) => "QuantizedRotatingKVCache",
            (Cache::Batch(_), false) => "BatchKVCache",
            (Cache::Batch(_), true) => "BatchQuantizedKVCache",
            (Cache::BatchRotating(_), false) => "BatchRotatingKVCache",
            (Cache::BatchRotating(_), true) => "BatchQuantizedRotatingKVCache",
        }
    }

    /// Appends keys and values `[B, Hkv, T, D]` and returns what attention reads. On an error the cache is as before.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<Fetched> {
        each!(self, cache => cache.update(keys, values))
    }

    /// Appends keys and values and attends to all: queries `[B, H, T, D]` to `[B, T, H, D]`. The mask is that of `placement`, asked
    /// before.
    pub fn attend(&mut self, queries: &Array, keys: &Array, values: &Array, scale: f32, mask: Mask) -> Result<Array> {
        attend(queries, &self.update(keys, values)?, scale, mask)
    }

    /// Where the next `tokens` tokens of each row stand, and which keys they see; no more than `window`, if that is given.
    pub fn placement(&self, tokens: i32, window: Option<i32>) -> Placement {
        each!(self, cache => cache.placement(tokens, window))
    }

    /// How many keys the next tokens see or could.
    pub fn keys_after(&self, tokens: i32) -> i32 {
        let held = match self {
            Cache::Rotating(cache) => cache.len().min(cache.max_size() - 1),
            // First tokens may be held twice.
            Cache::BatchRotating(cache) => cache.len().min(cache.max_size() - 1).max(cache.keep()),
            cache => cache.len(),
        };
        held + tokens
    }

    /// Slots that the next token sees beside its own, padding included.
    pub fn len(&self) -> i32 {
        each!(self, cache => cache.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows, where that is known: a cache of unpadded rows that holds nothing takes any number.
    pub fn rows(&self) -> Option<i32> {
        match self {
            Cache::Kv(cache) => cache.rows(),
            Cache::Rotating(cache) => cache.rows(),
            Cache::Batch(cache) => Some(cache.rows()),
            Cache::BatchRotating(cache) => Some(cache.rows()),
        }
    }

    /// Each row's padding, of batches.
    pub fn left_padding(&self) -> Option<&[i32]> {
        match self {
            Cache::Batch(cache) => Some(cache.left_padding()),
            Cache::BatchRotating(cache) => Some(cache.left_padding()),
            _ => None,
        }
    }

    /// Tokens seen: the position of the next one, the furthest row's of a batch.
    pub fn offset(&self) -> i32 {
        match self {
            Cache::Kv(cache) => cache.len(),
            Cache::Rotating(cache) => cache.offset(),
            Cache::Batch(cache) => cache.offsets().into_iter().max().unwrap_or(0),
            Cache::BatchRotating(cache) => cache.offsets().iter().copied().max().unwrap_or(0),
        }
    }

    pub fn encoding(&self) -> Option<Quantization> {
        each!(self, cache => cache.encoding())
    }

    pub fn is_trimmable(&self) -> bool {
        match self {
            Cache::Kv(_) | Cache::Batch(_) => true,
            Cache::Rotating(cache) => cache.is_trimmable(),
            Cache::BatchRotating(cache) => cache.is_trimmable(),
        }
    }

    /// How many tokens could come and be trimmed as if they had never come: a bounded cache drops others for them once it is full, and one
    /// that is to be quantised from some length on would be so because of them.
    pub fn reversible(&self) -> i32 {
        let full = match self {
            Cache::Kv(_) | Cache::Batch(_) => None,
            Cache::Rotating(cache) => Some(cache.max_size()),
            Cache::BatchRotating(cache) => Some(cache.max_size() - cache.keep()),
        };
        let coded = each!(self, cache => cache.quantizes_at());
        let limit = [full, coded].into_iter().flatten().min();
        limit.map_or(i32::MAX, |limit| (limit - 1 - self.len().max(self.offset())).max(0))
    }

    /// Forgets the last `n` slots of every row; returns how many there were to forget: none where `is_trimmable` says no.
    pub fn trim(&mut self, n: i32) -> i32 {
        each!(self, cache => cache.trim(n))
    }

    /// Keeps the given rows in the given order; a batch drops the padding that they have in common.
    pub fn filter(&mut self, rows: &[i32]) -> Result<()> {
        each!(self, cache => cache.filter(rows))
    }

    /// Each row `times` times in a row.
    pub fn repeat_rows(&mut self, times: i32) -> Result<()> {
        each!(self, cache => cache.repeat_rows(times))
    }

    /// Adds the rows of another batch of the same kind.
    pub fn extend(&mut self, other: &Cache) -> Result<()> {
        match (self, other) {
            (Cache::Batch(cache), Cache::Batch(other)) => cache.extend(other),
            (Cache::BatchRotating(cache), Cache::BatchRotating(other)) => cache.extend(other),
            (cache, other) => Err(Error::Argument(format!("a {} cannot take the rows of a {}", cache.kind(), other.kind()))),
        }
    }

    /// One row of a batch, without its padding.
    pub fn extract(&self, row: i32) -> Result<Cache> {
        match self {
            Cache::Batch(cache) => cache.extract(row).map(Cache::Kv),
            Cache::BatchRotating(cache) => cache.extract(row).map(Cache::Rotating),
            cache => Err(cache.no_batch("extract")),
        }
    }

    /// A batch of caches of one row each, all of one kind.
    pub fn merge(caches: &[&Cache]) -> Result<Cache> {
        let first = caches.first().ok_or_else(|| Error::Argument("there are no caches to merge".into()))?;
        let other = |cache: &Cache| Error::Argument(format!("a {} and a {} do not merge", first.kind(), cache.kind()));
        match first {
            Cache::Kv(_) => {
                let caches = caches.iter().map(|&cache| if let Cache::Kv(cache) = cache { Ok(cache) } else { Err(other(cache)) });
                BatchKvCache::merge(&caches.collect::<Result<Vec<_>>>()?).map(Cache::Batch)
            }
            Cache::Rotating(_) => {
                let caches =
                    caches.iter().map(|&cache| if let Cache::Rotating(cache) = cache { Ok(cache) } else { Err(other(cache)) });
                BatchRotatingKvCache::merge(&caches.collect::<Result<Vec<_>>>()?).map(Cache::BatchRotating)
            }
            _ => Err(Error::Argument(format!("a {} is a batch already: use extend", first.kind()))),
        }
    }

    /// Replaces a row of a batch by a cache of one row.
    pub fn put_row(&mut self, row: i32, new: &Cache) -> Result<()> {
        match (self, new) {
            (Cache::Batch(cache), Cache::Kv(new)) => cache.put_row(row, new),
            (Cache::BatchRotating(cache), Cache::Rotating(new)) => cache.put_row(row, new),
            (cache, new) => Err(Error::Argument(format!("a row of a {} cannot be a {}", cache.kind(), new.kind()))),
        }
    }

    /// How the next tokens of a batch are padded: on the left, of an empty cache, beside what it began with; on the right, until
    /// `finalize`. `lengths` are the rows' tokens without padding on the right; rotating caches need them.
    pub fn prepare(
        &mut self,
        left_padding: Option<&[i32]>,
        right_padding: Option<&[i32]>,
        lengths: Option<&[i32]>,
    ) -> Result<()> {
        match self {
            Cache::Batch(cache) => cache.prepare(left_padding, right_padding),
            Cache::BatchRotating(cache) => cache.prepare(left_padding, right_padding, lengths),
            cache => Err(cache.no_batch("prepare")),
        }
    }

    /// Ends what `prepare` began; nothing to do for a cache without padding.
    pub fn finalize(&mut self) -> Result<()> {
        match self {
            Cache::Batch(cache) => cache.finalize(),
            Cache::BatchRotating(cache) => cache.finalize(),
            _ => Ok(()),
        }
    }

    /// Drops padding that all rows have in common if that is at least `least` slots; returns how many went.
    pub fn drop_padding(&mut self, least: i32) -> Result<i32> {
        match self {
            Cache::Batch(cache) => cache.drop_padding(least),
            _ => Ok(0),
        }
    }

    fn no_batch(&self, what: &str) -> Error {
        Error::Argument(format!("a {} has no rows of different lengths: {what} belongs to batch caches", self.kind()))
    }

    /// The same slots coded as `how` says.
    pub fn to_quantized(&self, how: Quantization) -> Result<Cache> {
        match self {
            Cache::Kv(cache) => cache.to_quantized(how).map(Cache::Kv),
            Cache::Rotating(cache) => cache.to_quantized(how).map(Cache::Rotating),
            Cache::Batch(cache) => cache.to_quantized(how).map(Cache::Batch),
            Cache::BatchRotating(cache) => cache.to_quantized(how).map(Cache::BatchRotating),
        }
    }

    /// From how many tokens on what it will hold is coded, and how.
    pub(super) fn quantize_later(&mut self, later: Option<(Quantization, i32)>) {
        each!(self, cache => cache.quantize_later(later))
    }

    /// Row `row` as a cache of one row: of batches without its padding.
    pub fn single(&self, row: i32) -> Result<Cache> {
        match self {
            Cache::Batch(_) | Cache::BatchRotating(_) => self.extract(row),
            cache if cache.rows().is_none_or(|rows| rows == 1) => Ok(cache.clone()),
            cache => {
                let mut cache = cache.clone();
                cache.filter(&[row])?;
                Ok(cache)
            }
        }
    }

    /// Keys and values (or codes, scales and biases of both) of the filled slots, in order of time; nothing of an empty cache.
    pub fn state(&self) -> Result<Vec<Array>> {
        each!(self, cache => cache.state())
    }

    /// Replaces what is held by arrays as `state` gives them, all of whose slots count. On an error the cache is as before.
    pub fn set_state(&mut self, parts: Vec<Array>) -> Result<()> {
        let encoding = match parts.len() {
            6 => Some(self.encoding().ok_or_else(|| Error::Argument("six arrays are the state of a quantised cache".into()))?),
            _ => None,
        };
        let slots = parts.first().map_or(0, |part| if part.ndim() == 4 { part.dim(2) } else { 0 });
        *self = match self {
            Cache::Kv(cache) => cache.with_parts(parts, encoding)?.into(),
            Cache::Rotating(cache) => {
                RotatingKvCache::from_parts(parts, encoding, slots, cache.keep(), cache.max_size(), slots)?.into()
            }
            Cache::Batch(cache) => BatchKvCache::from_parts(parts, encoding, None, cache.left_padding())?.into(),
            Cache::BatchRotating(cache) => {
                let (max_size, keep, padding) = (cache.max_size(), cache.keep(), cache.left_padding());
                let slots = (slots - keep).max(0);
                let offsets: Vec<i32> = padding.iter().map(|padding| slots - padding).collect();
                BatchRotatingKvCache::from_parts(parts, encoding, max_size, keep, &offsets, padding, slots, slots)?.into()
            }
        };
        Ok(())
    }

    pub fn reset(&mut self) {
        each!(self, cache => cache.reset())
    }

    /// The buffers, to evaluate them.
    pub fn arrays(&self) -> Vec<&Array> {
        each!(self, cache => cache.arrays())
    }

    /// Bytes of the buffers.
    pub fn nbytes(&self) -> usize {
        each!(self, cache => cache.nbytes())
    }
}
