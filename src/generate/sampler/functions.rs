//! Penalties and filters as functions of arrays.
//!
//! Logits are `[.., V]` of any float dtype, which the result keeps; all arithmetic is in float32. There is one set of options for all
//! rows, or one for each.

use super::draw::LANES;
use super::history::{Columns, written_runs};
use super::lists::IdLists;
use super::repeats::LONGEST_RUN;
use super::settings::Settings;
use super::{Row, Sampled, Sampler, SamplerOptions, filter, process};
use crate::mlx::{Array, Dtype, Error, Result};

/// Rows of logits `[R, V]` in float32, and what is asked of each.
struct Batch {
    logits: Array,
    rows: Vec<Row>,
    shape: Vec<i32>,
    dtype: Dtype,
}

impl Batch {
    fn new(logits: &Array, options: &[SamplerOptions]) -> Result<Batch> {
        let (shape, dtype) = (logits.shape().to_vec(), logits.dtype());
        let size = shape.last().copied().unwrap_or(0);
        if !dtype.is_float() {
            return Err(Error::Dtype(format!("logits must be of a float dtype, got {}", dtype.name())));
        }
        if size == 0 || logits.size() == 0 {
            return Err(Error::Shape(format!("logits must hold at least one row and one token, got shape {shape:?}")));
        }
        let count = logits.size() / size as usize;
        if options.len() != 1 && options.len() != count {
            let given = options.len();
            return Err(Error::Argument(format!("one value is needed, or one for each of {count} rows of logits; got {given}")));
        }
        let mut rows = Vec::with_capacity(count);
        for row in 0..count {
            let mut own = options[row % options.len()].clone();
            if options.len() == 1 {
                own.row = row as u64;
            }
            own.validate_ids(size)?;
            rows.push(Row::new(&own)?);
        }
        Ok(Batch { logits: logits.astype(Dtype::Float32)?.reshape(&[count as i32, size])?, rows, shape, dtype })
    }

    fn back(&self, logits: &Array) -> Result<Array> {
        logits.reshape(&self.shape)?.astype(self.dtype)
    }
}

/// Bias, penalties and bans of the options; filters and temperature are left out. `history` is int32 `[R, N]`, the newest token
/// last, negative before the first token of a shorter row.
pub fn process_logits(logits: &Array, history: Option<&Array>, options: &[SamplerOptions]) -> Result<Array> {
    let batch = Batch::new(logits, options)?;
    let settings = Settings::new(&batch.rows)?;
    let columns = history.map(|history| columns(history, &batch)).transpose()?;
    batch.back(&process(&batch.logits, &settings, columns.as_ref().and_then(Option::as_ref))?)
}

fn columns(history: &Array, batch: &Batch) -> Result<Option<Columns>> {
    let count = batch.rows.len() as i32;
    if history.ndim() != 2 || history.dim(0) != count || !history.dtype().is_integer() {
        let (shape, dtype) = (history.shape(), history.dtype().name());
        return Err(Error::Shape(format!("the history must hold token ids [{count}, N], got {dtype} of shape {shape:?}")));
    }
    if history.dim(1) == 0 {
        return Ok(None);
    }
    // What lies outside the vocabulary would be read and written outside the logits.
    let size = batch.logits.dim(1);
    let tokens = history.astype(Dtype::Int32)?.maximum(&Array::scalar_i32(-1))?.minimum(&Array::scalar_i32(size - 1))?;
    let options = || batch.rows.iter().map(|row| &row.options);
    let ngram = options().map(|row| row.no_repeat_ngram_size).max().unwrap_or(0);
    let breakers = IdLists::new(options().map(|row| row.dry_sequence_breakers.as_slice()))?;
    let runs = if ngram > 0 { Some(written_runs(&tokens, ngram - 1, None)?) } else { None };
    let broken_runs = match options().any(|row| row.dry_multiplier != 0.) {
        true => Some(written_runs(&tokens, LONGEST_RUN, breakers.as_ref())?),
        false => None,
    };
    Ok(Some(Columns { tokens, runs, broken_runs }))
}

/// Temperature and filters of the options: what may not be drawn is -inf.
pub fn filter_logits(logits: &Array, options: &[SamplerOptions]) -> Result<Array> {
    let batch = Batch::new(logits, options)?;
    let values: Vec<f32> = batch.rows.iter().flat_map(|row| row.random.uniforms(row.step)).collect();
    let uniforms = Array::from_slice(&values, &[batch.rows.len() as i32, LANES as i32])?;
    batch.back(&filter(&batch.logits, &Settings::new(&batch.rows)?, &uniforms)?)
}

/// One step of a `Sampler` for logits `[B, V]`. `histories` are the tokens of each row, or none; `step` says how many tokens the
/// rows have drawn with their seeds before.
pub fn sample_logits(logits: &Array, histories: &[Vec<i32>], step: u64, options: &[SamplerOptions]) -> Result<Sampled> {
    let batch = Batch::new(logits, options)?;
    if !histories.is_empty() && histories.len() != batch.rows.len() {
        let (given, count) = (histories.len(), batch.rows.len());
        return Err(Error::Argument(format!("{given} histories for {count} rows of logits")));
    }
    let mut sampler = Sampler::new();
    for (place, row) in batch.rows.iter().enumerate() {
        let history = histories.get(place).map_or(&[][..], Vec::as_slice);
        if let Some(id) = history.iter().find(|&&id| id < 0 || id >= batch.logits.dim(1)) {
            return Err(Error::Argument(format!("the history of row {place} holds token {id}, which is not in the vocabulary")));
        }
        sampler.push(&row.options, history)?;
        sampler.rows[place].step = step;
    }
    sampler.sample(&batch.logits, None)
}
