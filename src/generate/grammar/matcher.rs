//! Where one row stands in its grammar.

use llguidance::TokenParser;
use llguidance::api::StopReason;

use super::compiler::reason;
use crate::mlx::{Error, Result};

/// Follows a grammar token by token.
pub struct Matcher {
    inner: llguidance::Matcher,
    /// The trie's token for the end.
    end: u32,
    /// The request's.
    ends: Vec<i32>,
    /// How many tokens of `ends` have come.
    ended: usize,
    reversible: bool,
}

impl Matcher {
    pub(super) fn new(parser: TokenParser, end: u32, ends: &[i32]) -> Matcher {
        let reversible = parser.parser.grammar().lexer_spec().can_rollback();
        Matcher { inner: llguidance::Matcher::new(Ok(parser)), end, ends: ends.to_vec(), ended: 0, reversible }
    }

    /// Sets to false the tokens that may not come next. `allowed` has one entry for each row of the model's embedding, which may be more
    /// than the tokenizer has tokens.
    ///
    /// `Error::Argument` where the grammar has become too complex to follow.
    pub fn mask(&mut self, allowed: &mut [bool]) -> Result<()> {
        if self.complete() {
            return self.only_ends(allowed);
        }
        let bits = self.inner.compute_mask().map_err(|error| lost(&error))?;
        let words = bits.as_slice();
        let known = allowed.len().min(self.end as usize);
        let (known, unknown) = allowed.split_at_mut(known);
        unknown.fill(false);
        for (part, &word) in known.chunks_mut(32).zip(words) {
            match word {
                0 => part.fill(false),
                u32::MAX => {}
                word => part.iter_mut().enumerate().for_each(|(bit, slot)| *slot &= word >> bit & 1 == 1),
            }
        }
        if bits.is_allowed(self.end) {
            self.each_end(allowed);
        }
        Ok(())
    }

    /// Takes the token that was chosen.
    ///
    /// `Error::Argument` for one that the grammar does not allow.
    pub fn accept(&mut self, token: i32) -> Result<()> {
        let refused = || Error::Argument(format!("token {token} is not among those that the grammar allows here"));
        let is_end = self.ends.contains(&token);
        if self.complete() {
            self.ended += usize::from(is_end);
            return if is_end { Ok(()) } else { Err(refused()) };
        }
        let id = u32::try_from(token).ok().filter(|&id| id < self.end);
        let fits = match id {
            Some(id) => self.inner.validate_tokens(&[id]).map_err(|error| lost(&error))? == 1,
            None => false,
        };
        match id {
            Some(id) if fits => self.inner.consume_token(id).map_err(|error| lost(&error)),
            _ if is_end && self.may_end()? => {
                self.ended += 1;
                Ok(())
            }
            _ => Err(refused()),
        }
    }

    /// Whether the text so far is whole.
    pub fn may_end(&mut self) -> Result<bool> {
        if self.complete() {
            return Ok(true);
        }
        self.inner.is_accepting().map_err(|error| lost(&error))
    }

    /// Whether only the end may follow.
    pub fn complete(&self) -> bool {
        self.ended > 0 || matches!(self.inner.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
    }

    /// Whether tokens can be taken back: not where a grammar limits the tokens of a rule or names what stops it.
    pub fn reversible(&self) -> bool {
        self.reversible
    }

    /// Takes back the last `count` tokens that were accepted.
    ///
    /// `Error::Argument` where there were fewer, or the matcher is not `reversible`.
    pub fn rollback(&mut self, count: usize) -> Result<()> {
        let ends = count.min(self.ended);
        self.inner.rollback(count - ends).map_err(|error| lost(&error))?;
        self.ended -= ends;
        Ok(())
    }

    /// Tokens that must come next, because the grammar leaves no choice; empty where it does. They are not taken yet.
    pub fn forced(&mut self) -> Vec<i32> {
        if self.complete() {
            return Vec::new();
        }
        self.inner.compute_ff_tokens().into_iter().map(|id| id as i32).collect()
    }

    fn only_ends(&self, allowed: &mut [bool]) -> Result<()> {
        allowed.fill(false);
        self.each_end(allowed);
        Ok(())
    }

    fn each_end(&self, allowed: &mut [bool]) {
        for &id in &self.ends {
            if let Some(slot) = usize::try_from(id).ok().and_then(|id| allowed.get_mut(id)) {
                *slot = true;
            }
        }
    }
}

fn lost(error: &impl std::fmt::Display) -> Error {
    Error::Argument(match reason(error).as_str() {
        "NoExtensionBias" => "the grammar allows no text, or none from here: see whether its rules or references end".into(),
        reason => format!("the grammar cannot be followed any further: {reason}"),
    })
}
