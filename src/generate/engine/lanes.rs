//! The batch that decodes: which row has which place, and the cache of all.

use super::prefill::Prefilled;
use crate::cache::Cache;
use crate::mlx::{Array, Error, Result};
use crate::models::{CausalLm, Forward};

/// Padding that all rows have in common goes once it is this long and half of the cache.
const COMMON_PADDING: i32 = 64;

/// Rows are numbered by the scheduler.
pub(super) type RowKey = u64;

#[derive(Default)]
pub(super) struct Lanes {
    caches: Vec<Cache>,
    /// Who is where; `None` where a row has finished. Its slots go on being computed until somebody takes them.
    places: Vec<Option<RowKey>>,
    /// Rows that have a place already, and whose caches move there before the next step: what they come from, and which of its rows
    /// goes where.
    arrivals: Option<(Prefilled, Vec<(usize, usize)>)>,
}

impl Lanes {
    pub fn places(&self) -> &[Option<RowKey>] {
        &self.places
    }

    /// Rows that decode.
    pub fn live(&self) -> usize {
        self.keys().count()
    }

    pub fn keys(&self) -> impl Iterator<Item = RowKey> + '_ {
        self.places.iter().flatten().copied()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Lanes::default();
    }

    pub fn free(&mut self, place: usize) {
        self.places[place] = None;
    }

    /// The first batch: row `i` continues prompt `prompts[i]`. Nothing is copied where every prompt has one row.
    pub fn start(&mut self, source: Prefilled, prompts: &[usize], keys: &[RowKey]) -> Result<()> {
        self.clear();
        self.caches = source.caches;
        let times = prompts.len() / source.prompts.max(1);
        if prompts.iter().copied().eq((0..source.prompts).flat_map(|prompt| std::iter::repeat_n(prompt, times))) {
            // Keeps the spare slots, which would otherwise be made again at the first step.
            for cache in self.caches.iter_mut().filter(|_| times > 1) {
                cache.repeat_rows(times as i32)?;
            }
        } else {
            let rows: Vec<i32> = prompts.iter().map(|&prompt| prompt as i32).collect();
            for cache in &mut self.caches {
                cache.filter(&rows)?;
            }
        }
        self.places = keys.iter().copied().map(Some).collect();
        Ok(())
    }

    /// Gives rows that continue `prompts` of `source` their places: free ones where there are any. Their caches follow with `settle`.
    pub fn join(&mut self, source: Prefilled, prompts: &[usize], keys: &[RowKey]) -> Result<Vec<usize>> {
        if self.arrivals.is_some() {
            return Err(Error::Internal("rows join before those that came earlier have settled".into()));
        }
        let mut free = (0..self.places.len()).filter(|&place| self.places[place].is_none()).collect::<Vec<_>>().into_iter();
        let places: Vec<usize> = keys
            .iter()
            .map(|&key| {
                let place = free.next().unwrap_or_else(|| {
                    self.places.push(None);
                    self.places.len() - 1
                });
                self.places[place] = Some(key);
                place
            })
            .collect();
        self.arrivals = Some((source, prompts.iter().copied().zip(places.iter().copied()).collect()));
        Ok(places)
    }

    /// Moves the caches of rows that have joined to their places. Done before a step, when nothing else holds the buffers: they are
    /// then written in place, and only a batch that grows is copied.
    pub fn settle(&mut self) -> Result<()> {
        let Some((source, moves)) = self.arrivals.take() else { return Ok(()) };
        for (cache, source) in self.caches.iter_mut().zip(&source.caches) {
            let rows = cache.rows().unwrap_or(0);
            let mut row: Option<(usize, Cache)> = None;
            for &(prompt, place) in moves.iter().filter(|(_, place)| (*place as i32) < rows) {
                // The samples of a prompt follow each other.
                let copy = match row.take() {
                    Some((last, copy)) if last == prompt => copy,
                    _ => source.extract(prompt as i32)?,
                };
                cache.put_row(place as i32, &copy)?;
                row = Some((prompt, copy));
            }
            let more: Vec<i32> =
                moves.iter().filter(|(_, place)| *place as i32 >= rows).map(|(prompt, _)| *prompt as i32).collect();
            if !more.is_empty() {
                let mut others = source.clone();
                others.filter(&more)?;
                cache.extend(&others)?;
            }
        }
        Ok(())
    }

    /// The caches of a row, on their own.
    pub fn row(&self, place: usize) -> Result<Vec<Cache>> {
        if let Some((source, moves)) = &self.arrivals
            && let Some((prompt, _)) = moves.iter().find(|(_, to)| *to == place)
        {
            return source.row(*prompt);
        }
        self.caches.iter().map(|cache| cache.single(place as i32)).collect()
    }

    /// Keeps only these places, in this order.
    pub fn keep(&mut self, places: &[usize]) -> Result<()> {
        let rows: Vec<i32> = places.iter().map(|&place| place as i32).collect();
        for cache in &mut self.caches {
            cache.filter(&rows)?;
        }
        self.places = places.iter().map(|&place| self.places[place]).collect();
        Ok(())
    }

    /// Drops padding that all rows have in common, where that is worth a copy of the rest.
    pub fn drop_common_padding(&mut self) -> Result<()> {
        for cache in &mut self.caches {
            let least = COMMON_PADDING.max(cache.len() / 2);
            cache.drop_padding(least)?;
        }
        Ok(())
    }

    /// Feeds a token to each row, int32 `[B]`; the logits `[B, V]` that follow.
    pub fn forward(&mut self, net: &dyn CausalLm, tokens: &Array) -> Result<Array> {
        let ids = tokens.expand_dims(&[1])?;
        let hidden = net.hidden(Forward::cached(&ids, &mut self.caches))?;
        net.logits(&hidden)?.squeeze(&[1])
    }
}
