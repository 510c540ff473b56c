//! Convolutions. Inputs are channels-last `[N, .., C_in]`, weights `[C_out, .., C_in / groups]`, with one to three spatial axes.

use mlx_sys as sys;

use super::check;
use crate::mlx::array::output;
use crate::mlx::{Array, Error, Result, stream};

/// Strides and so on of a convolution, one entry per spatial axis.
#[derive(Clone, Debug)]
pub struct ConvOptions {
    pub stride: Vec<i32>,
    pub padding_low: Vec<i32>,
    pub padding_high: Vec<i32>,
    pub kernel_dilation: Vec<i32>,
    /// Zeros put between input elements: 1 means none.
    pub input_dilation: Vec<i32>,
    pub groups: i32,
    /// Whether the kernel is flipped: a convolution in the mathematical sense.
    pub flip: bool,
}

impl ConvOptions {
    /// Stride 1, no padding, no dilation, one group.
    pub fn new(spatial: usize) -> ConvOptions {
        ConvOptions {
            stride: vec![1; spatial],
            padding_low: vec![0; spatial],
            padding_high: vec![0; spatial],
            kernel_dilation: vec![1; spatial],
            input_dilation: vec![1; spatial],
            groups: 1,
            flip: false,
        }
    }
}

/// The spatial rank, after checking dtypes, ranks and channels.
fn check_operands(op: &str, input: &Array, weight: &Array, groups: i32) -> Result<usize> {
    check::float(op, "the input", input)?;
    check::float(op, "the weight", weight)?;
    check::at_least(op, "groups", groups, 1)?;
    let (x, w) = (input.shape(), weight.shape());
    if x.len() != w.len() || !(3..=5).contains(&x.len()) {
        return Err(Error::Shape(format!("{op}: input {x:?} and weight {w:?} must both have 3 to 5 dimensions")));
    }
    let (channels, per_group) = (x[x.len() - 1], w[w.len() - 1]);
    if i64::from(channels) != i64::from(per_group) * i64::from(groups) || w[0] % groups != 0 {
        return Err(Error::Shape(format!("{op}: input {x:?} and weight {w:?} do not fit {groups} groups")));
    }
    if x.contains(&0) || w.contains(&0) {
        return Err(Error::Shape(format!("{op}: input {x:?} or weight {w:?} has no elements")));
    }
    Ok(x.len() - 2)
}

/// Convolution with everything that MLX can vary. The result is `[N, .., C_out]`.
pub fn conv_general(input: &Array, weight: &Array, options: &ConvOptions) -> Result<Array> {
    let spatial = check_operands("conv", input, weight, options.groups)?;
    let lists = [
        ("strides", &options.stride, 1),
        ("low paddings", &options.padding_low, 0),
        ("high paddings", &options.padding_high, 0),
        ("kernel dilations", &options.kernel_dilation, 1),
        ("input dilations", &options.input_dilation, 1),
    ];
    for (what, list, low) in lists {
        check::length("conv", what, list.len(), spatial)?;
        list.iter().try_for_each(|&value| check::at_least("conv", &format!("each of the {what}"), value, low))?;
    }
    let mut shape = vec![i64::from(input.dim(0))];
    for axis in 0..spatial {
        let (size, kernel) = (i64::from(input.shape()[axis + 1]), i64::from(weight.shape()[axis + 1]));
        let spread = (size - 1) * i64::from(options.input_dilation[axis]) + 1;
        let padded = spread + i64::from(options.padding_low[axis]) + i64::from(options.padding_high[axis]);
        let reach = (kernel - 1) * i64::from(options.kernel_dilation[axis]) + 1;
        if padded < reach {
            return Err(Error::Shape(format!(
                "conv: a kernel that reaches over {reach} elements does not fit {padded} on spatial axis {axis}"
            )));
        }
        check::size("conv", padded)?;
        check::size("conv", reach)?;
        shape.push((padded - reach) / i64::from(options.stride[axis]) + 1);
    }
    let shape = shape.into_iter().map(|size| check::size("conv", size)).collect::<Result<Vec<_>>>()?;
    crate::mlx::element_count(&[&shape[..], &[weight.dim(0)]].concat())?;
    // SAFETY: the lists live during the call and have one entry per spatial axis.
    output(|result| unsafe {
        sys::mlx_conv_general(
            result,
            input.0,
            weight.0,
            options.stride.as_ptr(),
            spatial,
            options.padding_low.as_ptr(),
            spatial,
            options.padding_high.as_ptr(),
            spatial,
            options.kernel_dilation.as_ptr(),
            spatial,
            options.input_dilation.as_ptr(),
            spatial,
            options.groups,
            options.flip,
            stream::current(),
        )
    })
}

/// Convolution over `stride.len()` spatial axes with the same padding on both sides.
pub fn conv(input: &Array, weight: &Array, stride: &[i32], padding: &[i32], dilation: &[i32], groups: i32) -> Result<Array> {
    check::min_ndim("conv", input, 2)?;
    let spatial = input.ndim() - 2;
    let options = ConvOptions {
        stride: stride.to_vec(),
        padding_low: padding.to_vec(),
        padding_high: padding.to_vec(),
        kernel_dilation: dilation.to_vec(),
        groups,
        ..ConvOptions::new(spatial)
    };
    conv_general(input, weight, &options)
}

/// Transposed convolution, the gradient of a convolution with respect to its input; `output_padding` adds elements at the end of
/// each spatial axis. The result's sizes are `(n - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1`.
pub fn conv_transpose(
    input: &Array,
    weight: &Array,
    stride: &[i32],
    padding: &[i32],
    dilation: &[i32],
    output_padding: &[i32],
    groups: i32,
) -> Result<Array> {
    let op = "conv_transpose";
    let spatial = check_operands(op, input, weight, groups)?;
    let lists =
        [("strides", stride, 1), ("paddings", padding, 0), ("dilations", dilation, 1), ("output paddings", output_padding, 0)];
    for (what, list, low) in lists {
        check::length(op, what, list.len(), spatial)?;
        list.iter().try_for_each(|&value| check::at_least(op, &format!("each of the {what}"), value, low))?;
    }
    let mut shape = vec![input.dim(0)];
    for axis in 0..spatial {
        let (size, kernel) = (i64::from(input.shape()[axis + 1]), i64::from(weight.shape()[axis + 1]));
        let spread = (size - 1) * i64::from(stride[axis]);
        let reach = (kernel - 1) * i64::from(dilation[axis]);
        let size = spread + reach + 1 + i64::from(output_padding[axis]);
        check::size(op, size + reach)?;
        let size = size - 2 * i64::from(padding[axis]);
        if size < 1 {
            return Err(Error::Shape(format!("{op}: spatial axis {axis} of the result would have size {size}")));
        }
        shape.push(check::size(op, size)?);
    }
    crate::mlx::element_count(&[&shape[..], &[weight.dim(0)]].concat())?;
    let (s, p, d, o) = (stride, padding, dilation, output_padding);
    // SAFETY: valid handles; the lists have one entry per spatial axis.
    output(|result| unsafe {
        match s.len() {
            1 => sys::mlx_conv_transpose1d(result, input.0, weight.0, s[0], p[0], d[0], o[0], groups, stream::current()),
            2 => sys::mlx_conv_transpose2d(
                result,
                input.0,
                weight.0,
                s[0],
                s[1],
                p[0],
                p[1],
                d[0],
                d[1],
                o[0],
                o[1],
                groups,
                stream::current(),
            ),
            _ => sys::mlx_conv_transpose3d(
                result,
                input.0,
                weight.0,
                s[0],
                s[1],
                s[2],
                p[0],
                p[1],
                p[2],
                d[0],
                d[1],
                d[2],
                o[0],
                o[1],
                o[2],
                groups,
                stream::current(),
            ),
        }
    })
}

/// The discrete convolution of two vectors, as NumPy's: `full`, where they overlap at all; `valid`, where they overlap fully; `same`, the
/// middle of `full`, as long as the longer vector.
pub fn convolve(a: &Array, v: &Array, mode: &str) -> Result<Array> {
    check::one_of("convolve", "mode", mode, &["full", "valid", "same"])?;
    if a.ndim() != 1 || v.ndim() != 1 {
        return Err(Error::Shape(format!("convolve: two vectors are needed, got shapes {:?} and {:?}", a.shape(), v.shape())));
    }
    let (long, short) = if a.size() < v.size() { (v, a) } else { (a, v) };
    let reach = check::size("convolve", short.size() as i64)? - 1;
    let (low, high) = match mode {
        "full" => (reach, reach),
        "same" => ((reach + 1) / 2, reach / 2),
        _ => (0, 0),
    };
    let options = ConvOptions { padding_low: vec![low], padding_high: vec![high], flip: true, ..ConvOptions::new(1) };
    conv_general(&long.reshape(&[1, -1, 1])?, &short.reshape(&[1, -1, 1])?, &options)?.flatten()
}
