//! Speculative decoding (Leviathan, Kalman, Matias 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318): several tokens are
//! guessed and checked in one pass of the model. What comes out is distributed as without guessing, and greedy answers are the same.
//!
//! A guess `x` of probability `q(x)` is accepted with probability `min(1, p(x) / q(x))`; the first that is not is replaced by a draw
//! from what `p` has more than `q`. Guesses come from a smaller model, or from what followed the last tokens earlier in the text
//! (prompt lookup: Saxena 2023), where `q` is 1.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::engine::{EngineOptions, Event, Request, RequestId, Row, Shared, Stats, Step, Summary};
use super::sampler::{Draws, Sampler, draw_from, likeliest};
use crate::cache::{Cache, CacheOptions};
use crate::mlx::{Array, Error, Result, eval, ops};
use crate::models::{CausalLm, Forward};

/// Where guesses come from and how many are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeculationOptions {
    /// The most guesses for one pass; how many are made follows from how many were right before.
    pub num_draft_tokens: usize,
    /// Without a draft model: how many last tokens, at most and at least, must have come before.
    pub lookup: Option<(usize, usize)>,
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

/// One sample while it is generated.
struct Sample {
    row: Row,
    /// The prompt and all that came after.
    tokens: Vec<i32>,
    produced: usize,
    caches: Vec<Cache>,
    /// The draft model's, which holds the first `drafted` tokens.
    draft_caches: Vec<Cache>,
    drafted: usize,
    draws: Draws,
    /// Guesses that the next pass is to check.
    length: usize,
}

/// The request under way.
struct Current {
    shared: Arc<Shared>,
    n: usize,
    started: Instant,
    first: Option<Instant>,
    summary: Summary,
    /// All of the prompt but its last token, once it has been read: every sample begins with it.
    caches: Vec<Cache>,
    draft_caches: Vec<Cache>,
    read: usize,
    sample: Option<Sample>,
    next_sample: usize,
}

/// Answers requests one after the other, each faster than in a batch.
pub struct Speculator {
    options: SpeculationOptions,
    limits: EngineOptions,
    vocabulary: i32,
    waiting: VecDeque<(Request, RequestId)>,
    current: Option<Current>,
    events: Vec<Event>,
    stats: Stats,
}

/// Guesses, and the distribution `[1, V]` that each was drawn from; none where they are certain.
type Guesses = (Vec<i32>, Vec<Array>);

impl Speculator {
    pub fn new(vocabulary: i32, options: SpeculationOptions, limits: EngineOptions) -> Result<Speculator> {
        options.validate()?;
        limits.validate()?;
        if limits.cache.max_kv_size.is_some() {
            return Err(Error::Argument(
                "maxKvSize cannot be combined with draftModel or promptLookup: wrong guesses are taken back, and a bounded cache \
                 has dropped what they pushed out"
                    .into(),
            ));
        }
        let (waiting, events) = (VecDeque::new(), Vec::new());
        Ok(Speculator { options, limits, vocabulary, waiting, current: None, events, stats: Stats::default() })
    }

    /// As `Engine::submit`.
    pub fn submit(&mut self, id: RequestId, request: Request) -> Result<()> {
        request.validate(self.vocabulary, &self.limits)?;
        if request.caches.is_some() {
            return Err(Error::Argument("promptCache cannot be combined with draftModel or promptLookup".into()));
        }
        if request.processed || !request.masks.is_empty() || request.options.grammar.is_some() {
            return Err(Error::Argument("guesses cannot be combined with logits processors, grammars or token masks".into()));
        }
        self.waiting.push_back((request, id));
        Ok(())
    }

    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(_, waiting)| *waiting != id);
        self.current.take_if(|current| current.shared.id == id);
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
        self.current = None;
        self.events.clear();
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub fn stats(&self) -> Stats {
        let running = self.current.as_ref().map_or(0, |current| usize::from(current.sample.is_some()));
        let prefilling = usize::from(self.current.is_some()) - running;
        Stats { waiting: self.waiting.len(), prefilling, running, ..self.stats }
    }

    /// Reads one chunk of a prompt, or makes and checks guesses once. What goes wrong becomes an event of the request.
    pub fn step(&mut self, net: &dyn CausalLm, draft: Option<&dyn CausalLm>) -> Step {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => {
                let Some((request, id)) = self.waiting.pop_front() else { return Step::Idle };
                match Current::new(request, id, net, draft, &self.limits.cache) {
                    Ok(current) => current,
                    Err(error) => {
                        self.events.push(Event::Failed { request: id, error });
                        return if self.waiting.is_empty() { Step::Idle } else { Step::Working };
                    }
                }
            }
        };
        let id = current.shared.id;
        match self.advance(&mut current, net, draft) {
            Ok(true) => self.current = Some(current),
            Ok(false) => self.events.push(Event::Finished { request: id, summary: current.summary, caches: None }),
            Err(error) => self.events.push(Event::Failed { request: id, error }),
        }
        if self.current.is_none() && self.waiting.is_empty() { Step::Idle } else { Step::Working }
    }

    /// Whether the request goes on.
    fn advance(&mut self, current: &mut Current, net: &dyn CausalLm, draft: Option<&dyn CausalLm>) -> Result<bool> {
        let start = Instant::now();
        let prompt = &current.shared.prompt;
        if current.read + 1 < prompt.len() {
            let stop = (prompt.len() - 1).min(current.read + self.limits.prefill_step_size);
            let ids = &prompt[current.read..stop];
            feed(net, ids, &mut current.caches)?;
            if let Some(draft) = draft {
                feed(draft, ids, &mut current.draft_caches)?;
            }
            eval(&current.caches.iter().chain(&current.draft_caches).flat_map(Cache::arrays).collect::<Vec<_>>())?;
            current.read = stop;
            let (request, total) = (current.shared.id, prompt.len());
            let processed = if stop + 1 == total { total } else { stop };
            self.events.push(Event::Prefill { request, processed, total });
            self.stats.prefill += start.elapsed();
            return Ok(true);
        }
        if current.sample.is_none() {
            if current.next_sample == 0 {
                self.stats.prompt_tokens += prompt.len();
            }
            current.sample = Some(current.begin(self.options.num_draft_tokens)?);
            current.next_sample += 1;
        }
        let Some(sample) = &mut current.sample else { return Ok(false) };
        let (guesses, accepted, produced) = sample.round(net, draft, &self.options)?;
        current.summary.draft_tokens += guesses;
        current.summary.accepted_tokens += accepted;
        self.stats.steps += 1;
        let mut ended = false;
        for Produced { token, logprob, top } in produced {
            let (text, finish) = sample.row.accept(token)?;
            sample.tokens.push(token);
            sample.produced += 1;
            self.stats.generated_tokens += 1;
            current.summary.generated_tokens += 1;
            let request = current.shared.id;
            let index = sample.row.sample;
            self.events.push(Event::Token { request, sample: index, token, logprob, top, text, finish });
            ended = finish.is_some();
            if ended {
                break;
            }
        }
        let now = Instant::now();
        let first = *current.first.get_or_insert(now);
        current.summary.prefill = first - current.started;
        current.summary.decode = now - first;
        self.stats.decode += start.elapsed();
        if ended {
            current.sample = None;
        }
        Ok(!ended || current.next_sample < current.n)
    }
}

impl Current {
    fn new(
        request: Request,
        id: RequestId,
        net: &dyn CausalLm,
        draft: Option<&dyn CausalLm>,
        cache: &CacheOptions,
    ) -> Result<Current> {
        let Request { prompt, n, options, tokenizer, .. } = request;
        Ok(Current {
            n,
            started: Instant::now(),
            first: None,
            summary: Summary { prompt_tokens: prompt.len(), ..Summary::default() },
            caches: net.new_caches_with(cache)?,
            draft_caches: draft.map_or_else(Vec::new, |draft| draft.new_caches()),
            read: 0,
            sample: None,
            next_sample: 0,
            shared: Arc::new(Shared { id, prompt, options, tokenizer, processed: false, kept: false }),
        })
    }

    fn begin(&mut self, length: usize) -> Result<Sample> {
        let row = Row::new(self.shared.clone(), self.next_sample, None);
        // A clone shares the buffers until it is written to; the last sample takes the originals.
        let last = self.next_sample + 1 == self.n;
        let take = |caches: &mut Vec<Cache>| if last { std::mem::take(caches) } else { caches.clone() };
        Ok(Sample {
            tokens: self.shared.prompt.clone(),
            produced: 0,
            caches: take(&mut self.caches),
            draft_caches: take(&mut self.draft_caches),
            drafted: self.shared.prompt.len() - 1,
            draws: Draws::new(&row.sampler()),
            length,
            row,
        })
    }
}

/// A token that has been settled on.
struct Produced {
    token: i32,
    logprob: f32,
    top: Vec<(i32, f32)>,
}

impl Sample {
    /// Guesses and checks once: how many guesses there were, how many were right, and the tokens, one more than those.
    fn round(
        &mut self,
        net: &dyn CausalLm,
        draft: Option<&dyn CausalLm>,
        options: &SpeculationOptions,
    ) -> Result<(usize, usize, Vec<Produced>)> {
        let room = self.row.shared.options.max_tokens - self.produced - 1;
        let count = self.length.min(room);
        let (guesses, q) = match (draft, options.lookup) {
            (Some(draft), _) => self.guess(draft, count)?,
            (None, Some((most, least))) => (look_up(&self.tokens, count, most, least), Vec::new()),
            (None, None) => (Vec::new(), Vec::new()),
        };
        let count = guesses.len();
        let mut ids = vec![self.tokens[self.tokens.len() - 1]];
        ids.extend_from_slice(&guesses);
        let logits = feed(net, &ids, &mut self.caches)?;

        let mut sampler = Sampler::new();
        let mut history = self.tokens.clone();
        for place in 0..=count {
            sampler.push_later(&self.row.sampler(), &history, (self.produced + place) as u64)?;
            history.extend(guesses.get(place));
        }
        let (p, logprobs) = sampler.distribution(&logits)?;
        let accepted = self.check(&p, &q, &guesses)?;

        let place = accepted as i32;
        let own = p.slice_axis(0, place, place + 1)?;
        let rest = if accepted == count { own } else { remainder(&own, q.get(accepted), guesses[accepted])? };
        let last = draw_from(&rest, &mut self.draws)?;
        let tokens: Vec<i32> = guesses[..accepted].iter().copied().chain([last]).collect();
        let produced = self.describe(&logprobs, &tokens)?;

        // The rejected guesses leave the caches; the token that replaces them is read in the next round.
        let wrong = (count - accepted) as i32;
        for cache in &mut self.caches {
            cache.trim(wrong);
        }
        if draft.is_some() && count > 0 {
            let read = self.tokens.len() + count - 1;
            self.drafted = read.min(self.tokens.len() + accepted);
            let wrong = (read - self.drafted) as i32;
            for cache in &mut self.draft_caches {
                cache.trim(wrong);
            }
        }
        if count > 0 {
            self.length =
                if accepted == count { (count + 2).max(self.length) } else { accepted + 1 }.min(options.num_draft_tokens);
        }
        Ok((count, accepted, produced))
    }

    /// Draws from the draft model under the request's own sampling options.
    fn guess(&mut self, draft: &dyn CausalLm, count: usize) -> Result<Guesses> {
        let (mut guesses, mut distributions) = (Vec::new(), Vec::new());
        let mut history = self.tokens.clone();
        for place in 0..count {
            let ids = if place == 0 { &history[self.drafted..] } else { &history[history.len() - 1..] };
            let logits = feed(draft, ids, &mut self.draft_caches)?;
            let last = logits.dim(0);
            let mut sampler = Sampler::new();
            sampler.push_later(&self.row.sampler(), &history, (self.produced + place) as u64)?;
            let (q, _) = sampler.distribution(&logits.slice_axis(0, last - 1, last)?)?;
            let guess = draw_from(&q, &mut self.draws)?;
            guesses.push(guess);
            history.push(guess);
            distributions.push(q);
        }
        Ok((guesses, distributions))
    }

    /// How many guesses are accepted, from the first on.
    fn check(&mut self, p: &Array, q: &[Array], guesses: &[i32]) -> Result<usize> {
        let count = guesses.len() as i32;
        if count == 0 {
            return Ok(0);
        }
        let ids = Array::from_slice(guesses, &[count, 1])?;
        let wanted = p.slice_axis(0, 0, count)?.take_along_axis(&ids, 1)?.to_vec::<f32>()?;
        let offered = match q {
            [] => vec![1.; guesses.len()],
            q => ops::concatenate(q, 0)?.take_along_axis(&ids, 1)?.to_vec::<f32>()?,
        };
        let rejected = wanted.iter().zip(&offered).position(|(wanted, offered)| self.draws.uniform() * offered >= *wanted);
        Ok(rejected.unwrap_or(guesses.len()))
    }

    /// Log-probs of the tokens that follow one another in `logprobs` `[T, V]`.
    fn describe(&self, logprobs: &Array, tokens: &[i32]) -> Result<Vec<Produced>> {
        let count = tokens.len() as i32;
        let rows = logprobs.slice_axis(0, 0, count)?;
        let own = rows.take_along_axis(&Array::from_slice(tokens, &[count, 1])?, 1)?.to_vec::<f32>()?;
        let wanted = self.row.shared.options.sampler.top_logprobs;
        let top = if wanted > 0 { likeliest(&rows, wanted)? } else { vec![Vec::new(); tokens.len()] };
        let all = tokens.iter().zip(own).zip(top);
        Ok(all.map(|((&token, logprob), top)| Produced { token, logprob, top }).collect())
    }
}

/// Feeds tokens to a single row; the logits `[T, V]` after each.
fn feed(net: &dyn CausalLm, ids: &[i32], caches: &mut [Cache]) -> Result<Array> {
    let ids = Array::from_slice(ids, &[1, ids.len() as i32])?;
    let hidden = net.hidden(Forward::cached(&ids, caches))?;
    net.logits(&hidden.squeeze(&[0])?)
}

/// What `p` has more than `q`, `[1, V]`; `q` is certain of `guess` where there is no other.
fn remainder(p: &Array, q: Option<&Array>, guess: i32) -> Result<Array> {
    let more = match q {
        Some(q) => p.subtract(q)?.maximum(&Array::scalar(0.))?,
        None => p.put_along_axis(&Array::from_slice(&[guess], &[1, 1])?, &Array::scalar(0.), -1)?,
    };
    // Rounding may leave nothing where both are nearly the same.
    let some = more.sum(&[-1], true)?.greater_scalar(0.)?;
    ops::where_(&some, &more, p)
}

/// What followed when the last tokens came before, longest match first, of those the latest.
fn look_up(tokens: &[i32], count: usize, most: usize, least: usize) -> Vec<i32> {
    for size in (least..=most.min(tokens.len().saturating_sub(1))).rev() {
        let (before, last) = (&tokens[..tokens.len() - 1], &tokens[tokens.len() - size..]);
        if let Some(at) = before.windows(size).rposition(|window| window == last) {
            let from = at + size;
            return tokens[from..tokens.len().min(from + count)].to_vec();
        }
    }
    Vec::new()
}
