//! Layers over packed weights, and layers of several experts.

use napi_derive::napi;

use super::{ArrayHandle, integer, integers, optional};
use crate::mlx::ops::{Quantization, QuantizationMode, Quantized};
use crate::mlx::{Array, Result};
use crate::nn;
use crate::node::error as js;

fn quantization(group_size: f64, bits: f64, mode: &str) -> Result<Quantization> {
    let mode = QuantizationMode::parse(mode)?;
    Quantization::new(mode, Some(integer("groupSize", group_size)?), Some(integer("bits", bits)?))
}

fn packed(weight: &Array, scales: &Array, biases: &Option<ArrayHandle>) -> Quantized {
    Quantized { weight: weight.clone(), scales: scales.clone(), biases: optional(biases).cloned() }
}

/// The group size and the bits of a mode: those given, or its usual ones.
#[napi(namespace = "core", catch_unwind)]
pub fn quantization_shape(mode: String, group_size: Option<f64>, bits: Option<f64>) -> js::Result<Vec<i32>> {
    let whole = |what, value: Option<f64>| value.map(|value| integer(what, value)).transpose();
    let how = Quantization::new(QuantizationMode::parse(&mode)?, whole("groupSize", group_size)?, whole("bits", bits)?)?;
    Ok(vec![how.group_size(), how.bits()])
}

/// `x wᵀ + bias` with a packed `w` `[out, in]`.
#[napi(namespace = "nn", catch_unwind)]
#[allow(clippy::too_many_arguments)]
pub fn quantized_linear(
    x: ArrayHandle,
    weight: ArrayHandle,
    scales: ArrayHandle,
    biases: Option<ArrayHandle>,
    bias: Option<ArrayHandle>,
    group_size: f64,
    bits: f64,
    mode: String,
) -> js::Result<ArrayHandle> {
    let how = quantization(group_size, bits, &mode)?;
    Ok(nn::quantized_linear(&x, &packed(&weight, &scales, &biases), optional(&bias), how)?.into())
}

/// Rows of a packed table.
#[napi(namespace = "nn", catch_unwind)]
pub fn quantized_embedding(
    indices: ArrayHandle,
    weight: ArrayHandle,
    scales: ArrayHandle,
    biases: Option<ArrayHandle>,
    group_size: f64,
    bits: f64,
    mode: String,
) -> js::Result<ArrayHandle> {
    let how = quantization(group_size, bits, &mode)?;
    Ok(nn::quantized_embedding(&indices, &packed(&weight, &scales, &biases), how)?.into())
}

/// Rows `[.., 1, in]` with the weights `[experts, out, in]` of the experts at `indices`.
#[napi(namespace = "nn", catch_unwind)]
pub fn switch_linear(
    x: ArrayHandle,
    weight: ArrayHandle,
    bias: Option<ArrayHandle>,
    indices: ArrayHandle,
    sorted: bool,
) -> js::Result<ArrayHandle> {
    Ok(nn::switch_linear(&x, &weight, optional(&bias), &indices, sorted)?.into())
}

/// `switchLinear` with packed weights.
#[napi(namespace = "nn", catch_unwind)]
#[allow(clippy::too_many_arguments)]
pub fn quantized_switch_linear(
    x: ArrayHandle,
    weight: ArrayHandle,
    scales: ArrayHandle,
    biases: Option<ArrayHandle>,
    bias: Option<ArrayHandle>,
    indices: ArrayHandle,
    group_size: f64,
    bits: f64,
    mode: String,
    sorted: bool,
) -> js::Result<ArrayHandle> {
    let how = quantization(group_size, bits, &mode)?;
    let weight = packed(&weight, &scales, &biases);
    Ok(nn::quantized_switch_linear(&x, &weight, optional(&bias), &indices, how, sorted)?.into())
}

/// Whether tokens are sorted by expert where there are this many pairs of both.
#[napi(namespace = "core")]
pub fn sorts_tokens(pairs: f64) -> bool {
    nn::sorts(pairs as usize)
}

/// Tokens `[.., in]` in the order of their experts `[.., k]`: rows `[N · k, 1, in]`, experts, and the place of each pair.
#[napi(namespace = "nn", catch_unwind)]
pub fn sort_tokens(x: ArrayHandle, indices: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
    let sorted = nn::SortedTokens::new(&x, &indices)?;
    Ok(vec![sorted.x.into(), sorted.indices.into(), sorted.places.into()])
}

/// Rows `[N · k, 1, out]` in the order of `sortTokens` to `[.., k, out]` in that of the tokens.
#[napi(namespace = "nn", catch_unwind)]
pub fn restore_tokens(y: ArrayHandle, places: ArrayHandle, shape: Vec<f64>) -> js::Result<ArrayHandle> {
    Ok(nn::restore_tokens(&y, &places, &integers("shape", &shape)?)?.into())
}
