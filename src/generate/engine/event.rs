//! What the engine tells of its requests.

use std::time::Duration;

use super::request::{FinishReason, RequestId};
use crate::cache::Cache;
use crate::mlx::Error;

#[derive(Debug)]
pub enum Event {
    /// How much of the prompt has been read.
    Prefill { request: RequestId, processed: usize, total: usize },
    /// One more token of a sample, in order.
    Token {
        request: RequestId,
        sample: usize,
        token: i32,
        /// Under `logits / temperature` (plain logits when greedy).
        logprob: f32,
        /// The likeliest tokens and their log-probs, where asked for.
        top: Vec<(i32, f32)>,
        /// Text that has become certain; whole characters, and nothing that may yet turn out to be a stop string.
        text: String,
        /// With the last token.
        finish: Option<FinishReason>,
    },
    /// All samples have finished. A request that brought its own caches gets them back: they have read the prompt and all tokens that
    /// were fed back, which are those of the answer but perhaps the last.
    Finished { request: RequestId, summary: Summary, caches: Option<Vec<Cache>> },
    /// The request has ended without a result.
    Failed { request: RequestId, error: Error },
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub prompt_tokens: usize,
    /// Those of them that a prefix cache knew.
    pub cached_tokens: usize,
    /// Of all samples.
    pub generated_tokens: usize,
    /// From the beginning of the prefill to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// Tokens that speculative decoding has guessed, and how many of them were right.
    pub draft_tokens: usize,
    pub accepted_tokens: usize,
    /// Tokens for which nothing was guessed because wrong guesses could not have been taken back: a bounded cache was full.
    pub plain_tokens: usize,
}
