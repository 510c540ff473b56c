//! Text generation: sampling on the device, and the engine behind `generate`, `stream` and `generateBatch`.

mod engine;
mod grammar;
mod sampler;

pub use engine::*;
pub use grammar::{CompiledGrammar, Grammar, GrammarCompiler, JsonOptions, Matcher, Whitespace};
pub use sampler::*;

#[cfg(test)]
mod tests;
