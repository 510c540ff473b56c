//! Generations in progress, pulled from JavaScript, and rollouts.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use napi::Env;
use napi::bindgen_prelude::{Function, Object};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;

use super::cancel::{Cancel, flag};
use super::error::{self as js, argument};
use super::model::{NativeModel, SharedModel};
use super::promise;
use crate::generate::{self, BatchOutput, Decoder, SamplerOptions};
use crate::mlx::{Error, Result};
use crate::models::CausalLm;
use crate::runtime;

/// A rollout lets other work in after this long.
const SLICE: Duration = Duration::from_millis(10);

#[napi(object)]
pub struct GenerateOptions {
    /// The most tokens to generate.
    pub max_tokens: u32,
    /// 0 takes the most likely token; 1 by default.
    pub temperature: Option<f64>,
    /// Keep this many most likely tokens; 0 (default) keeps all.
    pub top_k: Option<u32>,
    /// Keep the most likely tokens up to this mass; 1 (default) keeps all.
    pub top_p: Option<f64>,
    /// Keep tokens at least this share as likely as the best; 0 (default) keeps all.
    pub min_p: Option<f64>,
    /// 1 (default) is off.
    pub repetition_penalty: Option<f64>,
    /// How many last tokens, the prompt's included, the penalty sees: 20 by default; 0 or Infinity is all.
    pub repetition_context_size: Option<f64>,
    /// The same seed gives the same tokens on the same backend and batch shape; 0 by default.
    pub seed: Option<f64>,
    /// Tokens that end the text; the model's own by default.
    pub stop_token_ids: Option<Vec<i32>>,
    /// Never end before `maxTokens`.
    pub ignore_eos: Option<bool>,
}

#[napi(object)]
pub struct GenerateBatchOptions {
    /// Rows per prompt.
    pub num_generations: u32,
    pub max_tokens: u32,
    pub temperature: Option<f64>,
    pub top_k: Option<u32>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub repetition_context_size: Option<f64>,
    pub seed: Option<f64>,
    pub stop_token_ids: Option<Vec<i32>>,
    pub ignore_eos: Option<bool>,
}

impl GenerateOptions {
    fn resolve(self, eos: &[i32]) -> Result<generate::GenerateOptions> {
        let context = match self.repetition_context_size {
            None => SamplerOptions::default().repetition_context_size,
            Some(0.) | Some(f64::INFINITY) => None,
            Some(size) if size > 0. && size <= i32::MAX as f64 && size.fract() == 0. => Some(size as i32),
            Some(size) => {
                return Err(Error::Argument(format!("repetitionContextSize must be a whole number, 0 or Infinity; got {size}")));
            }
        };
        let seed = self.seed.unwrap_or(0.);
        if !(0. ..=9_007_199_254_740_991.).contains(&seed) || seed.fract() != 0. {
            return Err(Error::Argument(format!("seed must be a whole number from 0 to 2^53 - 1, got {seed}")));
        }
        let sampler = SamplerOptions {
            temperature: self.temperature.unwrap_or(1.) as f32,
            top_k: self.top_k.unwrap_or(0) as i32,
            top_p: self.top_p.unwrap_or(1.) as f32,
            min_p: self.min_p.unwrap_or(0.) as f32,
            repetition_penalty: self.repetition_penalty.unwrap_or(1.) as f32,
            repetition_context_size: context,
            seed: seed as u64,
            ..SamplerOptions::default()
        };
        sampler.validate()?;
        let stop_tokens = match (self.ignore_eos.unwrap_or(false), self.stop_token_ids) {
            (true, _) => HashSet::new(),
            (false, Some(ids)) => ids.into_iter().collect(),
            (false, None) => eos.iter().copied().collect(),
        };
        Ok(generate::GenerateOptions { max_tokens: self.max_tokens as usize, stop_tokens, sampler })
    }
}

/// What `next()` resolves with.
#[napi(object)]
pub struct GenerationChunk {
    pub tokens: Vec<i32>,
    /// Of the tokens, under `logits / temperature` (plain logits when greedy).
    pub logprobs: Vec<f64>,
    /// `stop` or `length` with the last tokens, before that null.
    #[napi(ts_type = "'stop' | 'length' | null")]
    pub finish_reason: Option<String>,
}

#[napi(object)]
pub struct GenerationStats {
    pub prompt_tokens: u32,
    pub prompt_ms: f64,
    pub generated_tokens: u32,
    pub decode_ms: f64,
}

/// A decoder is made on the owner thread: making one locks the model, which training may hold for long.
enum Stage {
    Waiting(Vec<Vec<i32>>, usize, generate::GenerateOptions),
    Running(Box<Decoder>),
}

impl Stage {
    fn start(self, net: &dyn CausalLm) -> Result<Box<Decoder>> {
        match self {
            Stage::Waiting(prompts, generations, options) => Ok(Box::new(Decoder::new(net, prompts, generations, options)?)),
            Stage::Running(decoder) => Ok(decoder),
        }
    }
}

/// One generation: each `next()` gives at least one token, until a chunk has a finish reason.
#[napi]
pub struct NativeGeneration {
    model: SharedModel,
    /// Gone when closed, failed or finished.
    stage: Arc<Mutex<Option<Stage>>>,
    stats: Arc<Mutex<(u32, Duration, u32, Duration)>>,
}

impl NativeGeneration {
    pub(super) fn start(model: &NativeModel, prompt: Vec<i32>, options: GenerateOptions) -> Result<NativeGeneration> {
        let stage = Stage::Waiting(vec![prompt], 1, options.resolve(model.eos())?);
        Ok(NativeGeneration { model: model.shared(), stage: Arc::new(Mutex::new(Some(stage))), stats: Arc::default() })
    }
}

#[napi]
impl NativeGeneration {
    /// The next tokens. After a cancelled or failed call the generation is closed.
    #[napi(ts_return_type = "Promise<GenerationChunk>")]
    pub fn next<'env>(&self, env: &'env Env, cancel: Option<&Cancel>) -> js::Result<Object<'env>> {
        let (model, slot, stats, cancel) = (self.model.clone(), self.stage.clone(), self.stats.clone(), flag(cancel));
        promise::once(
            env,
            move || {
                let mut slot = slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let stage = slot.take().ok_or(Error::Disposed("generation"))?;
                let model = model.lock()?;
                let mut decoder = stage.start(model.net.as_ref())?;
                let before = decoder.output().rows[0].tokens.len();
                while decoder.output().rows[0].tokens.len() == before && !decoder.finished() {
                    decoder.step(model.net.as_ref(), &cancel)?;
                }
                let output = decoder.output();
                let row = &output.rows[0];
                let chunk = GenerationChunk {
                    tokens: row.tokens[before..].to_vec(),
                    logprobs: row.logprobs[before..].iter().map(|&logprob| logprob as f64).collect(),
                    finish_reason: row.finish.map(|reason| reason.name().to_string()),
                };
                *stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
                    (output.prompt_tokens as u32, output.prefill, output.generated_tokens as u32, output.decode);
                if row.finish.is_none() {
                    *slot = Some(Stage::Running(decoder));
                }
                Ok(chunk)
            },
            |chunk| chunk,
        )
    }

    #[napi]
    pub fn stats(&self) -> GenerationStats {
        let (prompt_tokens, prefill, generated_tokens, decode) =
            *self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        GenerationStats {
            prompt_tokens,
            prompt_ms: prefill.as_secs_f64() * 1e3,
            generated_tokens,
            decode_ms: decode.as_secs_f64() * 1e3,
        }
    }

    /// Frees the cache. A `next()` under way ends first.
    #[napi]
    pub fn close(&self) {
        let slot = self.stage.clone();
        runtime::spawn_once(move || drop(slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()));
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

/// A finished rollout; rows in group order.
#[napi(object)]
pub struct BatchResult {
    /// The stop token is included where one ended the row.
    pub tokens: Vec<Vec<i32>>,
    /// Of the sampled tokens, under `logits / temperature`.
    pub logprobs: Vec<Vec<f64>>,
    #[napi(ts_type = "Array<'stop' | 'length'>")]
    pub finish_reasons: Vec<String>,
    pub prompt_tokens: u32,
    pub generated_tokens: u32,
    pub steps: u32,
    pub prefill_ms: f64,
    pub decode_ms: f64,
}

impl From<BatchOutput> for BatchResult {
    fn from(output: BatchOutput) -> Self {
        BatchResult {
            finish_reasons: output.rows.iter().filter_map(|row| row.finish.map(|reason| reason.name().to_string())).collect(),
            logprobs: output.rows.iter().map(|row| row.logprobs.iter().map(|&value| value as f64).collect()).collect(),
            tokens: output.rows.into_iter().map(|row| row.tokens).collect(),
            prompt_tokens: output.prompt_tokens as u32,
            generated_tokens: output.generated_tokens as u32,
            steps: output.steps as u32,
            prefill_ms: output.prefill.as_secs_f64() * 1e3,
            decode_ms: output.decode.as_secs_f64() * 1e3,
        }
    }
}

pub(super) fn generate_batch<'env>(
    env: &'env Env,
    model: &NativeModel,
    prompts: Vec<Vec<i32>>,
    options: GenerateBatchOptions,
    cancel: runtime::Cancel,
    on_progress: Option<Function<BatchProgress, ()>>,
) -> js::Result<Object<'env>> {
    let num_generations = options.num_generations as usize;
    let options = GenerateOptions {
        max_tokens: options.max_tokens,
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        min_p: options.min_p,
        repetition_penalty: options.repetition_penalty,
        repetition_context_size: options.repetition_context_size,
        seed: options.seed,
        stop_token_ids: options.stop_token_ids,
        ignore_eos: options.ignore_eos,
    }
    .resolve(model.eos())?;
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
    let mut stage = Some(Stage::Waiting(prompts, num_generations, options));
    promise::sliced(
        env,
        move || {
            let start = Instant::now();
            let model = shared.lock()?;
            let mut running = stage.take().ok_or(Error::Disposed("generation"))?.start(model.net.as_ref())?;
            loop {
                if !running.step(model.net.as_ref(), &cancel)? {
                    return Ok(Some(running.into_output()));
                }
                if start.elapsed() > SLICE {
                    if let Some(report) = &report {
                        let progress = running.progress();
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
                    stage = Some(Stage::Running(running));
                    return Ok(None);
                }
            }
        },
        BatchResult::from,
    )
}
