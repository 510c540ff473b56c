//! What a model remembers of the tokens it has read.

mod kv;

pub use kv::KvCache;

#[cfg(test)]
mod tests;
