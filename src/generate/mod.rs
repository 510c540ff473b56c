//! Text generation: sampling on the device, and the engine behind `generate`, `stream` and `generateBatch`.

mod engine;
mod sampler;

pub use engine::*;
pub use sampler::*;

#[cfg(test)]
mod tests;
