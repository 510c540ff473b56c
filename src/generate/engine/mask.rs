//! The tokens that a row may take next, as a grammar decides.

use crate::mlx::{Error, Result};

/// Constrains one row. A batch that has such a row waits for each step's tokens before it samples the next.
pub trait TokenMask: Send {
    /// Sets to false the tokens that may not come next. `allowed` has one entry for each id of the vocabulary, all true at first; one
    /// at least must stay. An error ends the row's request.
    fn mask(&mut self, allowed: &mut [bool]) -> Result<()>;

    /// Takes the token that was sampled. An error ends the row's request.
    fn accept(&mut self, token: i32) -> Result<()>;

    /// Whether tokens can be taken back: guesses are followed before it is known whether they are right.
    fn reversible(&self) -> bool {
        false
    }

    /// Takes back the last `count` tokens that were accepted. Asked only where it is `reversible`.
    fn rollback(&mut self, count: usize) -> Result<()> {
        Err(Error::Internal(format!("{count} tokens of a mask that cannot go back")))
    }

    /// Tokens that spell what must come next as the tokenizer would, where there is no choice about the text; the mask may allow other
    /// tokens for the same text. They are not taken yet.
    fn forced(&mut self) -> Vec<i32> {
        Vec::new()
    }
}
