//! Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685), laid out and initialised as PEFT does.

use crate::mlx::{Array, Dtype, Result, ops, random};

/// Two factors whose product is added to a frozen weight. They are float32 whatever the weight's dtype: the small steps of
/// an optimizer would be lost in half precision.
#[derive(Clone)]
pub struct Lora {
    /// `[rank, in]`
    pub a: Array,
    /// `[out, rank]`
    pub b: Array,
    pub scale: f32,
    /// Off: the layer behaves as if there were no adapter.
    pub enabled: bool,
}

impl Lora {
    /// `a` uniform within ±1/√in (Kaiming's bound for a slope of √5), `b` zero: at first the layer is unchanged.
    pub fn new(inputs: i32, outputs: i32, rank: i32, scale: f32, key: &Array) -> Result<Self> {
        let bound = 1.0 / (inputs as f32).sqrt();
        Ok(Lora {
            a: random::uniform(-bound, bound, &[rank, inputs], Dtype::Float32, key)?,
            b: ops::zeros(&[outputs, rank], Dtype::Float32)?,
            scale,
            enabled: true,
        })
    }

    /// `y + scale · x Aᵀ Bᵀ`, added in float32 and returned in the dtype of `y`.
    pub fn correct(&self, x: &Array, y: &Array) -> Result<Array> {
        let low = x.astype(self.a.dtype())?.matmul(&self.a.t()?)?;
        let correction = low.matmul(&self.b.t()?)?.multiply_scalar(self.scale)?;
        y.astype(correction.dtype())?.add(&correction)?.astype(y.dtype())
    }

    /// `weight + scale · B A`, added in float32 and returned in the weight's dtype.
    pub fn merge(&self, weight: &Array) -> Result<Array> {
        let delta = self.b.matmul(&self.a)?.multiply_scalar(self.scale)?;
        weight.astype(delta.dtype())?.add(&delta)?.astype(weight.dtype())
    }
}
