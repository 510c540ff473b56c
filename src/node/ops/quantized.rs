//! Quantised weights.

use napi_derive::napi;

use super::{ArrayHandle, DtypeName, optional_integer};
use crate::mlx::ops::{self, Quantization, QuantizationMode};
use crate::mlx::{Dtype, Result};
use crate::node::error as js;

/// Mode, group size and bits by name, with MLX's defaults.
pub fn quantization(mode: Option<String>, default: &str, group_size: Option<f64>, bits: Option<f64>) -> Result<Quantization> {
    let mode = QuantizationMode::parse(mode.as_deref().unwrap_or(default))?;
    Quantization::new(mode, optional_integer("groupSize", group_size)?, optional_integer("bits", bits)?)
}

/// Of `quantize`.
#[napi(object, object_to_js = false)]
pub struct QuantizeOptions {
    /// Elements that share a scale: 64 (affine: also 32 and 128), 32 (mxfp4, mxfp8) or 16 (nvfp4).
    pub group_size: Option<f64>,
    /// Bits of an element: 4 (affine: also 2, 3, 5, 6 and 8), 8 for mxfp8.
    pub bits: Option<f64>,
    /// How numbers are coded, `affine` unless named.
    #[napi(ts_type = "'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'")]
    pub mode: Option<String>,
    /// The largest absolute value of the tensor, one number; nvfp4 only.
    pub global_scale: Option<ArrayHandle>,
}

/// A packed weight.
#[napi(object, object_from_js = false)]
pub struct QuantizedWeight {
    /// uint32 `[.., size · bits / 32]`
    pub weight: ArrayHandle,
    /// `[.., size / groupSize]`: the dtype of what was packed for affine, else uint8.
    pub scales: ArrayHandle,
    /// As the scales; affine only.
    pub biases: Option<ArrayHandle>,
}

/// Packs a float matrix (or several) `[.., size]` row by row.
#[napi(namespace = "ops", catch_unwind)]
pub fn quantize(w: ArrayHandle, options: QuantizeOptions) -> js::Result<QuantizedWeight> {
    let how = quantization(options.mode, "affine", options.group_size, options.bits)?;
    let packed = ops::quantize(&w, how, options.global_scale.as_deref())?;
    Ok(QuantizedWeight {
        weight: packed.weight.into(),
        scales: packed.scales.into(),
        biases: packed.biases.map(ArrayHandle::from),
    })
}

/// Of `dequantize`.
#[napi(object, object_to_js = false)]
pub struct DequantizeOptions {
    /// As it was packed.
    pub group_size: Option<f64>,
    /// As it was packed.
    pub bits: Option<f64>,
    /// As it was packed, `affine` unless named.
    #[napi(ts_type = "'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'")]
    pub mode: Option<String>,
    /// As it was packed.
    pub global_scale: Option<ArrayHandle>,
    /// Unless named that of the scales (affine) or bfloat16.
    pub dtype: Option<DtypeName>,
}

/// The numbers of a packed weight, `[.., size]`.
#[napi(namespace = "ops", catch_unwind)]
pub fn dequantize(
    w: ArrayHandle,
    scales: ArrayHandle,
    biases: Option<ArrayHandle>,
    options: DequantizeOptions,
) -> js::Result<ArrayHandle> {
    let how = quantization(options.mode, "affine", options.group_size, options.bits)?;
    let dtype = options.dtype.map(|name| name.parse()).transpose()?;
    Ok(ops::dequantize(&w, &scales, biases.as_deref(), how, options.global_scale.as_deref(), dtype)?.into())
}

/// Of `quantizedMatmul`.
#[napi(object, object_to_js = false)]
pub struct QuantizedMatmulOptions {
    /// Whether `x @ wᵀ` is wanted (default) instead of `x @ w`.
    pub transpose: Option<bool>,
    /// As it was packed.
    pub group_size: Option<f64>,
    /// As it was packed.
    pub bits: Option<f64>,
    /// As it was packed, `affine` unless named.
    #[napi(ts_type = "'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'")]
    pub mode: Option<String>,
}

/// `x @ wᵀ` for `x` `[.., in]` and a packed `w` `[out, in]`.
#[napi(namespace = "ops", catch_unwind)]
pub fn quantized_matmul(
    x: ArrayHandle,
    w: ArrayHandle,
    scales: ArrayHandle,
    biases: Option<ArrayHandle>,
    options: QuantizedMatmulOptions,
) -> js::Result<ArrayHandle> {
    let how = quantization(options.mode, "affine", options.group_size, options.bits)?;
    Ok(ops::quantized_matmul(&x, &w, &scales, biases.as_deref(), options.transpose.unwrap_or(true), how)?.into())
}

/// Of `gatherQmm`. Indices count the flattened leading axes; absent ones stand for all matrices in order.
#[napi(object, object_to_js = false)]
pub struct GatherQmmOptions {
    /// Which matrices of `x`.
    pub lhs_indices: Option<ArrayHandle>,
    /// Which matrices of `w`.
    pub rhs_indices: Option<ArrayHandle>,
    /// Whether `x @ wᵀ` is wanted (default) instead of `x @ w`.
    pub transpose: Option<bool>,
    /// As it was packed.
    pub group_size: Option<f64>,
    /// As it was packed.
    pub bits: Option<f64>,
    /// As it was packed, `affine` unless named.
    #[napi(ts_type = "'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'")]
    pub mode: Option<String>,
    /// Whether the indices ascend, which is faster.
    pub sorted_indices: Option<bool>,
}

/// `gatherMm` with a packed second operand `[E, out, in]`.
#[napi(namespace = "ops", catch_unwind)]
pub fn gather_qmm(
    x: ArrayHandle,
    w: ArrayHandle,
    scales: ArrayHandle,
    biases: Option<ArrayHandle>,
    options: GatherQmmOptions,
) -> js::Result<ArrayHandle> {
    let how = quantization(options.mode, "affine", options.group_size, options.bits)?;
    let (lhs, rhs) = (options.lhs_indices.as_deref(), options.rhs_indices.as_deref());
    let (transpose, sorted) = (options.transpose.unwrap_or(true), options.sorted_indices.unwrap_or(false));
    Ok(ops::gather_qmm(&x, &w, &scales, biases.as_deref(), lhs, rhs, transpose, how, sorted)?.into())
}

/// Of `qqmm`.
#[napi(object, object_to_js = false)]
pub struct QqmmOptions {
    /// Of a packed `w`; without them `w` is floating and packed on the way.
    pub scales: Option<ArrayHandle>,
    /// As `w` is packed.
    pub group_size: Option<f64>,
    /// As `w` is packed.
    pub bits: Option<f64>,
    /// How both sides are coded, `nvfp4` unless named.
    #[napi(ts_type = "'mxfp4' | 'mxfp8' | 'nvfp4'")]
    pub mode: Option<String>,
    /// The largest absolute value of `x`; nvfp4 only.
    pub global_scale_x: Option<ArrayHandle>,
    /// The largest absolute value of `w`; nvfp4 only.
    pub global_scale_w: Option<ArrayHandle>,
}

/// `x @ wᵀ` with both sides quantised, `x` on the way. On a GPU.
#[napi(namespace = "ops", catch_unwind)]
pub fn qqmm(x: ArrayHandle, w: ArrayHandle, options: QqmmOptions) -> js::Result<ArrayHandle> {
    let how = quantization(options.mode, "nvfp4", options.group_size, options.bits)?;
    let global = [options.global_scale_x.as_deref(), options.global_scale_w.as_deref()];
    Ok(ops::qqmm(&x, &w, options.scales.as_deref(), how, global[0], global[1])?.into())
}

/// Of `gatherQqmm`.
#[napi(object, object_to_js = false)]
pub struct GatherQqmmOptions {
    /// Of a packed `w`; without them `w` is floating and packed on the way.
    pub scales: Option<ArrayHandle>,
    /// Which matrices of `x`.
    pub lhs_indices: Option<ArrayHandle>,
    /// Which matrices of `w`.
    pub rhs_indices: Option<ArrayHandle>,
    /// As `w` is packed.
    pub group_size: Option<f64>,
    /// As `w` is packed.
    pub bits: Option<f64>,
    /// How both sides are coded, `nvfp4` unless named.
    #[napi(ts_type = "'mxfp4' | 'mxfp8' | 'nvfp4'")]
    pub mode: Option<String>,
    /// The largest absolute value of `x`; nvfp4 only.
    pub global_scale_x: Option<ArrayHandle>,
    /// The largest absolute value of `w`; nvfp4 only.
    pub global_scale_w: Option<ArrayHandle>,
    /// Whether the indices ascend, which is faster.
    pub sorted_indices: Option<bool>,
}

/// `qqmm` of chosen matrices of `x` with chosen ones of `w`. On a GPU.
#[napi(namespace = "ops", catch_unwind)]
pub fn gather_qqmm(x: ArrayHandle, w: ArrayHandle, options: GatherQqmmOptions) -> js::Result<ArrayHandle> {
    let how = quantization(options.mode, "nvfp4", options.group_size, options.bits)?;
    let global = [options.global_scale_x.as_deref(), options.global_scale_w.as_deref()];
    let (lhs, rhs) = (options.lhs_indices.as_deref(), options.rhs_indices.as_deref());
    let (scales, sorted) = (options.scales.as_deref(), options.sorted_indices.unwrap_or(false));
    Ok(ops::gather_qqmm(&x, &w, scales, lhs, rhs, how, global[0], global[1], sorted)?.into())
}

/// The nearest 8-bit floats (e4m3), as uint8. What is beyond ±448, and NaN, becomes ±448.
#[napi(namespace = "ops", js_name = "toFp8", catch_unwind)]
pub fn to_fp8(a: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.to_fp8()?.into())
}

/// The numbers of 8-bit floats (e4m3, uint8), bfloat16 unless named.
#[napi(namespace = "ops", js_name = "fromFp8", catch_unwind)]
pub fn from_fp8(a: ArrayHandle, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    Ok(a.from_fp8(DtypeName::or(dtype, Dtype::Bfloat16)?)?.into())
}
