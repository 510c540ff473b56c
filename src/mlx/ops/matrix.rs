//! Products.

use std::borrow::Borrow;
use std::ffi::CString;

use mlx_sys as sys;

use super::{check, zeros};
use crate::mlx::array::{ArrayVec, element_count, optional, output};
use crate::mlx::{Array, Device, Dtype, Error, Result, cuda, default_device, stream};

impl Array {
    /// Matrix product of the last two axes, broadcasting the others.
    pub fn matmul(&self, other: &Array) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_matmul(result, self.0, other.0, cuda::product_stream(&[self, other])) })
    }

    /// Sums of products over the last axes.
    pub fn inner(&self, other: &Array) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_inner(result, self.0, other.0, cuda::product_stream(&[self, other])) })
    }

    /// Every element times every element of `other`, both in row-major order: a matrix.
    pub fn outer(&self, other: &Array) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_outer(result, self.0, other.0, stream::current()) })
    }

    /// Kronecker product.
    pub fn kron(&self, other: &Array) -> Result<Array> {
        let ndim = self.ndim().max(other.ndim());
        let pad = |shape: &[i32]| [vec![1; ndim - shape.len()], shape.to_vec()].concat();
        let sizes = pad(self.shape()).into_iter().zip(pad(other.shape()));
        let shape = sizes.map(|(a, b)| check::size("kron", i64::from(a) * i64::from(b))).collect::<Result<Vec<_>>>()?;
        element_count(&shape)?;
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_kron(result, self.0, other.0, stream::current()) })
    }

    /// Sums of products over pairs of axes.
    pub fn tensordot(&self, other: &Array, axes: &[i32], other_axes: &[i32]) -> Result<Array> {
        check::length("tensordot", "axes of the second array", other_axes.len(), axes.len())?;
        let (own, others) = (check::axes("tensordot", axes, self.ndim())?, check::axes("tensordot", other_axes, other.ndim())?);
        if let Some((a, b)) = own.iter().zip(&others).find(|&(&a, &b)| self.shape()[a] != other.shape()[b]) {
            let (left, right) = (self.shape(), other.shape());
            return Err(Error::Shape(format!("tensordot: axis {a} of {left:?} and axis {b} of {right:?} differ in size")));
        }
        // SAFETY: the axes live during the call.
        output(|result| unsafe {
            sys::mlx_tensordot(
                result,
                self.0,
                other.0,
                axes.as_ptr(),
                axes.len(),
                other_axes.as_ptr(),
                other_axes.len(),
                cuda::product_stream(&[self, other]),
            )
        })
    }

    /// As `tensordot` over the last `count` axes of this array and the first of the other.
    pub fn tensordot_last(&self, other: &Array, count: i32) -> Result<Array> {
        let ndim = self.ndim().min(other.ndim()) as i32;
        if count < 0 || count > ndim {
            return Err(Error::Shape(format!("tensordot: {count} axes of arrays of at least {ndim} dimensions")));
        }
        self.tensordot(other, &(-count..0).collect::<Vec<_>>(), &(0..count).collect::<Vec<_>>())
    }

    /// Sums of products along one axis of arrays that broadcast; the first is conjugated where it is complex.
    pub fn vecdot(&self, other: &Array, axis: i32) -> Result<Array> {
        // SAFETY: valid handles.
        output(|result| unsafe { sys::mlx_vecdot(result, self.0, other.0, axis, stream::current()) })
    }

    /// The Walsh-Hadamard transform of the last axis, whose size is `2^k` times 1, 12, 20 or 28, times `scale`
    /// (`1 / √size` by default).
    pub fn hadamard_transform(&self, scale: Option<f32>) -> Result<Array> {
        check::min_ndim("hadamard_transform", self, 1)?;
        check::float("hadamard_transform", "the array", self)?;
        check::not_empty("hadamard_transform", self)?;
        let size = self.dim(-1);
        let odd = size >> size.trailing_zeros();
        if ![1, 3, 5, 7].contains(&odd) || (odd > 1 && size % 4 != 0) {
            return Err(Error::Shape(format!("hadamard_transform: the last axis must be 2^k times 1, 12, 20 or 28, got {size}")));
        }
        let scale = sys::mlx_optional_float { value: scale.unwrap_or(0.), has_value: scale.is_some() };
        let place = if cuda::hadamard_fails(size) { stream::cpu() } else { stream::current() };
        // SAFETY: valid handle.
        output(|result| unsafe { sys::mlx_hadamard_transform(result, self.0, scale, place) })
    }
}

/// `alpha * a @ b + beta * c`.
pub fn addmm(c: &Array, a: &Array, b: &Array, alpha: f32, beta: f32) -> Result<Array> {
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_addmm(result, c.0, a.0, b.0, alpha, beta, cuda::product_stream(&[a, b])) })
}

/// Sums of products in Einstein's notation, for example `bij,bjk->bik`.
pub fn einsum<A: Borrow<Array>>(subscripts: &str, operands: &[A]) -> Result<Array> {
    let text = CString::new(subscripts).map_err(|_| Error::Argument("einsum subscripts hold a NUL character".into()))?;
    check_subscripts(subscripts, &operands.iter().map(|operand| operand.borrow().shape()).collect::<Vec<_>>())?;
    let list = ArrayVec::new(operands);
    let place = cuda::product_stream(&operands.iter().map(Borrow::borrow).collect::<Vec<_>>());
    // SAFETY: the string and the list live during the call.
    output(|result| unsafe { sys::mlx_einsum(result, text.as_ptr(), list.0, place) })
}

/// Letters, one `...` a term, as many terms as operands, as many letters as axes, sizes that agree, and an output of known letters.
fn check_subscripts(subscripts: &str, shapes: &[&[i32]]) -> Result<()> {
    let wrong = |what: String| Error::Argument(format!("einsum '{subscripts}': {what}"));
    let text: String = subscripts.chars().filter(|character| *character != ' ').collect();
    let (inputs, result) = text.split_once("->").map_or((text.as_str(), None), |(inputs, result)| (inputs, Some(result)));
    let terms: Vec<&str> = inputs.split(',').collect();
    if shapes.is_empty() || terms.len() != shapes.len() {
        return Err(wrong(format!("{} terms for {} operands", terms.len(), shapes.len())));
    }
    let letters = |term: &str| term.replacen("...", "", 1);
    let mut sizes = std::collections::HashMap::new();
    for (term, shape) in terms.iter().zip(shapes) {
        let names = letters(term);
        if let Some(name) = names.chars().find(|name| !name.is_ascii_alphabetic()) {
            return Err(wrong(format!("unexpected '{name}'")));
        }
        let open = names.len() != term.len();
        if names.len() > shape.len() || (!open && names.len() != shape.len()) {
            return Err(Error::Shape(format!("einsum '{subscripts}': '{term}' does not fit an operand of shape {shape:?}")));
        }
        let lead = term.find("...").unwrap_or(names.len());
        for (position, name) in names.chars().enumerate() {
            let size = if position < lead { shape[position] } else { shape[shape.len() - names.len() + position] };
            let known = *sizes.entry(name).or_insert(size);
            if known != size && known != 1 && size != 1 {
                return Err(Error::Shape(format!("einsum '{subscripts}': '{name}' has sizes {known} and {size}")));
            }
            sizes.insert(name, known.max(size));
        }
    }
    let Some(result) = result else { return Ok(()) };
    let names = letters(result);
    let twice = |name: char| names.matches(name).count() > 1;
    match names.chars().find(|name| !sizes.contains_key(name) || twice(*name)) {
        Some(name) => Err(wrong(format!("the output's '{name}' is unknown or comes twice"))),
        None => Ok(()),
    }
}

/// `a @ b` in square blocks of 32 or 64, leaving out those whose mask is 0 (bool) or scaling them (float): `mask_out` for blocks
/// of the result, `mask_lhs` and `mask_rhs` for blocks of the inputs.
pub fn block_masked_mm(
    a: &Array,
    b: &Array,
    block_size: i32,
    mask_out: Option<&Array>,
    mask_lhs: Option<&Array>,
    mask_rhs: Option<&Array>,
) -> Result<Array> {
    check_product("block_masked_mm", a, b)?;
    if ![32, 64].contains(&block_size) {
        return Err(Error::Argument(format!("block_masked_mm: block_size must be 32 or 64, got {block_size}")));
    }
    if a.dim(-1) == 0 {
        // MLX leaves the result as it finds the memory.
        return a.matmul(b);
    }
    let blocks = |size: i32| (i64::from(size) + i64::from(block_size) - 1) as i32 / block_size;
    let (rows, inner, columns) = (blocks(a.dim(-2)), blocks(a.dim(-1)), blocks(b.dim(-1)));
    let wanted = [
        ("mask_out", mask_out, [rows, columns]),
        ("mask_lhs", mask_lhs, [rows, inner]),
        ("mask_rhs", mask_rhs, [inner, columns]),
    ];
    for (name, mask, blocks) in wanted {
        if let Some(mask) = mask
            && !mask.shape().ends_with(&blocks)
        {
            return Err(Error::Shape(format!("block_masked_mm: {name} must end in {blocks:?}, got shape {:?}", mask.shape())));
        }
    }
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe {
        sys::mlx_block_masked_mm(
            result,
            a.0,
            b.0,
            block_size,
            optional(mask_out),
            optional(mask_lhs),
            optional(mask_rhs),
            stream::current(),
        )
    })
}

/// Float matrices (of any rank from 2) whose inner sizes agree.
fn check_product(op: &str, a: &Array, b: &Array) -> Result<()> {
    for array in [a, b] {
        check::min_ndim(op, array, 2)?;
        check::float(op, "a matrix", array)?;
    }
    if a.dim(-1) == b.dim(-2) {
        return Ok(());
    }
    Err(Error::Shape(format!("{op}: shapes {:?} and {:?} have different inner sizes", a.shape(), b.shape())))
}

/// For each `[start, stop)` of `segments` `[.., 2]` the product of those columns of `a` `[M, K]` and rows of `b` `[K, N]`:
/// `[.., M, N]`. Segments are cut to `K`.
pub fn segmented_mm(a: &Array, b: &Array, segments: &Array) -> Result<Array> {
    check_product("segmented_mm", a, b)?;
    check::integer("segmented_mm", "segments", segments)?;
    if a.ndim() != 2 || b.ndim() != 2 || segments.shape().last() != Some(&2) {
        let (a, b, segments) = (a.shape(), b.shape(), segments.shape());
        return Err(Error::Shape(format!("segmented_mm: [M, K], [K, N] and [.., 2] are needed, got {a:?}, {b:?}, {segments:?}")));
    }
    let shape = [&segments.shape()[..segments.ndim() - 1], &[a.dim(0), b.dim(1)]].concat();
    if element_count(&shape)? == 0 || a.dim(1) == 0 {
        return zeros(&shape, a.dtype());
    }
    let bounded = segments
        .maximum(&Array::scalar_of(0., segments.dtype())?)?
        .minimum(&Array::scalar_of(f64::from(a.dim(1)), segments.dtype())?)?;
    let bounded = bounded.astype(Dtype::Uint32)?;
    let lengths = [bounded.shape()[..bounded.ndim() - 1].to_vec(), vec![1]].concat();
    let parts = bounded.split(2, -1)?;
    // A stop before the start is an empty segment.
    let stop = parts[0].maximum(&parts[1])?.reshape(&lengths)?;
    let bounded = super::concatenate(&[parts[0].clone(), stop], -1)?;
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_segmented_mm(result, a.0, b.0, bounded.0, stream::current()) })
}

/// Indices into the flattened leading axes of a matrix operand, as uint32 and inside it.
pub(crate) fn matrix_indices(op: &str, indices: Option<&Array>, shape: &[i32]) -> Result<Option<Array>> {
    let Some(indices) = indices else { return Ok(None) };
    let count = element_count(&shape[..shape.len() - 2])?;
    let count = check::size(op, count as i64)?;
    let bounded = indices.bounded(count, 1)?;
    if indices.dtype().is_unsigned() || indices.size() == 0 {
        return bounded.astype(Dtype::Uint32).map(Some);
    }
    // The products count no negative indices from the end.
    let zero = Array::scalar_of(0., bounded.dtype())?;
    let wrapped = super::where_(&bounded.less(&zero)?, &bounded.astype(Dtype::Int64)?.add(&Array::scalar_i32(count))?, &bounded)?;
    wrapped.astype(Dtype::Uint32).map(Some)
}

/// Matrix products of `a`'s matrices at `lhs_indices` with `b`'s at `rhs_indices`, which broadcast together; indices count the
/// flattened leading axes, and absent ones stand for all of them in order.
pub fn gather_mm(
    a: &Array,
    b: &Array,
    lhs_indices: Option<&Array>,
    rhs_indices: Option<&Array>,
    sorted_indices: bool,
) -> Result<Array> {
    check_product("gather_mm", a, b)?;
    let lhs = matrix_indices("gather_mm", lhs_indices, a.shape())?;
    let rhs = matrix_indices("gather_mm", rhs_indices, b.shape())?;
    gather_mm_trusted(a, b, lhs.as_ref(), rhs.as_ref(), sorted_indices)
}

/// `gather_mm` with uint32 indices that the caller knows to be valid.
pub fn gather_mm_trusted(
    a: &Array,
    b: &Array,
    lhs_indices: Option<&Array>,
    rhs_indices: Option<&Array>,
    sorted_indices: bool,
) -> Result<Array> {
    let half = |array: &Array| matches!(array.dtype(), Dtype::Float16 | Dtype::Bfloat16);
    if default_device() == Device::Cpu && (half(a) || half(b)) {
        // The CPU backend has this product in float32 only, and all of `b` would be converted for it. Where few matrices are asked for these
        // alone are taken, and multiplied by the product that half precision has: twice as fast at an eighth of 32 matrices (512 by 256), 8
        // times at a sixteenth of 128, and alike at a quarter.
        if let (None, Some(chosen), 3) = (lhs_indices, rhs_indices, b.ndim())
            && 4 * chosen.size() <= b.dim(0) as usize
        {
            // Experts come transposed: what is copied is rows as they lie.
            return a.matmul(&b.swapaxes(-1, -2)?.take(chosen, 0)?.swapaxes(-1, -2)?);
        }
        let wide = |array: &Array| array.astype(Dtype::Float32);
        let product = gather_mm_trusted(&wide(a)?, &wide(b)?, lhs_indices, rhs_indices, sorted_indices)?;
        return product.astype(if a.dtype() == b.dtype() { a.dtype() } else { Dtype::Float32 });
    }
    if cuda::gather_mm_is_wrong(a, b) {
        let [wide_a, wide_b] = cuda::whole_vectors(a, b)?;
        return gather_mm_trusted(&wide_a, &wide_b, lhs_indices, rhs_indices, sorted_indices)?.slice_axis(-1, 0, b.dim(-1));
    }
    // SAFETY: valid handles; null ones mean none.
    output(|result| unsafe {
        sys::mlx_gather_mm(result, a.0, b.0, optional(lhs_indices), optional(rhs_indices), sorted_indices, stream::current())
    })
}
