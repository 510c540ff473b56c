//! What a model remembers of the tokens it has read.
//!
//! Every kind keeps its keys and values in a [`Store`], as they are or quantised, and says on the host where the next tokens stand and
//! what they see ([`Placement`]): nothing here waits for the device. A failed call leaves a cache as it was.

mod attention;
mod batch;
mod batch_rotating;
pub mod files;
mod kind;
mod kv;
mod options;
mod placement;
mod prefix;
mod rotating;
mod store;

pub use attention::attend;
pub use batch::BatchKvCache;
pub use batch_rotating::BatchRotatingKvCache;
pub use kind::Cache;
pub use kv::KvCache;
pub use options::CacheOptions;
pub use placement::{MaskShape, Offsets, Placement, Sinks, Visible};
pub use prefix::{Owner, PrefixCache, PrefixHit, PrefixOptions, Segment};
pub use rotating::RotatingKvCache;
pub use store::{Fetched, Store};

#[cfg(test)]
mod tests;
