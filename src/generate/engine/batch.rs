//! Prompts that are answered together, each several times: rollouts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::event::Event;
use super::request::{EngineOptions, FinishReason, Request, RequestOptions};
use super::scheduler::{Engine, Step};
use crate::cache::PrefixCache;
use crate::generate::SamplerOptions;
use crate::mlx::{Error, Result};
use crate::models::CausalLm;
use crate::runtime::Cancel;
use crate::text::Tokenizer;

/// What one row has produced so far.
#[derive(Clone, Debug, Default)]
pub struct BatchRow {
    pub tokens: Vec<i32>,
    /// Log-probs of the tokens under `logits / temperature` (plain logits when greedy).
    pub logprobs: Vec<f32>,
    /// The likeliest tokens and their log-probs, where asked for.
    pub top: Vec<Vec<(i32, f32)>>,
    /// Where there is a tokenizer.
    pub text: String,
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
    pub rows: Vec<BatchRow>,
    pub prompt_tokens: usize,
    /// Those of them that a prefix cache knew.
    pub cached_tokens: usize,
    pub generated_tokens: usize,
    pub steps: usize,
    pub prefill: Duration,
    pub decode: Duration,
}

/// The decoding of one batch, a step at a time. Lives on the owner thread.
pub struct Batch {
    engine: Engine,
    num_generations: usize,
    max_tokens: usize,
    output: BatchOutput,
}

impl Batch {
    /// Checks everything that can be wrong with the prompts; nothing runs yet. All rows decode together unless `limits` say otherwise.
    pub fn new(
        vocabulary: i32,
        prompts: Vec<Vec<i32>>,
        num_generations: usize,
        options: &RequestOptions,
        tokenizer: Option<Arc<Tokenizer>>,
        limits: EngineOptions,
    ) -> Result<Batch> {
        if prompts.is_empty() || num_generations == 0 {
            return Err(Error::Argument("generation needs at least one prompt and one generation per prompt".into()));
        }
        let mut engine = Engine::new(vocabulary, limits)?;
        let rows = prompts.len() * num_generations;
        let prompt_tokens = prompts.iter().map(Vec::len).sum();
        for (index, prompt) in prompts.into_iter().enumerate() {
            let sampler = SamplerOptions { row: (index * num_generations) as u64, ..options.sampler.clone() };
            let options = RequestOptions { sampler, ..options.clone() };
            let request = Request { n: num_generations, tokenizer: tokenizer.clone(), ..Request::new(prompt, options) };
            engine.submit(index as u64, request).map_err(|error| match error {
                Error::Argument(message) => Error::Argument(format!("prompt {index}: {message}")),
                other => other,
            })?;
        }
        let output = BatchOutput { rows: vec![BatchRow::default(); rows], prompt_tokens, ..BatchOutput::default() };
        Ok(Batch { engine, num_generations, max_tokens: options.max_tokens, output })
    }

    /// Looks the beginnings of prompts up here, and puts in prompts and answers.
    pub fn set_prefixes(&mut self, prefixes: Option<Arc<Mutex<PrefixCache>>>) {
        self.engine.set_prefixes(prefixes);
    }

    /// As `Engine::set_version`.
    pub fn set_version(&mut self, version: u64) {
        self.engine.set_version(version);
    }

    /// What there is so far, and all once `step` says so.
    pub fn take_output(&mut self) -> BatchOutput {
        std::mem::take(&mut self.output)
    }

    pub fn progress(&self) -> Progress {
        Progress {
            step: self.output.steps,
            max_tokens: self.max_tokens,
            rows_left: self.output.rows.iter().filter(|row| row.finish.is_none()).count(),
            tokens: self.output.generated_tokens,
        }
    }

    /// Does a chunk of the prefill or a decoding step, and returns whether there is more to do.
    pub fn step(&mut self, net: &dyn CausalLm, cancel: &Cancel) -> Result<bool> {
        cancel.check()?;
        let step = self.engine.step(net);
        for event in self.engine.take_events() {
            match event {
                Event::Token { request, sample, token, logprob, top, text, finish } => {
                    let row = &mut self.output.rows[request as usize * self.num_generations + sample];
                    row.tokens.push(token);
                    row.logprobs.push(logprob);
                    if !top.is_empty() {
                        row.top.push(top);
                    }
                    row.text.push_str(&text);
                    row.finish = finish;
                }
                Event::Failed { error, .. } => return Err(error),
                Event::Prefill { .. } | Event::Finished { .. } => {}
            }
        }
        let stats = self.engine.stats();
        self.output.cached_tokens = stats.cached_tokens;
        self.output.generated_tokens = stats.generated_tokens;
        self.output.steps = stats.steps;
        self.output.prefill = stats.prefill;
        self.output.decode = stats.decode;
        Ok(step != Step::Idle)
    }
}
