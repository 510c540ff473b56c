//! The cache of rows of different lengths, padded on the left to a common write position.

use super::kv::KvCache;
use super::placement::{MaskShape, Offsets, Placement};
use super::store::{Fetched, Store, begins, check_rows, check_times, roomy};
use crate::mlx::ops::Quantization;
use crate::mlx::{Array, Error, Result};

/// Keys and values of one layer, `[B, Hkv, capacity, D]`. Row `b` holds its tokens in slots `padding[b]..len`; a row of which less
/// than its padding is filled stands at a negative position. Padding and write position are numbers of the host.
///
/// New slots are written in place as long as nobody else holds the buffers.
#[derive(Clone)]
pub struct BatchKvCache {
    store: Store,
    len: i32,
    padding: Vec<i32>,
    /// Slots at each row's end that `finalize` will move to its front.
    right_padding: Option<Vec<i32>>,
    exact: bool,
    /// Once this many slots are filled all are coded so.
    later: Option<(Quantization, i32)>,
}

impl BatchKvCache {
    /// For as many rows as numbers, each of which will begin with so much padding.
    pub fn new(left_padding: &[i32]) -> Result<Self> {
        Self::with(left_padding, None, false)
    }

    /// Of codes. See `KvCache::quantized`.
    pub fn quantized(left_padding: &[i32], how: Quantization) -> Result<Self> {
        Self::with(left_padding, Some(how), false)
    }

    /// Without spare slots. See `KvCache::exact`.
    pub fn exact(left_padding: &[i32]) -> Result<Self> {
        Self::with(left_padding, None, true)
    }

    /// Plain until an update leaves at least so many slots, then quantised, all rows together; see `KvCache::quantized_from`.
    pub fn quantized_from(self, later: Option<(Quantization, i32)>) -> Self {
        let (encoding, later) = begins(later);
        BatchKvCache { store: Store::new(encoding), later, ..self }
    }

    /// The number of tokens that is still to be reached for them to be coded.
    pub(super) fn quantizes_at(&self) -> Option<i32> {
        self.later.filter(|_| self.store.encoding().is_none()).map(|(_, start)| start)
    }

    pub(super) fn quantize_later(&mut self, later: Option<(Quantization, i32)>) {
        self.later = later;
    }

    fn with(left_padding: &[i32], encoding: Option<Quantization>, exact: bool) -> Result<Self> {
        check_padding("left", left_padding)?;
        Ok(BatchKvCache {
            store: Store::new(encoding),
            len: 0,
            padding: left_padding.to_vec(),
            right_padding: None,
            exact,
            later: None,
        })
    }

    /// Slots per row, padding included: the write position.
    pub fn len(&self) -> i32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn rows(&self) -> i32 {
        self.padding.len() as i32
    }

    pub fn encoding(&self) -> Option<Quantization> {
        self.store.encoding()
    }

    pub fn left_padding(&self) -> &[i32] {
        &self.padding
    }

    /// Each row's position: its tokens so far, negative while its padding is not filled.
    pub fn offsets(&self) -> Vec<i32> {
        self.padding.iter().map(|padding| self.len - padding).collect()
    }

    /// The filled slots.
    fn held(&self) -> Result<Store> {
        if self.len == 0 { Ok(Store::new(self.store.encoding())) } else { self.store.slots(0, self.len) }
    }

    pub fn placement(&self, tokens: i32, window: Option<i32>) -> Placement {
        let padded = self.padding.iter().any(|&slots| slots > 0);
        let padding = if padded { self.padding.clone() } else { Vec::new() };
        let offsets = if padded { Offsets::PerRow(self.offsets()) } else { Offsets::Same(self.len) };
        let mask = MaskShape { padding, window, ..MaskShape::new(tokens, self.len + tokens) };
        Placement { offsets, visible: mask.simplest() }
    }

    /// Appends `keys` and `values` `[B, Hkv, T, D]` and returns all slots. On an error the cache is as before.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<Fetched> {
        let fresh = Store::new(self.store.encoding());
        // An emptied cache takes anything.
        let held = if self.len == 0 { &fresh } else { &self.store };
        held.check(keys, values, Some(self.rows()))?;
        let next = held.appended(self.len, &held.encode(keys, values)?, self.exact)?;
        let len = self.len + keys.dim(2);
        let filled = next.fetch(len)?;
        let next = next.quantized_if_due(self.later, len)?;
        // As in `KvCache::update`.
        self.store = next;
        self.len = len;
        Ok(filled)
    }

    /// Forgets the last `n` slots of every row; returns how many there were to forget.
    pub fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.len);
        self.len -= n;
        n
    }

    /// Says how the next tokens are padded: on the left, of an empty cache, beside what it began with; on the right, until `finalize`.
    pub fn prepare(&mut self, left_padding: Option<&[i32]>, right_padding: Option<&[i32]>) -> Result<()> {
        for (side, padding) in [("left", left_padding), ("right", right_padding)] {
            let Some(padding) = padding else { continue };
            check_padding(side, padding)?;
            self.check_count(side, padding)?;
        }
        if left_padding.is_some() && self.len > 0 {
            return Err(Error::Argument(format!("left padding belongs to an empty cache; this one holds {} slots", self.len)));
        }
        if let Some(more) = left_padding {
            self.padding.iter_mut().zip(more).for_each(|(padding, more)| *padding += more);
        }
        if let Some(right) = right_padding.filter(|right| right.iter().any(|&slots| slots > 0)) {
            self.right_padding = Some(right.to_vec());
        }
        Ok(())
    }

    fn check_count(&self, side: &str, padding: &[i32]) -> Result<()> {
        if padding.len() == self.padding.len() {
            return Ok(());
        }
        Err(Error::Argument(format!(
            "{side} padding needs one number for each of {} rows, not {}",
            self.padding.len(),
            padding.len()
        )))
    }

    /// Moves padding from the right of rows to their left: rows of unequal length are read from their first token on and then all end
    /// at the write position.
    pub fn finalize(&mut self) -> Result<()> {
        let Some(right) = self.right_padding.clone() else { return Ok(()) };
        if let Some(slots) = right.iter().find(|&&slots| slots > self.len) {
            return Err(Error::Argument(format!("a row cannot end with {slots} slots of padding of {} in all", self.len)));
        }
        if self.len > 0 {
            // With the spare slots, so that the next token needs no other copy.
            self.store = self.store.rolled(self.len, &right)?;
        }
        self.padding.iter_mut().zip(&right).for_each(|(padding, right)| *padding += right);
        self.right_padding = None;
        Ok(())
    }

    pub(super) fn finalized(&self, what: &str) -> Result<()> {
        if self.right_padding.is_none() {
            return Ok(());
        }
        Err(Error::Argument(format!("cannot {what} while rows end with padding; call finalize() first")))
    }

    /// Keeps the given rows in the given order, and drops the padding that they have in common.
    pub fn filter(&mut self, rows: &[i32]) -> Result<()> {
        check_rows(rows, self.rows())?;
        let pick = |numbers: &[i32]| rows.iter().map(|&row| numbers[row as usize]).collect::<Vec<i32>>();
        let mut padding = pick(&self.padding);
        let common = common_padding(&padding).min(self.len);
        if self.len > 0 {
            // With the spare slots, so that the next token needs no other copy.
            self.store = self.store.slots(common, self.store.capacity())?.take_rows(rows)?;
        }
        padding.iter_mut().for_each(|slots| *slots -= common);
        self.padding = padding;
        self.len -= common;
        self.right_padding = self.right_padding.as_deref().map(pick);
        Ok(())
    }

    /// Each row `times` times in a row.
    pub fn repeat_rows(&mut self, times: i32) -> Result<()> {
        check_times(times)?;
        let repeat =
            |numbers: &[i32]| numbers.iter().flat_map(|&slots| std::iter::repeat_n(slots, times as usize)).collect::<Vec<i32>>();
        self.store = self.store.repeat_rows(times)?;
        self.right_padding = self.right_padding.as_deref().map(repeat);
        self.padding = repeat(&self.padding);
        Ok(())
    }

    /// Drops the padding that all rows have in common if that is at least `least` slots, and returns how many went. It copies what
    /// stays.
    pub fn drop_padding(&mut self, least: i32) -> Result<i32> {
        let common = common_padding(&self.padding).min(self.len);
        if common < least.max(1) {
            return Ok(0);
        }
        self.store = self.store.slots(common, self.len)?;
        self.padding.iter_mut().for_each(|slots| *slots -= common);
        self.len -= common;
        Ok(common)
    }

    /// Adds the rows of another cache. Both are moved to the longer one's write position.
    pub fn extend(&mut self, other: &BatchKvCache) -> Result<()> {
        self.finalized("extend a cache")?;
        other.finalized("extend a cache")?;
        let stores = Store::aligned(vec![self.held()?, other.held()?])?;
        let len = self.len.max(other.len);
        if let Some(layout) = stores.iter().find(|store| !store.is_empty()) {
            let rows = [self.rows(), other.rows()];
            let moved = stores.iter().zip(rows).map(|(store, rows)| store.aligned_right(layout, rows, len, roomy(len)));
            self.store = Store::join_rows(&moved.collect::<Result<Vec<_>>>()?)?;
        }
        self.padding = [(&*self, self.len), (other, other.len)]
            .into_iter()
            .flat_map(|(cache, held)| cache.padding.iter().map(move |slots| slots + len - held))
            .collect();
        self.len = len;
        Ok(())
    }

    /// One row without its padding, as a copy.
    pub fn extract(&self, row: i32) -> Result<KvCache> {
        check_rows(&[row], self.rows())?;
        self.finalized("extract a row")?;
        let padding = self.padding[row as usize].max(0);
        if padding >= self.len {
            return Ok(KvCache::from_store(Store::new(self.encoding())));
        }
        let cut = self.store.slots(padding, self.len)?.map(|part| part.slice_axis(0, row, row + 1)?.contiguous())?;
        Ok(KvCache::from_store(cut))
    }

    /// One row of each cache, padded to the longest.
    pub fn merge(caches: &[&KvCache]) -> Result<BatchKvCache> {
        if caches.is_empty() {
            return Err(Error::Argument("there are no caches to merge".into()));
        }
        if let Some(rows) = caches.iter().filter_map(|cache| cache.rows()).find(|&rows| rows != 1) {
            return Err(Error::Argument(format!("only caches of one row are merged, one has {rows}")));
        }
        let stores = Store::aligned(caches.iter().map(|cache| cache.held()).collect::<Result<_>>()?)?;
        let len = caches.iter().map(|cache| cache.len).max().unwrap_or(0);
        let padding: Vec<i32> = caches.iter().map(|cache| len - cache.len).collect();
        let store = match stores.iter().find(|store| !store.is_empty()) {
            Some(layout) => {
                let moved = stores.iter().map(|store| store.aligned_right(layout, 1, len, roomy(len)));
                Store::join_rows(&moved.collect::<Result<Vec<_>>>()?)?
            }
            None => Store::new(stores[0].encoding()),
        };
        Ok(BatchKvCache { store, len, padding, right_padding: None, exact: false, later: None })
    }

    /// Replaces a row by a cache of one row, right-aligned at the write position: the other rows are not copied unless the new one is
    /// longer than they are, which moves everything.
    pub fn put_row(&mut self, row: i32, cache: &KvCache) -> Result<()> {
        check_rows(&[row], self.rows())?;
        self.finalized("replace a row")?;
        if let Some(rows) = cache.rows().filter(|&rows| rows != 1) {
            return Err(Error::Argument(format!("a row is replaced by a cache of one row, not {rows}")));
        }
        let [held, new] = Store::aligned_pair(self.held()?, cache.held()?)?;
        let more = (cache.len - self.len).max(0);
        let len = self.len + more;
        if cache.len > 0 {
            let room = match (self.len, more) {
                (0, _) => new.zeros(self.rows(), roomy(len))?,
                (_, 0) if held.encoding() == self.encoding() => self.store.clone(),
                (_, 0) => held,
                _ => held.aligned_right(&held, self.rows(), len, roomy(len))?,
            };
            // What is dropped here and at the end held the buffers: nobody does when they are written to.
            self.store = room.write(&new, row, len - cache.len)?;
        }
        self.padding.iter_mut().for_each(|slots| *slots += more);
        self.padding[row as usize] = len - cache.len;
        self.len = len;
        Ok(())
    }

    /// All slots' keys and values, or the codes, scales and biases of both; nothing of an empty cache.
    pub fn state(&self) -> Result<Vec<Array>> {
        Ok(self.held()?.parts().to_vec())
    }

    /// Of slots as `state` returns them, with each row's padding.
    pub fn from_parts(parts: Vec<Array>, encoding: Option<Quantization>, len: Option<i32>, left_padding: &[i32]) -> Result<Self> {
        let plain = KvCache::from_parts(parts, encoding, len)?;
        if plain.store.rows().is_some_and(|rows| rows != left_padding.len() as i32) {
            return Err(Error::Argument(format!("{} numbers of padding for {:?} rows", left_padding.len(), plain.store.rows())));
        }
        Ok(BatchKvCache {
            store: plain.store,
            len: plain.len,
            padding: left_padding.to_vec(),
            right_padding: None,
            exact: false,
            later: None,
        })
    }

    /// The same slots coded as `how` says.
    pub fn to_quantized(&self, how: Quantization) -> Result<BatchKvCache> {
        Ok(BatchKvCache { store: self.held()?.quantized(how)?, ..self.clone() })
    }

    /// Forgets everything: as many empty rows without padding.
    pub fn reset(&mut self) {
        self.store = Store::new(self.store.encoding());
        self.len = 0;
        self.padding.fill(0);
        self.right_padding = None;
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

fn common_padding(padding: &[i32]) -> i32 {
    padding.iter().copied().min().unwrap_or(0).max(0)
}

pub(super) fn check_padding(side: &str, padding: &[i32]) -> Result<()> {
    if padding.is_empty() {
        return Err(Error::Argument("a batch cache has at least one row".into()));
    }
    match padding.iter().find(|&&slots| slots < 0) {
        Some(slots) => Err(Error::Argument(format!("{side} padding is a number of slots, not {slots}"))),
        None => Ok(()),
    }
}
