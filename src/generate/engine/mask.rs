//! The tokens that a row may take next, as a grammar decides.

use crate::mlx::Result;

/// Constrains one row. A batch that has such a row waits for each step's tokens before it samples the next.
pub trait TokenMask: Send {
    /// Sets to false the tokens that may not come next. `allowed` has one entry for each id of the vocabulary, all true at first; one
    /// at least must stay. An error ends the row's request.
    fn mask(&mut self, allowed: &mut [bool]) -> Result<()>;

    /// Takes the token that was sampled. An error ends the row's request.
    fn accept(&mut self, token: i32) -> Result<()>;
}
