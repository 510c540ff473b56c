//! Operations by family. A new operation is one line in a table here (or one function), one binding, one test.

mod create;
mod elementwise;
mod index;
mod matrix;
mod reduction;
mod shape;
mod sort;

pub use create::{arange, full, full_like, linspace, ones, ones_like, tri, zeros, zeros_like};
pub use elementwise::where_;
pub use matrix::{addmm, einsum};
pub use shape::{concatenate, stack};
