//! Reading prompts, a chunk at a time.

use std::sync::Arc;

use super::mask::TokenMask;
use super::row::Shared;
use crate::cache::Cache;
use crate::mlx::{Array, Result, async_eval, eval};
use crate::models::{CausalLm, Forward};

/// A request that has been admitted.
pub(super) struct Admitted {
    pub shared: Arc<Shared>,
    pub n: usize,
    pub masks: Vec<Box<dyn TokenMask>>,
}

/// Prompts that are read together, left-padded to the longest.
pub(super) struct Prefill {
    pub requests: Vec<Admitted>,
    ids: Array,
    /// Of each prompt.
    padding: Vec<i32>,
    caches: Vec<Cache>,
    processed: i32,
    length: i32,
}

/// Prompts that have been read.
pub(super) struct Prefilled {
    /// One row for each prompt.
    pub caches: Vec<Cache>,
    pub prompts: usize,
}

impl Prefill {
    pub fn new(net: &dyn CausalLm, requests: Vec<Admitted>) -> Result<Prefill> {
        let prompts = || requests.iter().map(|request| request.shared.prompt.as_slice());
        let length = prompts().map(<[i32]>::len).max().unwrap_or(0);
        let padding: Vec<i32> = prompts().map(|prompt| (length - prompt.len()) as i32).collect();
        let ids: Vec<i32> =
            prompts().flat_map(|prompt| std::iter::repeat_n(0, length - prompt.len()).chain(prompt.iter().copied())).collect();
        let batch = padding.len() as i32;
        Ok(Prefill {
            ids: Array::from_slice(&ids, &[batch, length as i32])?,
            caches: net.new_batch_caches(&padding)?,
            processed: 0,
            length: length as i32,
            padding,
            requests,
        })
    }

    /// Tokens of prompt `index` read so far.
    pub fn processed(&self, index: usize) -> usize {
        (self.processed - self.padding[index]).max(0) as usize
    }

    /// Reads the next `step` tokens of each prompt; the logits `[P, V]` after the last. `wait` until the device is done.
    pub fn chunk(&mut self, net: &dyn CausalLm, step: i32, wait: bool) -> Result<Option<Array>> {
        let stop = self.length.min(self.processed.saturating_add(step));
        let chunk = self.ids.slice_axis(1, self.processed, stop)?;
        let hidden = net.hidden(Forward::cached(&chunk, &mut self.caches))?;
        let last = stop - self.processed;
        self.processed = stop;
        if stop == self.length {
            // Only the last position predicts a token; the others need no logits.
            return Ok(Some(net.logits(&hidden.slice_axis(1, last - 1, last)?)?.squeeze(&[1])?));
        }
        let state: Vec<&Array> = self.caches.iter().flat_map(|cache| cache.arrays()).collect();
        if wait {
            eval(&state)?
        } else {
            async_eval(&state)?
        }
        Ok(None)
    }

    pub fn finish(self) -> (Vec<Admitted>, Prefilled) {
        (self.requests, Prefilled { caches: self.caches, prompts: self.padding.len() })
    }
}
