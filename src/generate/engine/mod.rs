//! Continuous batching: requests join and leave the batch between any two steps.
//!
//! A prompt is read in chunks that alternate with decoding steps, once for all its samples. A step's tokens feed the next step on the
//! device, which is started before the host reads them. A row that joins takes the slot of one that has finished, so that nobody
//! else's cache moves. What goes wrong with one request ends that request only.

mod batch;
mod event;
mod lanes;
mod mask;
mod prefill;
mod prefixes;
mod request;
mod row;
mod scheduler;
mod stop;

pub use batch::{Batch, BatchOutput, BatchRow, Progress};
pub use event::{Event, Summary};
pub use mask::TokenMask;
pub(super) use prefixes::Prefixes;
pub use request::{EngineOptions, FinishReason, Request, RequestId, RequestOptions};
pub(super) use row::{Row, Shared};
pub use scheduler::{Engine, Stats, Step, ToProcess};
pub use stop::TextOutput;

#[cfg(test)]
mod cache_tests;
#[cfg(test)]
mod tests;
