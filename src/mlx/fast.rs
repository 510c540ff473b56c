//! MLX's fused kernels.

use mlx_sys as sys;

use super::array::{optional, output};
use super::ops::check;
use super::{Array, Dtype, Error, Result, cuda, stream};

/// A float array whose last axis holds something, and vectors of that size.
fn check_norm(op: &str, x: &Array, vectors: [Option<&Array>; 2]) -> Result<()> {
    check::min_ndim(op, x, 1)?;
    check::float(op, "the input", x)?;
    let size = x.dim(-1);
    check::filled_axis(op, x, x.ndim() - 1)?;
    match vectors.into_iter().flatten().find(|vector| vector.shape() != [size] || !vector.dtype().is_float()) {
        Some(vector) => Err(Error::Shape(format!("{op}: weight and bias must be float [{size}], got {vector:?}"))),
        None => Ok(()),
    }
}

/// `x / rms(x) * weight` over the last axis, accumulated in float32.
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array> {
    check_norm("rms_norm", x, [weight, None])?;
    // SAFETY: valid handles; a null weight means none.
    output(|result| unsafe { sys::mlx_fast_rms_norm(result, x.0, optional(weight), eps, stream::current()) })
}

/// `(x - mean(x)) / std(x) * weight + bias` over the last axis, accumulated in float32.
pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array> {
    check_norm("layer_norm", x, [weight, bias])?;
    if cuda::layer_norm_is_wrong(x.dim(-1)) {
        return cuda::layer_norm(x, weight, bias, eps);
    }
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe { sys::mlx_fast_layer_norm(result, x.0, optional(weight), optional(bias), eps, stream::current()) })
}

/// Where a rotary embedding starts counting.
pub enum RopeOffset<'a> {
    /// The same position for every row.
    Same(i32),
    /// One position per row, int32 `[B]`.
    PerRow(&'a Array),
}

/// The frequencies of a rotary embedding.
pub enum RopeFrequencies<'a> {
    /// `base^(2i/dims)`, as in the original.
    Base(f32),
    /// Wavelengths over 2π (the reciprocal of the angular frequencies), float32 `[dims / 2]`.
    Table(&'a Array),
}

/// Rotates the first `dims` of the last axis of `x` `[B, H, T, D]` by position; halves are split, not interleaved.
pub fn rope(x: &Array, dims: i32, frequencies: RopeFrequencies, scale: f32, offset: RopeOffset) -> Result<Array> {
    rope_with(x, dims, false, frequencies, scale, offset)
}

/// As `rope`; a `traditional` one rotates neighbours instead of halves.
pub fn rope_with(
    x: &Array,
    dims: i32,
    traditional: bool,
    frequencies: RopeFrequencies,
    scale: f32,
    offset: RopeOffset,
) -> Result<Array> {
    check::min_ndim("rope", x, 3)?;
    check::float("rope", "the input", x)?;
    if dims < 2 || dims % 2 != 0 || dims > x.dim(-1) {
        return Err(Error::Shape(format!("rope: dims must be even and at most the last axis, got {dims} for {:?}", x.shape())));
    }
    let (base, table) = match frequencies {
        RopeFrequencies::Base(value) => (sys::mlx_optional_float { value, has_value: true }, None),
        RopeFrequencies::Table(table) => (sys::mlx_optional_float { value: 0.0, has_value: false }, Some(table)),
    };
    if let Some(table) = table
        && (table.shape() != [dims / 2] || !table.dtype().is_float())
    {
        return Err(Error::Shape(format!("rope: frequencies must be float [{}], got {table:?}", dims / 2)));
    }
    if let RopeOffset::PerRow(offset) = offset {
        check::integer("rope", "the offset", offset)?;
        if offset.size() != 1 && offset.shape() != [x.dim(0)] || offset.ndim() > 1 {
            return Err(Error::Shape(format!("rope: offsets of shape {:?} for {} rows", offset.shape(), x.dim(0))));
        }
    }
    if x.size() == 0 {
        return Ok(x.clone());
    }
    // SAFETY: valid handles; a null table means none.
    output(|result| unsafe {
        match offset {
            RopeOffset::Same(offset) => {
                sys::mlx_fast_rope(result, x.0, dims, traditional, base, scale, offset, optional(table), stream::current())
            }
            RopeOffset::PerRow(offset) => sys::mlx_fast_rope_dynamic(
                result,
                x.0,
                dims,
                traditional,
                base,
                scale,
                offset.0,
                optional(table),
                stream::current(),
            ),
        }
    })
}

/// Which keys a query sees.
#[derive(Clone, Copy)]
pub enum Mask<'a> {
    None,
    /// Query `i` of `T` sees keys up to `K - T + i`.
    Causal,
    /// Boolean (true = visible) or additive, broadcast to `[B, H, T, K]`.
    Array(&'a Array),
}

/// Attention of queries `[B, H, T, D]` over keys and values `[B, Hkv, K, D]`; `H` is a multiple of `Hkv`.
pub fn scaled_dot_product_attention(queries: &Array, keys: &Array, values: &Array, scale: f32, mask: Mask) -> Result<Array> {
    attention_with_sinks(queries, keys, values, scale, mask, None)
}

/// As `scaled_dot_product_attention`; `sinks` `[H]` are logits that take weight and have no value.
pub fn attention_with_sinks(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: Mask,
    sinks: Option<&Array>,
) -> Result<Array> {
    let op = "scaled_dot_product_attention";
    for array in [queries, keys, values] {
        check::float(op, "each input", array)?;
        if array.ndim() != 4 {
            return Err(Error::Shape(format!("{op}: [B, H, T, D] is needed, got shape {:?}", array.shape())));
        }
    }
    let (q, k, v) = (queries.shape(), keys.shape(), values.shape());
    if q[0] != k[0] || k[..3] != v[..3] || q[3] != k[3] || k[1] == 0 || q[1] % k[1] != 0 {
        return Err(Error::Shape(format!("{op}: queries {q:?}, keys {k:?} and values {v:?} do not fit")));
    }
    if queries.size() == 0 || keys.size() == 0 || values.size() == 0 {
        return Err(Error::Shape(format!("{op}: nothing to attend to with queries {q:?}, keys {k:?} and values {v:?}")));
    }
    if let Mask::Array(mask) = mask {
        if mask.dtype() != Dtype::Bool {
            check::float(op, "an additive mask", mask)?;
        }
        if !check::broadcasts_to(mask.shape(), &[q[0], q[1], q[2], k[2]]) {
            let scores = [q[0], q[1], q[2], k[2]];
            return Err(Error::Shape(format!("{op}: a mask of shape {:?} does not broadcast to {scores:?}", mask.shape())));
        }
    }
    if let Some(sinks) = sinks
        && (sinks.shape() != [q[1]] || !sinks.dtype().is_float())
    {
        return Err(Error::Shape(format!("{op}: sinks must be float [{}], got {sinks:?}", q[1])));
    }
    let (mode, array) = match mask {
        Mask::None => (c"", None),
        Mask::Causal => (c"causal", None),
        Mask::Array(array) => (c"array", Some(array)),
    };
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe {
        sys::mlx_fast_scaled_dot_product_attention(
            result,
            queries.0,
            keys.0,
            values.0,
            scale,
            mode.as_ptr(),
            optional(array),
            optional(sinks),
            false,
            stream::current(),
        )
    })
}

/// `logsumexp(logits) - logits[target]` over the last axis, with int targets of one rank less, each a valid class.
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array> {
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_fast_cross_entropy(result, logits.0, targets.0, stream::current()) })
}

/// `cross_entropy` for targets from outside: see `Array::bounded`.
pub fn cross_entropy_bounded(logits: &Array, targets: &Array) -> Result<Array> {
    check::min_ndim("cross_entropy", logits, 1)?;
    check::float("cross_entropy", "logits", logits)?;
    check::not_empty("cross_entropy", logits)?;
    let rows = &logits.shape()[..logits.ndim() - 1];
    if targets.shape() != rows {
        return Err(Error::Shape(format!("cross_entropy: targets must have shape {rows:?}, got {:?}", targets.shape())));
    }
    let classes = logits.dim(-1);
    let bounded = targets.bounded(classes, 1)?;
    if targets.dtype().is_unsigned() {
        return cross_entropy(logits, &bounded);
    }
    let zero = Array::scalar_of(0., bounded.dtype())?;
    let wrapped = bounded.astype(Dtype::Int32)?;
    let wrapped = super::ops::where_(&bounded.less(&zero)?, &wrapped.add(&Array::scalar_i32(classes))?, &wrapped)?;
    cross_entropy(logits, &wrapped)
}
