//! Guesses for one pass, and what a grammar says of them.

use std::collections::HashSet;

use crate::generate::TokenMask;
use crate::mlx::{Array, Error, Result};

/// Guesses that follow one another, led along a row's mask.
pub(super) struct Path<'a> {
    mask: Option<Box<dyn TokenMask>>,
    vocabulary: usize,
    /// What ends the row: nothing is guessed after that.
    stops: &'a HashSet<i32>,
    guesses: Vec<i32>,
    offered: Vec<Option<Array>>,
    /// What the mask allows at each place that was asked for, so many times the vocabulary.
    allowed: Vec<bool>,
    /// Guesses that the mask has accepted, to be taken back.
    followed: usize,
    ended: bool,
}

/// Guesses to be checked.
pub(super) struct Guesses {
    pub tokens: Vec<i32>,
    /// The distribution `[1, V]` that each was drawn from; none where it is certain.
    pub offered: Vec<Option<Array>>,
    /// How many of them, the first, spell what the grammar leaves no choice about.
    pub forced: usize,
    /// What the mask allows at each place and after the last, bool `[T + 1, V]`; none without a mask.
    pub allowed: Option<Array>,
}

impl<'a> Path<'a> {
    pub fn new(mask: Option<Box<dyn TokenMask>>, vocabulary: usize, stops: &'a HashSet<i32>) -> Path<'a> {
        let (guesses, offered, allowed) = (Vec::new(), Vec::new(), Vec::new());
        Path { mask, vocabulary, stops, guesses, offered, allowed, followed: 0, ended: false }
    }

    pub fn tokens(&self) -> &[i32] {
        &self.guesses
    }

    /// Whether a stop token has been guessed.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What the grammar leaves no choice about from here.
    pub fn forced(&mut self) -> Vec<i32> {
        self.mask.as_mut().map_or_else(Vec::new, |mask| mask.forced())
    }

    /// What the mask allows next; none without a mask.
    fn next(&mut self) -> Result<Option<&[bool]>> {
        let Some(mask) = &mut self.mask else { return Ok(None) };
        let from = self.guesses.len() * self.vocabulary;
        if self.allowed.len() == from {
            self.allowed.resize(from + self.vocabulary, true);
            // Behind a stop token nothing comes, and what is drawn there nobody sees.
            if !self.ended {
                mask.mask(&mut self.allowed[from..])?;
                if !self.allowed[from..].contains(&true) {
                    return Err(Error::Argument("the token mask of this request allows no token".into()));
                }
            }
        }
        Ok(Some(&self.allowed[from..]))
    }

    /// The same as bool `[1, V]`.
    pub fn next_array(&mut self) -> Result<Option<Array>> {
        let size = self.vocabulary as i32;
        self.next()?.map(|allowed| Array::from_slice(allowed, &[1, size])).transpose()
    }

    /// One more guess, drawn from `offered`; whether it may come here.
    pub fn push(&mut self, guess: i32, offered: Option<Array>) -> Result<bool> {
        if self.ended || self.next()?.is_some_and(|allowed| !allowed.get(guess as usize).is_some_and(|&allowed| allowed)) {
            return Ok(false);
        }
        self.ended = self.stops.contains(&guess);
        // A row does not tell its mask of the token that ends it.
        if let Some(mask) = self.mask.as_mut().filter(|_| !self.ended) {
            mask.accept(guess)?;
            self.followed += 1;
        }
        self.guesses.push(guess);
        self.offered.push(offered);
        Ok(true)
    }

    /// The guesses, and the mask as it was.
    pub fn finish(mut self, forced: usize) -> Result<(Guesses, Option<Box<dyn TokenMask>>)> {
        self.next()?;
        let places = self.guesses.len() as i32 + 1;
        let allowed = match &mut self.mask {
            Some(mask) => {
                if self.followed > 0 {
                    mask.rollback(self.followed)?;
                }
                Some(Array::from_slice(&self.allowed, &[places, self.vocabulary as i32])?)
            }
            None => None,
        };
        Ok((Guesses { tokens: self.guesses, offered: self.offered, forced, allowed }, self.mask))
    }
}

/// What followed when the last tokens came before, longest match first, of those the latest.
pub(super) fn look_up(tokens: &[i32], count: usize, most: usize, least: usize) -> Vec<i32> {
    for size in (least..=most.min(tokens.len().saturating_sub(1))).rev() {
        let (before, last) = (&tokens[..tokens.len() - 1], &tokens[tokens.len() - size..]);
        if let Some(at) = before.windows(size).rposition(|window| window == last) {
            let from = at + size;
            return tokens[from..tokens.len().min(from + count)].to_vec();
        }
    }
    Vec::new()
}
