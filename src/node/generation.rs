//! How to generate, and rollouts.

use std::time::{Duration, Instant};

use napi::Env;
use napi::bindgen_prelude::{Function, Object};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;

use super::cache::{ModelCacheOptions, NativePrefixCache};
use super::error::{self as js, argument};
use super::model::NativeModel;
use super::promise;
use super::sampling::GenerateOptions;
use super::tokenizer::NativeTokenizer;
use crate::generate::{self, Batch, BatchOutput};
use crate::mlx::{Error, Result};
use crate::runtime;

/// Generation lets other work in after this long.
pub(super) const SLICE: Duration = Duration::from_millis(10);

/// How much is taken on at a time.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct EngineOptions {
    /// The most rows that decode together; 32 by default.
    pub max_batch_size: Option<u32>,
    /// The most prompts that are read together; 8 by default.
    pub prefill_batch_size: Option<u32>,
    /// Tokens of a prompt that are read at a time, between two decoding steps; 512 by default.
    pub prefill_step_size: Option<u32>,
    /// The most tokens that are guessed for one pass: 4 with a draft model, 10 with prompt lookup by default.
    pub num_draft_tokens: Option<u32>,
    /// Guesses come from what followed the last tokens earlier in the text.
    pub prompt_lookup: Option<PromptLookup>,
    /// What a format leaves no choice about is read in one pass.
    pub fast_forward: Option<bool>,
    /// The caches of rows: see `ModelCacheOptions`.
    pub cache: Option<ModelCacheOptions>,
    /// Requests never share the batch; one may then bring its own caches.
    pub alone: Option<bool>,
}

/// How many last tokens must have come before for what followed them to be guessed again.
#[napi(object)]
#[derive(Clone)]
pub struct PromptLookup {
    /// 3 by default.
    pub max_ngram_size: Option<u32>,
    /// 1 by default.
    pub min_ngram_size: Option<u32>,
}

impl EngineOptions {
    /// For heads of so many features.
    pub(super) fn resolve(&self, default: generate::EngineOptions, head_dim: i32) -> Result<generate::EngineOptions> {
        let or = |value: Option<u32>, default: usize| value.map_or(default, |value| value as usize);
        let options = generate::EngineOptions {
            max_batch_size: or(self.max_batch_size, default.max_batch_size),
            prefill_batch_size: or(self.prefill_batch_size, default.prefill_batch_size),
            prefill_step_size: or(self.prefill_step_size, default.prefill_step_size),
            cache: self.cache.as_ref().map_or(Ok(default.cache), ModelCacheOptions::parse)?,
            alone: self.alone.unwrap_or(default.alone),
        };
        options.validate()?;
        options.cache.validate(head_dim)?;
        Ok(options)
    }

    /// Where there is something to guess from.
    pub(super) fn speculation(&self, has_draft: bool) -> Option<generate::SpeculationOptions> {
        let lookup = self.prompt_lookup.as_ref().map(|lookup| {
            let or = |size: Option<u32>, default: usize| size.map_or(default, |size| size as usize);
            (or(lookup.max_ngram_size, 3), or(lookup.min_ngram_size, 1))
        });
        let default = if has_draft { 4 } else { 10 };
        let num_draft_tokens = self.num_draft_tokens.map_or(default, |count| count as usize);
        let fast_forward = self.fast_forward.unwrap_or(false);
        let guesses = has_draft || lookup.is_some() || fast_forward;
        guesses.then_some(generate::SpeculationOptions { num_draft_tokens, lookup, fast_forward })
    }
}

/// How far a rollout is.
#[napi(object)]
pub struct BatchProgress {
    pub step: u32,
    pub max_tokens: u32,
    pub rows_left: u32,
    pub tokens: u32,
}

/// A token and its log-prob.
#[napi(object)]
pub struct TokenLogprob {
    pub token: i32,
    pub logprob: f64,
}

pub(super) fn token_logprobs(top: Vec<(i32, f32)>) -> Vec<TokenLogprob> {
    top.into_iter().map(|(token, logprob)| TokenLogprob { token, logprob: logprob as f64 }).collect()
}

/// A finished rollout; rows in group order.
#[napi(object)]
pub struct BatchResult {
    /// The stop token is included where one ended the row, and the tokens of a stop string.
    pub tokens: Vec<Vec<i32>>,
    /// Of the sampled tokens, under `logits / temperature`.
    pub logprobs: Vec<Vec<f64>>,
    /// Where asked for.
    pub top_logprobs: Option<Vec<Vec<Vec<TokenLogprob>>>>,
    /// Where a tokenizer was given.
    pub texts: Option<Vec<String>>,
    #[napi(ts_type = "Array<'stop' | 'length'>")]
    pub finish_reasons: Vec<String>,
    pub prompt_tokens: u32,
    /// Those of them that the prefix cache knew.
    pub cached_tokens: u32,
    pub generated_tokens: u32,
    pub steps: u32,
    pub prefill_ms: f64,
    pub decode_ms: f64,
}

impl BatchResult {
    fn new(output: BatchOutput, with_text: bool, with_top: bool) -> Self {
        let BatchOutput { rows, prompt_tokens, cached_tokens, generated_tokens, steps, prefill, decode } = output;
        let mut result = BatchResult {
            tokens: Vec::with_capacity(rows.len()),
            logprobs: Vec::with_capacity(rows.len()),
            top_logprobs: with_top.then(Vec::new),
            texts: with_text.then(Vec::new),
            finish_reasons: rows.iter().filter_map(|row| row.finish.map(|reason| reason.name().to_string())).collect(),
            prompt_tokens: prompt_tokens as u32,
            cached_tokens: cached_tokens as u32,
            generated_tokens: generated_tokens as u32,
            steps: steps as u32,
            prefill_ms: prefill.as_secs_f64() * 1e3,
            decode_ms: decode.as_secs_f64() * 1e3,
        };
        for row in rows {
            result.tokens.push(row.tokens);
            result.logprobs.push(row.logprobs.iter().map(|&value| value as f64).collect());
            if let Some(top) = &mut result.top_logprobs {
                top.push(row.top.into_iter().map(token_logprobs).collect());
            }
            if let Some(texts) = &mut result.texts {
                texts.push(row.text);
            }
        }
        result
    }
}

/// Every prompt `n` times, all rows decoded together.
#[allow(clippy::too_many_arguments)]
pub(super) fn generate_batch<'env>(
    env: &'env Env,
    model: &NativeModel,
    prompts: Vec<Vec<i32>>,
    options: GenerateOptions,
    tokenizer: Option<&NativeTokenizer>,
    limits: EngineOptions,
    prefixes: Option<&NativePrefixCache>,
    cancel: runtime::Cancel,
    on_progress: Option<Function<BatchProgress, ()>>,
) -> js::Result<Object<'env>> {
    let n = options.generations()?;
    if options.processed.unwrap_or(false) {
        return Err(Error::Argument("logitsProcessors work with generate() and stream(), not in a rollout".into()).into());
    }
    let options = options.resolve(model.eos(), tokenizer)?;
    let tokenizer = tokenizer.map(|tokenizer| tokenizer.inner.clone());
    let rows = prompts.len().saturating_mul(n).max(1);
    let all = generate::EngineOptions { max_batch_size: rows, prefill_batch_size: rows, ..Default::default() };
    let (with_text, with_top) = (tokenizer.is_some(), options.sampler.top_logprobs > 0);
    let mut batch = Batch::new(model.vocabulary(), prompts, n, &options, tokenizer, limits.resolve(all, model.head_dim())?)?;
    batch.set_prefixes(prefixes.map(|prefixes| prefixes.cache.clone()));
    let report = match on_progress {
        Some(callback) => Some(
            callback
                .build_threadsafe_function()
                .weak::<true>()
                .callee_handled::<false>()
                .max_queue_size::<64>()
                .build()
                .map_err(argument)?,
        ),
        None => None,
    };
    let shared = model.shared();
    promise::sliced(
        env,
        move || {
            let start = Instant::now();
            let model = shared.lock()?;
            batch.set_version(model.version());
            while batch.step(model.net.as_ref(), &cancel)? {
                if start.elapsed() > SLICE {
                    if let Some(report) = &report {
                        let progress = batch.progress();
                        // A full queue only drops a progress report.
                        report.call(
                            BatchProgress {
                                step: progress.step as u32,
                                max_tokens: progress.max_tokens as u32,
                                rows_left: progress.rows_left as u32,
                                tokens: progress.tokens as u32,
                            },
                            ThreadsafeFunctionCallMode::NonBlocking,
                        );
                    }
                    return Ok(None);
                }
            }
            Ok(Some(batch.take_output()))
        },
        move |output| BatchResult::new(output, with_text, with_top),
    )
}
