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

/// Prompts that are read together. The shorter ones begin with padding, where nothing is known of any. Otherwise, and where it matters in
/// which chunk a token is read, all begin at the first token that is to be read, and the shorter ones end with padding, which moves to
/// their left when all have been read.
pub(super) struct Prefill {
    pub requests: Vec<Admitted>,
    /// `[P, length]`
    ids: Array,
    length: i32,
    /// Where each prompt begins and ends among them.
    begins: Vec<i32>,
    ends: Vec<i32>,
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

/// Caches of the rows together: new ones, which begin with padding, where nothing is known of any.
fn together(net: &dyn CausalLm, requests: &mut [Admitted], options: &CacheOptions, padding: &[i32]) -> Result<Vec<Cache>> {
    if requests.iter().all(|request| request.caches.is_none()) {
        return net.new_batch_caches_with(padding, options);
    }
    let rows = requests
        .iter_mut()
        .map(|request| request.caches.take())
        .map(|known| known.map_or_else(|| net.new_caches_with(options), Ok));
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
        let apart = options.kv_bits.is_some() && options.quantized_kv_start > 0;
        let left = !apart && requests.iter().all(|request| request.caches.is_none());
        let last = apart.then(|| requests.iter().filter_map(|request| request.shared.prompt.last().copied()).collect());
        let rest = |request: &Admitted| request.cached..request.shared.prompt.len() - usize::from(apart);
        let lengths: Vec<i32> = requests.iter().map(|request| rest(request).len() as i32).collect();
        let length = lengths.iter().copied().max().unwrap_or(0);
        let padding: Vec<i32> = lengths.iter().map(|own| length - own).collect();
        let begins = if left { padding.clone() } else { vec![0; lengths.len()] };
        let ends: Vec<i32> = begins.iter().zip(&lengths).map(|(begin, own)| begin + own).collect();
        let mut ids = vec![0; requests.len() * length as usize];
        for ((row, request), &begin) in requests.iter().enumerate().zip(&begins) {
            let prompt = &request.shared.prompt[rest(request)];
            let at = row * length as usize + begin as usize;
            ids[at..at + prompt.len()].copy_from_slice(prompt);
        }
        let mut caches = match requests.as_mut_slice() {
            [request] if alone => match request.caches.take() {
                Some(caches) => caches,
                None => net.new_caches_with(options)?,
            },
            requests => together(net, requests, options, &begins)?,
        };
        if alone {
            caches.iter_mut().try_for_each(|cache| options.quantize(cache))?;
        }
        if !left && padding.iter().any(|&slots| slots > 0) {
            for cache in &mut caches {
                cache.prepare(None, Some(&padding), Some(&lengths))?;
            }
        }
        Ok(Prefill {
            ids: Array::from_slice(&ids, &[lengths.len() as i32, length])?,
            length,
            begins,
            ends,
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
        let (begin, end) = (self.begins[index], self.ends[index]);
        self.requests[index].cached + (self.processed.clamp(begin, end) - begin) as usize
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
        let (prompts, tokens) = (self.ends.len() as i32, stop - self.processed);
        let ending = |row: &i32| (self.processed + 1..=stop).contains(&self.ends[*row as usize]);
        let rows: Vec<i32> = (0..prompts).filter(ending).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let together = self.ends.iter().all(|&end| end == stop);
        let states = if together {
            hidden.slice_axis(1, tokens - 1, tokens)?.squeeze(&[1])?
        } else {
            let index = rows.iter().map(|&row| row * tokens + self.ends[row as usize] - 1 - self.processed);
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
        (self.requests, Prefilled { caches: self.caches, prompts: self.ends.len() })
    }
}

impl Prefilled {
    /// The caches of prompt `index`, as a row of its own.
    pub fn row(&self, index: usize) -> Result<Vec<Cache>> {
        self.caches.iter().map(|cache| cache.single(index as i32)).collect()
    }
}
