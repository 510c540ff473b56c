//! The latest tokens of each row, on the device.
//!
//! One int32 array `[B, W]`, the newest token in the last column and -1 where a row has no token that far back. The host knows how
//! long each row is, because every step adds one token to each; what the tokens are it need not know.

use super::options::Need;
use crate::mlx::{Array, Dtype, Result, ops};

/// Where the tokens of a row are.
enum Source {
    /// A row of the array.
    Device(i32),
    /// Not in the array yet.
    Host(Vec<i32>),
}

struct Slot {
    need: Need,
    length: usize,
    source: Source,
}

#[derive(Default)]
pub(super) struct History {
    slots: Vec<Slot>,
    tokens: Option<Array>,
}

impl History {
    fn slot(need: Need, tokens: &[i32]) -> Slot {
        let kept = if need == Need::Last(0) { 0 } else { need.of(tokens.len()) };
        Slot { need, length: tokens.len(), source: Source::Host(tokens[tokens.len() - kept..].to_vec()) }
    }

    pub(super) fn push(&mut self, need: Need, tokens: &[i32]) {
        self.slots.push(Self::slot(need, tokens));
    }

    pub(super) fn put(&mut self, row: usize, need: Need, tokens: &[i32]) {
        self.slots[row] = Self::slot(need, tokens);
    }

    /// Only these rows stay, in this order; each is named once.
    pub(super) fn keep(&mut self, rows: &[usize]) {
        let mut slots: Vec<Option<Slot>> = std::mem::take(&mut self.slots).into_iter().map(Some).collect();
        self.slots = rows.iter().filter_map(|&row| slots[row].take()).collect();
    }

    fn width(&self) -> i32 {
        self.slots.iter().map(|slot| slot.need.of(slot.length)).max().unwrap_or(0).max(1) as i32
    }

    /// The tokens `[B, W]`; `None` when no row looks back.
    pub(super) fn tokens(&mut self) -> Result<Option<&Array>> {
        let settled = |(row, slot): (usize, &Slot)| matches!(slot.source, Source::Device(place) if place == row as i32);
        let rows = self.tokens.as_ref().map_or(0, |tokens| tokens.dim(0));
        if self.slots.iter().all(|slot| slot.need == Need::Last(0)) {
            self.tokens = None;
            self.slots.iter_mut().for_each(|slot| slot.source = Source::Host(Vec::new()));
        } else if rows != self.slots.len() as i32 || !self.slots.iter().enumerate().all(settled) {
            self.tokens = Some(self.gather()?);
            self.slots.iter_mut().enumerate().for_each(|(row, slot)| slot.source = Source::Device(row as i32));
        }
        Ok(self.tokens.as_ref())
    }

    /// The rows in their order: those that were there, taken from the array, and those that have joined.
    fn gather(&self) -> Result<Array> {
        let width = self.width();
        let (mut kept, mut joined, mut joining) = (Vec::new(), Vec::new(), 0);
        for slot in &self.slots {
            match &slot.source {
                Source::Device(place) => kept.push(*place),
                Source::Host(tokens) => {
                    joined.extend(std::iter::repeat_n(-1, width as usize - tokens.len()));
                    joined.extend_from_slice(tokens);
                    joining += 1;
                }
            }
        }
        let mut parts = Vec::new();
        if let (Some(tokens), false) = (&self.tokens, kept.is_empty()) {
            let there = tokens.take(&Array::from_slice(&kept, &[kept.len() as i32])?, 0)?;
            parts.push(fit(&there, width)?);
        }
        if joining > 0 {
            parts.push(Array::from_slice(&joined, &[joining, width])?);
        }
        let all = if parts.len() == 1 { parts.remove(0) } else { ops::concatenate(&parts, 0)? };
        // Rows that were there come first in `all`.
        let (mut there, mut new) = (0, kept.len() as i32);
        let places: Vec<i32> = self
            .slots
            .iter()
            .map(|slot| {
                let next = if matches!(slot.source, Source::Device(_)) { &mut there } else { &mut new };
                *next += 1;
                *next - 1
            })
            .collect();
        if places.is_sorted() { Ok(all) } else { all.take(&Array::from_slice(&places, &[places.len() as i32])?, 0) }
    }

    /// Adds the token of each row, int32 `[B]`.
    pub(super) fn append(&mut self, tokens: &Array) -> Result<()> {
        self.slots.iter_mut().for_each(|slot| slot.length += 1);
        if let Some(before) = &self.tokens {
            let longer = ops::concatenate(&[before, &tokens.expand_dims(&[1])?], 1)?;
            self.tokens = Some(fit(&longer, self.width())?);
        }
        Ok(())
    }

    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.tokens.iter()
    }
}

/// The last `width` columns, with -1 before them where there are fewer.
fn fit(tokens: &Array, width: i32) -> Result<Array> {
    let have = tokens.dim(1);
    if have >= width {
        return tokens.slice_axis(1, have - width, have);
    }
    let missing = ops::full(&[tokens.dim(0), width - have], -1., Dtype::Int32)?;
    ops::concatenate(&[&missing, tokens], 1)
}
