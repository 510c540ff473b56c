//! Text generation: sampling on the device, and the engine behind `generate`, `stream` and `generateBatch`.

mod engine;
mod grammar;
mod sampler;
mod speculative;

pub use engine::*;
pub use grammar::{CompiledGrammar, Grammar, GrammarCompiler, JsonOptions, Matcher, Thinking, Whitespace};
pub use sampler::*;
pub use speculative::{SpeculationOptions, Speculator, speculation_without_processors};
