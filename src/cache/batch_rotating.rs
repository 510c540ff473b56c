//! The cache of bounded size for rows of different lengths.

use super::batch::check_padding;
use super::placement::{MaskShape, Offsets, Placement};
use super::rotating::{RotatingKvCache, check_size};
use super::store::{Fetched, STEP, Store, begins, check_rows, check_times};
use crate::mlx::ops::Quantization;
use crate::mlx::{Array, Error, Result};

/// The latest `max_size` slots of one layer's rows, which are padded on the left to a common write position. Padding is counted in
/// order of time from the oldest slot held, and negative once all of it and tokens too were dropped.
///
/// No first tokens are kept: the rows' stand in different slots.
#[derive(Clone)]
pub struct BatchRotatingKvCache {
    store: Store,
    /// Slots that hold something.
    filled: i32,
    /// Where the next token goes: before `filled` once single tokens have gone round.
    next: i32,
    /// Slots ever filled.
    total: i32,
    /// Each row's position: tokens ever seen.
    offsets: Vec<i32>,
    padding: Vec<i32>,
    /// Where each row will stand when the tokens being read end; those after it are padding.
    ends: Option<Vec<i32>>,
    max_size: i32,
    /// Once this many slots were filled all are coded so.
    later: Option<(Quantization, i32)>,
}

impl BatchRotatingKvCache {
    /// For as many rows as numbers, each of which will begin with so much padding.
    pub fn new(max_size: i32, left_padding: &[i32]) -> Result<Self> {
        check_size(max_size)?;
        check_padding("left", left_padding)?;
        Ok(BatchRotatingKvCache {
            store: Store::new(None),
            filled: 0,
            next: 0,
            total: 0,
            offsets: left_padding.iter().map(|slots| -slots).collect(),
            padding: left_padding.to_vec(),
            ends: None,
            max_size,
            later: None,
        })
    }

    /// Plain until an update leaves at least so many slots, then quantised, all rows together; see `KvCache::quantized_from`.
    pub fn quantized_from(self, later: Option<(Quantization, i32)>) -> Self {
        let (encoding, later) = begins(later);
        BatchRotatingKvCache { store: Store::new(encoding), later, ..self }
    }

    /// The number of tokens that is still to be reached for them to be coded.
    pub(super) fn quantizes_at(&self) -> Option<i32> {
        self.later.filter(|_| self.store.encoding().is_none()).map(|(_, start)| start)
    }

    pub(super) fn quantize_later(&mut self, later: Option<(Quantization, i32)>) {
        self.later = later;
    }

    /// Of slots in order of time, all of them filled.
    pub fn from_parts(
        parts: Vec<Array>,
        encoding: Option<Quantization>,
        max_size: i32,
        offsets: &[i32],
        left_padding: &[i32],
        total: i32,
        next: i32,
    ) -> Result<Self> {
        check_size(max_size)?;
        let store = Store::from_parts(parts, encoding)?;
        let rows = store.rows().unwrap_or(offsets.len() as i32) as usize;
        if rows == 0 || offsets.len() != rows || left_padding.len() != rows {
            return Err(Error::Argument(format!(
                "{} offsets and {} numbers of padding for a cache of {rows} rows",
                offsets.len(),
                left_padding.len()
            )));
        }
        let slots = store.capacity();
        if total < 0 || next < 0 || next > slots || (next < total && next != slots && slots != max_size) {
            return Err(Error::Argument(format!(
                "a rotating cache of {max_size} with {slots} slots cannot stand at {total} and write at {next}"
            )));
        }
        let filled = if next == slots || next < total { slots } else { next };
        let (offsets, padding) = (offsets.to_vec(), left_padding.to_vec());
        Ok(BatchRotatingKvCache { store, filled, next, total, offsets, padding, ends: None, max_size, later: None })
    }

    /// Slots that the next single token sees, padding included, at most `max_size`.
    pub fn len(&self) -> i32 {
        self.filled.min(self.max_size)
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn rows(&self) -> i32 {
        self.padding.len() as i32
    }

    pub fn max_size(&self) -> i32 {
        self.max_size
    }

    pub fn encoding(&self) -> Option<Quantization> {
        self.store.encoding()
    }

    pub fn left_padding(&self) -> &[i32] {
        &self.padding
    }

    /// Each row's position, negative while its padding is not filled.
    pub fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    /// Slots ever filled.
    pub fn total(&self) -> i32 {
        self.total
    }

    /// Where the next token goes in the buffers.
    pub fn write_position(&self) -> i32 {
        self.next
    }

    /// How far each row must move right so that its padding at the end does not push tokens out.
    fn overrun(&self) -> Option<Vec<i32>> {
        let ends = self.ends.as_ref()?;
        Some(self.offsets.iter().zip(ends).map(|(offset, end)| (offset - end).max(0)).collect())
    }

    pub fn placement(&self, tokens: i32, window: Option<i32>) -> Placement {
        let same = self.offsets.iter().all(|&offset| offset == self.offsets[0]);
        let offsets = if same { Offsets::Same(self.offsets[0]) } else { Offsets::PerRow(self.offsets.clone()) };
        // A token while rows end with padding is a chunk: it must not push out what those rows still see.
        let alone = tokens == 1 && self.ends.is_none();
        let (keys, dropped, roll) = if alone {
            let keys = (self.filled + 1).min(self.max_size);
            let next = if self.next >= self.max_size { 1 } else { self.next + 1 };
            (keys, self.filled + 1 - keys, next % keys)
        } else {
            let held = self.filled.min(self.max_size - 1);
            (held + tokens, self.filled - held, 0)
        };
        let rolled = if alone { None } else { self.overrun() };
        let padding = |row: usize| self.padding[row] + rolled.as_ref().map_or(0, |by| by[row]) - dropped;
        let padding: Vec<i32> = (0..self.padding.len()).map(padding).collect();
        let padding = if padding.iter().any(|&slots| slots > 0) { padding } else { Vec::new() };
        let window = if alone { window } else { Some(window.unwrap_or(self.max_size)) };
        let mask = MaskShape { padding, window, roll, ..MaskShape::new(tokens, keys) };
        Placement { offsets, visible: mask.simplest() }
    }

    /// The filled slots in order of time.
    fn held(&self) -> Result<Store> {
        if self.filled == 0 {
            return Ok(Store::new(self.store.encoding()));
        }
        if self.next >= self.filled || self.next == 0 {
            return self.store.slots(0, self.filled);
        }
        Store::join_slots(&[self.store.slots(self.next, self.filled)?, self.store.slots(0, self.next)?])
    }

    /// Appends `keys` and `values` `[B, Hkv, T, D]` and returns what attention sees. On an error the cache is as before.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<Fetched> {
        let tokens = keys.dim(2);
        let fresh = Store::new(self.store.encoding());
        let held = if self.filled == 0 { &fresh } else { &self.store };
        held.check(keys, values, Some(self.rows()))?;
        self.total.checked_add(tokens).ok_or_else(|| Error::Shape("the KV cache is full".into()))?;
        let update = held.encode(keys, values)?;
        let mut after = self.clone();
        if tokens == 1 && self.ends.is_none() {
            after.one_more(&update)?
        } else {
            after.join(update)?
        }
        after.total += tokens;
        after.offsets.iter_mut().for_each(|offset| *offset += tokens);
        let fetched = after.store.fetch(after.filled)?;
        after.store = after.store.quantized_if_due(self.later, after.total)?;
        // As in `KvCache::update`: nobody else holds the old buffers from here on.
        *self = after;
        Ok(fetched)
    }

    fn drop_oldest(&mut self, count: i32) {
        self.padding.iter_mut().for_each(|slots| *slots -= count.max(0));
    }

    fn one_more(&mut self, update: &Store) -> Result<()> {
        if self.filled == 0 {
            self.store = update.resized(0, STEP.min(self.max_size))?.write(update, 0, 0)?;
            (self.filled, self.next) = (1, 1);
            return Ok(());
        }
        if self.filled > self.max_size {
            let extra = self.filled - self.max_size;
            self.store = self.held()?.slots(extra, self.filled)?;
            self.drop_oldest(extra);
            (self.filled, self.next) = (self.max_size, self.max_size);
        }
        if self.filled == self.max_size {
            self.drop_oldest(1);
            if self.next == self.max_size {
                self.next = 0;
            }
        } else if self.next == self.store.capacity() {
            self.store = self.store.resized(self.next, self.next + STEP.min(self.max_size - self.next))?;
        }
        self.store = self.store.write(update, 0, self.next)?;
        self.next += 1;
        self.filled = self.filled.max(self.next);
        Ok(())
    }

    fn join(&mut self, update: Store) -> Result<()> {
        self.store = if self.filled == 0 {
            update
        } else {
            let mut held = self.held()?;
            if let Some(by) = self.overrun() {
                held = self.moved(held, &by)?;
            }
            let extra = (self.filled - self.max_size + 1).max(0);
            self.drop_oldest(extra);
            if extra == self.filled { update } else { Store::join_slots(&[held.slots(extra, self.filled)?, update])? }
        };
        self.filled = self.store.capacity();
        self.next = self.filled;
        Ok(())
    }

    /// Rows moved right, over padding at their ends.
    fn moved(&mut self, held: Store, by: &[i32]) -> Result<Store> {
        if by.iter().all(|&by| by == 0) {
            return Ok(held);
        }
        let store = held.rolled(held.capacity(), by)?;
        self.padding.iter_mut().zip(by).for_each(|(slots, by)| *slots += by);
        self.offsets.iter_mut().zip(by).for_each(|(offset, by)| *offset -= by);
        Ok(store)
    }

    /// Only before tokens were dropped.
    pub fn is_trimmable(&self) -> bool {
        self.total < self.max_size
    }

    /// Forgets the last `n` slots of every row; returns how many there were to forget, none once slots were dropped.
    pub fn trim(&mut self, n: i32) -> i32 {
        let n = if self.is_trimmable() { n.clamp(0, self.filled) } else { 0 };
        self.total -= n;
        self.filled -= n;
        self.next -= n;
        self.offsets.iter_mut().for_each(|offset| *offset -= n);
        n
    }

    /// Says how the next tokens are padded: on the left, of an empty cache, beside what it began with; on the right, until `finalize`,
    /// where `lengths` are the rows' tokens without that padding.
    pub fn prepare(
        &mut self,
        left_padding: Option<&[i32]>,
        right_padding: Option<&[i32]>,
        lengths: Option<&[i32]>,
    ) -> Result<()> {
        for (side, padding) in [("left", left_padding), ("right", right_padding), ("unpadded", lengths)] {
            let Some(padding) = padding else { continue };
            check_padding(side, padding)?;
            if padding.len() != self.padding.len() {
                let (found, rows) = (padding.len(), self.padding.len());
                return Err(Error::Argument(format!("{side} padding needs one number for each of {rows} rows, not {found}")));
            }
        }
        if left_padding.is_some() && self.filled > 0 {
            return Err(Error::Argument(format!("left padding belongs to an empty cache; this one holds {} slots", self.filled)));
        }
        let right = right_padding.filter(|right| right.iter().any(|&slots| slots > 0));
        if right.is_some() && lengths.is_none() {
            return Err(Error::Argument("a rotating cache needs the lengths of right-padded rows beside their padding".into()));
        }
        if let Some(more) = left_padding {
            self.padding.iter_mut().zip(more).for_each(|(padding, more)| *padding += more);
            self.offsets.iter_mut().zip(more).for_each(|(offset, more)| *offset -= more);
        }
        if let (Some(_), Some(lengths)) = (right, lengths) {
            self.ends = Some(self.offsets.iter().zip(lengths).map(|(offset, length)| offset + length).collect());
        }
        Ok(())
    }

    /// Moves padding from the right of rows to their left, so that all end at the write position.
    pub fn finalize(&mut self) -> Result<()> {
        let Some(by) = self.overrun() else { return Ok(()) };
        if self.filled > 0 {
            if let Some(slots) = by.iter().find(|&&slots| slots > self.filled) {
                return Err(Error::Argument(format!("a row cannot end with {slots} slots of padding of {} in all", self.filled)));
            }
            let held = self.held()?;
            self.store = self.moved(held, &by)?;
            self.next = self.filled;
        }
        self.ends = None;
        Ok(())
    }

    pub(super) fn finalized(&self, what: &str) -> Result<()> {
        if self.ends.is_none() {
            return Ok(());
        }
        Err(Error::Argument(format!("cannot {what} while rows end with padding; call finalize() first")))
    }

    /// Keeps the given rows in the given order.
    pub fn filter(&mut self, rows: &[i32]) -> Result<()> {
        check_rows(rows, self.rows())?;
        let pick = |numbers: &[i32]| rows.iter().map(|&row| numbers[row as usize]).collect::<Vec<i32>>();
        if self.filled > 0 {
            self.store = self.store.take_rows(rows)?;
        }
        self.padding = pick(&self.padding);
        self.offsets = pick(&self.offsets);
        self.ends = self.ends.as_deref().map(pick);
        Ok(())
    }

    /// Each row `times` times in a row.
    pub fn repeat_rows(&mut self, times: i32) -> Result<()> {
        check_times(times)?;
        let repeat = |numbers: &[i32]| {
            numbers.iter().flat_map(|&number| std::iter::repeat_n(number, times as usize)).collect::<Vec<i32>>()
        };
        self.store = self.store.repeat_rows(times)?;
        self.padding = repeat(&self.padding);
        self.offsets = repeat(&self.offsets);
        self.ends = self.ends.as_deref().map(repeat);
        Ok(())
    }

    /// Adds the rows of another cache of the same size. Both are moved to the longer one's write position.
    pub fn extend(&mut self, other: &BatchRotatingKvCache) -> Result<()> {
        self.finalized("extend a cache")?;
        other.finalized("extend a cache")?;
        if self.max_size != other.max_size {
            let (mine, theirs) = (self.max_size, other.max_size);
            return Err(Error::Argument(format!("rotating caches of {mine} and {theirs} slots do not join")));
        }
        let together = self.next == other.next && self.filled == other.filled && self.filled > 0;
        let slots = |cache: &Self| if together { cache.store.slots(0, cache.filled) } else { cache.held() };
        let stores = Store::aligned(vec![slots(self)?, slots(other)?])?;
        let filled = self.filled.max(other.filled);
        if let Some(layout) = stores.iter().find(|store| !store.is_empty()) {
            let rows = [self.rows(), other.rows()];
            let moved = stores.iter().zip(rows).map(|(store, rows)| store.aligned_right(layout, rows, filled, filled));
            self.store = Store::join_rows(&moved.collect::<Result<Vec<_>>>()?)?;
        }
        self.padding = [(&*self, self.filled), (other, other.filled)]
            .into_iter()
            .flat_map(|(cache, held)| cache.padding.iter().map(move |slots| slots + filled - held))
            .collect();
        self.offsets.extend(&other.offsets);
        if !together {
            self.next = filled;
        }
        self.filled = filled;
        self.total = self.total.max(other.total);
        Ok(())
    }

    /// One row without its padding, as a copy.
    pub fn extract(&self, row: i32) -> Result<RotatingKvCache> {
        check_rows(&[row], self.rows())?;
        self.finalized("extract a row")?;
        let padding = self.padding[row as usize].max(0);
        if padding >= self.filled {
            return Ok(RotatingKvCache::from_store(Store::new(self.encoding()), 0, self.max_size));
        }
        let cut = self.held()?.slots(padding, self.filled)?.map(|part| part.slice_axis(0, row, row + 1)?.contiguous())?;
        Ok(RotatingKvCache::from_store(cut, self.offsets[row as usize], self.max_size))
    }

    fn check_row(&self, cache: &RotatingKvCache) -> Result<()> {
        if cache.keep() > 0 {
            return Err(Error::Argument(format!(
                "a rotating cache that keeps the first {} tokens cannot be a row of a batch: it would lose them",
                cache.keep()
            )));
        }
        if cache.max_size() != self.max_size {
            let (mine, theirs) = (self.max_size, cache.max_size());
            return Err(Error::Argument(format!("rotating caches of {mine} and {theirs} slots do not merge")));
        }
        match cache.rows().filter(|&rows| rows != 1) {
            Some(rows) => Err(Error::Argument(format!("only caches of one row are merged, one has {rows}"))),
            None => Ok(()),
        }
    }

    /// One row of each cache, padded to the longest. They have one size and keep no first tokens.
    pub fn merge(caches: &[&RotatingKvCache]) -> Result<BatchRotatingKvCache> {
        let first = caches.first().ok_or_else(|| Error::Argument("there are no caches to merge".into()))?;
        let mut batch = BatchRotatingKvCache::new(first.max_size(), &vec![0; caches.len()])?;
        caches.iter().try_for_each(|cache| batch.check_row(cache))?;
        let stores = Store::aligned(caches.iter().map(|cache| cache.latest()).collect::<Result<_>>()?)?;
        let filled = stores.iter().map(Store::capacity).max().unwrap_or(0);
        let Some(layout) = stores.iter().find(|store| !store.is_empty()) else {
            batch.store = stores[0].clone();
            return Ok(batch);
        };
        let moved = stores.iter().map(|store| store.aligned_right(layout, 1, filled, filled));
        batch.store = Store::join_rows(&moved.collect::<Result<Vec<_>>>()?)?;
        batch.padding = stores.iter().map(|store| filled - store.capacity()).collect();
        batch.offsets = caches.iter().map(|cache| cache.offset()).collect();
        (batch.filled, batch.next, batch.total) = (filled, filled, filled);
        Ok(batch)
    }

    /// Replaces a row by a cache of one row, right-aligned at the write position; see `BatchKvCache::put_row`.
    pub fn put_row(&mut self, row: i32, cache: &RotatingKvCache) -> Result<()> {
        check_rows(&[row], self.rows())?;
        self.finalized("replace a row")?;
        self.check_row(cache)?;
        let mut after = self.clone();
        let held = if self.filled == 0 { Store::new(self.encoding()) } else { self.store.clone() };
        let [held, new] = Store::aligned_pair(held, cache.latest()?)?;
        let length = new.capacity();
        if length > 0 {
            after.store = held;
            let more = (length - self.filled).max(0);
            if more > 0 {
                after.store = if self.filled == 0 {
                    new.zeros(self.rows(), length)?
                } else {
                    after.held()?.aligned_right(&new, self.rows(), length, length)?
                };
                after.padding.iter_mut().for_each(|slots| *slots += more);
                (after.filled, after.next) = (length, length);
            }
            // Where the new row's oldest slot goes: behind the write position, round the ring.
            let start = (after.next - length).rem_euclid(after.filled);
            let until_end = length.min(after.filled - start);
            after.store = after.store.write(&new.slots(0, until_end)?, row, start)?;
            if until_end < length {
                after.store = after.store.write(&new.slots(until_end, length)?, row, 0)?;
            }
        }
        after.padding[row as usize] = after.filled - length;
        after.offsets[row as usize] = cache.offset();
        after.total = after.total.max(after.filled).max(cache.offset());
        *self = after;
        Ok(())
    }

    /// Keys and values (or codes, scales and biases of both) of the filled slots in order of time; nothing of an empty cache.
    pub fn state(&self) -> Result<Vec<Array>> {
        Ok(self.held()?.parts().to_vec())
    }

    /// The same slots coded as `how` says.
    pub fn to_quantized(&self, how: Quantization) -> Result<BatchRotatingKvCache> {
        let store = if self.filled == 0 { Store::new(Some(how)) } else { self.store.quantized(how)? };
        Ok(BatchRotatingKvCache { store, ..self.clone() })
    }

    /// Forgets everything: as many empty rows without padding.
    pub fn reset(&mut self) {
        self.store = Store::new(self.store.encoding());
        (self.filled, self.next, self.total) = (0, 0, 0);
        self.offsets.fill(0);
        self.padding.fill(0);
        self.ends = None;
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
