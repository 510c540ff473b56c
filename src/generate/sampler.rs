//! From logits to tokens, for all rows of a batch at once and without leaving the device.
//!
//! Order: repetition penalty, temperature, top-k, top-p, min-p, draw: transformers' order, so that a filter sees the
//! distribution that is sampled. The log-prob returned is that of the unfiltered `logits / temperature`, which is what
//! training compares with (TRL).

use crate::mlx::{Array, Dtype, Error, Result, kernels, ops, random};

/// How tokens are chosen. The defaults sample from the plain distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: i32,
    /// Keep the most likely tokens whose mass reaches `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the best; 0 keeps all.
    pub min_p: f32,
    /// Logits of tokens seen lately are divided by this if positive, multiplied if negative; 1 is off.
    pub repetition_penalty: f32,
    /// How many of the last tokens, the prompt's included, count as seen lately; `None` is all of them.
    pub repetition_context_size: Option<i32>,
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 1.,
            top_k: 0,
            top_p: 1.,
            min_p: 0.,
            repetition_penalty: 1.,
            repetition_context_size: Some(20),
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Checks every range, so that nothing can fail once a graph is being built.
    pub fn validate(&self) -> Result<()> {
        let check = |valid: bool, name: &str, range: &str, value: f32| {
            if valid { Ok(()) } else { Err(Error::Argument(format!("{name} must be {range}, got {value}"))) }
        };
        check(self.temperature >= 0. && self.temperature.is_finite(), "temperature", "0 or more", self.temperature)?;
        check(self.top_k >= 0, "topK", "0 (off) or more", self.top_k as f32)?;
        check(self.top_p > 0. && self.top_p <= 1., "topP", "above 0 and at most 1 (off)", self.top_p)?;
        check((0. ..=1.).contains(&self.min_p), "minP", "between 0 (off) and 1", self.min_p)?;
        check(
            self.repetition_penalty > 0. && self.repetition_penalty.is_finite(),
            "repetitionPenalty",
            "above 0 (1 is off)",
            self.repetition_penalty,
        )?;
        if let Some(size) = self.repetition_context_size {
            check(size > 0, "repetitionContextSize", "above 0 (0 or Infinity stand for the whole history)", size as f32)?;
        }
        Ok(())
    }

    fn filters(&self) -> bool {
        self.top_k > 0 || self.top_p < 1. || self.min_p > 0.
    }
}

/// One step's choice: tokens int32 `[B]` and their log-probs float32 `[B]`.
pub struct Sampled {
    pub tokens: Array,
    pub logprobs: Array,
}

/// The sampling state of a batch: random key and, where a penalty needs it, each row's latest tokens.
pub struct Sampler {
    options: SamplerOptions,
    key: Array,
    /// Rows at the start. Every step draws this many numbers, so a row's draws do not depend on which others have left.
    draws: i32,
    /// Which of the draws belong to the rows still here; `None` while all are.
    rows: Option<Array>,
    history: Option<Array>,
}

impl Sampler {
    /// `prompts` are the rows' prompts, which count as seen for the repetition penalty.
    pub fn new(options: &SamplerOptions, prompts: &[&[i32]]) -> Result<Sampler> {
        options.validate()?;
        let history = if options.repetition_penalty == 1. { None } else { Some(prompt_history(options, prompts)?) };
        Ok(Sampler {
            options: options.clone(),
            key: random::key(options.seed)?,
            draws: prompts.len() as i32,
            rows: None,
            history,
        })
    }

    /// Chooses a token for each row of `logits` `[B, V]`.
    pub fn sample(&mut self, logits: &Array) -> Result<Sampled> {
        let mut logits = logits.astype(Dtype::Float32)?;
        if let Some(history) = &self.history {
            logits = apply_repetition_penalty(&logits, history, self.options.repetition_penalty)?;
        }
        let sampled = if self.options.temperature == 0. { greedy(&logits)? } else { self.draw(&logits)? };
        if let Some(history) = &self.history {
            let longer = ops::concatenate(&[history, &sampled.tokens.expand_dims(&[1])?], 1)?;
            let length = longer.dim(1);
            let start = self.options.repetition_context_size.map_or(0, |size| (length - size).max(0));
            self.history = Some(longer.slice_axis(1, start, length)?);
        }
        Ok(sampled)
    }

    /// Inverse-CDF sampling: one exponential per logit serves the draw and the log-prob.
    fn draw(&mut self, logits: &Array) -> Result<Sampled> {
        let scaled =
            if self.options.temperature == 1. { logits.clone() } else { logits.divide_scalar(self.options.temperature)? };
        let best = scaled.max(&[-1], true)?;
        let weights = kernels::exp(&scaled.subtract(&best)?)?;
        let total = weights.sum(&[-1], true)?;
        let kept = if self.options.filters() {
            let filtered = self.filter(&scaled)?;
            let removed = filtered.equal(&Array::scalar(f32::NEG_INFINITY))?;
            ops::where_(&removed, &Array::scalar(0.), &weights)?
        } else {
            weights
        };
        let (next, current) = random::split(&self.key)?;
        self.key = next;
        // Just under 1, so that rounding cannot carry the target past the last token that has mass.
        let mut uniform = random::uniform(0., 1. - 1e-6, &[self.draws, 1], Dtype::Float32, &current)?;
        if let Some(rows) = &self.rows {
            uniform = uniform.take(rows, 0)?;
        }
        let cumulative = kept.cumsum(-1, false, true)?;
        let last = cumulative.dim(-1);
        let target = uniform.multiply(&cumulative.slice_axis(-1, last - 1, last)?)?;
        // The first index whose cumulative mass exceeds the target; removed tokens add no mass and are passed over.
        let tokens =
            cumulative.less_equal(&target)?.astype(Dtype::Int32)?.sum(&[-1], true)?.minimum(&Array::scalar_i32(last - 1))?;
        let chosen = scaled.take_along_axis(&tokens, -1)?;
        let logprobs = chosen.subtract(&best)?.subtract(&total.log()?)?;
        Ok(Sampled { tokens: tokens.squeeze(&[-1])?, logprobs: logprobs.squeeze(&[-1])? })
    }

    fn filter(&self, scaled: &Array) -> Result<Array> {
        let mut logits = scaled.clone();
        if self.options.top_k > 0 {
            logits = apply_top_k(&logits, self.options.top_k)?;
        }
        if self.options.top_p < 1. {
            logits = apply_top_p(&logits, self.options.top_p)?;
        }
        if self.options.min_p > 0. {
            logits = apply_min_p(&logits, self.options.min_p)?;
        }
        Ok(logits)
    }

    /// Keeps only some rows, given by their places in the current batch (int32).
    pub fn keep(&mut self, places: &Array) -> Result<()> {
        self.rows = Some(match &self.rows {
            Some(rows) => rows.take(places, 0)?,
            None => places.clone(),
        });
        if let Some(history) = &self.history {
            self.history = Some(history.take(places, 0)?);
        }
        Ok(())
    }

    /// What must be evaluated with a step so that graphs do not grow from step to step.
    pub fn state(&self) -> Vec<Array> {
        let mut state = vec![self.key.clone()];
        state.extend(self.rows.clone());
        state.extend(self.history.clone());
        state
    }
}

fn greedy(logits: &Array) -> Result<Sampled> {
    let tokens = logits.argmax(-1, true)?.astype(Dtype::Int32)?;
    let chosen = logits.take_along_axis(&tokens, -1)?;
    let logprobs = chosen.subtract(&kernels::logsumexp(logits)?)?;
    Ok(Sampled { tokens: tokens.squeeze(&[-1])?, logprobs: logprobs.squeeze(&[-1])? })
}

/// The last tokens of each prompt, one row each. Short rows repeat their first token: a duplicate is penalised once.
fn prompt_history(options: &SamplerOptions, prompts: &[&[i32]]) -> Result<Array> {
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    let width = options.repetition_context_size.map_or(longest, |size| longest.min(size as usize));
    let mut rows = Vec::with_capacity(prompts.len() * width);
    for prompt in prompts {
        let tail = &prompt[prompt.len().saturating_sub(width)..];
        rows.extend(std::iter::repeat_n(tail.first().copied().unwrap_or(0), width - tail.len()));
        rows.extend_from_slice(tail);
    }
    Array::from_slice(&rows, &[prompts.len() as i32, width as i32])
}

/// Penalises the tokens of `history` `[B, N]` (int32) in `logits` `[B, V]`: positive logits are divided, negative multiplied.
pub fn apply_repetition_penalty(logits: &Array, history: &Array, penalty: f32) -> Result<Array> {
    if history.dim(1) == 0 {
        return Ok(logits.clone());
    }
    let seen = logits.take_along_axis(history, -1)?;
    let penalised = ops::where_(&seen.less_scalar(0.)?, &seen.multiply_scalar(penalty)?, &seen.divide_scalar(penalty)?)?;
    logits.put_along_axis(history, &penalised, -1)
}

fn keep_from(logits: &Array, threshold: &Array) -> Result<Array> {
    let infinity = Array::scalar_of(f64::NEG_INFINITY, logits.dtype())?;
    ops::where_(&logits.less(threshold)?, &infinity, logits)
}

/// Everything below the `k`-th largest becomes -inf. Equals of the `k`-th stay.
pub fn apply_top_k(logits: &Array, k: i32) -> Result<Array> {
    if k < 1 {
        return Err(Error::Argument(format!("top-k needs k of at least 1, got {k}")));
    }
    if k >= logits.dim(-1) {
        return Ok(logits.clone());
    }
    keep_from(logits, &logits.topk(k, -1)?.min(&[-1], true)?)
}

/// Keeps the most likely tokens until their mass reaches `p`; the best one and equals of the last always stay.
pub fn apply_top_p(logits: &Array, p: f32) -> Result<Array> {
    if !(p > 0. && p <= 1.) {
        return Err(Error::Argument(format!("top-p must be above 0 and at most 1, got {p}")));
    }
    let ascending = logits.sort(-1)?;
    let probabilities = ascending.astype(Dtype::Float32)?.softmax(-1)?;
    // Mass strictly above each token; the best token has none.
    let above = probabilities.cumsum(-1, true, false)?;
    let infinity = Array::scalar_of(f64::INFINITY, logits.dtype())?;
    let kept = ops::where_(&above.less_scalar(p)?, &ascending, &infinity)?;
    keep_from(logits, &kept.min(&[-1], true)?)
}

/// Keeps tokens at least `p` times as likely as the best.
pub fn apply_min_p(logits: &Array, p: f32) -> Result<Array> {
    if !(0. ..=1.).contains(&p) {
        return Err(Error::Argument(format!("min-p must be between 0 and 1, got {p}")));
    }
    if p == 0. {
        return Ok(logits.clone());
    }
    keep_from(logits, &logits.max(&[-1], true)?.add_scalar(p.ln())?)
}
