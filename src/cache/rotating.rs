//! The cache of bounded size: a ring that keeps the first tokens and the latest.

use super::placement::{MaskShape, Offsets, Placement};
use super::store::{Fetched, STEP, Store, begins, check_rows, check_times};
use crate::mlx::ops::Quantization;
use crate::mlx::{Array, Error, Result};

/// The first `keep` tokens of one layer's rows, none of them padded, and the latest `max_size - keep` (attention sinks, Xiao et al. 2024,
/// arXiv:2309.17453).
///
/// Each token sees exactly these, whether it comes alone or in a chunk: a chunk's keys are appended in order of time and more than
/// `max_size` are held until the next update. Single tokens are written over the oldest ones, in place.
#[derive(Clone)]
pub struct RotatingKvCache {
    store: Store,
    /// Slots that hold something.
    filled: i32,
    /// Where the next token goes: before `filled` once single tokens have gone round.
    next: i32,
    /// Tokens ever seen.
    offset: i32,
    max_size: i32,
    keep: i32,
    /// Once this many tokens were seen all slots are coded so.
    later: Option<(Quantization, i32)>,
}

impl RotatingKvCache {
    pub fn new(max_size: i32, keep: i32) -> Result<Self> {
        check_keep(max_size, keep)?;
        Ok(RotatingKvCache { store: Store::new(None), filled: 0, next: 0, offset: 0, max_size, keep, later: None })
    }

    /// Codes what it holds once so many tokens were seen; see `KvCache::quantized_from`.
    pub fn quantized_from(self, later: Option<(Quantization, i32)>) -> Self {
        let (encoding, later) = begins(later);
        RotatingKvCache { store: Store::new(encoding), later, ..self }
    }

    /// The number of tokens that is still to be reached for them to be coded.
    pub(super) fn quantizes_at(&self) -> Option<i32> {
        self.later.filter(|_| self.store.encoding().is_none()).map(|(_, start)| start)
    }

    pub(super) fn quantize_later(&mut self, later: Option<(Quantization, i32)>) {
        self.later = later;
    }

    /// One row's slots in order of time: its first `keep`, and the latest.
    pub(super) fn from_store(store: Store, offset: i32, max_size: i32, keep: i32) -> Self {
        let filled = store.capacity();
        RotatingKvCache { store, filled, next: filled, offset, max_size, keep, later: None }
    }

    /// Of buffers and numbers as mlx-lm keeps them: `next` is its write position. `state` returns such.
    pub fn from_parts(
        parts: Vec<Array>,
        encoding: Option<Quantization>,
        offset: i32,
        keep: i32,
        max_size: i32,
        next: i32,
    ) -> Result<Self> {
        let fresh = RotatingKvCache::new(max_size, keep)?;
        let store = Store::from_parts(parts, encoding)?;
        let slots = store.capacity();
        if offset < 0 || next < 0 || next > slots || (next < offset && next != slots && slots != max_size) {
            return Err(Error::Argument(format!(
                "a rotating cache of {max_size} with {slots} slots cannot stand at {offset} and write at {next}"
            )));
        }
        let filled = if next == slots || next < offset { slots } else { next };
        Ok(RotatingKvCache { store, filled, next, offset, ..fresh })
    }

    /// Tokens ever seen: the position of the next one.
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// Slots that the next single token sees, at most `max_size`.
    pub fn len(&self) -> i32 {
        self.filled.min(self.max_size)
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn max_size(&self) -> i32 {
        self.max_size
    }

    pub fn keep(&self) -> i32 {
        self.keep
    }

    pub fn encoding(&self) -> Option<Quantization> {
        self.store.encoding()
    }

    /// Rows, unless nothing was ever appended.
    pub fn rows(&self) -> Option<i32> {
        if self.filled == 0 { None } else { self.store.rows() }
    }

    pub fn placement(&self, tokens: i32, window: Option<i32>) -> Placement {
        let mask = if tokens == 1 {
            let (keys, next) = match self.filled {
                filled if filled < self.max_size => (filled + 1, filled + 1),
                filled if filled > self.max_size => (self.max_size, self.keep + 1),
                filled => (filled, if self.next == filled { self.keep + 1 } else { self.next + 1 }),
            };
            let roll = (next - self.keep).rem_euclid((keys - self.keep).max(1));
            MaskShape { window, keep: self.keep, roll: if next == keys { 0 } else { roll }, ..MaskShape::new(1, keys) }
        } else {
            let keys = self.filled.min(self.max_size - 1) + tokens;
            let window = Some(window.unwrap_or(self.max_size - self.keep));
            MaskShape { window, keep: self.keep, ..MaskShape::new(tokens, keys) }
        };
        Placement { offsets: Offsets::Same(self.offset), visible: mask.simplest() }
    }

    /// The filled slots in order of time.
    fn held(&self) -> Result<Store> {
        if self.filled == 0 {
            return Ok(Store::new(self.store.encoding()));
        }
        if self.next >= self.filled {
            return self.store.slots(0, self.filled);
        }
        let pieces = [(0, self.keep), (self.next, self.filled), (self.keep, self.next)];
        let pieces = pieces.into_iter().filter(|(from, to)| from < to).map(|(from, to)| self.store.slots(from, to));
        Store::join_slots(&pieces.collect::<Result<Vec<_>>>()?)
    }

    /// `store`, in order of time, without the oldest `count` slots after those kept.
    fn without_oldest(&self, store: Store, count: i32) -> Result<Store> {
        let slots = store.capacity();
        match (count, self.keep) {
            (..=0, _) => Ok(store),
            (_, 0) => store.slots(count, slots),
            (_, keep) if keep + count >= slots => store.slots(0, keep),
            (_, keep) => Store::join_slots(&[store.slots(0, keep)?, store.slots(keep + count, slots)?]),
        }
    }

    /// The slots that the next single token sees, in order of time.
    pub(super) fn latest(&self) -> Result<Store> {
        self.without_oldest(self.held()?, self.filled - self.max_size)
    }

    /// Appends `keys` and `values` `[B, Hkv, T, D]` and returns what attention sees. On an error the cache is as before.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<Fetched> {
        let fresh = Store::new(self.store.encoding());
        let held = if self.filled == 0 { &fresh } else { &self.store };
        held.check(keys, values, None)?;
        let update = held.encode(keys, values)?;
        let tokens = keys.dim(2);
        let offset = self.offset.checked_add(tokens).ok_or_else(|| Error::Shape("the KV cache is full".into()))?;
        let (store, filled, next) = if tokens == 1 { self.one_more(&update)? } else { self.joined(update)? };
        let fetched = store.fetch(filled)?;
        let store = store.quantized_if_due(self.later, offset)?;
        // The old buffers are dropped here, before anything runs: MLX may then write into them instead of copying.
        (self.store, self.filled, self.next, self.offset) = (store, filled, next, offset);
        Ok(fetched)
    }

    /// Store, filled slots and write position after one more token.
    fn one_more(&self, update: &Store) -> Result<(Store, i32, i32)> {
        if self.filled == 0 {
            let store = update.resized(0, STEP.min(self.max_size))?.write(update, 0, 0)?;
            return Ok((store, 1, 1));
        }
        let (mut store, mut filled, mut next) = (self.store.clone(), self.filled, self.next);
        if filled > self.max_size {
            store = self.latest()?;
            (filled, next) = (self.max_size, self.max_size);
        }
        if next == self.max_size {
            next = self.keep;
        } else if next == store.capacity() {
            let slots = next + STEP.min(self.max_size - next);
            store = store.resized(next, slots)?;
        }
        Ok((store.write(update, 0, next)?, filled.max(next + 1), next + 1))
    }

    /// The same after several: each must see a full window, so that `max_size - 1` of those before stay.
    fn joined(&self, update: Store) -> Result<(Store, i32, i32)> {
        let store = match self.filled {
            0 => update,
            filled => Store::join_slots(&[self.without_oldest(self.held()?, filled - self.max_size + 1)?, update])?,
        };
        let slots = store.capacity();
        Ok((store, slots, slots))
    }

    /// Only before tokens were dropped.
    pub fn is_trimmable(&self) -> bool {
        self.offset < self.max_size
    }

    /// Forgets the last `n` tokens; returns how many there were to forget, none once tokens were dropped.
    pub fn trim(&mut self, n: i32) -> i32 {
        let n = if self.is_trimmable() { n.clamp(0, self.filled) } else { 0 };
        self.offset -= n;
        self.filled -= n;
        self.next -= n;
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
    pub fn to_quantized(&self, how: Quantization) -> Result<RotatingKvCache> {
        let store = if self.filled == 0 { Store::new(Some(how)) } else { self.store.quantized(how)? };
        Ok(RotatingKvCache { store, later: None, ..self.clone() })
    }

    /// Keys and values (or codes, scales and biases of both) that the next single token sees, in order of time; nothing of an empty
    /// cache.
    pub fn state(&self) -> Result<Vec<Array>> {
        Ok(self.latest()?.parts().to_vec())
    }

    pub fn reset(&mut self) {
        let encoding = if self.later.is_some() { None } else { self.store.encoding() };
        self.store = Store::new(encoding);
        (self.filled, self.next, self.offset) = (0, 0, 0);
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

pub(super) fn check_keep(max_size: i32, keep: i32) -> Result<()> {
    if max_size < 1 {
        return Err(Error::Argument(format!("maxSize must be at least 1 slot, not {max_size}")));
    }
    if keep < 0 || keep >= max_size {
        return Err(Error::Argument(format!("keep must be 0 or more and below maxSize, {max_size}; it is {keep}")));
    }
    Ok(())
}
