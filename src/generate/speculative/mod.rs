//! Speculative decoding (Leviathan, Kalman, Matias 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318): several tokens are
//! guessed and checked in one pass of the model. What comes out is distributed as without guessing, and greedy answers are the same.
//!
//! A guess `x` of probability `q(x)` is accepted with probability `min(1, p(x) / q(x))`; the first that is not is replaced by a draw
//! from what `p` has more than `q`. Guesses come from a smaller model; from what followed the last tokens earlier in the text (prompt
//! lookup: Saxena 2023) or from a grammar that leaves no choice about the text, where `q` is 1.
//!
//! Requests take turns, one pass each: rows of a batch would accept different numbers of guesses, and taking back those of one row only
//! would move the caches of all at every step.

mod guesses;
mod request;
mod sample;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::engine::{EngineOptions, Event, Prefixes, Request, RequestId, Stats, Step};
use crate::cache::{Cache, PrefixCache};
use crate::mlx::{Array, Error, Result};
use crate::models::{CausalLm, Forward};
use request::Current;

/// Where guesses come from and how many are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeculationOptions {
    /// The most guesses for one pass; how many are made follows from how many were right before.
    pub num_draft_tokens: usize,
    /// Without a draft model: how many last tokens, at most and at least, must have come before.
    pub lookup: Option<(usize, usize)>,
    /// Also what a grammar leaves no choice about, however long.
    pub fast_forward: bool,
}

impl SpeculationOptions {
    pub fn validate(&self) -> Result<()> {
        if self.num_draft_tokens == 0 || self.num_draft_tokens > 1000 {
            let count = self.num_draft_tokens;
            return Err(Error::Argument(format!("numDraftTokens must be between 1 and 1000, got {count}")));
        }
        match self.lookup {
            Some((most, least)) if least == 0 || least > most => Err(Error::Argument(format!(
                "promptLookup needs minNgramSize of at least 1 and no more than maxNgramSize; got {least} and {most}"
            ))),
            _ => Ok(()),
        }
    }
}

/// The model, and the one that guesses.
#[derive(Clone, Copy)]
struct Models<'a> {
    net: &'a dyn CausalLm,
    draft: Option<&'a dyn CausalLm>,
    vocabulary: usize,
}

/// Answers requests by turns, each faster than in a batch.
pub struct Speculator {
    options: SpeculationOptions,
    limits: EngineOptions,
    vocabulary: i32,
    prefixes: Prefixes,
    waiting: VecDeque<(Request, RequestId)>,
    /// The first is the next to have its turn.
    running: VecDeque<Current>,
    events: Vec<Event>,
    stats: Stats,
}

impl Speculator {
    pub fn new(vocabulary: i32, options: SpeculationOptions, limits: EngineOptions) -> Result<Speculator> {
        options.validate()?;
        limits.validate()?;
        let limits = EngineOptions { cache: limits.resolved_cache(), ..limits };
        Ok(Speculator {
            options,
            limits,
            vocabulary,
            prefixes: Prefixes::new(None, limits.cache),
            waiting: VecDeque::new(),
            running: VecDeque::new(),
            events: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// As `Engine::with_prefixes`. A draft model reads prompts as a whole.
    pub fn with_prefixes(self, prefixes: Option<Arc<Mutex<PrefixCache>>>) -> Speculator {
        Speculator { prefixes: Prefixes::new(prefixes, self.limits.cache), ..self }
    }

    /// As `Engine::set_version`.
    pub fn set_version(&mut self, version: u64) {
        self.prefixes.set_version(version);
    }

    /// As `Engine::submit`. A request's own caches are those of the model, or of the model and then the draft model.
    pub fn submit(&mut self, id: RequestId, mut request: Request) -> Result<()> {
        request.follow_grammar()?;
        request.validate(self.vocabulary, &self.limits)?;
        if request.processed {
            return Err(speculation_without_processors());
        }
        self.waiting.push_back((request, id));
        Ok(())
    }

    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(_, waiting)| *waiting != id);
        self.running.retain(|current| current.id() != id);
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
        self.running.clear();
        self.events.clear();
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub fn stats(&self) -> Stats {
        let running = self.running.iter().filter(|current| current.decodes()).count();
        let (prefix_entries, prefix_bytes) = self.prefixes.sizes();
        let prefilling = self.running.len() - running;
        Stats { waiting: self.waiting.len(), prefilling, running, prefix_entries, prefix_bytes, ..self.stats }
    }

    /// Of the request whose turn it is reads one chunk of the prompt, or makes and checks guesses once. What goes wrong becomes an event
    /// of the request.
    pub fn step(&mut self, net: &dyn CausalLm, draft: Option<&dyn CausalLm>) -> Step {
        let models = Models { net, draft, vocabulary: self.vocabulary as usize };
        while self.running.len() < self.limits.max_batch_size
            && let Some((request, id)) = self.waiting.pop_front()
        {
            match Current::new(request, id, models, &self.limits.cache, &self.prefixes) {
                Ok(current) => self.running.push_back(current),
                Err(error) => self.events.push(Event::Failed { request: id, error }),
            }
        }
        if let Some(mut current) = self.running.pop_front() {
            let id = current.id();
            match self.advance(&mut current, models) {
                Ok(true) => self.running.push_back(current),
                Ok(false) => self.events.push(current.finished()),
                Err(error) => self.events.push(Event::Failed { request: id, error }),
            }
        }
        if self.running.is_empty() && self.waiting.is_empty() { Step::Idle } else { Step::Working }
    }

    /// Whether the request goes on.
    fn advance(&mut self, current: &mut Current, models: Models) -> Result<bool> {
        let start = Instant::now();
        if !current.is_ready() {
            self.events.push(current.read(models, self.limits.prefill_step_size)?);
            if current.is_ready() {
                let (prompt, cached) = current.prompt_tokens();
                self.stats.prompt_tokens += prompt;
                self.stats.cached_tokens += cached;
                current.remember_prompt(&self.prefixes, self.limits.cache.max_kv_size);
            }
            self.stats.prefill += start.elapsed();
            return Ok(true);
        }
        let events = current.round(models, &self.options, &self.prefixes)?;
        self.stats.steps += 1;
        self.stats.generated_tokens += events.len();
        self.events.extend(events);
        self.stats.decode += start.elapsed();
        Ok(!current.is_over())
    }
}

/// Why processors and guesses do not go together.
pub fn speculation_without_processors() -> Error {
    Error::Argument(
        "logitsProcessors cannot be combined with draftModel, promptLookup or fastForward: several tokens are checked at once, before \
         a processor could have seen them"
            .into(),
    )
}

/// Feeds tokens to a single row; the logits `[T, V]` after each.
fn feed(net: &dyn CausalLm, ids: &[i32], caches: &mut [Cache]) -> Result<Array> {
    let ids = Array::from_slice(ids, &[1, ids.len() as i32])?;
    let hidden = net.hidden(Forward::cached(&ids, caches))?;
    net.logits(&hidden.squeeze(&[0])?)
}

/// Takes the last `count` tokens back, which must be possible.
fn take_back(caches: &mut [Cache], count: usize) -> Result<()> {
    match caches.iter_mut().find_map(|cache| (cache.trim(count as i32) != count as i32).then(|| cache.kind())) {
        Some(kind) => Err(Error::Internal(format!("{count} tokens could not be taken back from a {kind}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod cache_tests;
#[cfg(test)]
mod tests;
