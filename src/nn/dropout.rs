//! Dropout (Srivastava et al. 2014).

use crate::mlx::{Array, Error, Result, ops, random};

/// Each element is 0 with probability `p`, else divided by `1 - p`, so that means stay. Use each key once.
pub fn dropout(x: &Array, p: f32, key: &Array) -> Result<Array> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::Argument(format!("the dropout probability must be in [0, 1), not {p}")));
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    let kept = random::bernoulli(1.0 - p, x.shape(), key)?;
    let scaled = x.multiply_scalar(1.0 / (1.0 - p))?;
    // Not a product: 0 times infinity is NaN.
    ops::where_(&kept, &scaled, &Array::scalar_of(0.0, scaled.dtype())?)
}
