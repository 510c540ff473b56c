//! A grammar in the engine.

use std::sync::Arc;

use super::thinking::{Stage, ThinkingMask};
use super::{CompiledGrammar, Matcher, Thinking};
use crate::generate::TokenMask;
use crate::mlx::Result;

impl CompiledGrammar {
    /// One mask for each of `count` rows; `ends` as in [`CompiledGrammar::matcher`]. With `thinking` the grammar begins after that.
    pub fn masks(
        self: &Arc<Self>,
        count: usize,
        ends: Vec<i32>,
        thinking: Option<(Thinking, Stage)>,
    ) -> Result<Vec<Box<dyn TokenMask>>> {
        // What can be wrong with them is found now, not when the rows begin.
        self.check_ends(&ends)?;
        let mask = || -> Box<dyn TokenMask> {
            let mask = GrammarMask { grammar: self.clone(), ends: ends.clone(), matcher: None };
            match &thinking {
                Some((thinking, stage)) => Box::new(ThinkingMask::new(mask, thinking.clone(), *stage, ends.clone())),
                None => Box::new(mask),
            }
        };
        Ok((0..count).map(|_| mask()).collect())
    }
}

/// Begins with the row: one that waits holds no matcher.
pub(super) struct GrammarMask {
    grammar: Arc<CompiledGrammar>,
    ends: Vec<i32>,
    matcher: Option<Matcher>,
}

impl GrammarMask {
    fn matcher(&mut self) -> Result<&mut Matcher> {
        let matcher = match self.matcher.take() {
            Some(matcher) => matcher,
            None => self.grammar.matcher(&self.ends)?,
        };
        Ok(self.matcher.insert(matcher))
    }
}

impl TokenMask for GrammarMask {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<()> {
        self.matcher()?.mask(allowed)
    }

    fn accept(&mut self, token: i32) -> Result<()> {
        self.matcher()?.accept(token)
    }

    fn reversible(&self) -> bool {
        self.grammar.reversible()
    }

    fn rollback(&mut self, count: usize) -> Result<()> {
        self.matcher()?.rollback(count)
    }

    fn forced(&mut self) -> Vec<i32> {
        // What is wrong with the grammar the next mask says.
        self.matcher().map_or_else(|_| Vec::new(), Matcher::forced)
    }
}
