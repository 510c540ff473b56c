//! What a model thinks before it answers: the grammar begins after that.

use super::mask::GrammarMask;
use crate::generate::TokenMask;
use crate::mlx::{Error, Result};
use crate::text::Tokenizer;

/// The tokens around a model's thinking.
#[derive(Clone, Debug)]
pub struct Thinking {
    open: i32,
    close: i32,
    /// Line breaks, of which one may stand between the thinking and the answer.
    breaks: Vec<i32>,
}

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The model may begin to think, or answer at once.
    Before,
    Inside,
    /// Behind `</think>`.
    Behind,
    Answer,
}

impl Thinking {
    /// `<think>` and `</think>`, which must be tokens of the tokenizer.
    pub fn of(tokenizer: &Tokenizer) -> Result<Thinking> {
        let id = |token: &str| {
            tokenizer.token_to_id(token).map(|id| id as i32).ok_or_else(|| {
                Error::Argument(format!(
                    "formatAfterThinking needs a model with the tokens <think> and </think>; this one has no {token}"
                ))
            })
        };
        let mut breaks = Vec::new();
        for text in ["\n", "\n\n"] {
            if let [id] = tokenizer.encode(text, false)?[..] {
                breaks.push(id as i32);
            }
        }
        Ok(Thinking { open: id("<think>")?, close: id("</think>")?, breaks })
    }

    /// With the stage that a row begins at after `prompt`: templates open the thinking, or close it for a model that is not to think.
    /// `None` where it is over.
    pub fn after(&self, prompt: &[i32], tokenizer: &Tokenizer) -> Result<Option<(Thinking, Stage)>> {
        let mut last = None;
        for &id in prompt.iter().rev() {
            let text = tokenizer.decode(&[id as u32], false)?;
            if !text.trim().is_empty() {
                last = Some(id);
                break;
            }
        }
        Ok(match last {
            Some(id) if id == self.close => None,
            Some(id) if id == self.open => Some((self.clone(), Stage::Inside)),
            _ => Some((self.clone(), Stage::Before)),
        })
    }
}

/// A grammar's mask that waits for the end of the thinking. The text cannot end before.
pub(super) struct ThinkingMask {
    grammar: GrammarMask,
    thinking: Thinking,
    stage: Stage,
    /// The stages that the tokens so far were taken in, and whether the grammar took them.
    taken: Vec<(Stage, bool)>,
    ends: Vec<i32>,
}

impl ThinkingMask {
    pub fn new(grammar: GrammarMask, thinking: Thinking, stage: Stage, ends: Vec<i32>) -> ThinkingMask {
        ThinkingMask { grammar, thinking, stage, taken: Vec::new(), ends }
    }
}

fn set(allowed: &mut [bool], id: i32, value: bool) {
    if let Some(slot) = usize::try_from(id).ok().and_then(|id| allowed.get_mut(id)) {
        *slot = value;
    }
}

impl TokenMask for ThinkingMask {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<()> {
        let also: &[i32] = match self.stage {
            Stage::Inside => {
                for &id in &self.ends {
                    set(allowed, id, false);
                }
                return Ok(());
            }
            Stage::Before => &[self.thinking.open],
            Stage::Behind => &self.thinking.breaks,
            Stage::Answer => &[],
        };
        self.grammar.mask(allowed)?;
        for &id in also {
            set(allowed, id, true);
        }
        Ok(())
    }

    fn accept(&mut self, token: i32) -> Result<()> {
        let (next, of_grammar) = match self.stage {
            Stage::Before if token == self.thinking.open => (Stage::Inside, false),
            Stage::Inside if token == self.thinking.close => (Stage::Behind, false),
            Stage::Inside => (Stage::Inside, false),
            Stage::Behind if self.thinking.breaks.contains(&token) => (Stage::Answer, false),
            Stage::Before | Stage::Behind | Stage::Answer => (Stage::Answer, true),
        };
        if of_grammar {
            self.grammar.accept(token)?;
        }
        self.taken.push((self.stage, of_grammar));
        self.stage = next;
        Ok(())
    }

    fn reversible(&self) -> bool {
        self.grammar.reversible()
    }

    fn rollback(&mut self, count: usize) -> Result<()> {
        let kept = self.taken.len().checked_sub(count);
        let kept = kept.ok_or_else(|| Error::Internal(format!("{count} tokens taken back of {}", self.taken.len())))?;
        let back = self.taken.split_off(kept);
        self.grammar.rollback(back.iter().filter(|(_, of_grammar)| *of_grammar).count())?;
        if let Some((stage, _)) = back.first() {
            self.stage = *stage;
        }
        Ok(())
    }

    fn forced(&mut self) -> Vec<i32> {
        if self.stage == Stage::Answer { self.grammar.forced() } else { Vec::new() }
    }
}
