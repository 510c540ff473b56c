//! How likely a model finds given tokens.

use napi::Env;
use napi::bindgen_prelude::{Float32Array, FnArgs, Function, Object};

use super::error as js;
use super::model::SharedModel;
use super::promise;
use super::quantize::reporter;
use crate::mlx::{Array, Error, Result};
use crate::rl::logprobs::sequence_logprobs;
use crate::runtime;

/// The rows of the next batch: as many as may be, of one length.
fn next_batch(rows: &[Vec<i32>], most: usize) -> &[Vec<i32>] {
    let length = rows.first().map_or(0, Vec::len);
    let alike = rows.iter().take(most).take_while(|row| row.len() == length).count();
    &rows[..alike]
}

fn check(rows: &[Vec<i32>], vocabulary: i32) -> Result<()> {
    for (index, row) in rows.iter().enumerate() {
        if row.len() < 2 {
            return Err(Error::Argument(format!(
                "row {index} has {} tokens; at least 2 are needed to tell how likely one is",
                row.len()
            )));
        }
        if let Some(id) = row.iter().find(|&&id| id < 0 || id >= vocabulary) {
            return Err(Error::Argument(format!("row {index}: token {id} is outside the vocabulary of {vocabulary}")));
        }
    }
    Ok(())
}

/// One batch a slice.
pub(super) fn token_logprobs<'env>(
    env: &'env Env,
    shared: SharedModel,
    rows: Vec<Vec<i32>>,
    batch_size: usize,
    vocabulary: i32,
    cancel: runtime::Cancel,
    on_progress: Option<Function<FnArgs<(f64, f64)>, ()>>,
) -> js::Result<Object<'env>> {
    check(&rows, vocabulary)?;
    let report = reporter(on_progress)?;
    let mut scores: Vec<Vec<f32>> = Vec::with_capacity(rows.len());
    let work = move || {
        cancel.check()?;
        let batch = next_batch(&rows[scores.len()..], batch_size.max(1));
        if let Some(first) = batch.first() {
            let ids = Array::from_slice(&batch.concat(), &[batch.len() as i32, first.len() as i32])?;
            let model = shared.lock()?;
            let logps = sequence_logprobs(model.net.as_ref(), &ids)?.to_f32()?;
            scores.extend(logps.chunks(first.len() - 1).map(<[f32]>::to_vec));
            report(scores.len() as u64, rows.len() as u64);
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut scores)))
    };
    promise::sliced(env, work, |scores| scores.into_iter().map(Float32Array::new).collect::<Vec<_>>())
}
