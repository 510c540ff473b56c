//! The plain key-value cache: one buffer per layer that grows in steps.

use super::placement::{MaskShape, Offsets, Placement};
use super::store::{Fetched, Store, begins, check_rows, check_times};
use crate::mlx::ops::Quantization;
use crate::mlx::{Array, Error, Result};

/// Keys and values of one layer's rows, none of them padded; quantised if made so, or from some length on.
///
/// New slots are written in place as long as nobody else holds the buffers. A clone shares them: the first of the two that appends
/// copies once, and is then alone again.
#[derive(Clone, Default)]
pub struct KvCache {
    pub(super) store: Store,
    pub(super) len: i32,
    /// The buffers hold the filled slots and no more.
    exact: bool,
    /// Once this many slots are filled all are coded so.
    later: Option<(Quantization, i32)>,
}

impl KvCache {
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins what is appended to what it holds instead of writing into spare slots: for gradients, which would keep and fill the spare
    /// slots as well, and wherever little is appended.
    pub fn exact() -> Self {
        KvCache { exact: true, ..Self::default() }
    }

    /// Codes keys and values as they come.
    pub fn quantized(how: Quantization) -> Self {
        KvCache { store: Store::new(Some(how)), ..Self::default() }
    }

    /// Plain until an update leaves at least so many slots, then quantised; quantised from the beginning where that is 0. Of an empty
    /// cache.
    pub fn quantized_from(self, later: Option<(Quantization, i32)>) -> Self {
        let (encoding, later) = begins(later);
        KvCache { store: Store::new(encoding), later, ..self }
    }

    /// The number of tokens that is still to be reached for them to be coded.
    pub(super) fn quantizes_at(&self) -> Option<i32> {
        self.later.filter(|_| self.store.encoding().is_none()).map(|(_, start)| start)
    }

    pub(super) fn quantize_later(&mut self, later: Option<(Quantization, i32)>) {
        self.later = later;
    }

    /// Of a store whose slots are all filled.
    pub(super) fn from_store(store: Store) -> Self {
        KvCache { len: store.capacity(), store, ..Self::default() }
    }

    /// Of buffers as `state` returns them.
    pub fn from_parts(parts: Vec<Array>, encoding: Option<Quantization>, len: Option<i32>) -> Result<Self> {
        let store = Store::from_parts(parts, encoding)?;
        let len = len.unwrap_or(store.capacity());
        if len < 0 || len > store.capacity() {
            return Err(Error::Argument(format!("a cache with {} slots cannot have {len} filled", store.capacity())));
        }
        Ok(KvCache { store, len, ..Self::default() })
    }

    /// A cache like this one that holds these buffers.
    pub fn with_parts(&self, parts: Vec<Array>, encoding: Option<Quantization>) -> Result<Self> {
        let encoding = if parts.is_empty() { self.encoding() } else { encoding };
        let other = Self::from_parts(parts, encoding, None)?;
        Ok(KvCache { exact: self.exact, later: self.later, ..other })
    }

    /// Filled slots per row.
    pub fn len(&self) -> i32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn encoding(&self) -> Option<Quantization> {
        self.store.encoding()
    }

    /// Rows, unless nothing was ever appended.
    pub fn rows(&self) -> Option<i32> {
        if self.len == 0 { None } else { self.store.rows() }
    }

    /// The filled slots.
    pub(super) fn held(&self) -> Result<Store> {
        if self.len == 0 { Ok(Store::new(self.store.encoding())) } else { self.store.slots(0, self.len) }
    }

    pub fn placement(&self, tokens: i32, window: Option<i32>) -> Placement {
        let mask = MaskShape { window, ..MaskShape::new(tokens, self.len + tokens) };
        Placement { offsets: Offsets::Same(self.len), visible: mask.simplest() }
    }

    /// Appends `keys` and `values` `[B, Hkv, T, D]` and returns all filled slots. On an error the cache is as before.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<Fetched> {
        let fits = self.store.check(keys, values, None);
        // An emptied cache takes anything and gives up buffers that do not fit.
        let fresh = Store::new(self.store.encoding());
        let held = match fits {
            Err(error) if self.len > 0 => return Err(error),
            Err(_) => {
                fresh.check(keys, values, None)?;
                &fresh
            }
            Ok(()) => &self.store,
        };
        let next = held.appended(self.len, &held.encode(keys, values)?, self.exact)?;
        let len = self.len + keys.dim(2);
        let filled = next.fetch(len)?;
        let next = next.quantized_if_due(self.later, len)?;
        // The old buffers are dropped here, before anything runs: MLX may then write into them instead of copying.
        self.store = next;
        self.len = len;
        Ok(filled)
    }

    /// `update` of a cache that is not quantised.
    pub fn update_and_fetch(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        if let Some(how) = self.encoding() {
            return Err(Error::Argument(format!("this cache holds {}-bit codes: read them with its own attention", how.bits())));
        }
        match self.update(keys, values)? {
            Fetched::Plain(keys, values) => Ok((keys, values)),
            Fetched::Quantized { .. } => Err(Error::Internal("codes in a plain cache".into())),
        }
    }

    /// Forgets the last `n` slots; returns how many there were to forget.
    pub fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.len);
        self.len -= n;
        n
    }

    /// Keeps the given rows in the given order.
    pub fn filter(&mut self, rows: &[i32]) -> Result<()> {
        let Some(count) = self.rows() else { return Ok(()) };
        check_rows(rows, count)?;
        self.store = self.store.take_rows(rows)?;
        Ok(())
    }

    /// Each row `times` times in a row.
    pub fn repeat_rows(&mut self, times: i32) -> Result<()> {
        check_times(times)?;
        self.store = self.store.repeat_rows(times)?;
        Ok(())
    }

    /// The same slots coded as `how` says.
    pub fn to_quantized(&self, how: Quantization) -> Result<KvCache> {
        let store = self.held()?.quantized(how)?;
        Ok(KvCache { store, len: self.len, exact: self.exact, later: None })
    }

    /// The filled slots' keys and values, or the codes, scales and biases of both; nothing of an empty cache.
    pub fn state(&self) -> Result<Vec<Array>> {
        Ok(self.held()?.parts().to_vec())
    }

    pub fn reset(&mut self) {
        let encoding = if self.later.is_some() { None } else { self.store.encoding() };
        *self = KvCache { store: Store::new(encoding), len: 0, exact: self.exact, later: self.later };
    }

    /// The buffers, to evaluate them.
    pub fn arrays(&self) -> Vec<&Array> {
        self.store.parts().iter().collect()
    }

    /// Bytes of the buffers.
    pub fn nbytes(&self) -> usize {
        self.store.nbytes()
    }
}
