//! The latest tokens of each row, on the device, and where they repeat.
//!
//! Arrays are int32 `[B, W]` with the newest token in the last column. `tokens` is -1 where a row has no token that far back. The
//! host knows how long each row is, because every step adds one token to each; what the tokens are it need not know.
//!
//! A run at a place is the length of the longest sequence that ends there and that the row ends with, too. A new token gives
//! all runs from those before it: where it stood before, the run of the place before grows by one, elsewhere it is 0.

use super::lists::IdLists;
use super::options::{Need, SamplerOptions};
use crate::mlx::{Array, Dtype, Result, ops};

/// What a row's processors look at.
struct Slot {
    need: Need,
    length: usize,
    /// Runs that go on across every token.
    runs: bool,
    /// Runs that breakers end, for DRY.
    broken_runs: bool,
    breakers: Vec<i32>,
    source: Source,
}

impl Slot {
    fn new(options: &SamplerOptions, tokens: &[i32]) -> Slot {
        let need = options.needs();
        Slot {
            need,
            length: tokens.len(),
            runs: options.no_repeat_ngram_size > 0,
            broken_runs: options.dry_multiplier != 0.,
            breakers: options.dry_sequence_breakers.clone(),
            source: Source::Host(tokens[tokens.len() - need.of(tokens.len())..].to_vec()),
        }
    }
}

/// Where the tokens of a row are.
enum Source {
    /// A row of the arrays.
    Device(i32),
    /// Not in the arrays yet.
    Host(Vec<i32>),
}

/// The arrays of a batch; runs only where a row needs them.
#[derive(Clone)]
pub(super) struct Columns {
    pub(super) tokens: Array,
    pub(super) runs: Option<Array>,
    pub(super) broken_runs: Option<Array>,
}

#[derive(Default)]
pub(super) struct History {
    slots: Vec<Slot>,
    columns: Option<Columns>,
    /// Of the rows, while there are broken runs.
    breakers: Option<IdLists>,
}

impl History {
    pub(super) fn push(&mut self, options: &SamplerOptions, tokens: &[i32]) {
        self.slots.push(Slot::new(options, tokens));
    }

    pub(super) fn put(&mut self, row: usize, options: &SamplerOptions, tokens: &[i32]) {
        self.slots[row] = Slot::new(options, tokens);
    }

    /// Only these rows stay, in this order; each is named once.
    pub(super) fn keep(&mut self, rows: &[usize]) {
        let mut slots: Vec<Option<Slot>> = std::mem::take(&mut self.slots).into_iter().map(Some).collect();
        self.slots = rows.iter().filter_map(|&row| slots[row].take()).collect();
    }

    fn width(&self) -> i32 {
        self.slots.iter().map(|slot| slot.need.of(slot.length)).max().unwrap_or(0).max(1) as i32
    }

    /// The arrays for the rows as they are now; `None` when no row looks back.
    pub(super) fn columns(&mut self) -> Result<Option<&Columns>> {
        let settled = |(row, slot): (usize, &Slot)| matches!(slot.source, Source::Device(place) if place == row as i32);
        let rows = self.columns.as_ref().map_or(0, |columns| columns.tokens.dim(0));
        if self.slots.iter().all(|slot| slot.need == Need::Last(0)) {
            (self.columns, self.breakers) = (None, None);
            self.slots.iter_mut().for_each(|slot| slot.source = Source::Host(Vec::new()));
        } else if rows != self.slots.len() as i32 || !self.slots.iter().enumerate().all(settled) {
            self.columns = Some(self.gather()?);
            self.breakers = match self.slots.iter().any(|slot| slot.broken_runs) {
                true => IdLists::new(self.slots.iter().map(|slot| slot.breakers.as_slice()))?,
                false => None,
            };
            self.slots.iter_mut().enumerate().for_each(|(row, slot)| slot.source = Source::Device(row as i32));
        }
        Ok(self.columns.as_ref())
    }

    /// The rows in their order: those that were there, taken from the arrays, and those that have joined.
    fn gather(&self) -> Result<Columns> {
        let kept: Vec<i32> = self.slots.iter().filter_map(|slot| slot.device()).collect();
        // Rows that were there come first, then those that have joined.
        let (mut there, mut joined) = (0, kept.len() as i32);
        let order: Vec<i32> = self
            .slots
            .iter()
            .map(|slot| {
                let next = if slot.device().is_some() { &mut there } else { &mut joined };
                *next += 1;
                *next - 1
            })
            .collect();
        let layout = Layout { width: self.width(), kept, order };
        let before = self.columns.as_ref();
        let hosts = |value: fn(&Slot, &[i32]) -> Vec<i32>| {
            self.slots.iter().filter_map(move |slot| match &slot.source {
                Source::Host(tokens) => Some(value(slot, tokens)),
                Source::Device(_) => None,
            })
        };
        let runs = |used: fn(&Slot) -> bool, old: Option<&Array>, value| -> Result<Option<Array>> {
            if !self.slots.iter().any(used) {
                return Ok(None);
            }
            layout.arrange(old, hosts(value), 0).map(Some)
        };
        Ok(Columns {
            tokens: layout.arrange(before.map(|columns| &columns.tokens), hosts(|_, tokens| tokens.to_vec()), -1)?,
            runs: runs(
                |slot| slot.runs,
                before.and_then(|columns| columns.runs.as_ref()),
                |slot, tokens| if slot.runs { ending_runs(tokens, &[]) } else { Vec::new() },
            )?,
            broken_runs: runs(
                |slot| slot.broken_runs,
                before.and_then(|columns| columns.broken_runs.as_ref()),
                |slot, tokens| if slot.broken_runs { ending_runs(tokens, &slot.breakers) } else { Vec::new() },
            )?,
        })
    }

    /// Adds the token of each row, int32 `[B]`.
    pub(super) fn append(&mut self, tokens: &Array) -> Result<()> {
        self.slots.iter_mut().for_each(|slot| slot.length += 1);
        let width = self.width();
        let Some(before) = &self.columns else { return Ok(()) };
        let token = tokens.expand_dims(&[1])?;
        let grown = |runs: &Option<Array>, breakers: Option<&IdLists>| {
            runs.as_ref().map(|runs| fit(&next_runs(&before.tokens, runs, &token, breakers)?, width, 0)).transpose()
        };
        self.columns = Some(Columns {
            tokens: fit(&ops::concatenate(&[&before.tokens, &token], 1)?, width, -1)?,
            runs: grown(&before.runs, None)?,
            broken_runs: grown(&before.broken_runs, self.breakers.as_ref())?,
        });
        Ok(())
    }

    pub(super) fn arrays(&self) -> Vec<Array> {
        let Some(columns) = &self.columns else { return Vec::new() };
        [Some(&columns.tokens), columns.runs.as_ref(), columns.broken_runs.as_ref()].into_iter().flatten().cloned().collect()
    }
}

impl Slot {
    fn device(&self) -> Option<i32> {
        match self.source {
            Source::Device(place) => Some(place),
            Source::Host(_) => None,
        }
    }
}

/// How rows come together in a new array.
struct Layout {
    width: i32,
    /// Rows of the old array that stay.
    kept: Vec<i32>,
    /// The place of each row, where those that stay come first.
    order: Vec<i32>,
}

impl Layout {
    fn arrange(&self, old: Option<&Array>, joined: impl Iterator<Item = Vec<i32>>, fill: i32) -> Result<Array> {
        let mut parts = Vec::new();
        if !self.kept.is_empty() {
            let rows = self.kept.len() as i32;
            parts.push(match old {
                Some(old) => fit(&old.take(&Array::from_slice(&self.kept, &[rows])?, 0)?, self.width, fill)?,
                None => ops::full(&[rows, self.width], fill as f64, Dtype::Int32)?,
            });
        }
        let (mut values, mut rows) = (Vec::new(), 0);
        for row in joined {
            let row = &row[row.len().saturating_sub(self.width as usize)..];
            values.extend(std::iter::repeat_n(fill, self.width as usize - row.len()));
            values.extend_from_slice(row);
            rows += 1;
        }
        if rows > 0 {
            parts.push(Array::from_slice(&values, &[rows, self.width])?);
        }
        let all = if parts.len() == 1 { parts.remove(0) } else { ops::concatenate(&parts, 0)? };
        if self.order.is_sorted() { Ok(all) } else { all.take(&Array::from_slice(&self.order, &[self.order.len() as i32])?, 0) }
    }
}

/// The last `width` columns, with `fill` before them where there are fewer.
fn fit(columns: &Array, width: i32, fill: i32) -> Result<Array> {
    let have = columns.dim(1);
    if have >= width {
        return columns.slice_axis(1, have - width, have);
    }
    let missing = ops::full(&[columns.dim(0), width - have], fill as f64, Dtype::Int32)?;
    ops::concatenate(&[&missing, columns], 1)
}

/// Runs of `tokens` `[B, W]` after one more `token` `[B, 1]`: `[B, W + 1]`, with 0 for the new place itself.
fn next_runs(tokens: &Array, runs: &Array, token: &Array, breakers: Option<&IdLists>) -> Result<Array> {
    let (rows, width) = (tokens.dim(0), tokens.dim(1));
    let edge = ops::zeros(&[rows, 1], Dtype::Int32)?;
    let before = ops::concatenate(&[&edge, &runs.slice_axis(1, 0, width - 1)?], 1)?;
    let mut same = tokens.equal(token)?;
    if let Some(breakers) = breakers {
        same = same.logical_and(&breakers.contain(token)?.logical_not()?)?;
    }
    let grown = ops::where_(&same, &before.add(&Array::scalar_i32(1))?, &Array::scalar_i32(0))?;
    ops::concatenate(&[&grown, &edge], 1)
}

/// As `next_runs`, of tokens that the host has: the Z function of the reversed sequence, cut at the last breaker.
pub(super) fn ending_runs(tokens: &[i32], breakers: &[i32]) -> Vec<i32> {
    let length = tokens.len();
    let at = |place: usize| tokens[length - 1 - place];
    let unbroken = tokens.iter().rev().take_while(|token| !breakers.contains(token)).count();
    let mut common = vec![0usize; length];
    let (mut left, mut right) = (0, 0);
    for place in 1..length {
        let mut known = if place < right { common[place - left].min(right - place) } else { 0 };
        while place + known < length && at(known) == at(place + known) {
            known += 1;
        }
        common[place] = known;
        if place + known > right {
            (left, right) = (place, place + known);
        }
    }
    common.iter().rev().map(|&common| common.min(unbroken) as i32).collect()
}

/// The runs of `tokens` `[B, W]`, none counted further than `longest`, without the steps that led there.
pub(super) fn written_runs(tokens: &Array, longest: i32, breakers: Option<&IdLists>) -> Result<Array> {
    let (rows, width) = (tokens.dim(0), tokens.dim(1));
    let mut runs = ops::zeros(&[rows, width], Dtype::Int32)?;
    let mut same: Option<Array> = None;
    for back in 0..longest.min(width - 1) {
        let token = tokens.slice_axis(1, width - 1 - back, width - back)?;
        let before = tokens.slice_axis(1, 0, width - back)?.pad(&[0, back], &[0, 0], -2.)?;
        let mut equal = before.equal(&token)?.logical_and(&token.greater_equal(&Array::scalar_i32(0))?)?;
        if let Some(breakers) = breakers {
            equal = equal.logical_and(&breakers.contain(&token)?.logical_not()?)?;
        }
        let longer = match same {
            Some(same) => same.logical_and(&equal)?,
            None => equal,
        };
        runs = runs.add(&longer.astype(Dtype::Int32)?)?;
        same = Some(longer);
    }
    Ok(runs)
}
