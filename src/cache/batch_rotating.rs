//! The cache of bounded size for rows of different lengths.

use super::batch::check_padding;
use super::placement::{MaskShape, Offsets, Placement, Sinks};
use super::rotating::{RotatingKvCache, check_keep};
use super::store::{Fetched, STEP, Store, begins, check_rows, check_times};
use crate::mlx::ops::Quantization;
use crate::mlx::{Array, Error, Result};

/// The latest `max_size` slots of one layer's rows, which are padded on the left to a common write position. Padding is counted in
/// order of time from the oldest slot held, and negative once all of it and tokens too were dropped.
///
/// With `keep` the buffers begin with so many slots of each row's first tokens, which stay (attention sinks, as in `RotatingKvCache`), and the
/// latest `max_size - keep` follow. A first token is in both until it is dropped from these, and seen among the first. What is counted in
/// slots below is counted without them.
#[derive(Clone)]
pub struct BatchRotatingKvCache {
    store: Store,
    keep: i32,
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
        Self::keeping(max_size, 0, left_padding)
    }

    /// The same, of which each row keeps its first tokens.
    pub fn keeping(max_size: i32, keep: i32, left_padding: &[i32]) -> Result<Self> {
        check_keep(max_size, keep)?;
        check_padding("left", left_padding)?;
        Ok(BatchRotatingKvCache {
            store: Store::new(None),
            keep,
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

    /// Of the first tokens' slots and then the others in order of time, all of them filled.
    #[allow(clippy::too_many_arguments)]
    pub fn from_parts(
        parts: Vec<Array>,
        encoding: Option<Quantization>,
        max_size: i32,
        keep: i32,
        offsets: &[i32],
        left_padding: &[i32],
        total: i32,
        next: i32,
    ) -> Result<Self> {
        check_keep(max_size, keep)?;
        let store = Store::from_parts(parts, encoding)?;
        let rows = store.rows().unwrap_or(offsets.len() as i32) as usize;
        if rows == 0 || offsets.len() != rows || left_padding.len() != rows {
            return Err(Error::Argument(format!(
                "{} offsets and {} numbers of padding for a cache of {rows} rows",
                offsets.len(),
                left_padding.len()
            )));
        }
        let slots = if store.is_empty() { 0 } else { store.capacity() - keep };
        if slots < 0 || total < 0 || next < 0 || next > slots || (next < total && next != slots && slots != max_size - keep) {
            return Err(Error::Argument(format!(
                "a rotating cache of {max_size} with {slots} slots cannot stand at {total} and write at {next}"
            )));
        }
        let filled = if next == slots || next < total { slots } else { next };
        let (offsets, padding) = (offsets.to_vec(), left_padding.to_vec());
        Ok(BatchRotatingKvCache { store, keep, filled, next, total, offsets, padding, ends: None, max_size, later: None })
    }

    /// Slots that the next single token sees, padding included, at most `max_size`.
    pub fn len(&self) -> i32 {
        if self.filled == 0 { 0 } else { self.keep + self.filled.min(self.reach()) }
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

    /// First tokens of each row that stay.
    pub fn keep(&self) -> i32 {
        self.keep
    }

    /// The latest slots that a token sees, itself among them.
    fn reach(&self) -> i32 {
        self.max_size - self.keep
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
        let reach = self.reach();
        let (keys, dropped, roll) = if alone {
            let keys = (self.filled + 1).min(reach);
            let next = if self.next >= reach { 1 } else { self.next + 1 };
            (keys, self.filled + 1 - keys, next % keys)
        } else {
            let held = self.filled.min(reach - 1);
            (held + tokens, self.filled - held, 0)
        };
        let rolled = if alone { None } else { self.overrun() };
        // First tokens are seen where they stay, and not once more.
        let padding = |row: usize| self.padding[row] + self.keep + rolled.as_ref().map_or(0, |by| by[row]) - dropped;
        let padding: Vec<i32> = (0..self.padding.len()).map(padding).collect();
        let padding = if padding.iter().any(|&slots| slots > 0) { padding } else { Vec::new() };
        let window = if alone { window } else { Some(window.unwrap_or(reach)) };
        let sinks = (self.keep > 0).then(|| Sinks { keep: self.keep, offsets: self.offsets.clone() });
        let mask = MaskShape { padding, window, roll, sinks, ..MaskShape::new(tokens, keys) };
        Placement { offsets, visible: mask.simplest() }
    }

    /// Slots without those of the first tokens.
    fn ring(&self, from: i32, to: i32) -> Result<Store> {
        self.store.slots(self.keep + from, self.keep + to)
    }

    /// A buffer of the first tokens, as they are held or of zeros, and these slots.
    fn behind_first(&self, ring: Store) -> Result<Store> {
        if self.keep == 0 {
            return Ok(ring);
        }
        let first = if self.filled == 0 { ring.zeros(self.rows(), self.keep)? } else { self.store.slots(0, self.keep)? };
        Store::join_slots(&[first, ring])
    }

    /// Writes what `update` holds of the rows' first tokens, whose positions are those from `offsets` on, to where they stay.
    fn keep_first(&mut self, update: &Store, offsets: &[i32]) -> Result<()> {
        let tokens = update.capacity();
        let from = |offset: &i32| (0..self.keep).map(move |slot| slot - offset).collect::<Vec<i32>>();
        let from: Vec<i32> = offsets.iter().flat_map(from).map(|token| if token < tokens { token } else { -1 }).collect();
        if from.iter().any(|&token| token >= 0) {
            self.store = self.store.with_front(update, self.keep, &from)?;
        }
        Ok(())
    }

    /// The filled slots in order of time.
    fn held(&self) -> Result<Store> {
        if self.filled == 0 {
            return Ok(Store::new(self.store.encoding()));
        }
        if self.next >= self.filled || self.next == 0 {
            return self.ring(0, self.filled);
        }
        Store::join_slots(&[self.ring(self.next, self.filled)?, self.ring(0, self.next)?])
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
            after.join(&update)?
        }
        after.keep_first(&update, &after.offsets.clone())?;
        after.total += tokens;
        after.offsets.iter_mut().for_each(|offset| *offset += tokens);
        let fetched = after.store.fetch(after.keep + after.filled)?;
        after.store = after.store.quantized_if_due(self.later, after.total)?;
        // As in `KvCache::update`: nobody else holds the old buffers from here on.
        *self = after;
        Ok(fetched)
    }

    fn drop_oldest(&mut self, count: i32) {
        self.padding.iter_mut().for_each(|slots| *slots -= count.max(0));
    }

    fn one_more(&mut self, update: &Store) -> Result<()> {
        let (keep, reach) = (self.keep, self.reach());
        if self.filled == 0 {
            self.store = update.resized(0, keep + STEP.min(reach))?.write(update, 0, keep)?;
            (self.filled, self.next) = (1, 1);
            return Ok(());
        }
        if self.filled > reach {
            let extra = self.filled - reach;
            self.store = self.behind_first(self.held()?.slots(extra, self.filled)?)?;
            self.drop_oldest(extra);
            (self.filled, self.next) = (reach, reach);
        }
        if self.filled == reach {
            self.drop_oldest(1);
            if self.next == reach {
                self.next = 0;
            }
        } else if keep + self.next == self.store.capacity() {
            self.store = self.store.resized(keep + self.next, keep + self.next + STEP.min(reach - self.next))?;
        }
        self.store = self.store.write(update, 0, keep + self.next)?;
        self.next += 1;
        self.filled = self.filled.max(self.next);
        Ok(())
    }

    fn join(&mut self, update: &Store) -> Result<()> {
        let ring = if self.filled == 0 {
            update.clone()
        } else {
            let mut held = self.held()?;
            if let Some(by) = self.overrun() {
                held = self.moved(held, &by)?;
            }
            let extra = (self.filled - self.reach() + 1).max(0);
            self.drop_oldest(extra);
            if extra == self.filled {
                update.clone()
            } else {
                Store::join_slots(&[held.slots(extra, self.filled)?, update.clone()])?
            }
        };
        let slots = ring.capacity();
        self.store = self.behind_first(ring)?;
        (self.filled, self.next) = (slots, slots);
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
        self.total < self.reach()
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
            let held = self.moved(held, &by)?;
            self.store = self.behind_first(held)?;
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
        self.check_size(other.max_size, other.keep, "join")?;
        let together = self.next == other.next && self.filled == other.filled && self.filled > 0;
        let slots = |cache: &Self| if together { cache.ring(0, cache.filled) } else { cache.held() };
        let stores = Store::aligned(vec![slots(self)?, slots(other)?])?;
        let filled = self.filled.max(other.filled);
        if let Some(layout) = stores.iter().find(|store| !store.is_empty()) {
            let rows = [self.rows(), other.rows()];
            let moved = stores.iter().zip(rows).map(|(store, rows)| store.aligned_right(layout, rows, filled, filled));
            let ring = Store::join_rows(&moved.collect::<Result<Vec<_>>>()?)?;
            let first = |cache: &Self| match (cache.filled, layout.encoding()) {
                (0, _) => layout.zeros(cache.rows(), self.keep),
                (_, Some(how)) => cache.store.slots(0, self.keep)?.quantized(how),
                (_, None) => cache.store.slots(0, self.keep),
            };
            self.store = match self.keep {
                0 => ring,
                _ => Store::join_slots(&[Store::join_rows(&[first(self)?, first(other)?])?, ring])?,
            };
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
        let (padding, offset) = (self.padding[row as usize], self.offsets[row as usize]);
        let empty = || RotatingKvCache::from_store(Store::new(self.encoding()), 0, self.max_size, self.keep);
        if offset <= 0 || padding >= self.filled {
            return Ok(empty());
        }
        let own = |store: Store| store.map(|part| part.slice_axis(0, row, row + 1)?.contiguous());
        // The first tokens, and of the others those behind them.
        let (first, from) = (self.keep.min(offset), (padding + self.keep).max(0));
        let mut pieces = Vec::new();
        if first > 0 {
            pieces.push(own(self.store.slots(0, first)?)?);
        }
        if from < self.filled {
            pieces.push(own(self.held()?.slots(from, self.filled)?)?);
        }
        Ok(RotatingKvCache::from_store(Store::join_slots(&pieces)?, offset, self.max_size, self.keep))
    }

    fn check_size(&self, max_size: i32, keep: i32, what: &str) -> Result<()> {
        let words =
            |size: i32, keep: i32| if keep > 0 { format!("{size} slots that keep {keep}") } else { format!("{size} slots") };
        if (max_size, keep) == (self.max_size, self.keep) {
            return Ok(());
        }
        let (mine, theirs) = (words(self.max_size, self.keep), words(max_size, keep));
        Err(Error::Argument(format!("rotating caches of {mine} and {theirs} do not {what}")))
    }

    fn check_row(&self, cache: &RotatingKvCache) -> Result<()> {
        self.check_size(cache.max_size(), cache.keep(), "merge")?;
        match cache.rows().filter(|&rows| rows != 1) {
            Some(rows) => Err(Error::Argument(format!("only caches of one row are merged, one has {rows}"))),
            None => Ok(()),
        }
    }

    /// What a row has of a cache of its own: its first tokens, and the latest.
    fn halves(&self, latest: &Store) -> Result<[Store; 2]> {
        let slots = latest.capacity();
        Ok([latest.slots(0, self.keep.min(slots))?, latest.slots((slots - self.reach()).max(0), slots)?])
    }

    /// One row of each cache, padded to the longest. They have one size and keep as many first tokens.
    pub fn merge(caches: &[&RotatingKvCache]) -> Result<BatchRotatingKvCache> {
        let first = caches.first().ok_or_else(|| Error::Argument("there are no caches to merge".into()))?;
        let mut batch = BatchRotatingKvCache::keeping(first.max_size(), first.keep(), &vec![0; caches.len()])?;
        caches.iter().try_for_each(|cache| batch.check_row(cache))?;
        let stores = Store::aligned(caches.iter().map(|cache| cache.latest()).collect::<Result<_>>()?)?;
        let filled = stores.iter().map(Store::capacity).max().unwrap_or(0).min(batch.reach());
        let Some(layout) = stores.iter().find(|store| !store.is_empty()) else {
            batch.store = stores[0].clone();
            return Ok(batch);
        };
        let row = |store: &Store| {
            if store.is_empty() {
                return layout.zeros(1, batch.keep + filled);
            }
            let [first, latest] = batch.halves(store)?;
            let latest = latest.aligned_right(layout, 1, filled, filled)?;
            match batch.keep {
                0 => Ok(latest),
                keep if first.capacity() == keep => Store::join_slots(&[first, latest]),
                keep => Store::join_slots(&[first.resized(first.capacity(), keep)?, latest]),
            }
        };
        batch.store = Store::join_rows(&stores.iter().map(row).collect::<Result<Vec<_>>>()?)?;
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
        let slots = new.capacity();
        let length = slots.min(self.reach());
        if length > 0 {
            let [first, new] = self.halves(&new)?;
            after.store = held;
            let more = (length - self.filled).max(0);
            if more > 0 {
                after.store = if self.filled == 0 {
                    new.zeros(self.rows(), self.keep + length)?
                } else {
                    after.behind_first(after.held()?.aligned_right(&new, self.rows(), length, length)?)?
                };
                after.padding.iter_mut().for_each(|slots| *slots += more);
                (after.filled, after.next) = (length, length);
            }
            // Where the new row's oldest slot goes: behind the write position, round the ring.
            let start = (after.next - length).rem_euclid(after.filled);
            let until_end = length.min(after.filled - start);
            after.store = after.store.write(&new.slots(0, until_end)?, row, self.keep + start)?;
            if until_end < length {
                after.store = after.store.write(&new.slots(until_end, length)?, row, self.keep)?;
            }
            if self.keep > 0 {
                after.store = after.store.write(&first, row, 0)?;
            }
        }
        after.padding[row as usize] = after.filled - slots;
        after.offsets[row as usize] = cache.offset();
        after.total = after.total.max(after.filled).max(cache.offset());
        *self = after;
        Ok(())
    }

    /// Keys and values (or codes, scales and biases of both) of the first tokens and of the filled slots in order of time; nothing of an
    /// empty cache.
    pub fn state(&self) -> Result<Vec<Array>> {
        let held = self.held()?;
        Ok(if self.filled == 0 { held } else { self.behind_first(held)? }.parts().to_vec())
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
