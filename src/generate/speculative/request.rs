//! One request under way: its prompt, then its samples one after the other.

use std::sync::Arc;
use std::time::Instant;

use super::sample::{Produced, Sample};
use super::{Models, SpeculationOptions, feed, take_back};
use crate::cache::{Cache, CacheOptions, Owner, Segment};
use crate::generate::TokenMask;
use crate::generate::engine::{Event, Prefixes, Request, RequestId, Row, Shared, Summary};
use crate::mlx::{Error, Result, eval};

pub(super) struct Current {
    shared: Arc<Shared>,
    n: usize,
    started: Instant,
    first: Option<Instant>,
    summary: Summary,
    /// Whose weights have read the prompt.
    owner: Owner,
    masks: std::vec::IntoIter<Box<dyn TokenMask>>,
    /// All of the prompt but its last token, once it has been read: every sample begins with it.
    caches: Vec<Cache>,
    draft_caches: Vec<Cache>,
    read: usize,
    draft_read: usize,
    /// The prompt has been read but for its last token.
    ready: bool,
    sample: Option<Sample>,
    next_sample: usize,
    /// Whether the caller's own caches go back to it, and whether the draft model's are among them.
    returns: bool,
    returns_draft: bool,
    returned: Option<Vec<Cache>>,
}

impl Current {
    pub fn new(request: Request, id: RequestId, models: Models, options: &CacheOptions, prefixes: &Prefixes) -> Result<Current> {
        let Request { prompt, n, options: wanted, tokenizer, masks, caches: own, .. } = request;
        let (returns, mut cached, mut returns_draft, mut draft_caches) = (own.is_some(), 0, false, None);
        let mut caches = match own {
            Some(mut caches) => {
                let layers = models.net.num_layers();
                let draft_layers = models.draft.map_or(0, |draft| draft.num_layers());
                if draft_layers > 0 && caches.len() == layers + draft_layers {
                    draft_caches = Some(caches.split_off(layers));
                    returns_draft = true;
                }
                if caches.len() != layers {
                    let drafted = match draft_layers {
                        0 => String::new(),
                        more => format!(" ({} with those of the draft model)", layers + more),
                    };
                    let count = caches.len();
                    let message = format!("the model has {layers} layers and needs as many caches{drafted}, not {count}");
                    return Err(Error::Argument(message));
                }
                caches
            }
            None => match prefixes.fetch(&prompt) {
                Some(hit) => {
                    cached = hit.cached;
                    hit.caches
                }
                None => models.net.new_caches_with(options)?,
            },
        };
        caches.iter_mut().try_for_each(|cache| options.quantize(cache))?;
        let bounded = CacheOptions { max_kv_size: options.max_kv_size, keep: options.keep, ..CacheOptions::default() };
        let draft_caches = match (models.draft, draft_caches) {
            (Some(_), Some(caches)) => caches,
            (Some(draft), None) => draft.new_caches_with(&bounded)?,
            (None, _) => Vec::new(),
        };
        // Nothing will be guessed for a bounded cache that the prompt fills.
        let guesses = models.draft.is_some() && options.max_kv_size.is_none_or(|most| prompt.len() < most as usize);
        Ok(Current {
            n,
            started: Instant::now(),
            first: None,
            summary: Summary { prompt_tokens: prompt.len(), cached_tokens: cached, ..Summary::default() },
            owner: prefixes.owner(),
            masks: masks.into_iter(),
            caches,
            draft_caches,
            read: cached,
            draft_read: if guesses || returns_draft { 0 } else { prompt.len() - 1 },
            ready: false,
            sample: None,
            next_sample: 0,
            returns,
            returns_draft,
            returned: None,
            shared: Arc::new(Shared { id, prompt, options: wanted, tokenizer, processed: false, kept: false }),
        })
    }

    pub fn id(&self) -> RequestId {
        self.shared.id
    }

    /// Tokens of the prompt, and those of them that were known.
    pub fn prompt_tokens(&self) -> (usize, usize) {
        (self.summary.prompt_tokens, self.summary.cached_tokens)
    }

    pub fn decodes(&self) -> bool {
        self.sample.is_some()
    }

    pub fn is_over(&self) -> bool {
        self.sample.is_none() && self.next_sample == self.n
    }

    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Reads a chunk of the prompt, or finds that there is none to read.
    pub fn read(&mut self, models: Models, step: usize) -> Result<Event> {
        let prompt = &self.shared.prompt;
        let last = prompt.len() - 1;
        if self.read < last {
            let stop = last.min(self.read + step);
            feed(models.net, &prompt[self.read..stop], &mut self.caches)?;
            self.read = stop;
        }
        if let Some(draft) = models.draft.filter(|_| self.draft_read < last) {
            let stop = last.min(self.draft_read + step);
            feed(draft, &prompt[self.draft_read..stop], &mut self.draft_caches)?;
            self.draft_read = stop;
        }
        eval(&self.caches.iter().chain(&self.draft_caches).flat_map(Cache::arrays).collect::<Vec<_>>())?;
        self.ready = self.read.min(self.draft_read) == last;
        let (request, total) = (self.shared.id, prompt.len());
        Ok(Event::Prefill { request, processed: if self.ready { total } else { self.read }, total })
    }

    /// Of a bounded cache that will have dropped tokens by the end of the answer the next prompt can only begin with what it is now.
    pub fn remember_prompt(&self, prefixes: &Prefixes, max_kv_size: Option<i32>) {
        let Shared { prompt, options, .. } = &*self.shared;
        if !self.returns && max_kv_size.is_some_and(|size| prompt.len() + options.max_tokens >= size as usize) && prompt.len() > 1
        {
            prefixes.remember(&self.owner, &prompt[..prompt.len() - 1], self.caches.clone(), Segment::User);
        }
    }

    fn begin(&mut self, length: usize) -> Sample {
        let row = Row::new(self.shared.clone(), self.next_sample, self.masks.next());
        self.next_sample += 1;
        // A clone shares the buffers until it is written to; the last sample takes the originals.
        let last = self.next_sample == self.n;
        let take = |caches: &mut Vec<Cache>| if last { std::mem::take(caches) } else { caches.clone() };
        Sample::new(row, take(&mut self.caches), take(&mut self.draft_caches), length)
    }

    /// Makes and checks guesses once: an event for each token.
    pub fn round(&mut self, models: Models, options: &SpeculationOptions, prefixes: &Prefixes) -> Result<Vec<Event>> {
        let mut sample = match self.sample.take() {
            Some(sample) => sample,
            None => self.begin(options.num_draft_tokens),
        };
        let round = sample.round(models, options)?;
        self.summary.draft_tokens += round.guessed;
        self.summary.accepted_tokens += round.accepted;
        self.summary.plain_tokens += usize::from(round.plain);
        let mut events = Vec::new();
        let mut ended = false;
        for Produced { token, logprob, top } in round.produced {
            let (text, finish) = sample.accept(token)?;
            self.summary.generated_tokens += 1;
            let index = sample.row.sample;
            events.push(Event::Token { request: self.shared.id, sample: index, token, logprob, top, text, finish });
            ended = finish.is_some();
            if ended {
                break;
            }
        }
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        self.summary.prefill = first - self.started;
        self.summary.decode = now - first;
        if ended {
            self.end(sample, models, prefixes)?
        } else {
            self.sample = Some(sample)
        }
        Ok(events)
    }

    /// Gives the caches of a sample that has ended to those who want them.
    fn end(&mut self, sample: Sample, models: Models, prefixes: &Prefixes) -> Result<()> {
        if !self.returns && !prefixes.is_some() {
            return Ok(());
        }
        let Sample { tokens, mut caches, mut draft_caches, held, drafted, .. } = sample;
        // Guesses that were right beyond what ended the answer.
        let read = held.min(tokens.len());
        take_back(&mut caches, held - read)?;
        if !self.returns {
            prefixes.remember(&self.owner, &tokens[..read], caches, Segment::Assistant);
            return Ok(());
        }
        if let Some(draft) = models.draft.filter(|_| self.returns_draft) {
            take_back(&mut draft_caches, drafted.saturating_sub(read))?;
            if drafted < read {
                feed(draft, &tokens[drafted..read], &mut draft_caches)?;
            }
            caches.extend(draft_caches);
        }
        eval(&caches.iter().flat_map(Cache::arrays).collect::<Vec<_>>())?;
        self.returned = Some(caches);
        Ok(())
    }

    pub fn finished(self) -> Event {
        Event::Finished { request: self.shared.id, summary: self.summary, caches: self.returned }
    }
}
