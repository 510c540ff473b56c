//! Products.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, integer, integer_or, integers};
use crate::mlx::{Error, ops};
use crate::node::error as js;

/// Matrix product of the last two axes; the others are broadcast.
#[napi(namespace = "ops", catch_unwind)]
pub fn matmul(a: ArrayHandle, b: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.matmul(&b)?.into())
}

/// Of `addmm`.
#[napi(object, object_to_js = false)]
pub struct AddmmOptions {
    /// Factor of the product, 1.
    pub alpha: Option<f64>,
    /// Factor of `c`, 1.
    pub beta: Option<f64>,
}

/// `alpha · a @ b + beta · c`, with `c` broadcast to the product.
#[napi(namespace = "ops", catch_unwind)]
pub fn addmm(c: ArrayHandle, a: ArrayHandle, b: ArrayHandle, options: AddmmOptions) -> js::Result<ArrayHandle> {
    Ok(ops::addmm(&c, &a, &b, options.alpha.unwrap_or(1.) as f32, options.beta.unwrap_or(1.) as f32)?.into())
}

/// Sums of products over the last axes of both: `[.., K]` and `[.., K]` to the leading axes of one, then of the other.
#[napi(namespace = "ops", catch_unwind)]
pub fn inner(a: ArrayHandle, b: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.inner(&b)?.into())
}

/// Every element times every element of `b`, both in row-major order: `[a.size, b.size]`.
#[napi(namespace = "ops", catch_unwind)]
pub fn outer(a: ArrayHandle, b: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.outer(&b)?.into())
}

/// The Kronecker product: `b` times each element of `a`, in blocks.
#[napi(namespace = "ops", catch_unwind)]
pub fn kron(a: ArrayHandle, b: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(a.kron(&b)?.into())
}

/// Sums of products over axes: the last `axes` (2) of `a` with the first of `b`, or two lists of axes that belong together.
#[napi(namespace = "ops", catch_unwind)]
pub fn tensordot(a: ArrayHandle, b: ArrayHandle, axes: Option<Either<f64, Vec<Vec<f64>>>>) -> js::Result<ArrayHandle> {
    Ok(match axes.unwrap_or(Either::A(2.)) {
        Either::A(count) => a.tensordot_last(&b, integer("axes", count)?)?,
        Either::B(lists) => match &lists[..] {
            [own, other] => a.tensordot(&b, &integers("axes", own)?, &integers("axes", other)?)?,
            _ => return Err(Error::Argument(format!("tensordot: axes are two lists, got {}", lists.len())).into()),
        },
    }
    .into())
}

/// Sums of products along an axis (-1) of arrays that broadcast; `a` is conjugated where it is complex.
#[napi(namespace = "ops", catch_unwind)]
pub fn vecdot(a: ArrayHandle, b: ArrayHandle, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.vecdot(&b, integer_or("axis", axis, -1)?)?.into())
}

/// Sums of products in Einstein's notation: `einsum('bij,bjk->bik', a, b)`.
#[napi(namespace = "ops", catch_unwind)]
pub fn einsum(subscripts: String, factors: Vec<ArrayHandle>) -> js::Result<ArrayHandle> {
    Ok(ops::einsum(&subscripts, &factors)?.into())
}

/// The Walsh-Hadamard transform of the last axis, whose size is `2^k` times 1, 12, 20 or 28, times `scale` (`1 / √size`).
#[napi(namespace = "ops", catch_unwind)]
pub fn hadamard_transform(a: ArrayHandle, scale: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(a.hadamard_transform(scale.map(|scale| scale as f32))?.into())
}

/// Of `blockMaskedMm`. A mask is boolean (false leaves a block out) or floating (a factor of the block).
#[napi(object, object_to_js = false)]
pub struct BlockMaskedMmOptions {
    /// 32 or 64 (default).
    pub block_size: Option<f64>,
    /// For blocks of the result, `[.., M / blockSize, N / blockSize]`, rounded up.
    pub mask_out: Option<ArrayHandle>,
    /// For blocks of `a`, `[.., M / blockSize, K / blockSize]`.
    pub mask_lhs: Option<ArrayHandle>,
    /// For blocks of `b`, `[.., K / blockSize, N / blockSize]`.
    pub mask_rhs: Option<ArrayHandle>,
}

/// `a @ b` in square blocks, of which masks leave some out.
#[napi(namespace = "ops", catch_unwind)]
pub fn block_masked_mm(a: ArrayHandle, b: ArrayHandle, options: BlockMaskedMmOptions) -> js::Result<ArrayHandle> {
    let block_size = integer_or("blockSize", options.block_size, 64)?;
    let masks = [options.mask_out.as_deref(), options.mask_lhs.as_deref(), options.mask_rhs.as_deref()];
    Ok(ops::block_masked_mm(&a, &b, block_size, masks[0], masks[1], masks[2])?.into())
}

/// For each `[start, stop)` of `segments` `[.., 2]` the product of those columns of `a` `[M, K]` and rows of `b` `[K, N]`:
/// `[.., M, N]`.
#[napi(namespace = "ops", catch_unwind)]
pub fn segmented_mm(a: ArrayHandle, b: ArrayHandle, segments: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(ops::segmented_mm(&a, &b, &segments)?.into())
}

/// Of `gatherMm`. Indices count the flattened leading axes; absent ones stand for all matrices in order.
#[napi(object, object_to_js = false)]
pub struct GatherMmOptions {
    /// Which matrices of `a`.
    pub lhs_indices: Option<ArrayHandle>,
    /// Which matrices of `b`.
    pub rhs_indices: Option<ArrayHandle>,
    /// Whether the indices ascend, which is faster.
    pub sorted_indices: Option<bool>,
}

/// Products of chosen matrices of `a` `[.., M, K]` with chosen ones of `b` `[.., K, N]`; the two lists of indices broadcast.
#[napi(namespace = "ops", catch_unwind)]
pub fn gather_mm(a: ArrayHandle, b: ArrayHandle, options: GatherMmOptions) -> js::Result<ArrayHandle> {
    let (lhs, rhs) = (options.lhs_indices.as_deref(), options.rhs_indices.as_deref());
    Ok(ops::gather_mm(&a, &b, lhs, rhs, options.sorted_indices.unwrap_or(false))?.into())
}
