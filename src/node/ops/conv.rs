//! Convolutions: inputs `[N, .., C_in]`, weights `[C_out, .., C_in / groups]`, with one to three spatial axes between.

// napi does not look behind an alias when it writes the declarations.
#![allow(clippy::type_complexity)]

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, integer, integer_or, integers};
use crate::mlx::ops::{self, ConvOptions};
use crate::mlx::{Array, Error, Result};
use crate::node::error as js;

/// One number for all spatial axes, or one each; `default` when not given.
fn each(what: &str, value: Option<Either<f64, Vec<f64>>>, default: i32, spatial: usize) -> Result<Vec<i32>> {
    match value {
        None => Ok(vec![default; spatial]),
        Some(Either::A(one)) => Ok(vec![integer(what, one)?; spatial]),
        Some(Either::B(list)) => integers(what, &list),
    }
}

/// The input of a convolution with this many spatial axes.
fn check_spatial(op: &str, input: &Array, spatial: usize) -> Result<()> {
    if input.ndim() == spatial + 2 {
        return Ok(());
    }
    let axes = ["L", "H, W", "D, H, W"][spatial - 1];
    Err(Error::Shape(format!("{op}: an input [N, {axes}, C] is needed, got shape {:?}", input.shape())))
}

/// Of `conv1d`, `conv2d` and `conv3d`: a number for all spatial axes, or one each.
#[napi(object, object_to_js = false)]
pub struct ConvolutionOptions {
    /// Steps between windows, 1.
    pub stride: Option<Either<f64, Vec<f64>>>,
    /// Zeros on both sides of each axis, 0.
    pub padding: Option<Either<f64, Vec<f64>>>,
    /// Steps between elements of the kernel, 1.
    pub dilation: Option<Either<f64, Vec<f64>>>,
    /// Groups of channels that do not see each other, 1.
    pub groups: Option<f64>,
}

fn convolution(op: &str, spatial: usize, input: &Array, weight: &Array, options: ConvolutionOptions) -> Result<Array> {
    check_spatial(op, input, spatial)?;
    let stride = each("stride", options.stride, 1, spatial)?;
    let padding = each("padding", options.padding, 0, spatial)?;
    let dilation = each("dilation", options.dilation, 1, spatial)?;
    ops::conv(input, weight, &stride, &padding, &dilation, integer_or("groups", options.groups, 1)?)
}

/// Convolution of `[N, L, C_in]` with `[C_out, K, C_in / groups]` to `[N, L', C_out]`.
#[napi(namespace = "ops", js_name = "conv1d", catch_unwind)]
pub fn conv1d(input: ArrayHandle, weight: ArrayHandle, options: ConvolutionOptions) -> js::Result<ArrayHandle> {
    Ok(convolution("conv1d", 1, &input, &weight, options)?.into())
}

/// Convolution of `[N, H, W, C_in]` with `[C_out, KH, KW, C_in / groups]` to `[N, H', W', C_out]`.
#[napi(namespace = "ops", js_name = "conv2d", catch_unwind)]
pub fn conv2d(input: ArrayHandle, weight: ArrayHandle, options: ConvolutionOptions) -> js::Result<ArrayHandle> {
    Ok(convolution("conv2d", 2, &input, &weight, options)?.into())
}

/// Convolution of `[N, D, H, W, C_in]` with `[C_out, KD, KH, KW, C_in / groups]` to `[N, D', H', W', C_out]`.
#[napi(namespace = "ops", js_name = "conv3d", catch_unwind)]
pub fn conv3d(input: ArrayHandle, weight: ArrayHandle, options: ConvolutionOptions) -> js::Result<ArrayHandle> {
    Ok(convolution("conv3d", 3, &input, &weight, options)?.into())
}

/// Of `convTranspose1d`, `convTranspose2d` and `convTranspose3d`: a number for all spatial axes, or one each.
#[napi(object, object_to_js = false)]
pub struct ConvTransposeOptions {
    /// Steps between windows, 1.
    pub stride: Option<Either<f64, Vec<f64>>>,
    /// Zeros on both sides that the convolution had, 0.
    pub padding: Option<Either<f64, Vec<f64>>>,
    /// Steps between elements of the kernel, 1.
    pub dilation: Option<Either<f64, Vec<f64>>>,
    /// Elements more at the end of each axis, 0.
    pub output_padding: Option<Either<f64, Vec<f64>>>,
    /// Groups of channels that do not see each other, 1.
    pub groups: Option<f64>,
}

fn transposed(op: &str, spatial: usize, input: &Array, weight: &Array, options: ConvTransposeOptions) -> Result<Array> {
    check_spatial(op, input, spatial)?;
    let stride = each("stride", options.stride, 1, spatial)?;
    let padding = each("padding", options.padding, 0, spatial)?;
    let dilation = each("dilation", options.dilation, 1, spatial)?;
    let output_padding = each("outputPadding", options.output_padding, 0, spatial)?;
    let groups = integer_or("groups", options.groups, 1)?;
    ops::conv_transpose(input, weight, &stride, &padding, &dilation, &output_padding, groups)
}

/// The gradient of `conv1d` with respect to its input: `[N, L, C_in]` and `[C_out, K, C_in / groups]` to `[N, L', C_out]`.
#[napi(namespace = "ops", js_name = "convTranspose1d", catch_unwind)]
pub fn conv_transpose1d(input: ArrayHandle, weight: ArrayHandle, options: ConvTransposeOptions) -> js::Result<ArrayHandle> {
    Ok(transposed("convTranspose1d", 1, &input, &weight, options)?.into())
}

/// The gradient of `conv2d` with respect to its input: `[N, H, W, C_in]` to `[N, H', W', C_out]`.
#[napi(namespace = "ops", js_name = "convTranspose2d", catch_unwind)]
pub fn conv_transpose2d(input: ArrayHandle, weight: ArrayHandle, options: ConvTransposeOptions) -> js::Result<ArrayHandle> {
    Ok(transposed("convTranspose2d", 2, &input, &weight, options)?.into())
}

/// The gradient of `conv3d` with respect to its input: `[N, D, H, W, C_in]` to `[N, D', H', W', C_out]`.
#[napi(namespace = "ops", js_name = "convTranspose3d", catch_unwind)]
pub fn conv_transpose3d(input: ArrayHandle, weight: ArrayHandle, options: ConvTransposeOptions) -> js::Result<ArrayHandle> {
    Ok(transposed("convTranspose3d", 3, &input, &weight, options)?.into())
}

/// Of `convGeneral`: a number for all spatial axes, or one each.
#[napi(object, object_to_js = false)]
pub struct ConvGeneralOptions {
    /// Steps between windows, 1.
    pub stride: Option<Either<f64, Vec<f64>>>,
    /// Zeros on both sides of each axis, 0; two lists stand for those before and those after.
    pub padding: Option<Either<f64, Vec<Either<f64, Vec<f64>>>>>,
    /// Steps between elements of the kernel, 1.
    pub kernel_dilation: Option<Either<f64, Vec<f64>>>,
    /// Steps between elements of the input, 1: more puts zeros between.
    pub input_dilation: Option<Either<f64, Vec<f64>>>,
    /// Groups of channels that do not see each other, 1.
    pub groups: Option<f64>,
    /// Whether the kernel is flipped: a convolution in the mathematical sense.
    pub flip: Option<bool>,
}

type Paddings = Either<f64, Vec<Either<f64, Vec<f64>>>>;

/// Zeros before and after, per spatial axis.
fn paddings(value: Option<Paddings>, spatial: usize) -> Result<(Vec<i32>, Vec<i32>)> {
    let both = |value| each("padding", value, 0, spatial).map(|list| (list.clone(), list));
    let list = match value {
        None => return both(None),
        Some(Either::A(one)) => return both(Some(Either::A(one))),
        Some(Either::B(list)) => list,
    };
    if let [Either::B(low), Either::B(high)] = &list[..] {
        return Ok((integers("padding", low)?, integers("padding", high)?));
    }
    let numbers = list.into_iter().map(|entry| match entry {
        Either::A(number) => Ok(number),
        Either::B(_) => Err(Error::Argument("convGeneral: padding is a number, a list of numbers or two lists of them".into())),
    });
    both(Some(Either::B(numbers.collect::<Result<_>>()?)))
}

/// Convolution with everything that can vary: `[N, .., C_in]` and `[C_out, .., C_in / groups]` to `[N, .., C_out]`.
#[napi(namespace = "ops", catch_unwind)]
pub fn conv_general(input: ArrayHandle, weight: ArrayHandle, options: ConvGeneralOptions) -> js::Result<ArrayHandle> {
    let spatial = input.ndim().saturating_sub(2);
    let (padding_low, padding_high) = paddings(options.padding, spatial)?;
    let options = ConvOptions {
        stride: each("stride", options.stride, 1, spatial)?,
        padding_low,
        padding_high,
        kernel_dilation: each("kernelDilation", options.kernel_dilation, 1, spatial)?,
        input_dilation: each("inputDilation", options.input_dilation, 1, spatial)?,
        groups: integer_or("groups", options.groups, 1)?,
        flip: options.flip.unwrap_or(false),
    };
    Ok(ops::conv_general(&input, &weight, &options)?.into())
}

/// The discrete convolution of two floating vectors, as NumPy's. `mode` is `full` (default: where they overlap at all), `valid` (where they
/// overlap fully) or `same` (the middle of `full`, as long as the longer one).
#[napi(namespace = "ops", catch_unwind)]
pub fn convolve(a: ArrayHandle, v: ArrayHandle, mode: Option<String>) -> js::Result<ArrayHandle> {
    Ok(ops::convolve(&a, &v, mode.as_deref().unwrap_or("full"))?.into())
}
