//! Options of generation and sampling, and sampling as functions.

use std::collections::{HashMap, HashSet};

use napi_derive::napi;

use super::ArrayHandle;
use super::error as js;
use super::grammar;
use super::tokenizer::NativeTokenizer;
use crate::generate::{self, FilterOrder, RequestOptions, SamplerOptions, Thinking};
use crate::mlx::{Error, Result};

/// Of a request and of `generateBatch`, checked and explained by `lib/sampling.ts`. What is left out has the default.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct GenerateOptions {
    pub max_tokens: Option<f64>,
    /// Answers to a prompt, which is read once; 1 by default.
    pub n: Option<f64>,
    /// Texts that end the answer, which ends before them.
    pub stop: Option<Vec<String>>,
    /// What the answer must fit: OpenAI's `response_format` as JSON.
    pub response_format: Option<String>,
    /// It begins after the model's thinking.
    pub format_after_thinking: Option<bool>,
    /// Each step's logits go through processors in JavaScript.
    pub processed: Option<bool>,
    /// Tokens that end the text; the model's own by default.
    pub stop_token_ids: Option<Vec<i32>>,
    /// Never end before `maxTokens`.
    pub ignore_eos: Option<bool>,
    pub temperature: Option<f64>,
    pub top_k: Option<f64>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    pub min_tokens_to_keep: Option<f64>,
    pub xtc_probability: Option<f64>,
    pub xtc_threshold: Option<f64>,
    /// The tokens that end the text by default.
    pub xtc_special_tokens: Option<Vec<i32>>,
    pub typical_p: Option<f64>,
    pub top_n_sigma: Option<f64>,
    pub dynatemp_range: Option<f64>,
    pub dynatemp_exponent: Option<f64>,
    #[napi(ts_type = "'hf' | 'mlx'")]
    pub filter_order: Option<String>,
    pub repetition_penalty: Option<f64>,
    /// Of context sizes 0 and Infinity are the whole history.
    pub repetition_context_size: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub presence_context_size: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub frequency_context_size: Option<f64>,
    /// By token id.
    pub logit_bias: Option<HashMap<String, f64>>,
    pub dry_multiplier: Option<f64>,
    pub dry_base: Option<f64>,
    pub dry_allowed_length: Option<f64>,
    pub dry_context_size: Option<f64>,
    pub dry_sequence_breakers: Option<Vec<i32>>,
    pub no_repeat_ngram_size: Option<f64>,
    pub bad_words_ids: Option<Vec<Vec<i32>>>,
    pub min_tokens: Option<f64>,
    pub top_logprobs: Option<f64>,
    pub seed: Option<f64>,
    /// Tells rows of one seed apart.
    pub row: Option<f64>,
}

const LARGEST: f64 = 9_007_199_254_740_991.;

/// A whole number from 0.
fn whole(name: &str, value: f64, largest: f64) -> Result<u64> {
    if (0. ..=largest).contains(&value) && value.fract() == 0. {
        return Ok(value as u64);
    }
    Err(Error::Argument(format!("{name} must be a whole number from 0 to {largest}, got {value}")))
}

fn count(name: &str, value: Option<f64>, default: i32) -> Result<i32> {
    value.map_or(Ok(default), |value| Ok(whole(name, value, i32::MAX as f64)? as i32))
}

fn context(name: &str, value: Option<f64>, default: Option<i32>) -> Result<Option<i32>> {
    match value {
        None => Ok(default),
        Some(0.) | Some(f64::INFINITY) => Ok(None),
        Some(size) => Ok(Some(whole(name, size, i32::MAX as f64)? as i32)),
    }
}

impl GenerateOptions {
    /// What concerns sampling, checked. `stop_tokens` are those that `minTokens` rules out and XTC spares.
    pub(super) fn sampler(&self, stop_tokens: &[i32]) -> Result<SamplerOptions> {
        let plain = SamplerOptions::default();
        let number = |value: Option<f64>, default: f32| value.map_or(default, |value| value as f32);
        let mut logit_bias = Vec::new();
        for (id, bias) in self.logit_bias.iter().flatten() {
            let id = id.parse().map_err(|_| Error::Argument(format!("logitBias names '{id}', which is no token id")))?;
            logit_bias.push((id, *bias as f32));
        }
        logit_bias.sort_by_key(|&(id, _)| id);
        let min_tokens = count("minTokens", self.min_tokens, 0)? as usize;
        let xtc = self.xtc_probability.is_some_and(|probability| probability > 0.);
        let special = self.xtc_special_tokens.clone().unwrap_or_else(|| stop_tokens.to_vec());
        let options = SamplerOptions {
            temperature: number(self.temperature, plain.temperature),
            top_k: count("topK", self.top_k, plain.top_k)?,
            top_p: number(self.top_p, plain.top_p),
            min_p: number(self.min_p, plain.min_p),
            min_tokens_to_keep: count("minTokensToKeep", self.min_tokens_to_keep, plain.min_tokens_to_keep)?,
            xtc_probability: number(self.xtc_probability, plain.xtc_probability),
            xtc_threshold: number(self.xtc_threshold, plain.xtc_threshold),
            xtc_special_tokens: if xtc { special } else { Vec::new() },
            typical_p: number(self.typical_p, plain.typical_p),
            top_n_sigma: number(self.top_n_sigma, plain.top_n_sigma),
            dynatemp_range: number(self.dynatemp_range, plain.dynatemp_range),
            dynatemp_exponent: number(self.dynatemp_exponent, plain.dynatemp_exponent),
            filter_order: match self.filter_order.as_deref() {
                None | Some("hf") => FilterOrder::Hf,
                Some("mlx") => FilterOrder::Mlx,
                Some(other) => return Err(Error::Argument(format!("filterOrder must be 'hf' or 'mlx', got '{other}'"))),
            },
            repetition_penalty: number(self.repetition_penalty, plain.repetition_penalty),
            repetition_context_size: context(
                "repetitionContextSize",
                self.repetition_context_size,
                plain.repetition_context_size,
            )?,
            presence_penalty: number(self.presence_penalty, plain.presence_penalty),
            presence_context_size: context("presenceContextSize", self.presence_context_size, plain.presence_context_size)?,
            frequency_penalty: number(self.frequency_penalty, plain.frequency_penalty),
            frequency_context_size: context("frequencyContextSize", self.frequency_context_size, plain.frequency_context_size)?,
            logit_bias,
            dry_multiplier: number(self.dry_multiplier, plain.dry_multiplier),
            dry_base: number(self.dry_base, plain.dry_base),
            dry_allowed_length: count("dryAllowedLength", self.dry_allowed_length, plain.dry_allowed_length)?,
            dry_context_size: context("dryContextSize", self.dry_context_size, plain.dry_context_size)?,
            dry_sequence_breakers: self.dry_sequence_breakers.clone().unwrap_or_default(),
            no_repeat_ngram_size: count("noRepeatNgramSize", self.no_repeat_ngram_size, plain.no_repeat_ngram_size)?,
            bad_words: self.bad_words_ids.clone().unwrap_or_default(),
            min_tokens,
            stop_tokens: if min_tokens > 0 { stop_tokens.to_vec() } else { Vec::new() },
            top_logprobs: count("topLogprobs", self.top_logprobs, plain.top_logprobs)?,
            seed: whole("seed", self.seed.unwrap_or(0.), LARGEST)?,
            row: whole("row", self.row.unwrap_or(0.), LARGEST)?,
        };
        options.validate()?;
        Ok(options)
    }

    /// For a model that ends its texts with `eos`.
    pub(super) fn resolve(self, eos: &[i32], tokenizer: Option<&NativeTokenizer>) -> Result<RequestOptions> {
        let grammar = grammar::compiled(self.response_format.as_deref(), tokenizer)?;
        let thinking = match tokenizer {
            Some(tokenizer) if grammar.is_some() && self.format_after_thinking.unwrap_or(false) => {
                Some(Thinking::of(&tokenizer.inner)?)
            }
            _ => None,
        };
        let stop_tokens = match (self.ignore_eos.unwrap_or(false), &self.stop_token_ids) {
            (true, _) => &[],
            (false, Some(ids)) => ids.as_slice(),
            (false, None) => eos,
        };
        Ok(RequestOptions {
            max_tokens: count("maxTokens", self.max_tokens, 256)? as usize,
            stop_tokens: stop_tokens.iter().copied().collect::<HashSet<i32>>(),
            sampler: self.sampler(stop_tokens)?,
            stop: self.stop.unwrap_or_default(),
            grammar,
            thinking,
        })
    }

    /// Answers to a prompt.
    pub(super) fn generations(&self) -> Result<usize> {
        Ok(count("n", self.n, 1)? as usize)
    }
}

fn samplers(rows: &[GenerateOptions]) -> Result<Vec<SamplerOptions>> {
    rows.iter().map(|row| row.sampler(row.stop_token_ids.as_deref().unwrap_or_default())).collect()
}

/// Logits `[.., V]` with the bias, penalties and bans of the options applied. One set of options, or one for each row.
#[napi(namespace = "sampling", catch_unwind)]
pub fn process_logits(logits: ArrayHandle, history: Option<ArrayHandle>, rows: Vec<GenerateOptions>) -> js::Result<ArrayHandle> {
    Ok(generate::process_logits(&logits, history.as_deref(), &samplers(&rows)?)?.into())
}

/// Logits `[.., V]` with the temperature and filters of the options applied.
#[napi(namespace = "sampling", catch_unwind)]
pub fn filter_logits(logits: ArrayHandle, rows: Vec<GenerateOptions>) -> js::Result<ArrayHandle> {
    Ok(generate::filter_logits(&logits, &samplers(&rows)?)?.into())
}

/// What `sampleLogits` returns.
#[napi(object, object_from_js = false)]
pub struct SampledHandles {
    /// int32 `[B]`
    pub tokens: ArrayHandle,
    /// float32 `[B]`
    pub logprobs: ArrayHandle,
    /// int32 `[B, K]`
    pub top_ids: Option<ArrayHandle>,
    /// float32 `[B, K]`
    pub top_logprobs: Option<ArrayHandle>,
}

/// A token for each row of logits `[B, V]`.
#[napi(namespace = "sampling", catch_unwind)]
pub fn sample_logits(
    logits: ArrayHandle,
    histories: Vec<Vec<i32>>,
    step: f64,
    rows: Vec<GenerateOptions>,
) -> js::Result<SampledHandles> {
    let sampled = generate::sample_logits(&logits, &histories, whole("step", step, LARGEST)?, &samplers(&rows)?)?;
    let (top_ids, top_logprobs) = sampled.top.unzip();
    Ok(SampledHandles {
        tokens: sampled.tokens.into(),
        logprobs: sampled.logprobs.into(),
        top_ids: top_ids.map(Into::into),
        top_logprobs: top_logprobs.map(Into::into),
    })
}
