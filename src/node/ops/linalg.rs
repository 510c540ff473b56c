//! Linear algebra on the last two axes, in float32 and float64, on the CPU.

use napi::bindgen_prelude::Either;
use napi_derive::napi;

use super::{ArrayHandle, integer_or, some_axes};
use crate::mlx::linalg::{self, NormOrder, Triangle};
use crate::mlx::{Array, Result};
use crate::node::error as js;

fn handles<const N: usize>(arrays: [Array; N]) -> Vec<ArrayHandle> {
    arrays.into_iter().map(ArrayHandle::from).collect()
}

fn pair((first, second): (Array, Array)) -> Vec<ArrayHandle> {
    handles([first, second])
}

fn triangle(name: Option<String>) -> Result<Triangle> {
    Triangle::parse(name.as_deref().unwrap_or("L"))
}

/// A norm over one axis (vectors) or two (matrices), or of the whole array. `ord` is the p of vectors (2; 0 counts), of matrices
/// 1, -1, 2, -2, `Infinity`, `-Infinity`, `'fro'` (default) or `'nuc'`.
#[napi(namespace = "linalg", catch_unwind)]
pub fn norm(
    x: ArrayHandle,
    ord: Option<Either<f64, String>>,
    axis: Option<Either<f64, Vec<f64>>>,
    keepdims: Option<bool>,
) -> js::Result<ArrayHandle> {
    let order = match ord {
        None => NormOrder::L2,
        Some(Either::A(p)) => NormOrder::P(p),
        Some(Either::B(name)) => NormOrder::parse(&name)?,
    };
    let axes = axis.map(some_axes).transpose()?;
    Ok(linalg::norm(&x, order, axes.as_deref(), keepdims.unwrap_or(false))?.into())
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "linalg", catch_unwind)]
        pub fn $name(x: ArrayHandle) -> js::Result<ArrayHandle> {
            Ok(linalg::$name(&x)?.into())
        }
    )* };
}

macro_rules! triangular {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "linalg", catch_unwind)]
        pub fn $name(x: ArrayHandle, upper: Option<bool>) -> js::Result<ArrayHandle> {
            Ok(linalg::$name(&x, upper.unwrap_or(false))?.into())
        }
    )* };
}

macro_rules! pairs {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "linalg", ts_return_type = "[ArrayHandle, ArrayHandle]", catch_unwind)]
        pub fn $name(x: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
            Ok(pair(linalg::$name(&x)?))
        }
    )* };
}

unary! {
    /// The inverse. A singular matrix is an error when the result is evaluated.
    inv,
    /// The Moore-Penrose pseudo-inverse. NaN or infinite elements give NaN.
    pinv,
    /// The determinant.
    det,
    /// Singular values `[.., min(M, N)]`, descending.
    svdvals,
    /// Eigenvalues `[.., N]` of general matrices, complex64.
    eigvals,
}

triangular! {
    /// `L` with `L Lᵀ = x` for a symmetric positive definite `x`, or with `upper` `U` with `Uᵀ U = x`; NaN where there is none.
    cholesky,
    /// The inverse of `L Lᵀ` (`Uᵀ U` with `upper`) from a Cholesky factor.
    cholesky_inv,
    /// The inverse of a triangular matrix.
    tri_inv,
}

pairs! {
    /// `[q, r]`: orthonormal columns and an upper triangle with `q @ r = x`.
    qr,
    /// `[values, vectors]` of general matrices, complex64, vectors in columns. NaN or infinite elements give NaN, here and in the
    /// other decompositions.
    eig,
    /// `[lu, pivots]` in LAPACK's compact form.
    lu_factor,
    /// `[sign, logabsdet]` of the determinant.
    slogdet,
}

/// `[u, s, vt]` with `u diag(s) vt = x`: `u` and `vt` square, `s` descending.
#[napi(namespace = "linalg", ts_return_type = "[ArrayHandle, ArrayHandle, ArrayHandle]", catch_unwind)]
pub fn svd(x: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
    Ok(handles(linalg::svd(&x)?))
}

/// `[p, l, u]`: row indices (uint32) and triangles with `x = l[p] @ u`.
#[napi(namespace = "linalg", ts_return_type = "[ArrayHandle, ArrayHandle, ArrayHandle]", catch_unwind)]
pub fn lu(x: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
    Ok(handles(linalg::lu(&x)?))
}

/// `[values, vectors]` of symmetric matrices, values ascending, vectors in columns; `uplo` names the half that is read, `L` or `U`.
#[napi(namespace = "linalg", ts_return_type = "[ArrayHandle, ArrayHandle]", catch_unwind)]
pub fn eigh(x: ArrayHandle, uplo: Option<String>) -> js::Result<Vec<ArrayHandle>> {
    Ok(pair(linalg::eigh(&x, triangle(uplo)?)?))
}

/// Eigenvalues of symmetric matrices, ascending; `uplo` names the half that is read, `L` or `U`.
#[napi(namespace = "linalg", catch_unwind)]
pub fn eigvalsh(x: ArrayHandle, uplo: Option<String>) -> js::Result<ArrayHandle> {
    Ok(linalg::eigvalsh(&x, triangle(uplo)?)?.into())
}

/// The solution of `matrix @ x = b` for `b` `[.., N]` or `[.., N, K]`. A singular matrix is an error when the result is evaluated.
#[napi(namespace = "linalg", catch_unwind)]
pub fn solve(matrix: ArrayHandle, b: ArrayHandle) -> js::Result<ArrayHandle> {
    Ok(linalg::solve(&matrix, &b)?.into())
}

/// The solution of `matrix @ x = b` for a triangular matrix: a lower one unless `upper`.
#[napi(namespace = "linalg", catch_unwind)]
pub fn solve_triangular(matrix: ArrayHandle, b: ArrayHandle, upper: Option<bool>) -> js::Result<ArrayHandle> {
    Ok(linalg::solve_triangular(&matrix, &b, upper.unwrap_or(false))?.into())
}

/// Cross products of vectors with 2 or 3 elements along an axis (-1).
#[napi(namespace = "linalg", catch_unwind)]
pub fn cross(x: ArrayHandle, y: ArrayHandle, axis: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(linalg::cross(&x, &y, integer_or("axis", axis, -1)?)?.into())
}
