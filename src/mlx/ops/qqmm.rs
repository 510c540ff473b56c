//! Products of two quantised sides.

use mlx_sys as sys;

use super::check;
use super::matrix::matrix_indices;
use super::quantized::{Quantization, QuantizationMode, check_activations, check_half_or_single};
use crate::mlx::array::{optional, output};
use crate::mlx::{Array, Device, Error, Result, stream};

/// The second operand of `qqmm`: packed with scales, or float and packed on the way.
fn check_quantizable(op: &str, x: &Array, w: &Array, scales: Option<&Array>, how: Quantization) -> Result<()> {
    if how.mode() == QuantizationMode::Affine {
        return Err(Error::Argument(format!("{op}: the mode must be mxfp4, mxfp8 or nvfp4, not affine")));
    }
    check::min_ndim(op, w, 2)?;
    let size = match scales {
        Some(scales) => how.check_weight(op, w, scales, None)?,
        None => {
            check_half_or_single(op, "an unpacked weight", w)?;
            w.dim(-1)
        }
    };
    check::not_empty(op, x)?;
    check_activations(op, x, w, size, true)?;
    if size % how.group_size() != 0 {
        return Err(Error::Shape(format!(
            "{op}: the inner size {size} is not a multiple of the group size {}",
            how.group_size()
        )));
    }
    if stream::default_device() == Device::Cpu {
        return Err(Error::Argument(format!(
            "{op}: MLX has no CPU code for products of two quantised sides; choose the device 'gpu', or quantizedMatmul, which leaves x as it is"
        )));
    }
    Ok(())
}

/// `x @ wᵀ` with both sides quantised: `x` on the way, `w` on the way or packed with `scales_w`. On a GPU; MLX has no CPU code.
pub fn qqmm(
    x: &Array,
    w: &Array,
    scales_w: Option<&Array>,
    how: Quantization,
    global_scale_x: Option<&Array>,
    global_scale_w: Option<&Array>,
) -> Result<Array> {
    check_quantizable("qqmm", x, w, scales_w, how)?;
    how.check_global("qqmm", global_scale_x)?;
    how.check_global("qqmm", global_scale_w)?;
    let (group_size, bits, mode) = how.raw();
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe {
        sys::mlx_qqmm(
            result,
            x.0,
            w.0,
            optional(scales_w),
            group_size,
            bits,
            mode,
            optional(global_scale_x),
            optional(global_scale_w),
            stream::current(),
        )
    })
}

/// `qqmm` of the matrices at `lhs_indices` of `x` with those at `rhs_indices` of `w`.
#[allow(clippy::too_many_arguments)]
pub fn gather_qqmm(
    x: &Array,
    w: &Array,
    scales_w: Option<&Array>,
    lhs_indices: Option<&Array>,
    rhs_indices: Option<&Array>,
    how: Quantization,
    global_scale_x: Option<&Array>,
    global_scale_w: Option<&Array>,
    sorted_indices: bool,
) -> Result<Array> {
    check_quantizable("gather_qqmm", x, w, scales_w, how)?;
    check::min_ndim("gather_qqmm", x, 2)?;
    how.check_global("gather_qqmm", global_scale_x)?;
    how.check_global("gather_qqmm", global_scale_w)?;
    let lhs = matrix_indices("gather_qqmm", lhs_indices, x.shape())?;
    let rhs = matrix_indices("gather_qqmm", rhs_indices, w.shape())?;
    let (group_size, bits, mode) = how.raw();
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe {
        sys::mlx_gather_qqmm(
            result,
            x.0,
            w.0,
            optional(scales_w),
            optional(lhs.as_ref()),
            optional(rhs.as_ref()),
            group_size,
            bits,
            mode,
            optional(global_scale_x),
            optional(global_scale_w),
            sorted_indices,
            stream::current(),
        )
    })
}
