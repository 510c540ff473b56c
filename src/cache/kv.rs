//! The plain key-value cache: one buffer per layer that grows in steps.

use crate::mlx::{Array, Error, Result, ops};

/// Slots by which the buffers grow.
const STEP: i32 = 256;

/// Keys and values of one layer, `[B, Hkv, capacity, D]`, of which the first `len` slots are filled.
///
/// New slots are written in place as long as nobody else holds the buffers.
#[derive(Default)]
pub struct KvCache {
    buffers: Option<(Array, Array)>,
    len: i32,
    /// The buffers hold the filled slots and no more.
    exact: bool,
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

    /// Filled slots per row, padding included.
    pub fn len(&self) -> i32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `keys` and `values` `[B, Hkv, T, D]` and returns all filled slots. On an error the cache is as before.
    pub fn update_and_fetch(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        self.check(keys, values)?;
        let end = self.len.checked_add(keys.dim(2)).ok_or_else(|| Error::Shape("the KV cache is full".into()))?;
        if self.exact {
            let joined = match &self.buffers {
                Some((held_keys, held_values)) if self.len > 0 => {
                    let held = |buffer: &Array| buffer.slice_axis(2, 0, self.len);
                    let (held_keys, held_values) = (held(held_keys)?, held(held_values)?);
                    (ops::concatenate(&[&held_keys, keys], 2)?, ops::concatenate(&[&held_values, values], 2)?)
                }
                _ => (keys.clone(), values.clone()),
            };
            self.buffers = Some(joined.clone());
            self.len = end;
            return Ok(joined);
        }
        let write = |buffer: &Array, update: &Array| {
            let start = [0, 0, self.len, 0];
            buffer.slice_update(update, &start, &[buffer.dim(0), buffer.dim(1), end, buffer.dim(3)])
        };
        let (new_keys, new_values) = match &self.buffers {
            Some((held_keys, held_values)) if end <= held_keys.dim(2) => (write(held_keys, keys)?, write(held_values, values)?),
            held => {
                let held = held.as_ref().filter(|_| self.len > 0);
                let (grown_keys, grown_values) =
                    (self.grown(held.map(|held| &held.0), keys, end)?, self.grown(held.map(|held| &held.1), values, end)?);
                (write(&grown_keys, keys)?, write(&grown_values, values)?)
            }
        };
        let filled = (new_keys.slice_axis(2, 0, end)?, new_values.slice_axis(2, 0, end)?);
        // The old buffers are dropped here, before anything runs: MLX may then write into them instead of copying.
        self.buffers = Some((new_keys, new_values));
        self.len = end;
        Ok(filled)
    }

    /// The filled slots of `held` followed by zeros, up to a multiple of `STEP` that holds `end` slots.
    fn grown(&self, held: Option<&Array>, update: &Array, end: i32) -> Result<Array> {
        let slots = (end as i64 + STEP as i64 - 1) / STEP as i64 * STEP as i64 - held.map_or(0, |_| self.len as i64);
        let mut shape = update.shape().to_vec();
        shape[2] = i32::try_from(slots).map_err(|_| Error::Shape("the KV cache is full".into()))?;
        let fresh = ops::zeros(&shape, update.dtype())?;
        match held {
            Some(held) => ops::concatenate(&[held.slice_axis(2, 0, self.len)?, fresh], 2),
            None => Ok(fresh),
        }
    }

    /// Refuses what does not fit the slots held; an emptied cache takes anything and gives up buffers that do not fit.
    fn check(&mut self, keys: &Array, values: &Array) -> Result<()> {
        let refuse = |reason: String| Err(Error::Shape(format!("cannot append to the KV cache: {reason}")));
        if keys.ndim() != 4 || values.ndim() != 4 || keys.shape()[..3] != values.shape()[..3] {
            return refuse(format!("keys {keys:?} and values {values:?} must be [B, heads, T, D] and agree in B, heads and T"));
        }
        let Some((held_keys, held_values)) = &self.buffers else { return Ok(()) };
        let fits = |held: &Array, new: &Array| {
            held.shape()[..2] == new.shape()[..2] && held.dim(3) == new.dim(3) && held.dtype() == new.dtype()
        };
        if fits(held_keys, keys) && fits(held_values, values) {
            return Ok(());
        }
        if self.len > 0 {
            return refuse(format!("it holds {held_keys:?} and {held_values:?}, the new ones are {keys:?} and {values:?}"));
        }
        self.buffers = None;
        Ok(())
    }

    /// Forgets the last `n` slots; returns how many there were to forget.
    pub fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.len);
        self.len -= n;
        n
    }

    /// Keeps the given rows, int32, in the given order. Rows must exist: nothing checks them on the device.
    pub fn filter(&mut self, rows: &Array) -> Result<()> {
        self.replace(|buffer| buffer.take(rows, 0))
    }

    /// Each row `times` times in a row.
    pub fn repeat_rows(&mut self, times: i32) -> Result<()> {
        if times < 1 {
            return Err(Error::Argument(format!("rows can be repeated 1 or more times, not {times}")));
        }
        self.replace(|buffer| buffer.repeat(times, 0))
    }

    /// Forgets the first `n` slots, padding of every row.
    pub fn drop_front(&mut self, n: i32) -> Result<()> {
        if n < 0 || n > self.len {
            return Err(Error::Argument(format!("cannot drop {n} slots of a KV cache that holds {}", self.len)));
        }
        self.replace(|buffer| buffer.slice_axis(2, n, buffer.dim(2)))?;
        self.len -= n;
        Ok(())
    }

    fn replace(&mut self, change: impl Fn(&Array) -> Result<Array>) -> Result<()> {
        if let Some((keys, values)) = &self.buffers {
            self.buffers = Some((change(keys)?, change(values)?));
        }
        Ok(())
    }

    /// Keys and values of the filled slots.
    pub fn state(&self) -> Result<Option<(Array, Array)>> {
        let filled = |buffer: &Array| buffer.slice_axis(2, 0, self.len);
        self.buffers.as_ref().map(|(keys, values)| Ok((filled(keys)?, filled(values)?))).transpose()
    }

    /// The buffers, to evaluate them.
    pub fn arrays(&self) -> Vec<&Array> {
        self.buffers.iter().flat_map(|(keys, values)| [keys, values]).collect()
    }

    pub fn nbytes(&self) -> usize {
        self.arrays().iter().map(|array| array.nbytes()).sum()
    }
}
