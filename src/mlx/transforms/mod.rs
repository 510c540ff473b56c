//! Function transforms. A Rust closure becomes an MLX function; its error or panic comes back as the transform's error.
//!
//! Any thread may transform, and may read values while it does: see `traversal`.
//!
//! What MLX keeps of a closure. `value_and_grad`, `vjp`, `jvp` and `vmap` are done with it when they return. `checkpoint` and
//! `custom_vjp` put it into the graph, and MLX drops it with the last array that comes from it, on whatever thread that happens:
//! usually the owner, which detaches graphs as it evaluates them. Their closures are therefore `Send + 'static`, and one that holds
//! something of a thread of its own (a JavaScript function) must hand that back to the thread when it is dropped.

mod closure;
mod compile;
mod custom;
mod grad;
mod traversal;
mod vmap;

pub use compile::{Compiled, compile_available, compiled, set_compile_enabled};
pub use custom::{checkpoint, custom_vjp};
pub use grad::{jvp, value_and_grad, vjp};
pub(crate) use traversal::{Inherited, alone, if_alone, in_trace, retaining};
pub use vmap::vmap;

use super::array::ArrayVec;
use super::error::check;
use super::{Array, Result};

/// The same arrays, computed only after `dependencies` have been: bounds how much of a wide graph is in memory at once.
pub fn depends<A: std::borrow::Borrow<Array>>(inputs: &[Array], dependencies: &[A]) -> Result<Vec<Array>> {
    // MLX reads the first of both.
    if inputs.is_empty() || dependencies.is_empty() {
        return Ok(inputs.to_vec());
    }
    let (inputs, dependencies) = (ArrayVec::new(inputs), ArrayVec::new(dependencies));
    let mut outputs = ArrayVec::empty();
    // SAFETY: valid handles.
    check(unsafe { mlx_sys::mlx_depends(&mut outputs.0, inputs.0, dependencies.0) })?;
    outputs.to_arrays()
}

#[cfg(test)]
mod tests;
