//! Rows of a micro-batch as the model takes them.
//!
//! They are right-padded, so attention is plainly causal. The generations of a prompt share it: it goes through the model once, and
//! its gradient is the sum of theirs.

use std::collections::HashMap;

use super::logprobs::{HeadLogprobs, HeadOptions, head_logprobs};
use super::step::{PerToken, TrainRow};
use crate::cache::{BatchKvCache, Cache};
use crate::mlx::{Array, Error, Result, ops};
use crate::models::{CausalLm, Forward, Model};

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
    /// What stands before `ids`, where rows have it in common.
    prefix: Option<Prefix>,
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

    /// Hidden states of the rows' own tokens `ids` after their prompts.
    fn hidden(&self, net: &dyn CausalLm, ids: &Array) -> Result<Array> {
        let cache = Cache::from(BatchKvCache::exact(&self.padding)?);
        let mut caches = vec![cache; net.num_layers()];
        net.hidden(Forward::cached(&self.ids, &mut caches))?;
        for cache in &mut caches {
            cache.filter(&self.of_row)?;
        }
        net.hidden(Forward::cached(ids, &mut caches))
    }
}

impl Packed {
    /// `scored(row)` are the positions of a row's tokens to score, none of them 0.
    pub fn new(rows: &[(Vec<i32>, Vec<usize>)], vocabulary: i32) -> Result<Packed> {
        for (index, (ids, _)) in rows.iter().enumerate() {
            check_ids(index, ids, vocabulary)?;
        }
        let lengths: Vec<usize> = rows.iter().map(|(_, scored)| scored.len()).collect();
        let count: usize = lengths.iter().sum();
        if count == 0 {
            return Err(Error::Argument("a micro-batch needs at least one token to score".into()));
        }
        // The last token of a row predicts nothing that is scored.
        let time = rows.iter().map(|(ids, _)| ids.len().saturating_sub(1)).max().unwrap_or(0);
        let width = lengths.iter().copied().max().unwrap_or(0);
        let mut ids = vec![0; rows.len() * time];
        let mut predictors = Vec::with_capacity(count);
        let mut targets = Vec::with_capacity(count);
        let mut places = vec![count as i32; rows.len() * width];
        for (row, (tokens, scored)) in rows.iter().enumerate() {
            let kept = tokens.len().saturating_sub(1);
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
            prefix: None,
        })
    }

    /// Completions are scored. `share`: a prompt that several rows have goes through the model once.
    pub fn from_rows(rows: &[TrainRow], vocabulary: i32, share: bool) -> Result<Packed> {
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
        Ok(Packed { prefix, ..Packed::new(&joined, vocabulary)? })
    }

    fn rows(&self) -> i32 {
        self.lengths.len() as i32
    }

    /// Log-probs of the scored tokens, `[N]`.
    pub fn score(&self, model: &Model, options: &HeadOptions) -> Result<HeadLogprobs> {
        let hidden = match &self.prefix {
            Some(prefix) => prefix.hidden(model.net.as_ref(), &self.ids)?,
            None => model.net.hidden(Forward::new(&self.ids))?,
        };
        let predictors = hidden.reshape(&[-1, hidden.dim(-1)])?.take(&self.predictors, 0)?;
        head_logprobs(&predictors, model.net.head_weight(), &self.targets, options)
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
