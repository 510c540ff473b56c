//! The engine, pulled from JavaScript.
//!
//! JavaScript puts requests in and calls `next` as long as there are any: the owner thread then works until something has happened.
//! It never waits for JavaScript: logits that JavaScript is to process come as a result of one `next` and go back with the following.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use napi::Env;
use napi::bindgen_prelude::{ClassInstance, Object};
use napi_derive::napi;

use super::ArrayHandle;
use super::cache::{NativeCache, NativePrefixCache};
use super::error as js;
use super::generation::{EngineOptions, SLICE, TokenLogprob, token_logprobs};
use super::model::{NativeModel, SharedModel};
use super::promise;
use super::sampling::GenerateOptions;
use super::tokenizer::NativeTokenizer;
use crate::generate::{self, Engine, Event, Request, RequestId, Speculator, Stats, Step, ToProcess};
use crate::mlx::{Array, Error, Result};
use crate::models::CausalLm;
use crate::runtime;

/// One more token of a sample, in order.
#[napi(object)]
pub struct TokenEvent {
    pub request: f64,
    pub sample: u32,
    pub token: i32,
    /// Under `logits / temperature` (plain logits when greedy).
    pub logprob: f64,
    /// Where asked for.
    pub top_logprobs: Option<Vec<TokenLogprob>>,
    /// Text that has become certain.
    pub text: String,
    /// With the last token.
    #[napi(ts_type = "'stop' | 'length'")]
    pub finish_reason: Option<String>,
}

/// How much of a prompt has been read.
#[napi(object)]
pub struct PrefillEvent {
    pub request: f64,
    pub processed: u32,
    pub total: u32,
}

/// All samples of a request have finished.
#[napi(object, object_from_js = false)]
pub struct FinishedEvent {
    pub request: f64,
    pub prompt_tokens: u32,
    /// Those of them that the prefix cache knew.
    pub cached_tokens: u32,
    pub generated_tokens: u32,
    /// From the beginning of the prefill to the first token.
    pub prompt_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
    /// Tokens that were guessed, and how many of them were right.
    pub draft_tokens: u32,
    pub accepted_tokens: u32,
    /// Tokens for which nothing was guessed because a bounded cache was full.
    pub plain_tokens: u32,
    /// The request's own caches, where it brought some.
    pub caches: Option<Vec<NativeCache>>,
}

/// A request has ended without a result.
#[napi(object)]
pub struct FailedEvent {
    pub request: f64,
    pub code: String,
    pub message: String,
}

/// Logits `[1, V]` that go back, processed, with the following `next`.
#[napi(object)]
pub struct UnprocessedLogits {
    pub row: f64,
    pub request: f64,
    pub sample: u32,
    /// The prompt and the tokens so far.
    pub tokens: Vec<i32>,
    #[napi(ts_type = "ArrayHandle")]
    pub logits: ArrayHandle,
}

/// What has happened since the last `next`.
#[napi(object, object_from_js = false)]
pub struct EngineEvents {
    pub prefills: Vec<PrefillEvent>,
    pub tokens: Vec<TokenEvent>,
    pub finished: Vec<FinishedEvent>,
    pub failed: Vec<FailedEvent>,
    pub unprocessed: Vec<UnprocessedLogits>,
}

impl EngineEvents {
    fn new(events: Vec<Event>, unprocessed: Vec<ToProcess>) -> Self {
        let mut all = EngineEvents {
            prefills: Vec::new(),
            tokens: Vec::new(),
            finished: Vec::new(),
            failed: Vec::new(),
            unprocessed: Vec::new(),
        };
        for event in events {
            match event {
                Event::Prefill { request, processed, total } => {
                    all.prefills.push(PrefillEvent { request: request as f64, processed: processed as u32, total: total as u32 })
                }
                Event::Token { request, sample, token, logprob, top, text, finish } => all.tokens.push(TokenEvent {
                    request: request as f64,
                    sample: sample as u32,
                    token,
                    logprob: logprob as f64,
                    top_logprobs: (!top.is_empty()).then(|| token_logprobs(top)),
                    text,
                    finish_reason: finish.map(|reason| reason.name().to_string()),
                }),
                Event::Finished { request, summary, caches } => all.finished.push(FinishedEvent {
                    request: request as f64,
                    prompt_tokens: summary.prompt_tokens as u32,
                    cached_tokens: summary.cached_tokens as u32,
                    generated_tokens: summary.generated_tokens as u32,
                    prompt_ms: summary.prefill.as_secs_f64() * 1e3,
                    decode_ms: summary.decode.as_secs_f64() * 1e3,
                    draft_tokens: summary.draft_tokens as u32,
                    accepted_tokens: summary.accepted_tokens as u32,
                    plain_tokens: summary.plain_tokens as u32,
                    caches: caches.map(|caches| caches.into_iter().map(|cache| NativeCache { cache }).collect()),
                }),
                Event::Failed { request, error } => all.failed.push(FailedEvent {
                    request: request as f64,
                    code: error.code().to_string(),
                    message: error.to_string(),
                }),
            }
        }
        all.unprocessed = unprocessed
            .into_iter()
            .map(|row| UnprocessedLogits {
                row: row.row as f64,
                request: row.request as f64,
                sample: row.sample as u32,
                tokens: row.tokens,
                logits: row.logits.into(),
            })
            .collect();
        all
    }
}

#[napi(object)]
pub struct EngineStats {
    /// Requests that wait for admission.
    pub waiting: u32,
    /// Requests whose prompts are being read.
    pub prefilling: u32,
    /// Rows that decode.
    pub running: u32,
    pub prompt_tokens: f64,
    /// Those of them that the prefix cache knew.
    pub cached_tokens: f64,
    pub generated_tokens: f64,
    /// Decoding steps, of however many rows.
    pub steps: f64,
    pub prefill_ms: f64,
    pub decode_ms: f64,
    /// Entries of the prefix cache, and their bytes.
    pub prefix_entries: u32,
    pub prefix_bytes: f64,
}

/// What answers the requests.
enum Runner {
    Together(Box<Engine>),
    Guessing(Box<Speculator>),
}

impl Runner {
    fn submit(&mut self, id: RequestId, request: Request) -> Result<()> {
        match self {
            Runner::Together(engine) => engine.submit(id, request),
            Runner::Guessing(speculator) => speculator.submit(id, request),
        }
    }

    fn cancel(&mut self, id: RequestId) {
        match self {
            Runner::Together(engine) => engine.cancel(id),
            Runner::Guessing(speculator) => speculator.cancel(id),
        }
    }

    fn clear(&mut self) {
        match self {
            Runner::Together(engine) => engine.clear(),
            Runner::Guessing(speculator) => speculator.clear(),
        }
    }

    fn set_version(&mut self, version: u64) {
        match self {
            Runner::Together(engine) => engine.set_version(version),
            Runner::Guessing(speculator) => speculator.set_version(version),
        }
    }

    fn step(&mut self, net: &dyn CausalLm, draft: Option<&dyn CausalLm>) -> Step {
        match self {
            Runner::Together(engine) => engine.step(net),
            Runner::Guessing(speculator) => speculator.step(net, draft),
        }
    }

    fn take_events(&mut self) -> Vec<Event> {
        match self {
            Runner::Together(engine) => engine.take_events(),
            Runner::Guessing(speculator) => speculator.take_events(),
        }
    }

    fn to_process(&self) -> Result<Vec<ToProcess>> {
        match self {
            Runner::Together(engine) => engine.to_process(),
            Runner::Guessing(_) => Ok(Vec::new()),
        }
    }

    fn processed(&mut self, answers: Vec<(u64, Array)>) {
        if let Runner::Together(engine) = self {
            engine.processed(answers);
        }
    }

    fn stats(&self) -> Stats {
        match self {
            Runner::Together(engine) => engine.stats(),
            Runner::Guessing(speculator) => speculator.stats(),
        }
    }
}

enum Command {
    Submit(RequestId, Box<Request>),
    Cancel(RequestId),
}

/// Requests that share a batch: they join and leave it at any step. Ends with the model, or with `close`.
#[napi]
pub struct NativeEngine {
    model: SharedModel,
    draft: Option<SharedModel>,
    guesses: bool,
    vocabulary: i32,
    eos: Vec<i32>,
    limits: generate::EngineOptions,
    /// Only the owner thread locks it for long. Gone when closed.
    engine: Arc<Mutex<Option<Runner>>>,
    commands: Arc<Mutex<Vec<Command>>>,
    stats: Arc<Mutex<Stats>>,
    next_request: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn obey(engine: &mut Runner, commands: &Mutex<Vec<Command>>) -> Result<()> {
    let commands = std::mem::take(&mut *lock(commands));
    commands.into_iter().try_for_each(|command| match command {
        Command::Submit(id, request) => engine.submit(id, *request),
        Command::Cancel(id) => {
            engine.cancel(id);
            Ok(())
        }
    })
}

impl NativeEngine {
    pub(super) fn new(
        model: &NativeModel,
        options: &EngineOptions,
        draft: Option<&NativeModel>,
        prefixes: Option<&NativePrefixCache>,
    ) -> Result<NativeEngine> {
        let limits = options.resolve(generate::EngineOptions::default(), model.head_dim())?;
        let vocabulary = model.vocabulary();
        if let Some(draft) = draft.filter(|draft| draft.vocabulary() != vocabulary) {
            let other = draft.vocabulary();
            return Err(Error::Argument(format!(
                "the draft model has a vocabulary of {other}, the model one of {vocabulary}; they must have the same"
            )));
        }
        let prefixes = prefixes.map(|prefixes| prefixes.cache.clone());
        let runner = match options.speculation(draft.is_some()) {
            Some(speculation) => {
                let speculator = Speculator::new(vocabulary, speculation, limits)?.with_prefixes(prefixes);
                Runner::Guessing(Box::new(speculator))
            }
            None => Runner::Together(Box::new(Engine::new(vocabulary, limits)?.with_prefixes(prefixes))),
        };
        Ok(NativeEngine {
            model: model.shared(),
            draft: draft.map(NativeModel::shared),
            guesses: matches!(runner, Runner::Guessing(_)),
            vocabulary,
            eos: model.eos().to_vec(),
            limits,
            engine: Arc::new(Mutex::new(Some(runner))),
            commands: Arc::default(),
            stats: Arc::default(),
            next_request: AtomicU64::new(0),
        })
    }
}

#[napi]
impl NativeEngine {
    /// Puts a request at the end of the queue and returns its number. Without a tokenizer its tokens come without text. It goes on from
    /// `caches`, which stay as they are: what they become comes with its `FinishedEvent`.
    #[napi]
    pub fn submit(
        &self,
        prompt_ids: Vec<i32>,
        options: GenerateOptions,
        tokenizer: Option<&NativeTokenizer>,
        caches: Option<Vec<ClassInstance<NativeCache>>>,
    ) -> js::Result<f64> {
        let (n, processed) = (options.generations()?, options.processed.unwrap_or(false));
        let request = Request {
            n,
            processed,
            tokenizer: tokenizer.map(|tokenizer| tokenizer.inner.clone()),
            caches: caches.map(|caches| caches.iter().map(|cache| cache.cache.clone()).collect()),
            ..Request::new(prompt_ids, options.resolve(&self.eos, tokenizer)?)
        };
        request.validate(self.vocabulary, &self.limits)?;
        if self.guesses && processed {
            return Err(generate::speculation_without_processors().into());
        }
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        lock(&self.commands).push(Command::Submit(id, Box::new(request)));
        Ok(id as f64)
    }

    /// Ends a request without another event, before the next step.
    #[napi]
    pub fn cancel(&self, request: f64) {
        lock(&self.commands).push(Command::Cancel(request as RequestId));
    }

    /// Works until something has happened, or nothing is left to do. `rows` and `logits` answer the `unprocessed` logits of the call
    /// before: a row without an answer ends its request. One call at a time.
    #[napi(ts_return_type = "Promise<EngineEvents>")]
    pub fn next<'env>(
        &self,
        env: &'env Env,
        rows: Option<Vec<f64>>,
        logits: Option<Vec<ArrayHandle>>,
    ) -> js::Result<Object<'env>> {
        let logits = logits.unwrap_or_default().into_iter().map(|logits| Array::clone(&logits));
        let mut answers = rows.map(|rows| rows.into_iter().map(|row| row as u64).zip(logits).collect::<Vec<_>>());
        let (shared, draft) = (self.model.clone(), self.draft.clone());
        let (slot, commands, stats) = (self.engine.clone(), self.commands.clone(), self.stats.clone());
        promise::sliced(
            env,
            move || {
                let start = Instant::now();
                let broken = slot.is_poisoned();
                slot.clear_poison();
                let mut slot = lock(&slot);
                let engine = slot.as_mut().ok_or(Error::Disposed("engine"))?;
                if broken {
                    engine.clear();
                }
                let outcome = (|| {
                    let model = shared.lock()?;
                    engine.set_version(model.version());
                    let net = model.net.as_ref();
                    // A model may draft for itself, and is locked once.
                    let other = draft.as_ref().filter(|draft| !draft.is(&shared)).map(SharedModel::lock).transpose()?;
                    let draft = draft.as_ref().map(|_| other.as_ref().map_or(net, |other| other.net.as_ref()));
                    obey(engine, &commands)?;
                    if let Some(answers) = answers.take() {
                        engine.processed(answers);
                    }
                    loop {
                        let step = engine.step(net, draft);
                        let events = engine.take_events();
                        if !events.is_empty() || step != Step::Working {
                            return Ok(Some((events, engine.to_process()?)));
                        }
                        if start.elapsed() > SLICE {
                            return Ok(None);
                        }
                        obey(engine, &commands)?;
                    }
                })();
                if outcome.is_err() {
                    engine.clear();
                }
                *lock(&stats) = engine.stats();
                outcome
            },
            |(events, unprocessed)| EngineEvents::new(events, unprocessed),
        )
    }

    /// As of the last `next`.
    #[napi]
    pub fn stats(&self) -> EngineStats {
        let stats = *lock(&self.stats);
        let submitted = lock(&self.commands).iter().filter(|command| matches!(command, Command::Submit(..))).count();
        EngineStats {
            waiting: (stats.waiting + submitted) as u32,
            prefilling: stats.prefilling as u32,
            running: stats.running as u32,
            prompt_tokens: stats.prompt_tokens as f64,
            cached_tokens: stats.cached_tokens as f64,
            generated_tokens: stats.generated_tokens as f64,
            steps: stats.steps as f64,
            prefill_ms: stats.prefill.as_secs_f64() * 1e3,
            decode_ms: stats.decode.as_secs_f64() * 1e3,
            prefix_entries: stats.prefix_entries as u32,
            prefix_bytes: stats.prefix_bytes as f64,
        }
    }

    /// Frees the caches. A `next` under way ends first; later ones are refused.
    #[napi]
    pub fn close(&self) {
        let slot = self.engine.clone();
        runtime::spawn_once(move || drop(lock(&slot).take()));
    }
}
