//! The gated feed-forward block (SwiGLU, Shazeer 2020, arXiv:2002.05202).

use super::{Linear, join, module_of};
use crate::mlx::{Array, Dtype, Result, kernels};

/// `down(silu(gate(x)) · up(x))`, without biases.
#[derive(Clone)]
pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

impl Mlp {
    /// Its layers by name, below `prefix`.
    pub fn linears_mut(&mut self, prefix: &str) -> Vec<(String, &mut Linear)> {
        vec![
            (join(prefix, "gate_proj"), &mut self.gate_proj),
            (join(prefix, "up_proj"), &mut self.up_proj),
            (join(prefix, "down_proj"), &mut self.down_proj),
        ]
    }

    pub fn new(hidden: i32, intermediate: i32, dtype: Dtype) -> Result<Self> {
        Ok(Mlp {
            gate_proj: Linear::new(hidden, intermediate, false, dtype)?,
            up_proj: Linear::new(hidden, intermediate, false, dtype)?,
            down_proj: Linear::new(intermediate, hidden, false, dtype)?,
        })
    }

    pub fn forward(&self, x: &Array) -> Result<Array> {
        self.down_proj.forward(&kernels::swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?)
    }
}

module_of!(Mlp: gate_proj, up_proj, down_proj);
