//! A linear layer of two inputs.

use crate::mlx::{Array, Error, Result};

/// `x1 Wᵢ x2 + bᵢ` for each output `i`, with a weight `[out, in2, in1]`; the inputs agree in all axes but the last.
pub fn bilinear(x1: &Array, x2: &Array, weight: &Array, bias: Option<&Array>) -> Result<Array> {
    let [out, in2, in1] = weight.shape()[..] else {
        return Err(Error::Shape(format!("the weight of a bilinear layer is [out, in2, in1], not {:?}", weight.shape())));
    };
    let leading = |x: &Array| x.shape()[..x.ndim().max(1) - 1].to_vec();
    if x1.ndim() == 0 || x2.ndim() == 0 || leading(x1) != leading(x2) || x1.dim(-1) != in1 || x2.dim(-1) != in2 {
        return Err(Error::Shape(format!(
            "a bilinear layer of {in1} and {in2} features cannot take inputs {:?} and {:?}",
            x1.shape(),
            x2.shape()
        )));
    }
    let y = x1.reshape(&[-1, in1])?.matmul(&weight.reshape(&[out * in2, in1])?.t()?)?;
    let y = y.reshape(&[-1, out, in2])?.swapaxes(-2, -1)?;
    let y = x2.reshape(&[-1, 1, in2])?.matmul(&y)?;
    let y = y.reshape(&[leading(x1), vec![out]].concat())?;
    if let Some(bias) = bias { y.add(bias) } else { Ok(y) }
}
