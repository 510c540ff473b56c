//! Convolutions, channels last, with a bias.

use crate::mlx::{Array, Result, ops};

/// Strides and so on, one number per spatial axis.
#[derive(Clone, Debug)]
pub struct ConvShape<'a> {
    pub stride: &'a [i32],
    pub padding: &'a [i32],
    pub dilation: &'a [i32],
    pub groups: i32,
}

fn biased(y: Array, bias: Option<&Array>) -> Result<Array> {
    bias.map_or(Ok(y.clone()), |bias| y.add(bias))
}

/// `x` `[N, .., C_in]` with a weight `[C_out, .., C_in / groups]` to `[N, .., C_out]`.
pub fn conv(x: &Array, weight: &Array, bias: Option<&Array>, shape: &ConvShape) -> Result<Array> {
    biased(ops::conv(x, weight, shape.stride, shape.padding, shape.dilation, shape.groups)?, bias)
}

/// The transpose of `conv` as a linear map; `output_padding` lengthens the end of each spatial axis.
pub fn conv_transpose(
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    shape: &ConvShape,
    output_padding: &[i32],
) -> Result<Array> {
    biased(ops::conv_transpose(x, weight, shape.stride, shape.padding, shape.dilation, output_padding, shape.groups)?, bias)
}
