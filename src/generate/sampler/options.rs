//! What a row may ask of the sampler, and the one place where it is checked.

use crate::mlx::{Error, Result};

/// Where the temperature comes among the filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilterOrder {
    /// Temperature, top-n-sigma, top-k, top-p, min-p, typical-p, XTC: the filters see the distribution that is sampled
    /// (transformers, vLLM, OpenAI).
    #[default]
    Hf,
    /// Top-n-sigma, top-p, min-p, typical-p, XTC, top-k, temperature: the filters see the distribution of the model (mlx-lm).
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
    /// Chance that XTC takes part in the choice of a token; 0 is off.
    pub xtc_probability: f32,
    /// XTC removes all tokens above this probability but the least likely of them.
    pub xtc_threshold: f32,
    /// XTC never removes these.
    pub xtc_special_tokens: Vec<i32>,
    /// Keep the tokens whose surprise is nearest to the entropy, until their mass reaches this; 1 keeps all.
    pub typical_p: f32,
    /// Keep logits within so many standard deviations of the largest; 0 keeps all.
    pub top_n_sigma: f32,
    /// The temperature goes from `temperature - dynatemp_range` (no less than 0) to `temperature + dynatemp_range` as the entropy
    /// goes from 0 to its largest; 0 is off.
    pub dynatemp_range: f32,
    /// Power of the normalised entropy in that.
    pub dynatemp_exponent: f32,
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
    /// Strength of the DRY penalty on tokens that would lengthen a repetition; 0 is off.
    pub dry_multiplier: f32,
    /// The penalty is `multiplier * base ^ (length of the repetition - allowed_length)`.
    pub dry_base: f32,
    /// Repetitions shorter than this are free.
    pub dry_allowed_length: i32,
    /// How far back DRY looks; `None` is the whole history.
    pub dry_context_size: Option<i32>,
    /// No repetition goes on across these tokens.
    pub dry_sequence_breakers: Vec<i32>,
    /// No sequence of so many tokens comes twice; 0 is off.
    pub no_repeat_ngram_size: i32,
    /// Sequences whose last token is ruled out once the others have come.
    pub bad_words: Vec<Vec<i32>>,
    /// `stop_tokens` are ruled out until so many tokens have been chosen.
    pub min_tokens: usize,
    /// What `min_tokens` rules out; nothing else.
    pub stop_tokens: Vec<i32>,
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
            xtc_probability: 0.,
            xtc_threshold: 0.1,
            xtc_special_tokens: Vec::new(),
            typical_p: 1.,
            top_n_sigma: 0.,
            dynatemp_range: 0.,
            dynatemp_exponent: 1.,
            filter_order: FilterOrder::default(),
            repetition_penalty: 1.,
            repetition_context_size: Some(20),
            presence_penalty: 0.,
            presence_context_size: Some(20),
            frequency_penalty: 0.,
            frequency_context_size: Some(20),
            logit_bias: Vec::new(),
            dry_multiplier: 0.,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_context_size: None,
            dry_sequence_breakers: Vec::new(),
            no_repeat_ngram_size: 0,
            bad_words: Vec::new(),
            min_tokens: 0,
            stop_tokens: Vec::new(),
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
        let from_zero = |value: f32| value >= 0. && value.is_finite();
        check(from_zero(self.temperature), "temperature", "0 or more", self.temperature)?;
        check(self.top_k >= 0, "topK", "0 (off) or more", self.top_k as f32)?;
        check(self.top_p > 0. && self.top_p <= 1., "topP", "above 0 and at most 1 (off)", self.top_p)?;
        check((0. ..=1.).contains(&self.min_p), "minP", "between 0 (off) and 1", self.min_p)?;
        check(self.min_tokens_to_keep >= 1, "minTokensToKeep", "1 or more", self.min_tokens_to_keep as f32)?;
        check((0. ..=1.).contains(&self.xtc_probability), "xtcProbability", "between 0 (off) and 1", self.xtc_probability)?;
        check((0. ..=0.5).contains(&self.xtc_threshold), "xtcThreshold", "between 0 and 0.5", self.xtc_threshold)?;
        check(self.typical_p > 0. && self.typical_p <= 1., "typicalP", "above 0 and at most 1 (off)", self.typical_p)?;
        check(from_zero(self.top_n_sigma), "topNSigma", "0 (off) or more", self.top_n_sigma)?;
        check(from_zero(self.dynatemp_range), "dynatempRange", "0 (off) or more", self.dynatemp_range)?;
        check(from_zero(self.dynatemp_exponent), "dynatempExponent", "0 or more", self.dynatemp_exponent)?;
        let positive = self.repetition_penalty > 0. && self.repetition_penalty.is_finite();
        check(positive, "repetitionPenalty", "above 0 (1 is off)", self.repetition_penalty)?;
        check(self.presence_penalty.is_finite(), "presencePenalty", "a finite number (0 is off)", self.presence_penalty)?;
        check(self.frequency_penalty.is_finite(), "frequencyPenalty", "a finite number (0 is off)", self.frequency_penalty)?;
        check(from_zero(self.dry_multiplier), "dryMultiplier", "0 (off) or more", self.dry_multiplier)?;
        check(self.dry_base >= 1. && self.dry_base.is_finite(), "dryBase", "1 or more", self.dry_base)?;
        check(self.dry_allowed_length >= 1, "dryAllowedLength", "1 or more", self.dry_allowed_length as f32)?;
        check(self.no_repeat_ngram_size >= 0, "noRepeatNgramSize", "0 (off) or more", self.no_repeat_ngram_size as f32)?;
        for (name, size) in [
            ("repetitionContextSize", self.repetition_context_size),
            ("presenceContextSize", self.presence_context_size),
            ("frequencyContextSize", self.frequency_context_size),
            ("dryContextSize", self.dry_context_size),
        ] {
            let size = size.unwrap_or(i32::MAX);
            check(size > 0, name, "above 0 (0 or Infinity stand for the whole history)", size as f32)?;
        }
        if self.bad_words.iter().any(Vec::is_empty) {
            return Err(Error::Argument("a sequence of badWordsIds has no tokens".into()));
        }
        for (name, id) in self.ids() {
            check(id >= 0, &format!("a token of {name}"), "0 or more", id as f32)?;
        }
        for &(_, bias) in &self.logit_bias {
            check(bias.is_finite(), "a value of logitBias", "a finite number", bias)?;
        }
        check(self.top_logprobs >= 0, "topLogprobs", "0 (none) or more", self.top_logprobs as f32)
    }

    /// Checks what the options say of tokens against the size of a vocabulary.
    pub fn validate_ids(&self, vocabulary: i32) -> Result<()> {
        match self.ids().find(|&(_, id)| id >= vocabulary) {
            Some((name, id)) => Err(Error::Argument(format!("{name} names token {id}; the vocabulary has {vocabulary}"))),
            None => Ok(()),
        }
    }

    /// Every token id in the options, with the name of the option.
    fn ids(&self) -> impl Iterator<Item = (&'static str, i32)> {
        let named = |name, ids: &[i32]| ids.iter().map(|&id| (name, id)).collect::<Vec<_>>();
        self.logit_bias
            .iter()
            .map(|&(id, _)| ("logitBias", id))
            .chain(named("xtcSpecialTokens", &self.xtc_special_tokens))
            .chain(named("drySequenceBreakers", &self.dry_sequence_breakers))
            .chain(self.bad_words.iter().flatten().map(|&id| ("badWordsIds", id)))
            .chain(named("stopTokenIds", &self.stop_tokens))
    }

    /// The largest token id that the options name; -1 if none.
    pub(super) fn largest_id(&self) -> i32 {
        self.ids().map(|(_, id)| id).max().unwrap_or(-1)
    }

    pub(super) fn greedy(&self) -> bool {
        self.temperature == 0.
    }

    /// How many of a row's last tokens its processors look at.
    pub(super) fn needs(&self) -> Need {
        let longest_bad_word = self.bad_words.iter().map(Vec::len).max().unwrap_or(0);
        [
            (self.repetition_penalty != 1., self.repetition_context_size),
            (self.presence_penalty != 0., self.presence_context_size),
            (self.frequency_penalty != 0., self.frequency_context_size),
            (self.dry_multiplier != 0., self.dry_context_size),
            (self.no_repeat_ngram_size > 0, None),
            (longest_bad_word > 1, Some(longest_bad_word as i32 - 1)),
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
