//! Reading prompts, a chunk at a time.

use std::sync::Arc;

use super::mask::TokenMask;
use super::row::Shared;
use crate::cache::{Cache, CacheOptions};
use crate::mlx::{Array, Error, Result, async_eval, eval, ops};
use crate::models::{CausalLm, Forward};

/// A request that has been admitted.
pub(super) struct Admitted {
    pub shared: Arc<Shared>,
    pub n: usize,
    pub masks: Vec<Box<dyn TokenMask>>,
    /// What has read the first `cached` tokens of its prompt, or something before it; none where nothing is known.
    pub caches: Option<Vec<Cache>>,
    pub cached: usize,
}

/// Prompts that are read together. All begin at the first token that is to be read, and the shorter ones end with padding, which moves
/// to their left when all have been read: chunks end at the same tokens as for each prompt alone.
pub(super) struct Prefill {
    pub requests: Vec<Admitted>,
    /// `[P, length]`
    ids: Array,
    length: i32,
    /// How many of them are no padding.
    lengths: Vec<i32>,
    /// The last token of each prompt, where it is read apart, as mlx-lm does: caches that are quantised once a chunk has been read are
    /// so before it.
    last: Option<Vec<i32>>,
    caches: Vec<Cache>,
    processed: i32,
    done: bool,
    /// Of the prompts that have ended, by number, the hidden state `[.., H]` of the last token.
    ended: Vec<(Vec<i32>, Array)>,
}

/// Prompts that have been read.
pub(super) struct Prefilled {
    /// One row for each prompt.
    pub caches: Vec<Cache>,
    pub prompts: usize,
}

/// Caches of the rows together: new ones where nothing is known.
fn together(net: &dyn CausalLm, requests: &mut [Admitted], options: &CacheOptions) -> Result<Vec<Cache>> {
    let known: Vec<Option<Vec<Cache>>> = requests.iter_mut().map(|request| request.caches.take()).collect();
    if known.iter().all(Option::is_none) {
        return net.new_batch_caches_with(&vec![0; known.len()], options);
    }
    let rows = known.into_iter().map(|known| known.map_or_else(|| net.new_caches_with(options), Ok));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let layer = |layer: usize| {
        let caches = rows.iter().map(|caches| caches.get(layer).ok_or_else(|| Error::Internal("a layer without a cache".into())));
        let mut cache = Cache::merge(&caches.collect::<Result<Vec<_>>>()?)?;
        options.quantize(&mut cache)?;
        Ok(cache)
    };
    (0..net.num_layers()).map(layer).collect()
}

impl Prefill {
    /// `alone`: there is one prompt, and nothing joins or leaves but its samples.
    pub fn new(net: &dyn CausalLm, mut requests: Vec<Admitted>, options: &CacheOptions, alone: bool) -> Result<Prefill> {
        let mut caches = match requests.as_mut_slice() {
            [request] if alone => match request.caches.take() {
                Some(caches) => caches,
                None => net.new_caches_with(options)?,
            },
            requests => together(net, requests, options)?,
        };
        if alone {
            caches.iter_mut().try_for_each(|cache| options.quantize(cache))?;
        }
        let apart = options.kv_bits.is_some() && options.quantized_kv_start > 0;
        let last = apart.then(|| requests.iter().filter_map(|request| request.shared.prompt.last().copied()).collect());
        let rest = |request: &Admitted| request.cached..request.shared.prompt.len() - usize::from(apart);
        let lengths: Vec<i32> = requests.iter().map(|request| rest(request).len() as i32).collect();
        let length = lengths.iter().copied().max().unwrap_or(0);
        let mut ids: Vec<i32> = Vec::with_capacity(requests.len() * length as usize);
        for (row, request) in requests.iter().enumerate() {
            ids.extend(&request.shared.prompt[rest(request)]);
            ids.resize((row + 1) * length as usize, 0);
        }
        let padding: Vec<i32> = lengths.iter().map(|own| length - own).collect();
        if padding.iter().any(|&slots| slots > 0) {
            for cache in &mut caches {
                cache.prepare(None, Some(&padding), Some(&lengths))?;
            }
        }
        Ok(Prefill {
            ids: Array::from_slice(&ids, &[lengths.len() as i32, length])?,
            length,
            lengths,
            last,
            caches,
            processed: 0,
            done: false,
            ended: Vec::new(),
            requests,
        })
    }

    /// Tokens of prompt `index` read so far.
    pub fn processed(&self, index: usize) -> usize {
        if self.done {
            return self.requests[index].shared.prompt.len();
        }
        self.requests[index].cached + self.processed.min(self.lengths[index]) as usize
    }

    /// Reads the next `step` tokens of each prompt; the logits `[P, V]` after the last. `wait` until the device is done.
    pub fn chunk(&mut self, net: &dyn CausalLm, step: i32, wait: bool) -> Result<Option<Array>> {
        if self.processed < self.length {
            let stop = self.length.min(self.processed.saturating_add(step));
            let chunk = self.ids.slice_axis(1, self.processed, stop)?;
            let hidden = net.hidden(Forward::cached(&chunk, &mut self.caches))?;
            if self.last.is_none() {
                self.keep_ends(&hidden, stop)?;
            }
            self.processed = stop;
            if stop < self.length {
                let ended = self.ended.iter().map(|(_, hidden)| hidden);
                let state: Vec<&Array> = self.caches.iter().flat_map(|cache| cache.arrays()).chain(ended).collect();
                if wait {
                    eval(&state)?
                } else {
                    async_eval(&state)?
                }
                return Ok(None);
            }
        }
        self.caches.iter_mut().try_for_each(Cache::finalize)?;
        self.done = true;
        // Only the last position predicts a token; the others need no logits.
        let hidden = match &self.last {
            Some(last) => {
                let last = Array::from_slice(last, &[last.len() as i32, 1])?;
                net.hidden(Forward::cached(&last, &mut self.caches))?.squeeze(&[1])?
            }
            None => self.ends()?,
        };
        net.logits(&hidden).map(Some)
    }

    /// Keeps the hidden states of prompts that end in this chunk.
    fn keep_ends(&mut self, hidden: &Array, stop: i32) -> Result<()> {
        let (prompts, tokens) = (self.lengths.len() as i32, stop - self.processed);
        let ending = |row: &i32| (self.processed + 1..=stop).contains(&self.lengths[*row as usize]);
        let rows: Vec<i32> = (0..prompts).filter(ending).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let together = rows.len() == self.lengths.len() && self.lengths.iter().all(|&length| length == stop);
        let states = if together {
            hidden.slice_axis(1, tokens - 1, tokens)?.squeeze(&[1])?
        } else {
            let index = rows.iter().map(|&row| row * tokens + self.lengths[row as usize] - 1 - self.processed);
            let index: Vec<i32> = index.collect();
            hidden.reshape(&[prompts * tokens, -1])?.take(&Array::from_slice(&index, &[index.len() as i32])?, 0)?
        };
        self.ended.push((rows, states));
        Ok(())
    }

    /// The last hidden state of each prompt, `[P, H]`.
    fn ends(&mut self) -> Result<Array> {
        let ended = std::mem::take(&mut self.ended);
        if let [(_, states)] = ended.as_slice() {
            return Ok(states.clone());
        }
        let states: Vec<&Array> = ended.iter().map(|(_, states)| states).collect();
        let mut order: Vec<(i32, i32)> = ended.iter().flat_map(|(rows, _)| rows.iter().copied()).zip(0..).collect();
        order.sort_unstable();
        let order: Vec<i32> = order.into_iter().map(|(_, place)| place).collect();
        ops::concatenate(&states, 0)?.take(&Array::from_slice(&order, &[order.len() as i32])?, 0)
    }

    pub fn finish(self) -> (Vec<Admitted>, Prefilled) {
        (self.requests, Prefilled { caches: self.caches, prompts: self.lengths.len() })
    }
}

impl Prefilled {
    /// The caches of prompt `index`, as a row of its own.
    pub fn row(&self, index: usize) -> Result<Vec<Cache>> {
        self.caches.iter().map(|cache| cache.single(index as i32)).collect()
    }
}
