//! Layers over spatial axes.

use napi_derive::napi;

use super::{ArrayHandle, integer, integers, optional};
use crate::nn::{self, ConvShape, Interpolation, Pooling};
use crate::node::error as js;

/// Convolution of `x` `[N, .., C]`.
#[napi(namespace = "nn", catch_unwind)]
pub fn conv(
    x: ArrayHandle,
    weight: ArrayHandle,
    bias: Option<ArrayHandle>,
    stride: Vec<f64>,
    padding: Vec<f64>,
    dilation: Vec<f64>,
    groups: f64,
) -> js::Result<ArrayHandle> {
    let lists = [integers("stride", &stride)?, integers("padding", &padding)?, integers("dilation", &dilation)?];
    let shape = ConvShape { stride: &lists[0], padding: &lists[1], dilation: &lists[2], groups: integer("groups", groups)? };
    Ok(nn::conv(&x, &weight, optional(&bias), &shape)?.into())
}

/// Transposed convolution of `x` `[N, .., C]`.
#[napi(namespace = "nn", catch_unwind)]
pub fn conv_transpose(
    x: ArrayHandle,
    weight: ArrayHandle,
    bias: Option<ArrayHandle>,
    stride: Vec<f64>,
    padding: Vec<f64>,
    dilation: Vec<f64>,
    output_padding: Vec<f64>,
) -> js::Result<ArrayHandle> {
    let lists = [integers("stride", &stride)?, integers("padding", &padding)?, integers("dilation", &dilation)?];
    let shape = ConvShape { stride: &lists[0], padding: &lists[1], dilation: &lists[2], groups: 1 };
    let output_padding = integers("outputPadding", &output_padding)?;
    Ok(nn::conv_transpose(&x, &weight, optional(&bias), &shape, &output_padding)?.into())
}

fn pool(kind: Pooling, x: &ArrayHandle, lists: [&[f64]; 3]) -> js::Result<ArrayHandle> {
    let [kernel, stride, padding] = lists;
    let kernel = integers("kernelSize", kernel)?;
    Ok(nn::pool(kind, x, &kernel, &integers("stride", stride)?, &integers("padding", padding)?)?.into())
}

/// The largest element of each window of `x` `[N, .., C]`.
#[napi(namespace = "nn", catch_unwind)]
pub fn max_pool(x: ArrayHandle, kernel_size: Vec<f64>, stride: Vec<f64>, padding: Vec<f64>) -> js::Result<ArrayHandle> {
    pool(Pooling::Max, &x, [&kernel_size, &stride, &padding])
}

/// The mean of each window of `x` `[N, .., C]`.
#[napi(namespace = "nn", catch_unwind)]
pub fn avg_pool(x: ArrayHandle, kernel_size: Vec<f64>, stride: Vec<f64>, padding: Vec<f64>) -> js::Result<ArrayHandle> {
    pool(Pooling::Average, &x, [&kernel_size, &stride, &padding])
}

/// `x` `[N, .., C]` with each spatial axis multiplied by its factor.
#[napi(
    namespace = "nn",
    ts_args_type = "x: ArrayHandle, scaleFactor: Array<number>, mode: 'nearest' | 'linear' | 'cubic', alignCorners: boolean, antialias: boolean",
    catch_unwind
)]
pub fn upsample(
    x: ArrayHandle,
    scale_factor: Vec<f64>,
    mode: String,
    align_corners: bool,
    antialias: bool,
) -> js::Result<ArrayHandle> {
    Ok(nn::upsample(&x, &scale_factor, Interpolation::parse(&mode)?, align_corners, antialias)?.into())
}
