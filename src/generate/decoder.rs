//! One batch of rows decoding together.
//!
//! Prompts are left-padded and prefilled once each; their caches are then repeated for each generation. A step's tokens
//! feed the next step on the device, which is started before the host reads them; finished rows leave the batch.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::sampler::{Sampled, Sampler, SamplerOptions};
use crate::cache::Cache;
use crate::mlx::{Array, Error, Result, async_eval, eval};
use crate::models::{CausalLm, Forward};
use crate::runtime::Cancel;

/// Prompt tokens of one row that go through the model at a time.
const PREFILL_STEP: i32 = 512;
/// Rows leave the batch once this share of it has finished: leaving copies the cache of those that stay.
const COMPACT_SHARE: f64 = 0.125;

#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// The most tokens a row may get.
    pub max_tokens: usize,
    /// Tokens that end a row; they are part of its output.
    pub stop_tokens: HashSet<i32>,
    pub sampler: SamplerOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// `max_tokens`.
    Length,
}

impl FinishReason {
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// What one row has produced so far.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub tokens: Vec<i32>,
    /// Log-probs of the tokens under `logits / temperature` (plain logits when greedy).
    pub logprobs: Vec<f32>,
    pub finish: Option<FinishReason>,
}

#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub step: usize,
    pub max_tokens: usize,
    pub rows_left: usize,
    pub tokens: usize,
}

#[derive(Clone, Debug, Default)]
pub struct BatchOutput {
    /// In the order of the prompts, each prompt's generations in a row.
    pub rows: Vec<Row>,
    pub prompt_tokens: usize,
    pub generated_tokens: usize,
    pub steps: usize,
    pub prefill: Duration,
    pub decode: Duration,
}

/// A step that runs on the device: its tokens, and the output row of each.
struct InFlight {
    sampled: Sampled,
    rows: Vec<usize>,
}

/// The decoding of one batch, a step at a time. Lives on the owner thread.
pub struct Decoder {
    options: GenerateOptions,
    prompts: Vec<Vec<i32>>,
    num_generations: usize,
    caches: Vec<Cache>,
    sampler: Sampler,
    in_flight: Option<InFlight>,
    prefilled: bool,
    output: BatchOutput,
}

impl Decoder {
    /// Checks everything that can be wrong with a request; nothing runs yet.
    pub fn new(net: &dyn CausalLm, prompts: Vec<Vec<i32>>, num_generations: usize, options: GenerateOptions) -> Result<Decoder> {
        if prompts.is_empty() || num_generations == 0 {
            return Err(Error::Argument("generation needs at least one prompt and one generation per prompt".into()));
        }
        if options.max_tokens == 0 {
            return Err(Error::Argument("maxTokens must be at least 1".into()));
        }
        let vocabulary = net.config().vocab_size;
        for (index, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(Error::Argument(format!("prompt {index} has no tokens")));
            }
            if let Some(id) = prompt.iter().find(|&&id| id < 0 || id >= vocabulary) {
                return Err(Error::Argument(format!("prompt {index} holds token {id}; the vocabulary has {vocabulary}")));
            }
        }
        let mut sampler = Sampler::new();
        for row in 0..prompts.len() * num_generations {
            let own = SamplerOptions { row: row as u64, ..options.sampler.clone() };
            sampler.push(&own, &prompts[row / num_generations])?;
        }
        let output = BatchOutput {
            rows: vec![Row::default(); sampler.rows()],
            prompt_tokens: prompts.iter().map(Vec::len).sum(),
            ..BatchOutput::default()
        };
        Ok(Decoder { options, num_generations, caches: Vec::new(), sampler, in_flight: None, prefilled: false, output, prompts })
    }

    pub fn output(&self) -> &BatchOutput {
        &self.output
    }

    pub fn into_output(self) -> BatchOutput {
        self.output
    }

    pub fn finished(&self) -> bool {
        self.prefilled && self.in_flight.is_none()
    }

    pub fn progress(&self) -> Progress {
        Progress {
            step: self.output.steps,
            max_tokens: self.options.max_tokens,
            rows_left: self.output.rows.iter().filter(|row| row.finish.is_none()).count(),
            tokens: self.output.generated_tokens,
        }
    }

    /// Does the prefill, or one decoding step, and returns whether there is more to do.
    pub fn step(&mut self, net: &dyn CausalLm, cancel: &Cancel) -> Result<bool> {
        cancel.check()?;
        let start = Instant::now();
        if !self.prefilled {
            self.prefill(net, cancel)?;
            self.output.prefill += start.elapsed();
        } else {
            self.decode(net)?;
            self.output.decode += start.elapsed();
        }
        Ok(!self.finished())
    }

    fn prefill(&mut self, net: &dyn CausalLm, cancel: &Cancel) -> Result<()> {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(0);
        let batch = self.prompts.len() as i32;
        let mut ids = Vec::with_capacity(self.prompts.len() * longest);
        for prompt in &self.prompts {
            ids.extend(std::iter::repeat_n(0, longest - prompt.len()));
            ids.extend_from_slice(prompt);
        }
        let longest = longest as i32;
        let ids = Array::from_slice(&ids, &[batch, longest])?;
        let padding: Vec<i32> = self.prompts.iter().map(|prompt| longest - prompt.len() as i32).collect();
        self.caches = net.new_batch_caches(&padding)?;

        let mut start = 0;
        let hidden = loop {
            let stop = longest.min(start + PREFILL_STEP);
            let chunk = ids.slice_axis(1, start, stop)?;
            let hidden = net.hidden(Forward::cached(&chunk, &mut self.caches))?;
            start = stop;
            if start == longest {
                break hidden;
            }
            let state: Vec<&Array> = self.caches.iter().flat_map(|cache| cache.arrays()).collect();
            eval(&state)?;
            cancel.check()?;
        };
        // Only the last position predicts a token; the others need no logits.
        let last = hidden.dim(1);
        let mut logits = net.logits(&hidden.slice_axis(1, last - 1, last)?)?.squeeze(&[1])?;
        let generations = self.num_generations as i32;
        if generations > 1 {
            logits = logits.repeat(generations, 0)?;
            for cache in &mut self.caches {
                cache.repeat_rows(generations)?;
            }
        }
        self.prefilled = true;
        let rows = (0..self.output.rows.len()).collect();
        self.dispatch(&logits, rows)
    }

    /// Starts the next step, then reads the one before it.
    fn decode(&mut self, net: &dyn CausalLm) -> Result<()> {
        let Some(mut current) = self.in_flight.take() else { return Ok(()) };
        // Before the host knows this step's tokens: only the length limit can be foreseen.
        if self.output.steps + 1 < self.options.max_tokens {
            self.compact(&mut current)?;
            let ids = current.sampled.tokens.expand_dims(&[1])?;
            let hidden = net.hidden(Forward::cached(&ids, &mut self.caches))?;
            let logits = net.logits(&hidden)?.squeeze(&[1])?;
            self.dispatch(&logits, current.rows.clone())?;
        }
        let tokens = current.sampled.tokens.to_vec::<i32>()?;
        let logprobs = current.sampled.logprobs.to_vec::<f32>()?;
        self.output.steps += 1;
        for ((&row, &token), &logprob) in current.rows.iter().zip(&tokens).zip(&logprobs) {
            let row = &mut self.output.rows[row];
            // A row that ended in the step before was already under way again.
            if row.finish.is_some() {
                continue;
            }
            row.tokens.push(token);
            row.logprobs.push(logprob);
            self.output.generated_tokens += 1;
            if self.options.stop_tokens.contains(&token) {
                row.finish = Some(FinishReason::Stop);
            } else if row.tokens.len() == self.options.max_tokens {
                row.finish = Some(FinishReason::Length);
            }
        }
        if self.output.rows.iter().all(|row| row.finish.is_some()) {
            self.in_flight = None;
            self.caches.clear();
        }
        Ok(())
    }

    fn dispatch(&mut self, logits: &Array, rows: Vec<usize>) -> Result<()> {
        let sampled = self.sampler.sample(logits, None)?;
        let mut started = vec![sampled.tokens.clone(), sampled.logprobs.clone()];
        started.extend(self.sampler.state());
        async_eval(&started)?;
        self.in_flight = Some(InFlight { sampled, rows });
        Ok(())
    }

    /// Takes finished rows out of the batch when enough of it has finished.
    fn compact(&mut self, current: &mut InFlight) -> Result<()> {
        let places: Vec<usize> =
            (0..current.rows.len()).filter(|&place| self.output.rows[current.rows[place]].finish.is_none()).collect();
        let finished = current.rows.len() - places.len();
        if places.is_empty() || finished == 0 || (finished as f64) < COMPACT_SHARE * current.rows.len() as f64 {
            return Ok(());
        }
        let indices: Vec<i32> = places.iter().map(|&place| place as i32).collect();
        let kept = Array::from_slice(&indices, &[places.len() as i32])?;
        for cache in &mut self.caches {
            cache.filter(&indices)?;
        }
        self.sampler.keep(&places)?;
        let Sampled { tokens, logprobs, .. } = &current.sampled;
        current.sampled = Sampled { tokens: tokens.take(&kept, 0)?, logprobs: logprobs.take(&kept, 0)?, top: None };
        current.rows = places.iter().map(|&place| current.rows[place]).collect();
        Ok(())
    }
}
