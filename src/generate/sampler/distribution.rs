//! Distributions instead of draws, for speculative decoding.

use super::draw::{self, Blocks, LANES, RandomRow};
use super::options::SamplerOptions;
use super::settings::{Greedy, Settings};
use super::{Sampler, divided, filter, filters, process};
use crate::mlx::{Array, Dtype, Result, ops};

/// The random numbers of one row, one after the other.
pub struct Draws {
    row: RandomRow,
    used: u64,
}

/// Keeps these numbers apart from those that `sample` and its filters use.
const APART: u64 = 0x5EC0_1A7E;

impl Draws {
    pub fn new(options: &SamplerOptions) -> Draws {
        let own = SamplerOptions { seed: options.seed ^ APART, ..options.clone() };
        Draws { row: RandomRow::new(&own), used: 0 }
    }

    /// In (0, 1).
    pub fn uniform(&mut self) -> f32 {
        let (step, lane) = (self.used / LANES as u64, self.used % LANES as u64);
        self.used += 1;
        self.row.uniforms(step)[lane as usize]
    }
}

impl Sampler {
    /// As `push`, for a row that has chosen `step` tokens already, the last of `history`.
    pub fn push_later(&mut self, options: &SamplerOptions, history: &[i32], step: u64) -> Result<()> {
        self.push(options, history)?;
        if let Some(row) = self.rows.last_mut() {
            row.step = step;
        }
        Ok(())
    }

    /// What `sample` would draw from, probabilities float32 `[B, V]`, certain for greedy rows; and the log-probs of the model,
    /// of `logits / temperature`, `[B, V]`. `allowed` as for `sample`. Nothing is drawn, and no row goes on.
    pub fn distribution(&mut self, logits: &Array, allowed: Option<&Array>) -> Result<(Array, Array)> {
        let settings = Settings::new(&self.rows)?;
        self.check_shapes(&settings, logits, None, allowed)?;
        let raw = logits.astype(Dtype::Float32)?;
        let uniforms = self.uniforms()?;
        let mut changed = if settings.process() { process(&raw, &settings, self.history.columns()?)? } else { raw.clone() };
        if let Some(allowed) = allowed {
            changed = filters::only(&changed, allowed)?;
        }
        let logprobs = divided(&raw, settings.temperature.as_ref())?.log_softmax(-1)?;
        let certain = || {
            let ids = ops::arange(0., changed.dim(-1) as f64, 1., Dtype::Int32)?.expand_dims(&[0])?;
            ids.equal(&draw::best(&changed)?)?.astype(Dtype::Float32)
        };
        let drawn = || filter(&changed, &settings, &uniforms)?.softmax(-1);
        let probabilities = match &settings.greedy {
            Greedy::All => certain()?,
            Greedy::None => drawn()?,
            Greedy::Some(rows) => ops::where_(rows, &certain()?, &drawn()?)?,
        };
        Ok((probabilities, logprobs))
    }
}

/// A token of `weights` `[1, V]`, in proportion to them.
pub fn draw_from(weights: &Array, draws: &mut Draws) -> Result<i32> {
    let uniforms: Vec<f32> = (0..LANES).map(|_| draws.uniform()).collect();
    let uniforms = Array::from_slice(&uniforms, &[1, LANES as i32])?;
    Ok(Blocks::new(weights)?.draw(&uniforms)?.to_vec::<i32>()?[0])
}

/// Ids and log-probs of the `count` likeliest tokens of each row of `logprobs` `[B, V]`, the best first.
pub fn likeliest(logprobs: &Array, count: i32) -> Result<Vec<Vec<(i32, f32)>>> {
    let count = count.min(logprobs.dim(-1));
    let (ids, values) = draw::top(logprobs, &Array::scalar(0.), count)?;
    let (ids, values) = (ids.to_vec::<i32>()?, values.to_vec::<f32>()?);
    let rows = ids.chunks(count as usize).zip(values.chunks(count as usize));
    Ok(rows.map(|(ids, values)| ids.iter().copied().zip(values.iter().copied()).collect()).collect())
}
