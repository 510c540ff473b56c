//! Rows of a micro-batch as the model takes them.
//!
//! They are right-padded, so attention is plainly causal. The generations of a prompt share it: it goes through the model once, and
//! its gradient is the sum of theirs.

use std::collections::HashMap;

use super::logprobs::{HeadLogprobs, HeadOptions, head_logprobs};
use super::step::{PerToken, TrainRow};
use crate::cache::{BatchKvCache, Cache};
use crate::mlx::{Array, Error, Result, ops};
use crate::models::{CausalLm, Forward, Hidden, Model};

/// Rows in the model's form.
pub(super) struct Packed {
    /// int32 `[B, T]`, right-padded.
    ids: Array,
    /// Where in the flattened `[B * T]` the scored tokens are predicted, int32 `[N]`.
    predictors: Array,
    /// The scored tokens, int32 `[N]`.
    targets: Array,
    /// For each place of `[B, C]` its index in `[N]`, or `N` for padding; int32 `[B * C]`.
    places: Array,
    pub lengths: Vec<usize>,
    width: usize,
    tokens: Vec<RowTokens>,
    /// What stands before `ids`, where rows have it in common.
    prefix: Option<Prefix>,
}

/// How many of a row's slots of `ids` hold tokens, and how many of these are of its prompt.
struct RowTokens {
    all: usize,
    prompt: usize,
}

/// What the model made of packed rows.
pub(super) struct Scored {
    /// Of the scored tokens, `[N]`.
    pub head: HeadLogprobs,
    /// Of each layer with experts, `[M, experts]`, for the tokens that `token_weights` counts.
    pub router_logits: Vec<Array>,
}

/// The prompts of rows, each once, but for their last tokens: those predict the first tokens of completions and differ from row to
/// row in what they are differentiated for.
struct Prefix {
    /// int32 `[G, P]`, left-padded, so that completions follow at once.
    ids: Array,
    /// Slots of padding before each.
    padding: Vec<i32>,
    /// Which of them a row has.
    of_row: Vec<i32>,
}

/// A pass over prompts and one over completions have twice as many operations as a pass over both: share only from this many tokens
/// of the latter for each of the former.
const WORTH_SHARING: f64 = 1.15;

impl Prefix {
    /// `None` where sharing saves too little.
    fn new(rows: &[TrainRow]) -> Result<Option<Prefix>> {
        let mut places: HashMap<&[i32], i32> = HashMap::new();
        let mut prompts: Vec<&[i32]> = Vec::new();
        let mut of_row = Vec::with_capacity(rows.len());
        for row in rows {
            let prompt = row.prompt.split_last().map_or(&[][..], |(_, prompt)| prompt);
            of_row.push(*places.entry(prompt).or_insert_with(|| {
                prompts.push(prompt);
                prompts.len() as i32 - 1
            }));
        }
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        let completion = rows.iter().map(|row| row.completion.len()).max().unwrap_or(0);
        let whole = rows.iter().map(|row| row.prompt.len() + row.completion.len() - 1).max().unwrap_or(0) * rows.len();
        let shared = longest * prompts.len() + completion * rows.len();
        if longest == 0 || (whole as f64) < WORTH_SHARING * shared as f64 {
            return Ok(None);
        }
        let groups = prompts.len() as i32;
        let padding: Vec<i32> = prompts.iter().map(|prompt| (longest - prompt.len()) as i32).collect();
        let ids: Vec<i32> = prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(0, longest - prompt.len()).chain(prompt.iter().copied()))
            .collect();
        Ok(Some(Prefix { ids: Array::from_slice(&ids, &[groups, longest as i32])?, padding, of_row }))
    }

    /// A pass over the prompts, and one over the rows' own tokens `ids` after them.
    fn forward(&self, net: &dyn CausalLm, ids: &Array) -> Result<(Hidden, Hidden)> {
        let cache = Cache::from(BatchKvCache::exact(&self.padding)?);
        let mut caches = vec![cache; net.num_layers()];
        let prompts = net.forward(Forward::cached(&self.ids, &mut caches))?;
        for cache in &mut caches {
            cache.filter(&self.of_row)?;
        }
        Ok((prompts, net.forward(Forward::cached(ids, &mut caches))?))
    }
}

impl Packed {
    /// `scored(row)` are the positions of a row's tokens to score, none of them 0. `whole`: a row's last token, which predicts nothing
    /// that is scored, goes through the model too.
    pub fn new(rows: &[(Vec<i32>, Vec<usize>)], vocabulary: i32, whole: bool) -> Result<Packed> {
        for (index, (ids, _)) in rows.iter().enumerate() {
            check_ids(index, ids, vocabulary)?;
        }
        let lengths: Vec<usize> = rows.iter().map(|(_, scored)| scored.len()).collect();
        let count: usize = lengths.iter().sum();
        if count == 0 {
            return Err(Error::Argument("a micro-batch needs at least one token to score".into()));
        }
        let kept = |ids: &[i32]| if whole { ids.len() } else { ids.len().saturating_sub(1) };
        let time = rows.iter().map(|(ids, _)| kept(ids)).max().unwrap_or(0);
        let width = lengths.iter().copied().max().unwrap_or(0);
        let mut ids = vec![0; rows.len() * time];
        let mut predictors = Vec::with_capacity(count);
        let mut targets = Vec::with_capacity(count);
        let mut places = vec![count as i32; rows.len() * width];
        for (row, (tokens, scored)) in rows.iter().enumerate() {
            let kept = kept(tokens);
            ids[row * time..row * time + kept].copy_from_slice(&tokens[..kept]);
            for (column, &position) in scored.iter().enumerate() {
                places[row * width + column] = targets.len() as i32;
                predictors.push((row * time + position - 1) as i32);
                targets.push(tokens[position]);
            }
        }
        Ok(Packed {
            ids: Array::from_slice(&ids, &[rows.len() as i32, time as i32])?,
            predictors: Array::from_slice(&predictors, &[count as i32])?,
            targets: Array::from_slice(&targets, &[count as i32])?,
            places: Array::from_slice(&places, &[places.len() as i32])?,
            lengths,
            width,
            tokens: rows.iter().map(|(ids, _)| RowTokens { all: kept(ids), prompt: kept(ids) }).collect(),
            prefix: None,
        })
    }

    /// Completions are scored. `share`: a prompt that several rows have goes through the model once. `whole` as in `new`.
    pub fn from_rows(rows: &[TrainRow], vocabulary: i32, share: bool, whole: bool) -> Result<Packed> {
        if rows.is_empty() {
            return Err(Error::Argument("a micro-batch needs at least one row".into()));
        }
        for (index, row) in rows.iter().enumerate() {
            if row.prompt.is_empty() {
                return Err(Error::Argument(format!("row {index} has an empty prompt; a completion needs a token before it")));
            }
            check_ids(index, &row.prompt, vocabulary)?;
        }
        let prefix = if share { Prefix::new(rows)? } else { None };
        let joined: Vec<(Vec<i32>, Vec<usize>)> = rows
            .iter()
            .map(|row| {
                let start = if prefix.is_some() { row.prompt.len() - 1 } else { 0 };
                let ids = [&row.prompt[start..], row.completion.as_slice()].concat();
                let scored = (row.prompt.len() - start..ids.len()).collect();
                (ids, scored)
            })
            .collect();
        let mut packed = Packed::new(&joined, vocabulary, whole)?;
        for (tokens, row) in packed.tokens.iter_mut().zip(rows) {
            tokens.prompt = if prefix.is_some() { 1 } else { row.prompt.len() };
        }
        Ok(Packed { prefix, ..packed })
    }

    fn rows(&self) -> i32 {
        self.lengths.len() as i32
    }

    /// One pass of the model, and the log-probs of the scored tokens.
    pub fn score(&self, model: &Model, options: &HeadOptions) -> Result<Scored> {
        let flat = |array: &Array| array.reshape(&[-1, array.dim(-1)]);
        let (states, router_logits) = match &self.prefix {
            Some(prefix) => {
                let (prompts, rows) = prefix.forward(model.net.as_ref(), &self.ids)?;
                let layers = prompts.router_logits.iter().zip(&rows.router_logits);
                let joined = layers.map(|(prompts, rows)| ops::concatenate(&[flat(prompts)?, flat(rows)?], 0));
                (rows.states, joined.collect::<Result<Vec<_>>>()?)
            }
            None => {
                let rows = model.net.forward(Forward::new(&self.ids))?;
                (rows.states, rows.router_logits.iter().map(flat).collect::<Result<Vec<_>>>()?)
            }
        };
        let predictors = flat(&states)?.take(&self.predictors, 0)?;
        let head = head_logprobs(&predictors, model.net.head(), &self.targets, options)?;
        Ok(Scored { head, router_logits })
    }

    /// How often each token that went through the model stands in the rows, in the order of `Scored::router_logits`; float32 `[M]`,
    /// 0 at padding. Rows for which `counts` is false count with their prompts only.
    pub fn token_weights(&self, counts: impl Fn(usize) -> bool) -> Result<Array> {
        let mut weights: Vec<f32> = Vec::new();
        let mut slots = |before: usize, tokens: usize, all: usize, weight: f32| {
            weights.extend((0..all).map(|slot| if (before..before + tokens).contains(&slot) { weight } else { 0. }));
        };
        if let Some(prefix) = &self.prefix {
            let width = prefix.ids.dim(1) as usize;
            for (group, &padding) in prefix.padding.iter().enumerate() {
                let rows = prefix.of_row.iter().filter(|&&of_row| of_row as usize == group).count();
                slots(padding as usize, width - padding as usize, width, rows as f32);
            }
        }
        let time = self.ids.dim(1) as usize;
        for (row, tokens) in self.tokens.iter().enumerate() {
            slots(0, if counts(row) { tokens.all } else { tokens.prompt.min(tokens.all) }, time, 1.);
        }
        Array::from_slice(&weights, &[weights.len() as i32])
    }

    /// `[N]` to `[B, C]`, zero at padding.
    pub fn spread(&self, values: &Array) -> Result<Array> {
        let padded = ops::concatenate(&[values, &ops::zeros(&[1], values.dtype())?], 0)?;
        padded.take(&self.places, 0)?.reshape(&[self.rows(), self.width as i32])
    }

    /// Lists per row to `[B, C]`, zero at padding.
    pub fn gather<T: crate::mlx::Element + Default>(&self, what: &str, rows: &[Vec<T>]) -> Result<Array> {
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        if lengths != self.lengths {
            return Err(Error::Shape(format!(
                "{what} must have one number per completion token: row lengths {lengths:?} do not match {:?}",
                self.lengths
            )));
        }
        let mut values = vec![T::default(); rows.len() * self.width];
        for (row, row_values) in rows.iter().enumerate() {
            values[row * self.width..row * self.width + row_values.len()].copy_from_slice(row_values);
        }
        Array::from_slice(&values, &[self.rows(), self.width as i32])
    }

    /// `[N]` to lists per row.
    pub fn split(&self, values: &[f32]) -> PerToken {
        let mut start = 0;
        self.lengths
            .iter()
            .map(|&length| {
                start += length;
                values[start - length..start].to_vec()
            })
            .collect()
    }
}

fn check_ids(row: usize, ids: &[i32], vocabulary: i32) -> Result<()> {
    match ids.iter().find(|&&id| id < 0 || id >= vocabulary) {
        Some(id) => Err(Error::Argument(format!("row {row} holds token {id}; the vocabulary has {vocabulary}"))),
        None => Ok(()),
    }
}
