//! What calibration keeps of a layer's inputs: their second moments, not the inputs.

use crate::mlx::{Array, Dtype, Result, eval, ops};

/// Sums over inputs `x` of `x xᵀ` and `|x|`. The first is half the Hessian of a layer's squared output error, `2 X Xᵀ`: the error of
/// weights that are off by `d` is `d (Σ x xᵀ) dᵀ`, whatever the number of inputs was.
#[derive(Clone)]
pub(super) struct Gram {
    /// float32 `[in, in]`
    pub moments: Array,
    /// float32 `[in]`
    pub magnitudes: Array,
    pub tokens: usize,
}

impl Gram {
    pub fn new(width: i32) -> Result<Self> {
        let zeros = |shape: &[i32]| ops::zeros(shape, Dtype::Float32);
        Ok(Gram { moments: zeros(&[width, width])?, magnitudes: zeros(&[width])?, tokens: 0 })
    }

    /// Of inputs `[.., in]`.
    pub fn of(x: &Array) -> Result<Self> {
        let mut gram = Self::new(x.dim(-1))?;
        gram.add(x)?;
        Ok(gram)
    }

    pub fn add(&mut self, x: &Array) -> Result<()> {
        let x = x.astype(Dtype::Float32)?.reshape(&[-1, x.dim(-1)])?;
        self.moments = ops::addmm(&self.moments, &x.t()?, &x, 1.0, 1.0)?;
        self.magnitudes = self.magnitudes.add(&x.abs()?.sum(&[0], false)?)?;
        self.tokens += x.dim(0) as usize;
        eval(&[&self.moments, &self.magnitudes])
    }

    /// Mean of `|x|`, float32 `[in]`.
    pub fn mean_magnitudes(&self) -> Result<Array> {
        self.magnitudes.divide_scalar(self.tokens.max(1) as f32)
    }

    /// The squared error of the outputs of a weight `[.., out, in]` that is off by `difference`: a lazy float32 scalar.
    pub fn error(&self, difference: &Array) -> Result<Array> {
        let flat = difference.astype(Dtype::Float32)?.reshape(&[-1, difference.dim(-1)])?;
        flat.matmul(&self.moments)?.multiply(&flat)?.sum_all()
    }

    /// The blocks on the diagonal that groups of inputs make: `[in / size, size, size]`.
    pub fn blocks(&self, size: i32) -> Result<Array> {
        let groups = self.moments.dim(0) / size;
        let split = self.moments.reshape(&[groups, size, groups, size])?;
        split.diagonal(0, 0, 2)?.transpose(&[2, 0, 1])?.contiguous()
    }
}
