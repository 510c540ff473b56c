//! What a row may ask of the sampler, and the one place where it is checked.

use crate::mlx::{Error, Result};

/// Where the temperature comes among the filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilterOrder {
    /// Temperature, top-k, top-p, min-p: the filters see the distribution that is sampled (transformers, vLLM, OpenAI).
    #[default]
    Hf,
    /// Top-p, min-p, top-k, temperature: the filters see the distribution of the model (mlx-lm).
    Mlx,
}

/// How the tokens of one row are chosen. The defaults sample from the plain distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// 0 takes the most likely token; no filter matters then.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: i32,
    /// Keep the most likely tokens whose mass reaches `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the best; 0 keeps all.
    pub min_p: f32,
    /// So many of the best tokens stay whatever `min_p` says.
    pub min_tokens_to_keep: i32,
    pub filter_order: FilterOrder,
    /// Logits of tokens seen lately are divided by this if positive, multiplied if negative; 1 is off.
    pub repetition_penalty: f32,
    /// How many of the last tokens, the prompt's included, count as seen lately; `None` is all of them.
    pub repetition_context_size: Option<i32>,
    /// Subtracted once from the logit of each token seen lately; 0 is off.
    pub presence_penalty: f32,
    pub presence_context_size: Option<i32>,
    /// Subtracted from the logit of a token for each time it was seen lately; 0 is off.
    pub frequency_penalty: f32,
    pub frequency_context_size: Option<i32>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(i32, f32)>,
    /// Ids and log-probs of so many of the most likely tokens come with each choice; 0 is none.
    pub top_logprobs: i32,
    /// The same seed and row draw the same numbers, alone and in any batch.
    pub seed: u64,
    /// Tells rows of one seed apart, as the generations of a group.
    pub row: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 1.,
            top_k: 0,
            top_p: 1.,
            min_p: 0.,
            min_tokens_to_keep: 1,
            filter_order: FilterOrder::default(),
            repetition_penalty: 1.,
            repetition_context_size: Some(20),
            presence_penalty: 0.,
            presence_context_size: Some(20),
            frequency_penalty: 0.,
            frequency_context_size: Some(20),
            logit_bias: Vec::new(),
            top_logprobs: 0,
            seed: 0,
            row: 0,
        }
    }
}

fn check(valid: bool, name: &str, range: &str, value: f32) -> Result<()> {
    if valid { Ok(()) } else { Err(Error::Argument(format!("{name} must be {range}, got {value}"))) }
}

impl SamplerOptions {
    /// Checks every range, so that nothing can fail once a graph is being built.
    pub fn validate(&self) -> Result<()> {
        check(self.temperature >= 0. && self.temperature.is_finite(), "temperature", "0 or more", self.temperature)?;
        check(self.top_k >= 0, "topK", "0 (off) or more", self.top_k as f32)?;
        check(self.top_p > 0. && self.top_p <= 1., "topP", "above 0 and at most 1 (off)", self.top_p)?;
        check((0. ..=1.).contains(&self.min_p), "minP", "between 0 (off) and 1", self.min_p)?;
        check(self.min_tokens_to_keep >= 1, "minTokensToKeep", "1 or more", self.min_tokens_to_keep as f32)?;
        check(
            self.repetition_penalty > 0. && self.repetition_penalty.is_finite(),
            "repetitionPenalty",
            "above 0 (1 is off)",
            self.repetition_penalty,
        )?;
        check(self.presence_penalty.is_finite(), "presencePenalty", "a finite number (0 is off)", self.presence_penalty)?;
        check(self.frequency_penalty.is_finite(), "frequencyPenalty", "a finite number (0 is off)", self.frequency_penalty)?;
        for (name, size) in [
            ("repetitionContextSize", self.repetition_context_size),
            ("presenceContextSize", self.presence_context_size),
            ("frequencyContextSize", self.frequency_context_size),
        ] {
            let size = size.unwrap_or(i32::MAX);
            check(size > 0, name, "above 0 (0 or Infinity stand for the whole history)", size as f32)?;
        }
        for &(id, bias) in &self.logit_bias {
            check(id >= 0, "a token of logitBias", "0 or more", id as f32)?;
            check(bias.is_finite(), "a value of logitBias", "a finite number", bias)?;
        }
        check(self.top_logprobs >= 0, "topLogprobs", "0 (none) or more", self.top_logprobs as f32)
    }

    /// The largest token id that the options name, to be checked against the vocabulary; -1 if none.
    pub(super) fn largest_id(&self) -> i32 {
        self.logit_bias.iter().map(|&(id, _)| id).max().unwrap_or(-1)
    }

    pub(super) fn greedy(&self) -> bool {
        self.temperature == 0.
    }

    /// How many of a row's last tokens its processors look at.
    pub(super) fn needs(&self) -> Need {
        [
            (self.repetition_penalty != 1., self.repetition_context_size),
            (self.presence_penalty != 0., self.presence_context_size),
            (self.frequency_penalty != 0., self.frequency_context_size),
        ]
        .into_iter()
        .filter(|(used, _)| *used)
        .map(|(_, size)| size.map_or(Need::Whole, Need::Last))
        .max()
        .unwrap_or(Need::Last(0))
    }
}

/// A length of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    Last(i32),
    Whole,
}

impl Need {
    /// Of a history of `length` tokens.
    pub(super) fn of(self, length: usize) -> usize {
        match self {
            Need::Last(size) => length.min(size as usize),
            Need::Whole => length,
        }
    }
}
