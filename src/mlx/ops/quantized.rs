//! Quantised weights: groups of a row share a scale. The last axis of a packed weight holds `size * bits / 32` uint32.

use std::ffi::CStr;

use mlx_sys as sys;

use super::matrix::matrix_indices;
use super::{check, zeros};
use crate::mlx::array::{optional, output, output_list};
use crate::mlx::{Array, Device, Dtype, Error, Result, cuda, default_device, kernels, stream};

/// How numbers are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizationMode {
    /// Integers with a scale and a bias per group, in the weight's dtype.
    Affine,
    /// 4-bit floats (e2m1) with a power of two (e8m0) per 32.
    Mxfp4,
    /// 8-bit floats (e4m3) with a power of two (e8m0) per 32.
    Mxfp8,
    /// 4-bit floats (e2m1) with a float (e4m3) per 16.
    Nvfp4,
}

impl QuantizationMode {
    pub const NAMES: [&str; 4] = ["affine", "mxfp4", "mxfp8", "nvfp4"];

    pub fn parse(name: &str) -> Result<QuantizationMode> {
        check::one_of("quantize", "mode", name, &Self::NAMES)?;
        Ok(match name {
            "affine" => Self::Affine,
            "mxfp4" => Self::Mxfp4,
            "mxfp8" => Self::Mxfp8,
            _ => Self::Nvfp4,
        })
    }

    pub fn name(self) -> &'static str {
        // Plain ASCII, from the words below.
        self.word().to_str().unwrap_or_default()
    }

    fn word(self) -> &'static CStr {
        match self {
            Self::Affine => c"affine",
            Self::Mxfp4 => c"mxfp4",
            Self::Mxfp8 => c"mxfp8",
            Self::Nvfp4 => c"nvfp4",
        }
    }
}

/// Mode, group size and bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    mode: QuantizationMode,
    group_size: i32,
    bits: i32,
}

impl Quantization {
    /// `None` takes the mode's own value: 64 and 4 for affine, the only possible ones for the others.
    pub fn new(mode: QuantizationMode, group_size: Option<i32>, bits: Option<i32>) -> Result<Quantization> {
        let (groups, widths): (&[i32], &[i32]) = match mode {
            QuantizationMode::Affine => (&[64, 32, 128], &[4, 2, 3, 5, 6, 8]),
            QuantizationMode::Mxfp4 => (&[32], &[4]),
            QuantizationMode::Mxfp8 => (&[32], &[8]),
            QuantizationMode::Nvfp4 => (&[16], &[4]),
        };
        let choose = |what: &str, given: Option<i32>, known: &[i32]| match given {
            None => Ok(known[0]),
            Some(value) if known.contains(&value) => Ok(value),
            Some(value) => Err(Error::Argument(format!("quantize: {what} of {mode:?} must be one of {known:?}, got {value}"))),
        };
        Ok(Quantization { mode, group_size: choose("group_size", group_size, groups)?, bits: choose("bits", bits, widths)? })
    }

    pub fn mode(self) -> QuantizationMode {
        self.mode
    }

    pub fn group_size(self) -> i32 {
        self.group_size
    }

    pub fn bits(self) -> i32 {
        self.bits
    }

    /// Whether rows of this width are whole groups.
    pub fn divides(self, width: i32) -> bool {
        width > 0 && width % self.group_size == 0
    }

    /// MLX's CPU code of nvfp4 takes groups by two.
    fn is_odd(self, groups: usize) -> bool {
        self.mode == QuantizationMode::Nvfp4 && groups % 2 == 1 && default_device() == Device::Cpu
    }

    pub(super) fn raw(self) -> (sys::mlx_optional_int, sys::mlx_optional_int, *const std::ffi::c_char) {
        let int = |value| sys::mlx_optional_int { value, has_value: true };
        (int(self.group_size), int(self.bits), self.mode.word().as_ptr())
    }

    /// A scale for the whole tensor exists in nvfp4 only.
    pub(super) fn check_global(self, op: &str, scale: Option<&Array>) -> Result<()> {
        let Some(scale) = scale else { return Ok(()) };
        if self.mode != QuantizationMode::Nvfp4 {
            return Err(Error::Argument(format!("{op}: a global scale belongs to mode nvfp4, not {:?}", self.mode)));
        }
        check::float(op, "the global scale", scale)?;
        if scale.size() == 1 { Ok(()) } else { Err(Error::Shape(format!("{op}: the global scale must hold one number"))) }
    }

    /// The unpacked size of the last axis, after checking that the parts of a weight belong together.
    pub(super) fn check_weight(self, op: &str, w: &Array, scales: &Array, biases: Option<&Array>) -> Result<i32> {
        check::min_ndim(op, w, 2)?;
        if w.dtype() != Dtype::Uint32 {
            return Err(Error::Dtype(format!("{op}: a packed weight is uint32, got {}", w.dtype().name())));
        }
        check::not_empty(op, w)?;
        let affine = self.mode == QuantizationMode::Affine;
        if affine {
            check::float(op, "scales", scales)?;
        } else if scales.dtype() != Dtype::Uint8 {
            return Err(Error::Dtype(format!("{op}: scales of {:?} are uint8, got {}", self.mode, scales.dtype().name())));
        }
        let size = i64::from(w.dim(-1)) * 32 / i64::from(self.bits);
        let groups = [&w.shape()[..w.ndim() - 1], &[check::size(op, size / i64::from(self.group_size))?]].concat();
        let whole = size * i64::from(self.bits) == i64::from(w.dim(-1)) * 32 && size % i64::from(self.group_size) == 0;
        if !whole || scales.shape() != groups {
            let (w, scales) = (w.shape(), scales.shape());
            return Err(Error::Shape(format!(
                "{op}: scales {scales:?} do not fit weight {w:?} with group_size {} and bits {}",
                self.group_size, self.bits
            )));
        }
        match biases {
            Some(_) if !affine => Err(Error::Argument(format!("{op}: {:?} has no biases", self.mode))),
            Some(biases) if biases.shape() != scales.shape() || biases.dtype() != scales.dtype() => {
                Err(Error::Shape(format!("{op}: biases {biases:?} do not have the shape and dtype of scales {scales:?}")))
            }
            None if affine => Err(Error::Argument(format!("{op}: affine weights need biases"))),
            _ => check::size(op, size),
        }
    }
}

/// A packed weight.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// uint32 `[.., size * bits / 32]`
    pub weight: Array,
    /// `[.., size / group_size]`: the weight's dtype for affine, else uint8.
    pub scales: Array,
    /// As the scales; affine only.
    pub biases: Option<Array>,
}

/// The kernels have no float64.
pub(super) fn check_half_or_single(op: &str, what: &str, array: &Array) -> Result<()> {
    check::float(op, what, array)?;
    if array.dtype() != Dtype::Float64 {
        return Ok(());
    }
    Err(Error::Dtype(format!("{op}: {what} must be float32, float16 or bfloat16, got float64")))
}

/// Codes a float matrix (or several) row by row.
pub fn quantize(w: &Array, how: Quantization, global_scale: Option<&Array>) -> Result<Quantized> {
    check::min_ndim("quantize", w, 2)?;
    check_half_or_single("quantize", "the weight", w)?;
    check::not_empty("quantize", w)?;
    how.check_global("quantize", global_scale)?;
    if w.dim(-1) % how.group_size != 0 || (i64::from(w.dim(-1)) * i64::from(how.bits)) % 32 != 0 {
        return Err(Error::Shape(format!(
            "quantize: the last axis of shape {:?} is not a multiple of the group size {}",
            w.shape(),
            how.group_size
        )));
    }
    if how.is_odd(w.size() / how.group_size as usize) {
        return quantize_odd(w, how, global_scale);
    }
    let (group_size, bits, mode) = how.raw();
    // SAFETY: valid handles; a null scale means none.
    let parts = output_list(|result| unsafe {
        sys::mlx_quantize(result, w.0, group_size, bits, mode, optional(global_scale), stream::current())
    })?;
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(weight), Some(scales), biases) => Ok(Quantized { weight, scales, biases }),
        _ => Err(Error::Internal("quantize: MLX returned too few arrays".into())),
    }
}

/// `quantize` of an odd number of groups of nvfp4, with another of zeros, which is cut off again.
fn quantize_odd(w: &Array, how: Quantization, global_scale: Option<&Array>) -> Result<Quantized> {
    let group = zeros(&[1, how.group_size], w.dtype())?;
    let Quantized { weight, scales, .. } = quantize(&super::concatenate(&[w.reshape(&[1, -1])?, group], 1)?, how, global_scale)?;
    let cut = |part: &Array, per_group: i32| {
        let width = w.dim(-1) / how.group_size * per_group;
        let shape = [&w.shape()[..w.ndim() - 1], &[width]].concat();
        part.slice_axis(1, 0, part.dim(1) - per_group)?.reshape(&shape)
    };
    Ok(Quantized { weight: cut(&weight, how.group_size * how.bits / 32)?, scales: cut(&scales, 1)?, biases: None })
}

/// `dequantize` of an odd number of groups of nvfp4, with another, which is cut off again.
fn dequantize_odd(w: &Array, scales: &Array, how: Quantization, scale: Option<&Array>, dtype: Option<Dtype>) -> Result<Array> {
    let with_group =
        |part: &Array, per_group: i32| super::concatenate(&[part.reshape(&[1, -1])?, zeros(&[1, per_group], part.dtype())?], 1);
    let codes = with_group(w, how.group_size * how.bits / 32)?;
    let numbers = dequantize(&codes, &with_group(scales, 1)?, None, how, scale, dtype)?;
    let shape = [&w.shape()[..w.ndim() - 1], &[scales.dim(-1) * how.group_size]].concat();
    numbers.slice_axis(1, 0, numbers.dim(1) - how.group_size)?.reshape(&shape)
}

/// The numbers of a packed weight, in `dtype` or else in the scales' dtype (bfloat16 for the float modes).
pub fn dequantize(
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    how: Quantization,
    global_scale: Option<&Array>,
    dtype: Option<Dtype>,
) -> Result<Array> {
    how.check_weight("dequantize", w, scales, biases)?;
    how.check_global("dequantize", global_scale)?;
    if let Some(dtype) = dtype
        && !dtype.is_float()
    {
        return Err(Error::Dtype(format!("dequantize: the dtype must be floating, got {}", dtype.name())));
    }
    if how.is_odd(scales.size()) {
        return dequantize_odd(w, scales, how, global_scale, dtype);
    }
    let (group_size, bits, mode) = how.raw();
    let dtype = sys::mlx_optional_dtype { value: dtype.map_or(0, Dtype::raw), has_value: dtype.is_some() };
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe {
        sys::mlx_dequantize(
            result,
            w.0,
            scales.0,
            optional(biases),
            group_size,
            bits,
            mode,
            optional(global_scale),
            dtype,
            stream::current(),
        )
    })
}

/// The activations of a product with a packed weight.
pub(super) fn check_activations(op: &str, x: &Array, w: &Array, size: i32, transpose: bool) -> Result<()> {
    check::min_ndim(op, x, 1)?;
    check_half_or_single(op, "the activations", x)?;
    let inner = if transpose { size } else { w.dim(-2) };
    if x.dim(-1) == inner {
        return Ok(());
    }
    Err(Error::Shape(format!("{op}: the last axis of {:?} is not the weight's inner size {inner}", x.shape())))
}

/// `x @ wᵀ` (with `transpose`) or `x @ w` for a packed `w`; leading axes broadcast as in `matmul`.
pub fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    transpose: bool,
    how: Quantization,
) -> Result<Array> {
    let size = how.check_weight("quantized_matmul", w, scales, biases)?;
    check_activations("quantized_matmul", x, w, size, transpose)?;
    if x.size() == 0 {
        let columns = if transpose { w.dim(-2) } else { size };
        return zeros(&[&x.shape()[..x.ndim() - 1], &[columns]].concat(), x.dtype());
    }
    if x.ndim() < w.ndim() && w.ndim() > 2 {
        // MLX takes the first matrix of several.
        let wide = [&vec![1; w.ndim() - x.ndim().max(2)][..], if x.ndim() == 1 { &[1][..] } else { &[][..] }, x.shape()].concat();
        let product = quantized_matmul(&x.reshape(&wide)?, w, scales, biases, transpose, how)?;
        return if x.ndim() == 1 { product.squeeze(&[-2]) } else { Ok(product) };
    }
    if cuda::product_is_wrong(scales) {
        return cuda::quantized_matmul(x, w, scales, biases, transpose, how);
    }
    if let Some(biases) = biases
        && let Some(product) = kernels::packed_product(x, [w, scales, biases], None, how, transpose)
    {
        return product;
    }
    let apart = cuda::product_needs_them_together(w);
    let together = |part: &Array| if apart { part.contiguous() } else { Ok(part.clone()) };
    let (w, scales, biases) = (&together(w)?, &together(scales)?, biases.map(together).transpose()?);
    let biases = biases.as_ref();
    let (group_size, bits, mode) = how.raw();
    // SAFETY: valid handles; null biases mean none.
    output(|result| unsafe {
        sys::mlx_quantized_matmul(
            result,
            x.0,
            w.0,
            scales.0,
            optional(biases),
            transpose,
            group_size,
            bits,
            mode,
            stream::current(),
        )
    })
}

/// What `gather_qmm` multiplies with what.
#[derive(Clone, Copy)]
pub struct Gather<'a> {
    /// Which matrices of the first operand; all in their order without them.
    pub lhs: Option<&'a Array>,
    /// Which matrices of the second operand.
    pub rhs: Option<&'a Array>,
    /// `x @ wᵀ` instead of `x @ w`.
    pub transpose: bool,
    /// The indices ascend.
    pub sorted: bool,
}

fn check_gathered(op: &str, x: &Array, w: &Array, size: i32, transpose: bool) -> Result<()> {
    check::min_ndim(op, x, 2)?;
    check::not_empty(op, x)?;
    check_activations(op, x, w, size, transpose)
}

/// What `gather_qmm_trusted` must know of its parts for `x @ wᵀ`.
pub fn check_packed_product(op: &str, x: &Array, w: &Quantized, how: Quantization) -> Result<()> {
    let size = how.check_weight(op, &w.weight, &w.scales, w.biases.as_ref())?;
    check_gathered(op, x, &w.weight, size, true)
}

/// `gather_mm` with a packed second operand `[E, .., ..]`.
pub fn gather_qmm(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    how: Quantization,
    gather: Gather,
) -> Result<Array> {
    let size = how.check_weight("gather_qmm", w, scales, biases)?;
    check_gathered("gather_qmm", x, w, size, gather.transpose)?;
    let lhs = matrix_indices("gather_qmm", gather.lhs, x.shape())?;
    let rhs = matrix_indices("gather_qmm", gather.rhs, w.shape())?;
    gather_qmm_trusted(x, w, scales, biases, how, Gather { lhs: lhs.as_ref(), rhs: rhs.as_ref(), ..gather })
}

/// Whether `x` is rows `[.., 1, K]` that go with equally many consecutive indices each: of the leading axes, the last ones may be 1 and are
/// broadcast.
fn pairs_of_rows(x: &Array, indices: &Array) -> bool {
    let (Some(lead), shape) = (x.ndim().checked_sub(2), indices.shape()) else { return false };
    let lead = &x.shape()[..lead];
    let same = lead.iter().zip(shape).take_while(|(a, b)| a == b).count();
    x.dim(-2) == 1 && lead.len() == shape.len() && lead[same..].iter().all(|&size| size == 1) && indices.size() > 0
}

/// `gather_qmm` with uint32 indices and parts that the caller knows to be valid.
pub fn gather_qmm_trusted(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    how: Quantization,
    gather: Gather,
) -> Result<Array> {
    if let (Some(biases), None, Some(indices)) = (biases, gather.lhs, gather.rhs)
        && pairs_of_rows(x, indices)
        && let Some(product) = kernels::packed_product(x, [w, scales, biases], Some(indices), how, gather.transpose)
    {
        return product?.expand_dims(&[-2]);
    }
    let (group_size, bits, mode) = how.raw();
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe {
        sys::mlx_gather_qmm(
            result,
            x.0,
            w.0,
            scales.0,
            optional(biases),
            optional(gather.lhs),
            optional(gather.rhs),
            gather.transpose,
            group_size,
            bits,
            mode,
            gather.sorted,
            stream::current(),
        )
    })
}

impl Array {
    /// The nearest 8-bit floats (e4m3), as uint8. What is beyond ±448, and NaN, becomes ±448.
    pub fn to_fp8(&self) -> Result<Array> {
        check::float("to_fp8", "the array", self)?;
        // MLX reads float64 wrongly.
        let array = if self.dtype() == Dtype::Float64 { self.astype(Dtype::Float32)? } else { self.clone() };
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_to_fp8(result, array.0, stream::current()) })
    }

    /// The numbers of 8-bit floats (e4m3).
    pub fn from_fp8(&self, dtype: Dtype) -> Result<Array> {
        if self.dtype() != Dtype::Uint8 || !dtype.is_float() {
            let (from, to) = (self.dtype().name(), dtype.name());
            return Err(Error::Dtype(format!("from_fp8: uint8 to a floating dtype is possible, not {from} to {to}")));
        }
        if dtype == Dtype::Float64 {
            return self.from_fp8(Dtype::Float32)?.astype(dtype);
        }
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_from_fp8(result, self.0, dtype.raw(), stream::current()) })
    }
}
