//! The gated feed-forward block (SwiGLU, Shazeer 2020, arXiv:2002.05202).

use super::{Linear, module_of};
use crate::mlx::{Array, Dtype, Result, kernels};

/// `down(silu(gate(x)) · up(x))`, without biases.
#[derive(Clone)]
pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

impl Mlp {
    pub fn new(hidden: i32, intermediate: i32, dtype: Dtype) -> Result<Self> {
        Ok(Mlp {
            gate_proj: Linear::new(hidden, intermediate, false, dtype)?,
            up_proj: Linear::new(hidden, intermediate, false, dtype)?,
            down_proj: Linear::new(intermediate, hidden, false, dtype)?,
        })
    }

    pub fn forward(&self, x: &Array) -> Result<Array> {
        self.down_proj.forward(&self.gated(x)?)
    }

    /// `silu(gate(x)) · up(x)`, the input of the last projection.
    pub fn gated(&self, x: &Array) -> Result<Array> {
        kernels::swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)
    }
}

module_of!(Mlp: gate_proj, up_proj, down_proj);
