//! What a caller asks of the engine.

use std::collections::HashSet;
use std::sync::Arc;

use super::mask::TokenMask;
use crate::cache::{Cache, CacheOptions};
use crate::generate::{CompiledGrammar, SamplerOptions, Thinking};
use crate::mlx::{Error, Result};
use crate::text::Tokenizer;

pub type RequestId = u64;

/// How much the engine takes on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// The most rows that decode together.
    pub max_batch_size: usize,
    /// The most prompts that are read together.
    pub prefill_batch_size: usize,
    /// Tokens of a prompt that go through the model at a time, between two decoding steps.
    pub prefill_step_size: usize,
    /// The caches of all requests, unless one brings its own.
    pub cache: CacheOptions,
    /// Requests never share the batch with others: one is answered after the other, all its samples together.
    pub alone: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            max_batch_size: 32,
            prefill_batch_size: 8,
            prefill_step_size: 512,
            cache: CacheOptions::default(),
            alone: false,
        }
    }
}

impl EngineOptions {
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("maxBatchSize", self.max_batch_size),
            ("prefillBatchSize", self.prefill_batch_size),
            ("prefillStepSize", self.prefill_step_size),
        ];
        match sizes.iter().find(|(_, size)| *size == 0 || *size > i32::MAX as usize) {
            Some((name, size)) => Err(Error::Argument(format!("{name} must be at least 1, got {size}"))),
            None => self.cache.cache().map(|_| ()),
        }
    }

    /// The caches that requests get. A bounded cache of rows that come and go keeps no first tokens unless told; one of rows that stay
    /// together keeps as many as mlx-lm's.
    pub(in crate::generate) fn resolved_cache(&self) -> CacheOptions {
        let keep = self.cache.keep.or((self.cache.max_kv_size.is_some() && !self.alone).then_some(0));
        CacheOptions { keep, ..self.cache }
    }
}

#[derive(Clone, Debug)]
pub struct RequestOptions {
    /// The most tokens a sample may get.
    pub max_tokens: usize,
    /// Tokens that end a sample; they are part of its tokens and not of its text.
    pub stop_tokens: HashSet<i32>,
    /// Texts that end a sample; their tokens are part of its tokens, but the text ends before them. They need a tokenizer.
    pub stop: Vec<String>,
    pub sampler: SamplerOptions,
    /// What every sample must fit.
    pub grammar: Option<Arc<CompiledGrammar>>,
    /// What may come before that.
    pub thinking: Option<Thinking>,
}

impl Default for RequestOptions {
    fn default() -> Self {
        RequestOptions {
            max_tokens: 256,
            stop_tokens: HashSet::new(),
            stop: Vec::new(),
            sampler: SamplerOptions::default(),
            grammar: None,
            thinking: None,
        }
    }
}

/// A prompt and how often and how to continue it.
pub struct Request {
    pub prompt: Vec<i32>,
    /// Samples of the prompt, which is read once for all.
    pub n: usize,
    pub options: RequestOptions,
    /// Turns the tokens into text; without it events have none.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// One for each sample, or none at all.
    pub masks: Vec<Box<dyn TokenMask>>,
    /// Whether the caller processes the logits of each step; see `Engine::to_process`.
    pub processed: bool,
    /// A cache per layer, for one row, which the prompt goes on from; it comes back with `Event::Finished`.
    pub caches: Option<Vec<Cache>>,
}

impl Request {
    pub fn new(prompt: Vec<i32>, options: RequestOptions) -> Request {
        Request { prompt, n: 1, options, tokenizer: None, masks: Vec::new(), processed: false, caches: None }
    }

    /// Makes the masks of its grammar.
    pub(in crate::generate) fn follow_grammar(&mut self) -> Result<()> {
        let Some(grammar) = &self.options.grammar else { return Ok(()) };
        if !self.masks.is_empty() {
            return Err(Error::Argument("a request follows a grammar or token masks of its own, not both".into()));
        }
        let mut ends: Vec<i32> = self.options.stop_tokens.iter().copied().collect();
        if let Some(tokenizer) = self.tokenizer.as_ref().filter(|_| ends.is_empty()) {
            ends = tokenizer.eos_token_ids().iter().map(|&id| id as i32).collect();
        }
        let thinking = match (&self.options.thinking, &self.tokenizer) {
            (Some(thinking), Some(tokenizer)) => thinking.after(&self.prompt, tokenizer)?,
            _ => None,
        };
        self.masks = grammar.masks(self.n, ends, thinking)?;
        Ok(())
    }

    /// Checks everything that can be wrong with it, so that nothing fails once it shares a step with others.
    pub fn validate(&self, vocabulary: i32, limits: &EngineOptions) -> Result<()> {
        let refuse = |message: String| Err(Error::Argument(message));
        if self.prompt.is_empty() {
            return refuse("the prompt has no tokens".into());
        }
        if let Some(id) = self.prompt.iter().find(|&&id| id < 0 || id >= vocabulary) {
            return refuse(format!("the prompt holds token {id}; the vocabulary has {vocabulary}"));
        }
        if self.n == 0 {
            return refuse("n must be at least 1".into());
        }
        if self.n > limits.max_batch_size {
            return refuse(format!(
                "n is {}, but the engine decodes at most {} rows together (maxBatchSize)",
                self.n, limits.max_batch_size
            ));
        }
        if let Some(caches) = &self.caches {
            if !limits.alone {
                return refuse("a prompt cache belongs to a request of its own, not to one of an engine's".into());
            }
            if self.n != 1 {
                return refuse(format!("a prompt cache goes on with one answer, not with n = {}", self.n));
            }
            if let Some(cache) = caches.iter().find(|cache| cache.rows().is_some_and(|rows| rows != 1)) {
                let rows = cache.rows().unwrap_or(0);
                return refuse(format!("a prompt cache of {rows} rows cannot go on with one prompt"));
            }
            if let Some(cache) = caches.iter().find(|cache| cache.left_padding().is_some()) {
                return refuse(format!("a {} cannot go on with one prompt; extract its row", cache.kind()));
            }
        }
        if self.options.max_tokens == 0 {
            return refuse("maxTokens must be at least 1".into());
        }
        if !self.masks.is_empty() && self.masks.len() != self.n {
            return refuse(format!("{} samples need as many token masks, not {}", self.n, self.masks.len()));
        }
        if self.options.stop.iter().any(String::is_empty) {
            return refuse("a stop string must not be empty".into());
        }
        if !self.options.stop.is_empty() && self.tokenizer.is_none() {
            return refuse("stop strings need a tokenizer, and this model has none".into());
        }
        let sampler = &self.options.sampler;
        sampler.validate()?;
        if let Some((id, _)) = sampler.logit_bias.iter().find(|(id, _)| *id >= vocabulary) {
            return refuse(format!("logitBias names token {id}; the vocabulary has {vocabulary}"));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token or a stop string.
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
