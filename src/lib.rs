//! MLX for Node.js: arrays, Qwen models and GRPO in Rust. `node/` is the JavaScript binding; everything else is plain Rust.

pub mod cache;
pub mod generate;
pub mod mlx;
pub mod models;
pub mod nn;
#[cfg(feature = "node")]
mod node;
pub mod optim;
pub mod options;
pub mod rl;
pub mod runtime;
pub mod text;

#[cfg(test)]
mod testing;
