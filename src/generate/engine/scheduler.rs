//! What happens in which step.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::event::{Event, Summary};
use super::lanes::{Lanes, RowKey};
use super::prefill::{Admitted, Prefill, Prefilled};
use super::prefixes::{Prefixes, started};
use super::request::{EngineOptions, Request, RequestId};
use super::row::{Row, Shared};
use crate::cache::{Cache, CacheOptions, Owner, PrefixCache, Segment};
use crate::generate::{Sampled, Sampler};
use crate::mlx::{Array, Error, Result, async_eval, ops};
use crate::models::CausalLm;

/// Free places are squeezed out once this share of the batch is free: doing so copies the cache of those that stay.
const COMPACT_SHARE: f64 = 0.125;

/// What the engine needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: there are no requests.
    Idle,
    /// Another call of `step`.
    Working,
    /// The caller's processors: `to_process`, then `processed`.
    Processing,
}

/// Logits that the caller is to process before a token is sampled from them.
pub struct ToProcess {
    pub row: RowKey,
    pub request: RequestId,
    pub sample: usize,
    /// The prompt and the tokens so far.
    pub tokens: Vec<i32>,
    /// `[1, V]`
    pub logits: Array,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Requests that wait for admission.
    pub waiting: usize,
    /// Requests whose prompts are being read.
    pub prefilling: usize,
    /// Rows that decode.
    pub running: usize,
    pub prompt_tokens: usize,
    /// Those of them that the prefix cache knew.
    pub cached_tokens: usize,
    pub generated_tokens: usize,
    /// Decoding steps, of however many rows.
    pub steps: usize,
    /// Of the steps in which a request waited for its first token, and of the others.
    pub prefill: Duration,
    pub decode: Duration,
    /// Entries of the prefix cache, and their bytes.
    pub prefix_entries: usize,
    pub prefix_bytes: usize,
}

/// A step that runs on the device, and who was where in it.
struct InFlight {
    sampled: Sampled,
    places: Vec<Option<RowKey>>,
}

/// A request under way.
struct Group {
    prompt_tokens: usize,
    cached_tokens: usize,
    /// Whose weights have read its prompt.
    owner: Owner,
    /// What the prompt alone left, for the prefix cache.
    prompt: Option<(Vec<i32>, Vec<Cache>)>,
    /// Whether the caller's own caches go back to it, and what they are at the end.
    returns: bool,
    returned: Option<Vec<Cache>>,
    n: usize,
    finished: usize,
    generated: usize,
    started: Instant,
    first: Option<Instant>,
}

/// Prompts whose rows join the batch in the step under way.
struct Ready {
    requests: Vec<Admitted>,
    prefilled: Prefilled,
    /// `[P, V]`, of each prompt's first token.
    logits: Array,
}

/// The scheduler. Lives on the owner thread.
pub struct Engine {
    options: EngineOptions,
    /// The caches of rows, and whether requests are answered one after the other.
    cache: CacheOptions,
    one_by_one: bool,
    prefixes: Prefixes,
    vocabulary: i32,
    next_row: RowKey,
    waiting: VecDeque<(Request, RequestId)>,
    groups: HashMap<RequestId, Group>,
    rows: HashMap<RowKey, Row>,
    prefill: Option<Prefill>,
    ready: Option<Ready>,
    lanes: Lanes,
    sampler: Sampler,
    /// The tokens that the next step starts from, `[B]`.
    feed: Option<Array>,
    in_flight: Option<InFlight>,
    /// Logits that wait for the caller's processors.
    unprocessed: Option<Array>,
    events: Vec<Event>,
    stats: Stats,
}

impl Engine {
    /// For a model of so many tokens.
    pub fn new(vocabulary: i32, options: EngineOptions) -> Result<Engine> {
        options.validate()?;
        let cache = options.resolved_cache();
        Ok(Engine {
            options,
            cache,
            one_by_one: options.alone,
            prefixes: Prefixes::new(None, cache),
            vocabulary,
            next_row: 0,
            waiting: VecDeque::new(),
            groups: HashMap::new(),
            rows: HashMap::new(),
            prefill: None,
            ready: None,
            lanes: Lanes::default(),
            sampler: Sampler::new(),
            feed: None,
            in_flight: None,
            unprocessed: None,
            events: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// Looks prompts up here before it reads them, and puts in what has been read and answered.
    pub fn with_prefixes(mut self, prefixes: Option<Arc<Mutex<PrefixCache>>>) -> Engine {
        self.set_prefixes(prefixes);
        self
    }

    pub fn set_prefixes(&mut self, prefixes: Option<Arc<Mutex<PrefixCache>>>) {
        self.prefixes = Prefixes::new(prefixes, self.cache);
    }

    /// See `Prefixes::set_version`.
    pub fn set_version(&mut self, version: u64) {
        self.prefixes.set_version(version);
    }

    /// Puts a request at the end of the queue, under a number that no other has. One that cannot run is refused at once.
    pub fn submit(&mut self, id: RequestId, mut request: Request) -> Result<()> {
        request.follow_grammar()?;
        request.validate(self.vocabulary, &self.options)?;
        self.waiting.push_back((request, id));
        Ok(())
    }

    /// Ends a request without another event. Its rows leave before the next step.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(_, waiting)| *waiting != id);
        if self.groups.remove(&id).is_none() {
            return;
        }
        let rows: Vec<RowKey> = self.rows.iter().filter(|(_, row)| row.shared.id == id).map(|(&key, _)| key).collect();
        rows.into_iter().for_each(|key| self.drop_row(key));
    }

    /// Ends every request.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.groups.clear();
        self.rows.clear();
        self.prefill = None;
        self.ready = None;
        self.empty_batch();
        self.events.clear();
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub fn stats(&self) -> Stats {
        let (prefix_entries, prefix_bytes) = self.prefixes.sizes();
        Stats {
            prefix_entries,
            prefix_bytes,
            waiting: self.waiting.len(),
            prefilling: self.prefill.as_ref().map_or(0, |prefill| prefill.requests.len()),
            running: self.lanes.live(),
            ..self.stats
        }
    }

    pub fn idle(&self) -> bool {
        self.waiting.is_empty() && self.groups.is_empty() && self.in_flight.is_none()
    }

    /// Reads one chunk of prompts and does one decoding step, where there is either to do. What goes wrong becomes an event of the
    /// requests it concerns; the others go on.
    pub fn step(&mut self, net: &dyn CausalLm) -> Step {
        if self.unprocessed.is_some() {
            if self.lanes.keys().any(|key| self.rows[&key].shared.processed) {
                return Step::Processing;
            }
            // Whoever was to process them has been cancelled.
            self.processed(Vec::new());
        }
        if self.idle() {
            self.empty_batch();
            return Step::Idle;
        }
        let start = Instant::now();
        self.admit(net);
        // The device is behind the host: a prompt's work is over when its first token has been read.
        let reads = self.groups.values().any(|group| group.first.is_none());
        self.read_prompts(net);
        if let Err(error) = self.decode(net) {
            self.fail_batch(&error);
        }
        *if reads { &mut self.stats.prefill } else { &mut self.stats.decode } += start.elapsed();
        if self.unprocessed.is_some() {
            Step::Processing
        } else if self.idle() {
            self.empty_batch();
            Step::Idle
        } else {
            Step::Working
        }
    }

    /// Takes requests from the queue while there is room for their rows, first come, first served.
    fn admit(&mut self, net: &dyn CausalLm) {
        if self.prefill.is_some() || self.ready.is_some() || (self.one_by_one && !self.groups.is_empty()) {
            return;
        }
        let most = if self.one_by_one { 1 } else { self.options.prefill_batch_size };
        let mut room = self.options.max_batch_size.saturating_sub(self.lanes.live());
        let mut admitted = Vec::new();
        while admitted.len() < most
            && let Some((request, _)) = self.waiting.front()
            && request.n <= room
            && let Some((request, id)) = self.waiting.pop_front()
        {
            room -= request.n;
            let started = Instant::now();
            let Request { prompt, n, options, tokenizer, masks, processed, mut caches } = request;
            let (returns, mut cached) = (caches.is_some(), 0);
            if !returns {
                let hit = self.prefixes.fetch(&prompt);
                (caches, cached) = hit.map_or((None, 0), |hit| (Some(hit.caches), hit.cached));
            }
            let group = Group {
                prompt_tokens: prompt.len(),
                cached_tokens: cached,
                owner: self.prefixes.owner(),
                prompt: None,
                returns,
                returned: None,
                n,
                finished: 0,
                generated: 0,
                started,
                first: None,
            };
            self.groups.insert(id, group);
            let kept = returns || self.prefixes.is_some();
            let shared = Arc::new(Shared { id, prompt, options, tokenizer, processed, kept });
            admitted.push(Admitted { shared, n, masks, caches, cached });
        }
        if admitted.is_empty() {
            return;
        }
        let ids: Vec<RequestId> = admitted.iter().map(|request| request.shared.id).collect();
        match Prefill::new(net, admitted, &self.cache, self.one_by_one) {
            Ok(prefill) => self.prefill = Some(prefill),
            Err(error) => ids.into_iter().for_each(|id| self.fail(id, error.clone())),
        }
    }

    fn read_prompts(&mut self, net: &dyn CausalLm) {
        let Some(mut prefill) = self.prefill.take() else { return };
        if prefill.requests.iter().all(|request| !self.groups.contains_key(&request.shared.id)) {
            return;
        }
        let outcome = prefill.chunk(net, self.options.prefill_step_size as i32, self.in_flight.is_none());
        for (index, request) in prefill.requests.iter().enumerate() {
            let (id, total) = (request.shared.id, request.shared.prompt.len());
            match &outcome {
                Ok(_) if self.groups.contains_key(&id) => {
                    self.events.push(Event::Prefill { request: id, processed: prefill.processed(index), total });
                }
                Ok(_) => {}
                Err(error) => self.fail(id, error.clone()),
            }
        }
        match outcome {
            Ok(None) => self.prefill = Some(prefill),
            Ok(Some(logits)) => {
                let (requests, prefilled) = prefill.finish();
                for (index, request) in requests.iter().enumerate() {
                    let Some(group) = self.groups.get_mut(&request.shared.id) else { continue };
                    self.stats.prompt_tokens += group.prompt_tokens;
                    self.stats.cached_tokens += group.cached_tokens;
                    let prompt = &request.shared.prompt;
                    // What a bounded cache has dropped by the end of the answer, the next prompt cannot begin with.
                    let drops = |size: i32| prompt.len() + request.shared.options.max_tokens >= size as usize;
                    if self.prefixes.is_some() && !group.returns && self.cache.max_kv_size.is_some_and(drops) {
                        let caches = prefilled.row(index).and_then(|caches| started(&caches).map(|()| caches));
                        group.prompt = caches.ok().map(|caches| (prompt.clone(), caches));
                    }
                }
                self.ready = Some(Ready { requests, prefilled, logits });
            }
            Err(_) => {}
        }
    }

    /// Starts the next step, then reads the one before it.
    fn decode(&mut self, net: &dyn CausalLm) -> Result<()> {
        let mut previous = self.in_flight.take();
        if self.lanes.live() == 0 {
            self.lanes.clear();
            self.feed = None;
        }
        let mut logits = None;
        if let Some(feed) = self.feed.take() {
            self.lanes.settle()?;
            let feed = self.compact(feed)?;
            self.lanes.drop_common_padding()?;
            logits = Some(self.lanes.forward(net, &feed)?);
        }
        if self.waits_for_tokens() {
            if let Some(logits) = &logits {
                async_eval(&[logits])?;
            }
            if let Some(previous) = previous.take() {
                self.read(&previous)?;
            }
            if self.lanes.live() == 0 {
                self.lanes.clear();
                logits = None;
            }
        }
        if let Some(logits) = self.join(logits)? {
            if self.lanes.keys().any(|key| self.rows[&key].shared.processed) {
                self.unprocessed = Some(logits);
            } else {
                self.sample(&logits, None)?;
            }
        }
        previous.map_or(Ok(()), |previous| self.read(&previous))
    }

    /// Whether a row's next token depends on what the host makes of the last.
    fn waits_for_tokens(&self) -> bool {
        let joining = self.ready.iter().flat_map(|ready| &ready.requests);
        self.lanes.keys().any(|key| self.rows[&key].constrained())
            || joining.into_iter().any(|request| request.shared.processed || !request.masks.is_empty())
    }

    /// Squeezes free places out of the batch when there are enough of them that nobody is about to take.
    fn compact(&mut self, feed: Array) -> Result<Array> {
        let joining = self.prefill.iter().flat_map(|prefill| &prefill.requests);
        let ready = self.ready.iter().flat_map(|ready| &ready.requests);
        let expected: usize = joining.chain(ready).map(|request| request.n).sum();
        let batch = self.lanes.places().len();
        let free = (batch - self.lanes.live()).saturating_sub(expected);
        if free == 0 || (free as f64) < COMPACT_SHARE * batch as f64 {
            return Ok(feed);
        }
        let kept: Vec<usize> = (0..batch).filter(|&place| self.lanes.places()[place].is_some()).collect();
        let indices: Vec<i32> = kept.iter().map(|&place| place as i32).collect();
        let indices = Array::from_slice(&indices, &[kept.len() as i32])?;
        self.lanes.keep(&kept)?;
        self.sampler.keep(&kept)?;
        for (place, key) in self.lanes.places().iter().enumerate() {
            if let Some(row) = key.and_then(|key| self.rows.get_mut(&key)) {
                row.place = Some(place);
            }
        }
        feed.take(&indices, 0)
    }

    /// Adds the rows whose prompts have been read to those of `logits` `[B, V]`.
    fn join(&mut self, logits: Option<Array>) -> Result<Option<Array>> {
        let Some(Ready { requests, prefilled, logits: first }) = self.ready.take() else { return Ok(logits) };
        let mut keys = Vec::new();
        let mut prompts = Vec::new();
        for (prompt, request) in requests.into_iter().enumerate() {
            if !self.groups.contains_key(&request.shared.id) {
                continue;
            }
            let mut masks = request.masks.into_iter();
            for sample in 0..request.n {
                let key = self.next_row;
                self.next_row += 1;
                self.rows.insert(key, Row::new(request.shared.clone(), sample, masks.next()));
                keys.push(key);
                prompts.push(prompt);
            }
        }
        if keys.is_empty() {
            return Ok(logits);
        }
        let Some(logits) = logits else {
            self.sampler = Sampler::new();
            let prompts_read = first.dim(0) as usize;
            self.lanes.start(prefilled, &prompts, &keys)?;
            for (place, key) in keys.iter().enumerate() {
                self.seat(*key, place)?;
            }
            return if prompts.iter().copied().eq(0..prompts_read) { Ok(Some(first)) } else { pick(&first, &prompts).map(Some) };
        };
        let batch = logits.dim(0) as usize;
        let mut sources: Vec<usize> = (0..batch).collect();
        let places = self.lanes.join(prefilled, &prompts, &keys)?;
        for ((&key, &prompt), place) in keys.iter().zip(&prompts).zip(places) {
            sources.resize(sources.len().max(place + 1), 0);
            sources[place] = batch + prompt;
            self.seat(key, place)?;
        }
        pick(&ops::concatenate(&[logits, first], 0)?, &sources).map(Some)
    }

    fn seat(&mut self, key: RowKey, place: usize) -> Result<()> {
        let Some(row) = self.rows.get_mut(&key) else { return Ok(()) };
        row.place = Some(place);
        let options = row.sampler();
        if place == self.sampler.rows() {
            self.sampler.push(&options, &row.shared.prompt)
        } else {
            self.sampler.put(place, &options, &row.shared.prompt)
        }
    }

    /// Samples a token for each row, and starts the work on the device.
    fn sample(&mut self, logits: &Array, processed: Option<&Array>) -> Result<()> {
        let allowed = self.allowed()?;
        if self.lanes.live() == 0 {
            return Ok(());
        }
        let sampled = self.sampler.sample_processed(logits, processed, allowed.as_ref())?;
        let mut outputs = vec![sampled.tokens.clone(), sampled.logprobs.clone()];
        outputs.extend(sampled.top.iter().flat_map(|(ids, values)| [ids.clone(), values.clone()]));
        outputs.extend(self.sampler.state());
        async_eval(&outputs)?;
        let places = self.lanes.places().to_vec();
        for (place, key) in places.iter().enumerate() {
            let Some(row) = key.and_then(|key| self.rows.get_mut(&key)) else { continue };
            row.planned += 1;
            // The length limit can be foreseen, before the host knows the tokens.
            if row.planned >= row.shared.options.max_tokens {
                if row.shared.kept {
                    row.caches = self.lanes.row(place).and_then(|caches| started(&caches).map(|()| caches)).ok();
                }
                row.place = None;
                self.lanes.free(place);
            }
        }
        self.feed = Some(sampled.tokens.clone());
        self.in_flight = Some(InFlight { sampled, places });
        Ok(())
    }

    /// The tokens that masks allow, bool `[B, V]`. A mask that fails ends its request.
    fn allowed(&mut self) -> Result<Option<Array>> {
        let places = self.lanes.places().to_vec();
        let masked = |engine: &Engine, key: RowKey| engine.rows.get(&key).is_some_and(|row| row.mask.is_some());
        if !places.iter().flatten().any(|&key| masked(self, key)) {
            return Ok(None);
        }
        let vocabulary = self.vocabulary as usize;
        let mut allowed = vec![true; places.len() * vocabulary];
        for (place, key) in places.iter().enumerate() {
            let Some(row) = key.and_then(|key| self.rows.get_mut(&key)) else { continue };
            let Some(mask) = &mut row.mask else { continue };
            let part = &mut allowed[place * vocabulary..(place + 1) * vocabulary];
            let id = row.shared.id;
            let outcome = mask.mask(part).and_then(|()| {
                let empty = !part.contains(&true);
                if empty { Err(Error::Argument("the token mask of this request allows no token".into())) } else { Ok(()) }
            });
            if let Err(error) = outcome {
                part.fill(true);
                self.fail(id, error);
            }
        }
        Array::from_slice(&allowed, &[places.len() as i32, self.vocabulary]).map(Some)
    }

    /// Reads a step's tokens and hands them to their rows.
    fn read(&mut self, step: &InFlight) -> Result<()> {
        let tokens = step.sampled.tokens.to_vec::<i32>()?;
        let logprobs = step.sampled.logprobs.to_vec::<f32>()?;
        let top = match &step.sampled.top {
            Some((ids, values)) => Some((ids.to_vec::<i32>()?, values.to_vec::<f32>()?, ids.dim(1) as usize)),
            None => None,
        };
        self.stats.steps += 1;
        for (place, key) in step.places.iter().enumerate() {
            // Rows that have ended meanwhile were already under way again.
            let Some((key, row)) = key.and_then(|key| Some((key, self.rows.get_mut(&key)?))) else { continue };
            let (request, sample) = (row.shared.id, row.sample);
            let (text, finish) = match row.accept(tokens[place]) {
                Ok(outcome) => outcome,
                Err(error) => {
                    self.fail(request, error);
                    continue;
                }
            };
            let wanted = row.shared.options.sampler.top_logprobs as usize;
            let top = top.as_ref().filter(|_| wanted > 0).map_or_else(Vec::new, |(ids, values, width)| {
                let part = place * width..place * width + wanted.min(*width);
                ids[part.clone()].iter().copied().zip(values[part].iter().copied()).collect()
            });
            self.stats.generated_tokens += 1;
            self.events.push(Event::Token { request, sample, token: tokens[place], logprob: logprobs[place], top, text, finish });
            if finish.is_some() {
                self.keep(key);
                self.drop_row(key);
            }
            self.count(request, finish.is_some());
        }
        Ok(())
    }

    /// Keeps the caches of a row that has finished where somebody wants them.
    fn keep(&mut self, key: RowKey) {
        let Some(row) = self.rows.get_mut(&key).filter(|row| row.shared.kept) else { return };
        let Some(group) = self.groups.get_mut(&row.shared.id) else { return };
        let place = row.place;
        let caches = row.caches.take().or_else(|| self.lanes.row(place?).ok());
        let Some(caches) = caches.filter(|caches| !caches.is_empty()) else { return };
        if group.returns {
            group.returned = Some(caches);
            return;
        }
        let owner = group.owner;
        let mut tokens = [row.shared.prompt.as_slice(), &row.tokens].concat();
        let read = caches[0].offset() as usize;
        if read <= tokens.len() {
            tokens.truncate(read);
            self.prefixes.remember(&owner, &tokens, caches, Segment::Assistant);
        }
    }

    /// One more token of a request, and perhaps a sample that has ended.
    fn count(&mut self, id: RequestId, ended: bool) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let now = Instant::now();
        let first = *group.first.get_or_insert(now);
        group.generated += 1;
        group.finished += usize::from(ended);
        let (owner, prompt, over) = (group.owner, group.prompt.take(), group.finished == group.n);
        if let Some((tokens, caches)) = prompt {
            self.prefixes.remember(&owner, &tokens, caches, Segment::User);
        }
        if !over {
            return;
        }
        let Some(group) = self.groups.remove(&id) else { return };
        let summary = Summary {
            prompt_tokens: group.prompt_tokens,
            cached_tokens: group.cached_tokens,
            generated_tokens: group.generated,
            prefill: first - group.started,
            decode: now - first,
            ..Summary::default()
        };
        self.events.push(Event::Finished { request: id, summary, caches: group.returned });
    }

    fn drop_row(&mut self, key: RowKey) {
        if let Some(place) = self.rows.remove(&key).and_then(|row| row.place) {
            self.lanes.free(place);
        }
    }

    /// Ends one request with an error.
    pub fn fail(&mut self, id: RequestId, error: Error) {
        if self.groups.contains_key(&id) {
            self.cancel(id);
            self.events.push(Event::Failed { request: id, error });
        }
    }

    /// Ends the requests that took part in a step that failed. Those that wait or whose prompts are being read go on.
    fn fail_batch(&mut self, error: &Error) {
        let ready = self.ready.take().into_iter().flat_map(|ready| ready.requests).map(|request| request.shared.id);
        let mut ids: Vec<RequestId> = ready.chain(self.rows.values().map(|row| row.shared.id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().for_each(|id| self.fail(id, error.clone()));
        self.empty_batch();
    }

    fn empty_batch(&mut self) {
        self.lanes.clear();
        self.sampler = Sampler::new();
        self.feed = None;
        self.in_flight = None;
        self.unprocessed = None;
    }

    /// The logits that wait for the caller's processors, after `step` has said `Processing`.
    pub fn to_process(&self) -> Result<Vec<ToProcess>> {
        let Some(logits) = &self.unprocessed else { return Ok(Vec::new()) };
        let rows = self.lanes.places().iter().enumerate().filter_map(|(place, key)| Some((place, (*key)?)));
        rows.filter(|(_, key)| self.rows[key].shared.processed)
            .map(|(place, key)| {
                let row = &self.rows[&key];
                let place = place as i32;
                Ok(ToProcess {
                    row: key,
                    request: row.shared.id,
                    sample: row.sample,
                    tokens: row.shared.prompt.iter().chain(&row.tokens).copied().collect(),
                    logits: logits.slice_axis(0, place, place + 1)?,
                })
            })
            .collect()
    }

    /// Takes what the processors made of the logits, float `[1, V]` or `[V]`, and starts the step. A row without an answer ends its
    /// request.
    pub fn processed(&mut self, answers: Vec<(RowKey, Array)>) {
        let Some(logits) = self.unprocessed.take() else { return };
        let mut answers: HashMap<RowKey, Array> = answers.into_iter().collect();
        let mut pieces = vec![logits.clone()];
        let mut sources: Vec<usize> = (0..logits.dim(0) as usize).collect();
        for (place, key) in self.lanes.places().to_vec().iter().enumerate() {
            // A row whose request has just failed by another sample of it is gone.
            let Some(row) = key.and_then(|key| self.rows.get(&key)).filter(|row| row.shared.processed) else { continue };
            let (key, id) = (key.unwrap_or_default(), row.shared.id);
            match self.answer(answers.remove(&key)) {
                Ok(answer) => {
                    sources[place] = logits.dim(0) as usize + pieces.len() - 1;
                    pieces.push(answer);
                }
                Err(error) => self.fail(id, error),
            }
        }
        let outcome = ops::concatenate(&pieces, 0)
            .and_then(|all| pick(&all, &sources))
            .and_then(|processed| self.sample(&logits, Some(&processed)));
        if let Err(error) = outcome {
            self.fail_batch(&error);
        }
    }

    /// What a processor returned, evaluated: what is wrong with it must not fail the step of the others.
    fn answer(&self, answer: Option<Array>) -> Result<Array> {
        let answer = answer.ok_or_else(|| Error::Argument("a logits processor returned nothing".into()))?;
        if answer.size() != self.vocabulary as usize || answer.dim(-1) != self.vocabulary || !answer.dtype().is_float() {
            let (shape, dtype, size) = (answer.shape(), answer.dtype().name(), self.vocabulary);
            return Err(Error::Shape(format!(
                "a logits processor must return floating-point logits of shape [1, {size}]; it returned {shape:?} of {dtype}"
            )));
        }
        let answer = answer.reshape(&[1, self.vocabulary])?.astype(crate::mlx::Dtype::Float32)?;
        answer.eval()?;
        Ok(answer)
    }
}

fn pick(rows: &Array, indices: &[usize]) -> Result<Array> {
    let indices: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
    rows.take(&Array::from_slice(&indices, &[indices.len() as i32])?, 0)
}
