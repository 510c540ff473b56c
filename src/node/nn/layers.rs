//! Layers over the last axis, and attention.

use napi_derive::napi;

use super::{ArrayHandle, RandomKey, integer, optional};
use crate::mlx::fast::Mask;
use crate::mlx::{Array, Error, kernels};
use crate::nn::{self, Embedding, Linear, Lora, Recurrent, RmsNorm};
use crate::node::error as js;

/// `x Wᵀ + b` with a weight `[out, in]`.
#[napi(namespace = "nn", catch_unwind)]
pub fn linear(x: ArrayHandle, weight: ArrayHandle, bias: Option<ArrayHandle>) -> js::Result<ArrayHandle> {
    Ok(Linear { weight: Array::clone(&weight).into(), bias: optional(&bias).cloned(), lora: None }.forward(&x)?.into())
}

fn lora_of(a: &Array, b: &Array, scale: f64) -> Lora {
    Lora::of(a.clone(), b.clone(), scale as f32)
}

/// A linear layer's output `y` of `x`, corrected by `scale · x Aᵀ Bᵀ`, with factors `[rank, in]` and `[out, rank]`.
#[napi(namespace = "nn", catch_unwind)]
pub fn lora_correct(
    x: ArrayHandle,
    y: ArrayHandle,
    lora_a: ArrayHandle,
    lora_b: ArrayHandle,
    scale: f64,
) -> js::Result<ArrayHandle> {
    Ok(lora_of(&lora_a, &lora_b, scale).correct(&x, &y)?.into())
}

/// `weight + scale · B A`.
#[napi(namespace = "nn", catch_unwind)]
pub fn lora_merge(weight: ArrayHandle, lora_a: ArrayHandle, lora_b: ArrayHandle, scale: f64) -> js::Result<ArrayHandle> {
    Ok(lora_of(&lora_a, &lora_b, scale).merge(&weight)?.into())
}

/// The rows of `weight` that `indices` name.
#[napi(namespace = "nn", catch_unwind)]
pub fn embedding(indices: ArrayHandle, weight: ArrayHandle) -> js::Result<ArrayHandle> {
    if indices.dtype().is_float() {
        return Err(Error::Dtype(format!("an embedding is indexed by integers, not {}", indices.dtype().name())).into());
    }
    let rows = weight.shape().first().copied().unwrap_or(0);
    Ok(Embedding { weight: Array::clone(&weight).into(), lora: None }.forward(&indices.bounded(rows, 1)?)?.into())
}

/// `x1 Wᵢ x2 + bᵢ` for each output `i`.
#[napi(namespace = "nn", catch_unwind)]
pub fn bilinear(x1: ArrayHandle, x2: ArrayHandle, weight: ArrayHandle, bias: Option<ArrayHandle>) -> js::Result<ArrayHandle> {
    Ok(nn::bilinear(&x1, &x2, &weight, optional(&bias))?.into())
}

/// `x / √(mean(x²) + eps) · weight` over the last axis.
#[napi(namespace = "nn", catch_unwind)]
pub fn rms_norm(x: ArrayHandle, weight: ArrayHandle, eps: f64) -> js::Result<ArrayHandle> {
    let size = x.shape().last().copied().unwrap_or(0);
    if size == 0 || weight.shape() != [size] {
        return Err(Error::Shape(format!("RMSNorm: a weight {:?} for an input {:?}", weight.shape(), x.shape())).into());
    }
    Ok(RmsNorm { weight: Array::clone(&weight), eps: eps as f32 }.forward(&x)?.into())
}

/// `(x - mean) / √(variance + eps) · weight + bias` over the last axis.
#[napi(namespace = "nn", catch_unwind)]
pub fn layer_norm(x: ArrayHandle, weight: Option<ArrayHandle>, bias: Option<ArrayHandle>, eps: f64) -> js::Result<ArrayHandle> {
    Ok(nn::layer_norm(&x, optional(&weight), optional(&bias), eps as f32)?.into())
}

/// `x` `[N, .., C]` normalised over groups of features and all positions.
#[napi(namespace = "nn", catch_unwind)]
pub fn group_norm(
    x: ArrayHandle,
    groups: f64,
    weight: Option<ArrayHandle>,
    bias: Option<ArrayHandle>,
    eps: f64,
    pytorch_compatible: bool,
) -> js::Result<ArrayHandle> {
    let groups = integer("numGroups", groups)?;
    Ok(nn::group_norm(&x, groups, optional(&weight), optional(&bias), eps as f32, pytorch_compatible)?.into())
}

/// Each feature of each instance normalised over its positions.
#[napi(namespace = "nn", catch_unwind)]
pub fn instance_norm(
    x: ArrayHandle,
    weight: Option<ArrayHandle>,
    bias: Option<ArrayHandle>,
    eps: f64,
) -> js::Result<ArrayHandle> {
    Ok(nn::instance_norm(&x, optional(&weight), optional(&bias), eps as f32)?.into())
}

/// Mean, variance and unbiased variance of each feature of `x` `[N, .., C]`.
#[napi(namespace = "nn", catch_unwind)]
pub fn batch_statistics(x: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
    let found = nn::batch_statistics(&x)?;
    Ok(vec![found.mean.into(), found.variance.into(), found.unbiased.into()])
}

/// `(x - mean) / √(variance + eps) · weight + bias`.
#[napi(namespace = "nn", catch_unwind)]
pub fn batch_norm(
    x: ArrayHandle,
    mean: ArrayHandle,
    variance: ArrayHandle,
    weight: Option<ArrayHandle>,
    bias: Option<ArrayHandle>,
    eps: f64,
) -> js::Result<ArrayHandle> {
    Ok(nn::batch_norm(&x, &mean, &variance, optional(&weight), optional(&bias), eps as f32)?.into())
}

/// Each element 0 with probability `p`, else divided by `1 - p`; a mask of another shape is broadcast.
#[napi(namespace = "nn", catch_unwind)]
pub fn dropout(x: ArrayHandle, p: f64, key: RandomKey) -> js::Result<ArrayHandle> {
    Ok(nn::dropout(&x, p as f32, &key)?.into())
}

/// Attention of queries `[B, H, T, D]` over keys and values `[B, Hkv, K, D]`, as `[B, T, H, D]`. The mask is boolean (true = visible) or
/// additive.
#[napi(namespace = "nn", catch_unwind)]
pub fn attention(
    queries: ArrayHandle,
    keys: ArrayHandle,
    values: ArrayHandle,
    scale: f64,
    causal: bool,
    mask: Option<ArrayHandle>,
) -> js::Result<ArrayHandle> {
    let mask = match optional(&mask) {
        Some(mask) => Mask::Array(mask),
        None if causal => Mask::Causal,
        None => Mask::None,
    };
    Ok(kernels::attention(&queries, &keys, &values, scale as f32, mask)?.into())
}

/// The input's part of a recurrent layer at each time.
#[napi(namespace = "nn", catch_unwind)]
pub fn recurrent_inputs(x: ArrayHandle, weight: ArrayHandle, bias: Option<ArrayHandle>) -> js::Result<Vec<ArrayHandle>> {
    Ok(nn::recurrent_inputs(&x, &weight, optional(&bias))?.into_iter().map(Into::into).collect())
}

/// The hidden states of a gated recurrent unit.
#[napi(namespace = "nn", catch_unwind)]
pub fn gru(
    x: ArrayHandle,
    input_weight: ArrayHandle,
    hidden_weight: ArrayHandle,
    bias: Option<ArrayHandle>,
    new_bias: Option<ArrayHandle>,
    hidden: Option<ArrayHandle>,
) -> js::Result<ArrayHandle> {
    let weights = Recurrent { input: &input_weight, hidden: &hidden_weight, bias: optional(&bias) };
    Ok(nn::gru(&x, &weights, optional(&new_bias), optional(&hidden))?.into())
}

/// The hidden states and the cells of a long short-term memory.
#[napi(namespace = "nn", catch_unwind)]
pub fn lstm(
    x: ArrayHandle,
    input_weight: ArrayHandle,
    hidden_weight: ArrayHandle,
    bias: Option<ArrayHandle>,
    hidden: Option<ArrayHandle>,
    cell: Option<ArrayHandle>,
) -> js::Result<Vec<ArrayHandle>> {
    let weights = Recurrent { input: &input_weight, hidden: &hidden_weight, bias: optional(&bias) };
    let (states, cells) = nn::lstm(&x, &weights, optional(&hidden), optional(&cell))?;
    Ok(vec![states.into(), cells.into()])
}
