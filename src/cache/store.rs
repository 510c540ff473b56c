//! The arrays behind every cache: keys and values as they are, or coded.

use crate::mlx::ops::{self, Quantization, Quantized};
use crate::mlx::{Array, Dtype, Error, Result};

/// Slots by which the buffers grow.
pub(super) const STEP: i32 = 256;

/// Keys and values of some slots, for attention.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// `[B, Hkv, K, D]` each.
    Plain(Array, Array),
    Quantized {
        keys: Quantized,
        values: Quantized,
        how: Quantization,
    },
}

/// Buffers `[B, Hkv, capacity, …]`: keys and values, or of each the codes, scales and biases. Nothing is held until something is
/// written. All of them are cut, joined and written alike, so that a cache need not know what is in them.
#[derive(Clone, Debug, Default)]
pub struct Store {
    parts: Vec<Array>,
    encoding: Option<Quantization>,
}

impl Store {
    pub fn new(encoding: Option<Quantization>) -> Self {
        Store { parts: Vec::new(), encoding }
    }

    /// As `parts` returns them: two arrays, or six that `encoding` made.
    pub fn from_parts(parts: Vec<Array>, encoding: Option<Quantization>) -> Result<Self> {
        let refuse = |reason: String| Err(Error::Shape(format!("these are not the buffers of a KV cache: {reason}")));
        let wanted = if encoding.is_some() { 6 } else { 2 };
        if parts.is_empty() {
            return Ok(Store::new(encoding));
        }
        if parts.len() != wanted {
            return refuse(format!("{} arrays instead of {wanted}", parts.len()));
        }
        if parts.iter().any(|part| part.ndim() != 4 || part.shape()[..3] != parts[0].shape()[..3] || part.size() == 0) {
            return refuse(format!("{parts:?} must be [B, heads, slots, features] and agree but for the features"));
        }
        if let Some(how) = encoding {
            for half in parts.chunks(3) {
                let groups = i64::from(half[0].dim(3)) * 32 / i64::from(how.bits()) / i64::from(how.group_size());
                let whole = groups * i64::from(how.bits()) * i64::from(how.group_size()) == i64::from(half[0].dim(3)) * 32;
                let fits = |part: &Array| i64::from(part.dim(3)) == groups && part.dtype().is_float();
                if half[0].dtype() != Dtype::Uint32
                    || !whole
                    || !fits(&half[1])
                    || !fits(&half[2])
                    || half[1].dtype() != half[2].dtype()
                {
                    return refuse(format!(
                        "codes, scales and biases {half:?} do not fit {} bits in groups of {}",
                        how.bits(),
                        how.group_size()
                    ));
                }
            }
        }
        Ok(Store { parts, encoding })
    }

    pub fn encoding(&self) -> Option<Quantization> {
        self.encoding
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub fn parts(&self) -> &[Array] {
        &self.parts
    }

    pub fn nbytes(&self) -> usize {
        self.parts.iter().map(Array::nbytes).sum()
    }

    /// Rows, unless nothing is held.
    pub fn rows(&self) -> Option<i32> {
        self.parts.first().map(|part| part.dim(0))
    }

    pub fn capacity(&self) -> i32 {
        self.parts.first().map_or(0, |part| part.dim(2))
    }

    /// Heads, features of a key and of a value, and their dtypes.
    fn layout(&self) -> Option<(i32, [i32; 2], [Dtype; 2])> {
        let heads = self.parts.first()?.dim(1);
        Some(match self.encoding {
            None => (heads, [self.parts[0].dim(3), self.parts[1].dim(3)], [self.parts[0].dtype(), self.parts[1].dtype()]),
            Some(how) => {
                let size = |codes: &Array| codes.dim(3) * 32 / how.bits();
                (heads, [size(&self.parts[0]), size(&self.parts[3])], [self.parts[1].dtype(), self.parts[4].dtype()])
            }
        })
    }

    /// Refuses keys and values that do not belong together or to what is held. Rows count unless `rows` says how many there are.
    pub fn check(&self, keys: &Array, values: &Array, rows: Option<i32>) -> Result<()> {
        let refuse = |reason: String| Err(Error::Shape(format!("cannot append to the KV cache: {reason}")));
        if keys.ndim() != 4
            || values.ndim() != 4
            || keys.shape()[..3] != values.shape()[..3]
            || keys.size() == 0
            || values.size() == 0
        {
            return refuse(format!(
                "keys {keys:?} and values {values:?} must be [B, heads, T, D], hold something, and agree in B, heads and T"
            ));
        }
        if let Some(rows) = rows.or(self.rows())
            && rows != keys.dim(0)
        {
            return refuse(format!("it has {rows} rows, the new keys {keys:?} have {}", keys.dim(0)));
        }
        if let Some((heads, sizes, dtypes)) = self.layout()
            && (heads, sizes, dtypes) != (keys.dim(1), [keys.dim(3), values.dim(3)], [keys.dtype(), values.dtype()])
        {
            let names = dtypes.map(Dtype::name);
            return refuse(format!(
                "it holds {heads} heads of {sizes:?} features in {names:?}, the new ones are {keys:?} and {values:?}"
            ));
        }
        Ok(())
    }

    /// Refuses a store that cannot be joined with this one.
    pub fn check_joins(&self, other: &Store) -> Result<()> {
        let words = |store: &Store| {
            let (heads, sizes, dtypes) = store.layout().unwrap_or((0, [0, 0], [Dtype::Float32; 2]));
            let coded =
                store.encoding.map_or("as they are".into(), |how| format!("in {} bits by {}", how.bits(), how.group_size()));
            format!("{heads} heads of {sizes:?} features of {:?}, {coded}", dtypes.map(Dtype::name))
        };
        let both = !self.is_empty() && !other.is_empty();
        if both && (self.encoding != other.encoding || self.layout() != other.layout()) {
            return Err(Error::Shape(format!("caches of different layout do not join: {} and {}", words(self), words(other))));
        }
        Ok(())
    }

    /// Stores that can be joined: where some are quantised, all are.
    pub fn aligned(stores: Vec<Store>) -> Result<Vec<Store>> {
        let stores = match stores.iter().find_map(Store::encoding) {
            Some(how) => stores.iter().map(|store| store.quantized(how)).collect::<Result<Vec<_>>>()?,
            None => stores,
        };
        if let Some(layout) = stores.iter().find(|store| !store.is_empty()) {
            stores.iter().try_for_each(|store| layout.check_joins(store))?;
        }
        Ok(stores)
    }

    /// `aligned` of two.
    pub fn aligned_pair(first: Store, second: Store) -> Result<[Store; 2]> {
        let mut stores = Self::aligned(vec![first, second])?.into_iter();
        Ok([stores.next().unwrap_or_default(), stores.next().unwrap_or_default()])
    }

    /// The slots of this store up to `slots` of `capacity`, with zeros around them; all zeros, for `rows` rows of a layout, where it is
    /// empty.
    pub fn aligned_right(&self, layout: &Store, rows: i32, slots: i32, capacity: i32) -> Result<Store> {
        if self.is_empty() {
            return layout.zeros(rows, capacity);
        }
        let (left, right) = (slots - self.capacity(), capacity - slots);
        self.map(|part| {
            let zeros = |slots| (slots > 0).then(|| zeros_like(part, part.dim(0), slots)).transpose();
            let pieces: Vec<Array> = [zeros(left)?, Some(part.clone()), zeros(right)?].into_iter().flatten().collect();
            if pieces.len() == 1 { Ok(part.clone()) } else { ops::concatenate(&pieces, 2) }
        })
    }

    /// This store, or its codes if that is due: `later` says how, and from how many tokens on.
    pub fn quantized_if_due(self, later: Option<(Quantization, i32)>, tokens: i32) -> Result<Store> {
        match later {
            Some((how, start)) if tokens >= start && self.encoding.is_none() => self.quantized(how),
            _ => Ok(self),
        }
    }

    /// Keys and values in this store's form.
    pub fn encode(&self, keys: &Array, values: &Array) -> Result<Store> {
        let Some(how) = self.encoding else {
            return Ok(Store { parts: vec![keys.clone(), values.clone()], encoding: None });
        };
        let mut parts = Vec::with_capacity(6);
        for array in [keys, values] {
            let Quantized { weight, scales, biases } = ops::quantize(array, how, None)?;
            let biases = biases.ok_or_else(|| Error::Internal("affine codes without biases".into()))?;
            parts.extend([weight, scales, biases]);
        }
        Ok(Store { parts, encoding: self.encoding })
    }

    /// The same numbers coded as `how` says.
    pub fn quantized(&self, how: Quantization) -> Result<Store> {
        match (&self.parts[..], self.encoding) {
            ([], _) => Ok(Store::new(Some(how))),
            ([keys, values], None) => Store::new(Some(how)).encode(keys, values),
            (_, Some(held)) if held == how => Ok(self.clone()),
            (_, Some(held)) => Err(Error::Argument(format!(
                "the cache is already quantised to {} bits in groups of {}",
                held.bits(),
                held.group_size()
            ))),
            (parts, None) => Err(Error::Internal(format!("{} buffers in a KV cache", parts.len()))),
        }
    }

    pub fn map(&self, change: impl Fn(&Array) -> Result<Array>) -> Result<Store> {
        Ok(Store { parts: self.parts.iter().map(change).collect::<Result<_>>()?, encoding: self.encoding })
    }

    fn zip(&self, other: &Store, join: impl Fn(&Array, &Array) -> Result<Array>) -> Result<Store> {
        let parts = self.parts.iter().zip(&other.parts).map(|(a, b)| join(a, b)).collect::<Result<_>>()?;
        Ok(Store { parts, encoding: self.encoding })
    }

    /// Slots `from..to`.
    pub fn slots(&self, from: i32, to: i32) -> Result<Store> {
        if from == 0 && to == self.capacity() { Ok(self.clone()) } else { self.map(|part| part.slice_axis(2, from, to)) }
    }

    /// Rows by number, in the given order.
    pub fn take_rows(&self, rows: &[i32]) -> Result<Store> {
        let rows = Array::from_slice(rows, &[rows.len() as i32])?;
        self.map(|part| part.take(&rows, 0))
    }

    pub fn repeat_rows(&self, times: i32) -> Result<Store> {
        self.map(|part| part.repeat(times, 0))
    }

    /// Each row's first `filled` slots moved right by its own number, those that fall off their end coming in at the front.
    pub fn rolled(&self, filled: i32, by: &[i32]) -> Result<Store> {
        let slots = self.capacity();
        let from = |slot: i32, by: i32| if slot < filled { (slot - by).rem_euclid(filled) } else { slot };
        let index: Vec<i32> = by.iter().flat_map(|&by| (0..slots).map(move |slot| from(slot, by))).collect();
        let index = Array::from_slice(&index, &[by.len() as i32, 1, slots, 1])?;
        self.map(|part| part.take_along_axis(&index.broadcast_to(part.shape())?, 2))
    }

    /// The first `count` slots with those of `update` in them whose numbers `from` gives, for each row and slot; a negative one leaves the slot
    /// as it is.
    pub fn with_front(&self, update: &Store, count: i32, from: &[i32]) -> Result<Store> {
        let from = Array::from_slice(from, &[from.len() as i32 / count, 1, count, 1])?;
        let (taken, zero) = (from.greater_equal(&Array::scalar_i32(0))?, Array::scalar_i32(0));
        let from = from.maximum(&zero)?;
        let front = self.slots(0, count)?.zip(update, |held, update| {
            let shape = [update.dim(0), update.dim(1), count, update.dim(3)];
            ops::where_(&taken, &update.take_along_axis(&from.broadcast_to(&shape)?, 2)?, held)
        })?;
        self.write(&front, 0, 0)
    }

    /// The slots of all stores, one after the other; each holds something.
    pub fn join_slots(stores: &[Store]) -> Result<Store> {
        Self::join(stores, 2)
    }

    /// The rows of all stores, one after the other; each holds something.
    pub fn join_rows(stores: &[Store]) -> Result<Store> {
        Self::join(stores, 0)
    }

    fn join(stores: &[Store], axis: i32) -> Result<Store> {
        let first = stores.first().ok_or_else(|| Error::Argument("there are no caches to join".into()))?;
        let part = |index: usize| {
            let arrays: Vec<&Array> = stores.iter().map(|store| &store.parts[index]).collect();
            if arrays.len() == 1 { Ok(arrays[0].clone()) } else { ops::concatenate(&arrays, axis) }
        };
        Ok(Store { parts: (0..first.parts.len()).map(part).collect::<Result<_>>()?, encoding: first.encoding })
    }

    /// Zeros of this layout.
    pub fn zeros(&self, rows: i32, slots: i32) -> Result<Store> {
        self.map(|part| zeros_like(part, rows, slots))
    }

    /// `update` at slots from `at` on, of rows from `row` on: in place if nobody else holds the buffers, which must have room.
    pub fn write(&self, update: &Store, row: i32, at: i32) -> Result<Store> {
        self.zip(update, |part, update| {
            let stop = [row + update.dim(0), part.dim(1), at + update.dim(2), part.dim(3)];
            part.slice_update(update, &[row, 0, at, 0], &stop)
        })
    }

    /// Room for `slots`, a multiple of `STEP`, the first `filled` kept.
    pub fn grown(&self, filled: i32, slots: i32) -> Result<Store> {
        let slots = (i64::from(slots) + i64::from(STEP) - 1) / i64::from(STEP) * i64::from(STEP);
        let slots = i32::try_from(slots).map_err(|_| Error::Shape("the KV cache is full".into()))?;
        self.resized(filled, slots)
    }

    /// `slots` slots, the first `filled` of which are those held.
    pub fn resized(&self, filled: i32, slots: i32) -> Result<Store> {
        self.map(|part| {
            let fresh = zeros_like(part, part.dim(0), slots - filled)?;
            if filled == 0 { Ok(fresh) } else { ops::concatenate(&[part.slice_axis(2, 0, filled)?, fresh], 2) }
        })
    }

    /// `update` after the first `filled` slots. `exact` joins instead of writing into spare slots.
    pub fn appended(&self, filled: i32, update: &Store, exact: bool) -> Result<Store> {
        let end = filled.checked_add(update.capacity()).ok_or_else(|| Error::Shape("the KV cache is full".into()))?;
        if exact {
            let held = filled > 0 && !self.is_empty();
            return if held { Store::join_slots(&[self.slots(0, filled)?, update.clone()]) } else { Ok(update.clone()) };
        }
        if self.capacity() >= end {
            return self.write(update, 0, filled);
        }
        let held = if self.is_empty() { update } else { self };
        held.grown(if self.is_empty() { 0 } else { filled }, end)?.write(update, 0, filled)
    }

    /// Slots `0..to` for attention.
    pub fn fetch(&self, to: i32) -> Result<Fetched> {
        let held = self.slots(0, to)?;
        let mut parts = held.parts.into_iter();
        let mut next = || parts.next().ok_or_else(|| Error::Internal("a KV cache without buffers".into()));
        Ok(match self.encoding {
            None => Fetched::Plain(next()?, next()?),
            Some(how) => Fetched::Quantized {
                keys: Quantized { weight: next()?, scales: next()?, biases: Some(next()?) },
                values: Quantized { weight: next()?, scales: next()?, biases: Some(next()?) },
                how,
            },
        })
    }
}

fn zeros_like(part: &Array, rows: i32, slots: i32) -> Result<Array> {
    ops::zeros(&[rows, part.dim(1), slots, part.dim(3)], part.dtype())
}

/// How an empty cache begins, and what is left to do later.
pub(super) fn begins(later: Option<(Quantization, i32)>) -> (Option<Quantization>, Option<(Quantization, i32)>) {
    match later {
        Some((how, 0)) => (Some(how), None),
        later => (None, later),
    }
}

/// A capacity that holds `slots` and the next one.
pub(super) fn roomy(slots: i32) -> i32 {
    (slots / STEP).saturating_add(1).saturating_mul(STEP)
}

/// Refuses row numbers that do not exist.
pub(super) fn check_rows(rows: &[i32], count: i32) -> Result<()> {
    if rows.is_empty() {
        return Err(Error::Argument("a cache keeps at least one row".into()));
    }
    match rows.iter().find(|&&row| row < 0 || row >= count) {
        Some(row) => Err(Error::Argument(format!("there is no row {row} in a cache of {count} rows"))),
        None => Ok(()),
    }
}

pub(super) fn check_times(times: i32) -> Result<()> {
    if times < 1 {
        return Err(Error::Argument(format!("rows can be repeated 1 or more times, not {times}")));
    }
    Ok(())
}
