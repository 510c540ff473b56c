//! Penalties on repeated sequences, and sequences that are ruled out. They read the runs of `history`.

use super::history::Columns;
use super::lists::{IdLists, lower};
use crate::mlx::{Array, Dtype, Result, ops};

/// Longer repetitions count as this long, so that the penalty stays finite.
pub(super) const LONGEST_RUN: i32 = 50;

/// The settings of DRY, `[B, 1]` each.
pub(super) struct Dry {
    /// 0 is neutral.
    pub(super) multiplier: Array,
    pub(super) base: Array,
    /// int32
    pub(super) allowed: Array,
    /// int32
    pub(super) windows: Array,
    pub(super) breakers: Option<IdLists>,
}

/// "Don't repeat yourself" (p-e-w, text-generation-webui 2024): a token that would lengthen a repetition of `n` tokens loses
/// `multiplier * base ^ (n - allowed)` where `n` is `allowed` or more; of several repetitions the longest counts. Breakers end
/// repetitions and are never penalised.
pub(super) fn dry(logits: &Array, history: &Columns, dry: &Dry) -> Result<Array> {
    let length = history.tokens.dim(1);
    let (Some(runs), true) = (&history.broken_runs, length > 1) else { return Ok(logits.clone()) };
    let runs = runs.slice_axis(1, 0, length - 1)?;
    let next = history.tokens.slice_axis(1, 1, length)?;
    let ages = ops::arange((length - 1) as f64, 0., -1., Dtype::Int32)?;
    let lengths = runs.minimum(&dry.windows.subtract(&ages)?)?.minimum(&Array::scalar_i32(LONGEST_RUN))?;
    let excess = lengths.subtract(&dry.allowed)?;
    let zero = Array::scalar_i32(0);
    let applies = excess.greater_equal(&zero)?.logical_and(&next.greater_equal(&zero)?)?;
    let applies = applies.logical_and(&dry.multiplier.greater_scalar(0.)?)?;
    let amount = dry.base.power(&excess.astype(Dtype::Float32)?)?.multiply(&dry.multiplier)?;
    let ids = next.maximum(&zero)?;
    let values = logits.take_along_axis(&ids, -1)?;
    let penalised = lower(logits, &ids, &ops::where_(&applies, &values.subtract(&amount)?, &values)?)?;
    dry.breakers.as_ref().map_or(Ok(penalised.clone()), |breakers| breakers.restore(logits, &penalised))
}

/// Rules out tokens that would complete a sequence of `sizes` tokens (int32 `[B, 1]`) that the row already has; 0 is neutral.
pub(super) fn no_repeat_ngram(logits: &Array, history: &Columns, sizes: &Array) -> Result<Array> {
    let Some(runs) = &history.runs else { return Ok(logits.clone()) };
    let (rows, length) = (runs.dim(0), runs.dim(1));
    let (zero, one) = (Array::scalar_i32(0), Array::scalar_i32(1));
    // The run before each token.
    let edge = ops::zeros(&[rows, 1], Dtype::Int32)?;
    let before = ops::concatenate(&[&edge, &runs.slice_axis(1, 0, length - 1)?], 1)?;
    let complete = before.greater_equal(&sizes.subtract(&one)?)?.logical_and(&sizes.greater_equal(&one)?)?;
    let banned = complete.logical_and(&history.tokens.greater_equal(&zero)?)?;
    rule_out(logits, &history.tokens.maximum(&zero)?, &banned)
}

fn rule_out(logits: &Array, ids: &Array, banned: &Array) -> Result<Array> {
    let values = logits.take_along_axis(ids, -1)?;
    lower(logits, ids, &ops::where_(banned, &Array::scalar(f32::NEG_INFINITY), &values)?)
}

/// Sequences of each row whose last token is ruled out where the others end the row.
pub(super) struct Bans {
    /// int32 `[B, N]`
    last: Array,
    /// bool `[B, N]`: false for entries that only fill up.
    real: Array,
    /// int32 `[B, N, P]`, aligned at the end, `ANY` before shorter ones; `None` where all sequences are single tokens.
    before: Option<Array>,
}

/// Matches any token and none.
const ANY: i32 = -2;

impl Bans {
    /// `None` where no row has any.
    pub(super) fn new(rows: &[Vec<&[i32]>]) -> Result<Option<Bans>> {
        let count = rows.iter().map(Vec::len).max().unwrap_or(0);
        if count == 0 {
            return Ok(None);
        }
        let longest = rows.iter().flatten().map(|sequence| sequence.len()).max().unwrap_or(1);
        let (mut last, mut real, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            for place in 0..count {
                let sequence = row.get(place).copied().unwrap_or(&[]);
                let (end, start) = sequence.split_last().map_or((0, sequence), |(&end, start)| (end, start));
                last.push(end);
                real.push(!sequence.is_empty());
                before.extend(std::iter::repeat_n(ANY, longest - 1 - start.len()));
                before.extend_from_slice(start);
            }
        }
        let shape = [rows.len() as i32, count as i32];
        Ok(Some(Bans {
            last: Array::from_slice(&last, &shape)?,
            real: Array::from_slice(&real, &shape)?,
            before: match longest - 1 {
                0 => None,
                width => Some(Array::from_slice(&before, &[shape[0], shape[1], width as i32])?),
            },
        }))
    }

    pub(super) fn apply(&self, logits: &Array, history: Option<&Columns>) -> Result<Array> {
        let mut banned = self.real.clone();
        if let (Some(before), Some(history)) = (&self.before, history) {
            let tokens = &history.tokens;
            let (width, length) = (before.dim(2), tokens.dim(1));
            let end = tokens.slice_axis(1, (length - width).max(0), length)?;
            let end = if length < width { end.pad(&[0, width - length], &[0, 0], -1.)? } else { end };
            let any = before.equal(&Array::scalar_i32(ANY))?;
            let matches = before.equal(&end.expand_dims(&[1])?)?.logical_or(&any)?.all(&[-1], false)?;
            banned = banned.logical_and(&matches)?;
        }
        rule_out(logits, &self.last, &banned)
    }
}
