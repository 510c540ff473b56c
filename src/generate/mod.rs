//! Text generation: sampling on the device, and the batched decoding loop behind `generate`, `stream` and `generateBatch`.

mod decoder;
mod sampler;

pub use decoder::{BatchOutput, Decoder, FinishReason, GenerateOptions, Progress, Row};
pub use sampler::{Sampled, Sampler, SamplerOptions, apply_min_p, apply_repetition_penalty, apply_top_k, apply_top_p};

#[cfg(test)]
mod tests;
