//! One sample of a request while it is generated.

use std::sync::Arc;

use super::mask::TokenMask;
use super::request::{FinishReason, RequestId, RequestOptions};
use super::stop::TextOutput;
use crate::cache::Cache;
use crate::generate::SamplerOptions;
use crate::mlx::Result;
use crate::text::Tokenizer;

/// What the samples of a request have in common.
pub(in crate::generate) struct Shared {
    pub id: RequestId,
    pub prompt: Vec<i32>,
    pub options: RequestOptions,
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub processed: bool,
    /// Whether its caches are wanted at the end.
    pub kept: bool,
}

pub(in crate::generate) struct Row {
    pub shared: Arc<Shared>,
    pub sample: usize,
    /// Its place in the batch, while it needs further steps.
    pub place: Option<usize>,
    /// Tokens that have been sampled, read or not.
    pub planned: usize,
    pub mask: Option<Box<dyn TokenMask>>,
    /// Tokens so far, kept where the caller's processors see them or caches are kept.
    pub tokens: Vec<i32>,
    /// What its caches were when it gave up its place, where they are wanted.
    pub caches: Option<Vec<Cache>>,
    produced: usize,
    text: Option<TextOutput>,
}

impl Row {
    pub fn new(shared: Arc<Shared>, sample: usize, mask: Option<Box<dyn TokenMask>>) -> Row {
        let text = shared.tokenizer.as_ref().map(|tokenizer| TextOutput::new(tokenizer.clone(), &shared.options.stop));
        Row { shared, sample, place: None, planned: 0, mask, tokens: Vec::new(), caches: None, produced: 0, text }
    }

    /// Samples of one seed draw apart.
    pub fn sampler(&self) -> SamplerOptions {
        let options = &self.shared.options.sampler;
        SamplerOptions { row: options.row + self.sample as u64, ..options.clone() }
    }

    /// Whether its next token can only be sampled once the host has read the last.
    pub fn constrained(&self) -> bool {
        self.mask.is_some() || self.shared.processed
    }

    /// Takes a sampled token: the text that it completes, and why the row ends with it.
    pub fn accept(&mut self, token: i32) -> Result<(String, Option<FinishReason>)> {
        self.produced += 1;
        if self.shared.processed || self.shared.kept {
            self.tokens.push(token);
        }
        if self.shared.options.stop_tokens.contains(&token) {
            return Ok((self.rest()?.0, Some(FinishReason::Stop)));
        }
        if let Some(mask) = &mut self.mask {
            mask.accept(token)?;
        }
        let (mut text, mut stopped) = self.text.as_mut().map_or(Ok((String::new(), false)), |text| text.push(token))?;
        let last = self.produced == self.shared.options.max_tokens;
        if last && !stopped {
            let (rest, late) = self.rest()?;
            text.push_str(&rest);
            stopped = late;
        }
        let finish = match (stopped, last) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        Ok((text, finish))
    }

    fn rest(&mut self) -> Result<(String, bool)> {
        self.text.as_mut().map_or(Ok((String::new(), false)), TextOutput::finish)
    }
}
