//! One answer while it is generated: guesses, their check, and what comes of it.

use super::guesses::{Guesses, Path, look_up};
use super::{Models, SpeculationOptions, feed, take_back};
use crate::cache::Cache;
use crate::generate::engine::{FinishReason, Row};
use crate::generate::sampler::{Draws, Sampler, draw_from, likeliest};
use crate::mlx::{Array, Error, Result, ops};
use crate::models::CausalLm;

pub(super) struct Sample {
    pub row: Row,
    /// The prompt and all that came after.
    pub tokens: Vec<i32>,
    produced: usize,
    /// What has read the first `held` tokens.
    pub caches: Vec<Cache>,
    pub held: usize,
    /// The draft model's, which has read the first `drafted`.
    pub draft_caches: Vec<Cache>,
    pub drafted: usize,
    draws: Draws,
    /// Guesses that the next pass is to check.
    length: usize,
}

/// A token that has been settled on.
pub(super) struct Produced {
    pub token: i32,
    pub logprob: f32,
    pub top: Vec<(i32, f32)>,
}

/// What one pass has brought.
pub(super) struct Round {
    pub guessed: usize,
    pub accepted: usize,
    /// Nothing was guessed, as it could not have been taken back.
    pub plain: bool,
    /// One more than the guesses that were right.
    pub produced: Vec<Produced>,
}

impl Sample {
    pub fn new(row: Row, caches: Vec<Cache>, draft_caches: Vec<Cache>, length: usize) -> Sample {
        let tokens = row.shared.prompt.clone();
        let (held, draws) = (tokens.len() - 1, Draws::new(&row.sampler()));
        Sample { row, tokens, produced: 0, caches, held, draft_caches, drafted: held, draws, length }
    }

    /// Takes a token that has been settled on.
    pub fn accept(&mut self, token: i32) -> Result<(String, Option<FinishReason>)> {
        let outcome = self.row.accept(token)?;
        self.tokens.push(token);
        self.produced += 1;
        Ok(outcome)
    }

    /// Guesses and checks once.
    pub fn round(&mut self, models: Models, options: &SpeculationOptions) -> Result<Round> {
        let room = self.row.shared.options.max_tokens - self.produced - 1;
        let reversible = self.row.mask.as_ref().is_none_or(|mask| mask.reversible());
        // The last token is read too, and is to stay.
        let caches = self.caches.iter().chain(&self.draft_caches);
        let spare = caches.map(|cache| cache.reversible().saturating_sub(1)).min().unwrap_or(0).max(0) as usize;
        let most = if reversible { room.min(spare) } else { 0 };
        let (Guesses { tokens: guesses, offered, allowed, forced }, fed) = self.guess(models, options, most)?;

        let count = guesses.len();
        let mut ids = vec![self.tokens[self.tokens.len() - 1]];
        ids.extend_from_slice(&guesses);
        let logits = feed(models.net, &ids, &mut self.caches)?;
        let mut sampler = Sampler::new();
        let mut history = self.tokens.clone();
        for place in 0..=count {
            sampler.push_later(&self.row.sampler(), &history, (self.produced + place) as u64)?;
            history.extend(guesses.get(place));
        }
        let (p, logprobs) = sampler.distribution(&logits, allowed.as_ref())?;
        let accepted = self.check(&p, &offered, &guesses)?;

        let place = accepted as i32;
        let own = p.slice_axis(0, place, place + 1)?;
        let rest = match guesses.get(accepted) {
            Some(&guess) => remainder(&own, offered[accepted].as_ref(), guess)?,
            None => own,
        };
        let last = draw_from(&rest, &mut self.draws)?;
        let tokens: Vec<i32> = guesses[..accepted].iter().copied().chain([last]).collect();
        let produced = self.describe(&logprobs, &tokens)?;

        // The rejected guesses leave the caches; the token that replaces them is read in the next round.
        take_back(&mut self.caches, count - accepted)?;
        self.held = self.tokens.len() + accepted;
        self.drafted = fed.min(self.held);
        take_back(&mut self.draft_caches, fed - self.drafted)?;
        let (own, right) = (count - forced, accepted.saturating_sub(forced));
        if own > 0 && accepted >= forced {
            self.length = if right == own { (own + 2).max(self.length) } else { right + 1 }.min(options.num_draft_tokens);
        }
        Ok(Round { guessed: count, accepted, plain: room > 0 && spare == 0, produced })
    }

    /// At most `most` guesses, and how many tokens the draft model has then read.
    fn guess(&mut self, models: Models, options: &SpeculationOptions, most: usize) -> Result<(Guesses, usize)> {
        let shared = self.row.shared.clone();
        let mut path = Path::new(self.row.mask.take(), models.vocabulary, &shared.options.stop_tokens);
        if options.fast_forward && most > 0 {
            for token in path.forced().into_iter().take(most) {
                if !path.push(token, None)? {
                    break;
                }
            }
        }
        let forced = path.tokens().len();
        let count = self.length.min(most - forced);
        let mut fed = self.drafted;
        match (models.draft, options.lookup) {
            (Some(draft), _) => fed = self.draft(draft, count, &mut path)?,
            (None, Some((longest, shortest))) => {
                let history = [self.tokens.as_slice(), path.tokens()].concat();
                for token in look_up(&history, count, longest, shortest) {
                    if !path.push(token, None)? {
                        break;
                    }
                }
            }
            (None, None) => {}
        }
        let (guesses, mask) = path.finish(forced)?;
        self.row.mask = mask;
        Ok((guesses, fed))
    }

    /// Draws from the draft model under the request's own sampling options; how many tokens it has then read.
    fn draft(&mut self, draft: &dyn CausalLm, count: usize, path: &mut Path) -> Result<usize> {
        let mut history = [self.tokens.as_slice(), path.tokens()].concat();
        let (known, mut fed) = (self.tokens.len(), self.drafted);
        for _ in 0..count {
            if path.ended() {
                break;
            }
            let logits = feed(draft, &history[fed..], &mut self.draft_caches)?;
            fed = history.len();
            let last = logits.dim(0);
            let mut sampler = Sampler::new();
            sampler.push_later(&self.row.sampler(), &history, (self.produced + history.len() - known) as u64)?;
            let allowed = path.next_array()?;
            let (q, _) = sampler.distribution(&logits.slice_axis(0, last - 1, last)?, allowed.as_ref())?;
            let guess = draw_from(&q, &mut self.draws)?;
            if !path.push(guess, Some(q))? {
                return Err(Error::Internal(format!("the draft model guessed token {guess}, which was masked")));
            }
            history.push(guess);
        }
        Ok(fed)
    }

    /// How many guesses are accepted, from the first on.
    fn check(&mut self, p: &Array, offered: &[Option<Array>], guesses: &[i32]) -> Result<usize> {
        let count = guesses.len();
        if count == 0 {
            return Ok(0);
        }
        let ids = Array::from_slice(guesses, &[count as i32, 1])?;
        let wanted = p.slice_axis(0, 0, count as i32)?.take_along_axis(&ids, 1)?.to_vec::<f32>()?;
        let drawn: Vec<usize> = (0..count).filter(|&place| offered[place].is_some()).collect();
        let mut chances = vec![1.; count];
        if !drawn.is_empty() {
            let rows = ops::concatenate(&offered.iter().flatten().collect::<Vec<_>>(), 0)?;
            let ids: Vec<i32> = drawn.iter().map(|&place| guesses[place]).collect();
            let ids = Array::from_slice(&ids, &[drawn.len() as i32, 1])?;
            let q = rows.take_along_axis(&ids, 1)?.to_vec::<f32>()?;
            drawn.iter().zip(q).for_each(|(&place, q)| chances[place] = q);
        }
        let rejected = wanted.iter().zip(&chances).position(|(wanted, chance)| self.draws.uniform() * chance >= *wanted);
        Ok(rejected.unwrap_or(count))
    }

    /// Log-probs of the tokens that follow one another in `logprobs` `[T, V]`.
    fn describe(&self, logprobs: &Array, tokens: &[i32]) -> Result<Vec<Produced>> {
        let count = tokens.len() as i32;
        let rows = logprobs.slice_axis(0, 0, count)?;
        let own = rows.take_along_axis(&Array::from_slice(tokens, &[count, 1])?, 1)?.to_vec::<f32>()?;
        let wanted = self.row.shared.options.sampler.top_logprobs;
        let top = if wanted > 0 { likeliest(&rows, wanted)? } else { vec![Vec::new(); tokens.len()] };
        let all = tokens.iter().zip(own).zip(top);
        Ok(all.map(|((&token, logprob), top)| Produced { token, logprob, top }).collect())
    }
}

/// What `p` has more than `q`, `[1, V]`; `q` is certain of `guess` where there is no other.
fn remainder(p: &Array, q: Option<&Array>, guess: i32) -> Result<Array> {
    let more = match q {
        Some(q) => p.subtract(q)?.maximum(&Array::scalar(0.))?,
        None => p.put_along_axis(&Array::from_slice(&[guess], &[1, 1])?, &Array::scalar(0.), -1)?,
    };
    // Rounding may leave nothing where both are nearly the same.
    let some = more.sum(&[-1], true)?.greater_scalar(0.)?;
    ops::where_(&some, &more, p)
}
