//! Text generation: sampling on the device, and the batched decoding loop behind `generate`, `stream` and `generateBatch`.

mod decoder;
mod sampler;

pub use decoder::{BatchOutput, Decoder, FinishReason, GenerateOptions, Progress, Row};
pub use sampler::*;

#[cfg(test)]
mod tests;
