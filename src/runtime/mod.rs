//! The owner thread: the one thread of the process that evaluates, differentiates and trains.

mod cancel;
mod owner;

pub use cancel::Cancel;
pub(crate) use owner::panic_error;
pub use owner::{Job, Poll, block_on_owner, busy, is_owner, shut_down, spawn, spawn_once};
