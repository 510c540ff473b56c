//! Quantised weights.

use napi_derive::napi;

use super::{ArrayHandle, DtypeName, optional_integer};
use crate::mlx::ops::{self, Gather, Quantization, QuantizationMode};
use crate::mlx::{Dtype, Result};
use crate::node::error as js;

/// Options of an operation on packed weights: its own, how they are packed, in which modes, and the mode unless named.
macro_rules! packed_options {
    ($(#[$doc:meta])* $name:ident $modes:tt $default:tt { $($(#[$about:meta])* $field:ident: Option<$type:ty>),* $(,)? }) => {
        $(#[$doc])*
        #[napi(object, object_to_js = false)]
        pub struct $name {
            $($(#[$about])* pub $field: Option<$type>,)*
            /// Elements that share a scale: 64 (affine: also 32 and 128), 32 (mxfp4, mxfp8) or 16 (nvfp4).
            pub group_size: Option<f64>,
            /// Bits of an element: 4 (affine: also 2, 3, 5, 6 and 8), 8 for mxfp8.
            pub bits: Option<f64>,
            /// How numbers are coded: `affine` unless named, `nvfp4` where both sides are packed.
            #[napi(ts_type = $modes)]
            pub mode: Option<String>,
        }

        impl $name {
            fn how(&self) -> Result<Quantization> {
                let mode = QuantizationMode::parse(self.mode.as_deref().unwrap_or($default))?;
                Quantization::new(mode, optional_integer("groupSize", self.group_size)?, optional_integer("bits", self.bits)?)
            }
        }
    };
}

packed_options! {
    /// Of `quantize`.
    QuantizeOptions "'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'" "affine" {
        /// The largest absolute value of the tensor, one number; nvfp4 only.
        global_scale: Option<ArrayHandle>,
    }
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
    let how = options.how()?;
    let packed = ops::quantize(&w, how, options.global_scale.as_deref())?;
    Ok(QuantizedWeight {
        weight: packed.weight.into(),
        scales: packed.scales.into(),
        biases: packed.biases.map(ArrayHandle::from),
    })
}

packed_options! {
    /// Of `dequantize`.
    DequantizeOptions "'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'" "affine" {
        /// As it was packed.
        global_scale: Option<ArrayHandle>,
        /// Unless named that of the scales (affine) or bfloat16.
        dtype: Option<DtypeName>,
    }
}

/// The numbers of a packed weight, `[.., size]`.
#[napi(namespace = "ops", catch_unwind)]
pub fn dequantize(
    w: ArrayHandle,
    scales: ArrayHandle,
    biases: Option<ArrayHandle>,
    options: DequantizeOptions,
) -> js::Result<ArrayHandle> {
    let how = options.how()?;
    let dtype = options.dtype.map(|name| name.parse()).transpose()?;
    Ok(ops::dequantize(&w, &scales, biases.as_deref(), how, options.global_scale.as_deref(), dtype)?.into())
}

packed_options! {
    /// Of `quantizedMatmul`.
    QuantizedMatmulOptions "'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'" "affine" {
        /// Whether `x @ wᵀ` is wanted (default) instead of `x @ w`.
        transpose: Option<bool>,
    }
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
    let how = options.how()?;
    Ok(ops::quantized_matmul(&x, &w, &scales, biases.as_deref(), options.transpose.unwrap_or(true), how)?.into())
}

packed_options! {
    /// Of `gatherQmm`. Indices count the flattened leading axes; absent ones stand for all matrices in order.
    GatherQmmOptions "'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'" "affine" {
        /// Which matrices of `x`.
        lhs_indices: Option<ArrayHandle>,
        /// Which matrices of `w`.
        rhs_indices: Option<ArrayHandle>,
        /// Whether `x @ wᵀ` is wanted (default) instead of `x @ w`.
        transpose: Option<bool>,
        /// Whether the indices ascend, which is faster.
        sorted_indices: Option<bool>,
    }
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
    let how = options.how()?;
    let gather = Gather {
        lhs: options.lhs_indices.as_deref(),
        rhs: options.rhs_indices.as_deref(),
        transpose: options.transpose.unwrap_or(true),
        sorted: options.sorted_indices.unwrap_or(false),
    };
    Ok(ops::gather_qmm(&x, &w, &scales, biases.as_deref(), how, gather)?.into())
}

packed_options! {
    /// Of `qqmm`.
    QqmmOptions "'mxfp4' | 'mxfp8' | 'nvfp4'" "nvfp4" {
        /// Of a packed `w`; without them `w` is floating and packed on the way.
        scales: Option<ArrayHandle>,
        /// The largest absolute value of `x`; nvfp4 only.
        global_scale_x: Option<ArrayHandle>,
        /// The largest absolute value of `w`; nvfp4 only.
        global_scale_w: Option<ArrayHandle>,
    }
}

/// `x @ wᵀ` with both sides quantised, `x` on the way. On a GPU.
#[napi(namespace = "ops", catch_unwind)]
pub fn qqmm(x: ArrayHandle, w: ArrayHandle, options: QqmmOptions) -> js::Result<ArrayHandle> {
    let how = options.how()?;
    let global = [options.global_scale_x.as_deref(), options.global_scale_w.as_deref()];
    Ok(ops::qqmm(&x, &w, options.scales.as_deref(), how, global[0], global[1])?.into())
}

packed_options! {
    /// Of `gatherQqmm`.
    GatherQqmmOptions "'mxfp4' | 'mxfp8' | 'nvfp4'" "nvfp4" {
        /// Of a packed `w`; without them `w` is floating and packed on the way.
        scales: Option<ArrayHandle>,
        /// Which matrices of `x`.
        lhs_indices: Option<ArrayHandle>,
        /// Which matrices of `w`.
        rhs_indices: Option<ArrayHandle>,
        /// The largest absolute value of `x`; nvfp4 only.
        global_scale_x: Option<ArrayHandle>,
        /// The largest absolute value of `w`; nvfp4 only.
        global_scale_w: Option<ArrayHandle>,
        /// Whether the indices ascend, which is faster.
        sorted_indices: Option<bool>,
    }
}

/// `qqmm` of chosen matrices of `x` with chosen ones of `w`. On a GPU.
#[napi(namespace = "ops", catch_unwind)]
pub fn gather_qqmm(x: ArrayHandle, w: ArrayHandle, options: GatherQqmmOptions) -> js::Result<ArrayHandle> {
    let how = options.how()?;
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
