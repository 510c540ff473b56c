//! Linear algebra in float32 and float64, on the last two axes. MLX has it on the CPU only: these run there in every build.

use mlx_sys as sys;

use super::array::{output, output_list, output_pair};
use super::ops::check;
use super::{Array, Dtype, Error, Result, ops, stream};

/// Float32 or float64, at least a matrix, with elements.
fn matrix(op: &str, a: &Array) -> Result<()> {
    if ![Dtype::Float32, Dtype::Float64].contains(&a.dtype()) {
        let dtype = a.dtype().name();
        return Err(Error::Dtype(format!("{op}: float32 or float64 is needed, got {dtype}; convert it with astype")));
    }
    check::min_ndim(op, a, 2)?;
    check::not_empty(op, a)
}

fn square(op: &str, a: &Array) -> Result<()> {
    matrix(op, a)?;
    if a.dim(-1) == a.dim(-2) {
        Ok(())
    } else {
        Err(Error::Shape(format!("{op}: square matrices are needed, got {:?}", a.shape())))
    }
}

macro_rules! unary {
    ($check:ident; $($(#[$doc:meta])* $name:ident $raw:ident $(($($flag:ident: $kind:ty),*))?),* $(,)?) => { $(
        $(#[$doc])*
        pub fn $name(a: &Array $($(, $flag: $kind)*)?) -> Result<Array> {
            $check(stringify!($name), a)?;
            // SAFETY: valid handle.
            output(|result| unsafe { sys::$raw(result, a.0, $($($flag,)*)? stream::cpu()) })
        }
    )* };
}

macro_rules! pairs {
    ($check:ident; $($(#[$doc:meta])* $name:ident $raw:ident),* $(,)?) => { $(
        $(#[$doc])*
        pub fn $name(a: &Array) -> Result<(Array, Array)> {
            $check(stringify!($name), a)?;
            // SAFETY: fills two empty handles.
            output_pair(|first, second| unsafe { sys::$raw(first, second, a.0, stream::cpu()) })
        }
    )* };
}

/// `result` where `holds` (one bool per matrix, two axes of size 1 kept), NaN elsewhere.
fn or_nan(holds: &Array, result: &Array) -> Result<Array> {
    ops::where_(holds, result, &Array::scalar_of(f64::NAN, result.dtype())?)
}

/// A matrix on which LAPACK's iterations end: zeros in place of matrices with NaN or infinities, and which ones are not replaced.
struct Finite {
    matrix: Array,
    holds: Array,
}

impl Finite {
    fn of(a: &Array) -> Result<Finite> {
        let holds = a.isfinite()?.all(&[-2, -1], true)?;
        let matrix = ops::where_(&holds, a, &Array::scalar_of(0., a.dtype())?)?;
        Ok(Finite { matrix, holds })
    }

    /// A result with two axes per matrix.
    fn matrices(&self, result: &Array) -> Result<Array> {
        or_nan(&self.holds, result)
    }

    /// A result with one axis per matrix.
    fn vectors(&self, result: &Array) -> Result<Array> {
        or_nan(&self.holds.squeeze(&[-1])?, result)
    }
}

/// `L` with `L Lᵀ = a` for a symmetric positive definite `a`, or with `upper` `U` with `Uᵀ U = a`. A matrix that is not positive
/// definite gives NaN (MLX leaves numbers without meaning).
pub fn cholesky(a: &Array, upper: bool) -> Result<Array> {
    square("cholesky", a)?;
    // SAFETY: valid handle.
    let factor = output(|result| unsafe { sys::mlx_linalg_cholesky(result, a.0, upper, stream::cpu()) })?;
    let zero = Array::scalar_of(0., a.dtype())?;
    let holds = factor.diagonal(0, -2, -1)?.greater(&zero)?.all(&[-1], true)?.expand_dims(&[-1])?;
    or_nan(&holds, &factor)
}

unary! {
    square;
    /// The inverse of `L Lᵀ` (`Uᵀ U` with `upper`) from a Cholesky factor.
    cholesky_inv mlx_linalg_cholesky_inv(upper: bool),
    /// The inverse. A singular matrix is an error when the result is evaluated.
    inv mlx_linalg_inv,
    /// The inverse of a triangular matrix.
    tri_inv mlx_linalg_tri_inv(upper: bool),
    /// The determinant.
    det mlx_linalg_det,
}

/// The Moore-Penrose pseudo-inverse. NaN or infinite elements give NaN.
pub fn pinv(a: &Array) -> Result<Array> {
    matrix("pinv", a)?;
    let a = Finite::of(a)?;
    // SAFETY: valid handle.
    a.matrices(&output(|result| unsafe { sys::mlx_linalg_pinv(result, a.matrix.0, stream::cpu()) })?)
}

pairs! {
    matrix;
    /// `(q, r)` with orthonormal columns and an upper triangle.
    qr mlx_linalg_qr,
    /// `(lu, pivots)` in LAPACK's compact form.
    lu_factor mlx_linalg_lu_factor,
}

pairs! {
    square;
    /// Sign and logarithm of the absolute value of the determinant.
    slogdet mlx_linalg_slogdet,
}

/// `(values, vectors)` of general matrices, complex64, vectors in columns. NaN or infinite elements give NaN, here and in the
/// other decompositions: LAPACK's iterations on them can fail, or end the process.
pub fn eig(a: &Array) -> Result<(Array, Array)> {
    square("eig", a)?;
    let a = Finite::of(a)?;
    // SAFETY: fills two empty handles.
    let (values, vectors) =
        output_pair(|values, vectors| unsafe { sys::mlx_linalg_eig(values, vectors, a.matrix.0, stream::cpu()) })?;
    Ok((a.vectors(&values)?, a.matrices(&vectors)?))
}

/// Eigenvalues of general matrices, complex64. NaN or infinite elements give NaN.
pub fn eigvals(a: &Array) -> Result<Array> {
    square("eigvals", a)?;
    let a = Finite::of(a)?;
    // SAFETY: valid handle.
    a.vectors(&output(|result| unsafe { sys::mlx_linalg_eigvals(result, a.matrix.0, stream::cpu()) })?)
}

/// Which half of a symmetric matrix is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Triangle {
    Lower,
    Upper,
}

impl Triangle {
    /// `L` or `U`.
    pub fn parse(name: &str) -> Result<Triangle> {
        check::one_of("eigh", "UPLO", name, &["L", "U"])?;
        Ok(if name == "L" { Triangle::Lower } else { Triangle::Upper })
    }

    fn word(self) -> *const std::ffi::c_char {
        match self {
            Triangle::Lower => c"L".as_ptr(),
            Triangle::Upper => c"U".as_ptr(),
        }
    }
}

/// `(values, vectors)` of symmetric matrices, values ascending, vectors in columns.
pub fn eigh(a: &Array, triangle: Triangle) -> Result<(Array, Array)> {
    square("eigh", a)?;
    let a = Finite::of(a)?;
    // SAFETY: fills two empty handles.
    let (values, vectors) = output_pair(|values, vectors| unsafe {
        sys::mlx_linalg_eigh(values, vectors, a.matrix.0, triangle.word(), stream::cpu())
    })?;
    Ok((a.vectors(&values)?, a.matrices(&vectors)?))
}

/// Eigenvalues of symmetric matrices, ascending.
pub fn eigvalsh(a: &Array, triangle: Triangle) -> Result<Array> {
    square("eigvalsh", a)?;
    let a = Finite::of(a)?;
    // SAFETY: valid handle.
    a.vectors(&output(|result| unsafe { sys::mlx_linalg_eigvalsh(result, a.matrix.0, triangle.word(), stream::cpu()) })?)
}

/// `[u, s, vᵀ]` with `u diag(s) vᵀ = a`, `u` and `v` square and `s` descending.
pub fn svd(a: &Array) -> Result<[Array; 3]> {
    matrix("svd", a)?;
    let a = Finite::of(a)?;
    // SAFETY: fills the list.
    let list = output_list(|result| unsafe { sys::mlx_linalg_svd(result, a.matrix.0, true, stream::cpu()) })?;
    let [u, s, vt] = three("svd", list)?;
    Ok([a.matrices(&u)?, a.vectors(&s)?, a.matrices(&vt)?])
}

fn three(op: &str, list: Vec<Array>) -> Result<[Array; 3]> {
    list.try_into().map_err(|list: Vec<Array>| Error::Internal(format!("{op}: MLX returned {} arrays", list.len())))
}

/// Singular values, descending.
pub fn svdvals(a: &Array) -> Result<Array> {
    matrix("svdvals", a)?;
    let a = Finite::of(a)?;
    // SAFETY: fills the list.
    let list = output_list(|result| unsafe { sys::mlx_linalg_svd(result, a.matrix.0, false, stream::cpu()) })?;
    a.vectors(list.first().ok_or_else(|| Error::Internal("svd: MLX returned nothing".into()))?)
}

/// `[p, l, u]`: row indices (uint32) of the permutation, and triangles with `a = l[p] u`.
pub fn lu(a: &Array) -> Result<[Array; 3]> {
    matrix("lu", a)?;
    // SAFETY: fills the list.
    three("lu", output_list(|result| unsafe { sys::mlx_linalg_lu(result, a.0, stream::cpu()) })?)
}

/// A square `a`, and a right side of vectors or matrices that fits.
fn system(op: &str, a: &Array, b: &Array) -> Result<()> {
    square(op, a)?;
    if ![Dtype::Float32, Dtype::Float64].contains(&b.dtype()) {
        return Err(Error::Dtype(format!("{op}: float32 or float64 is needed, got {}", b.dtype().name())));
    }
    check::min_ndim(op, b, 1)?;
    check::not_empty(op, b)?;
    let rows = b.dim(if b.ndim() == 1 || b.ndim() + 1 == a.ndim() { -1 } else { -2 });
    if rows == a.dim(-1) {
        return Ok(());
    }
    Err(Error::Shape(format!("{op}: a right side of shape {:?} does not fit {:?}", b.shape(), a.shape())))
}

/// `x` with `a x = b`. A singular `a` is an error when the result is evaluated.
pub fn solve(a: &Array, b: &Array) -> Result<Array> {
    system("solve", a, b)?;
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_linalg_solve(result, a.0, b.0, stream::cpu()) })
}

/// `x` with `a x = b` for a triangular `a`.
pub fn solve_triangular(a: &Array, b: &Array, upper: bool) -> Result<Array> {
    system("solve_triangular", a, b)?;
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_linalg_solve_triangular(result, a.0, b.0, upper, stream::cpu()) })
}

/// Cross product of vectors with 2 or 3 elements along an axis.
pub fn cross(a: &Array, b: &Array, axis: i32) -> Result<Array> {
    let sizes = [a, b].map(|array| Ok::<i32, Error>(array.shape()[check::axis("cross", axis, array.ndim())?]));
    for size in sizes {
        let size = size?;
        if ![2, 3].contains(&size) {
            return Err(Error::Shape(format!("cross: vectors of 2 or 3 elements are needed, got {size}")));
        }
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_linalg_cross(result, a.0, b.0, axis, stream::current()) })
}

/// What a norm measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormOrder {
    /// The root of the sum of squares, of all elements or over the axes.
    L2,
    /// Of vectors the p-norm (0 counts, infinities give the extremes); of matrices 1, -1, 2, -2 and the infinities.
    P(f64),
    /// Frobenius, of matrices.
    Frobenius,
    /// The sum of the singular values, of matrices.
    Nuclear,
}

impl NormOrder {
    /// `fro`, `nuc`, `inf` or `-inf`.
    pub fn parse(name: &str) -> Result<NormOrder> {
        check::one_of("norm", "ord", name, &["fro", "nuc", "inf", "-inf"])?;
        Ok(match name {
            "fro" => NormOrder::Frobenius,
            "nuc" => NormOrder::Nuclear,
            "inf" => NormOrder::P(f64::INFINITY),
            _ => NormOrder::P(f64::NEG_INFINITY),
        })
    }
}

/// A norm of vectors (one axis) or matrices (two axes); without axes of the whole array.
pub fn norm(a: &Array, order: NormOrder, axes: Option<&[i32]>, keepdims: bool) -> Result<Array> {
    if let Some(axes) = axes {
        check::axes("norm", axes, a.ndim())?;
        if axes.is_empty() {
            return Err(Error::Argument("norm: at least one axis is needed".into()));
        }
    }
    let rank = axes.map_or(a.ndim(), <[i32]>::len);
    let wrong = |kinds: &str| Err(Error::Shape(format!("norm: {order:?} is defined over {kinds} axes, not {rank}")));
    match order {
        NormOrder::P(p) if p.is_nan() => return Err(Error::Argument("norm: ord is NaN".into())),
        NormOrder::P(_) if ![1, 2].contains(&rank) => return wrong("1 or 2"),
        NormOrder::P(p) if rank == 2 && ![1., -1., 2., -2., f64::INFINITY, f64::NEG_INFINITY].contains(&p) => {
            return Err(Error::Argument(format!("norm: of matrices ord is 1, -1, 2, -2, inf or -inf, got {p}")));
        }
        NormOrder::Frobenius | NormOrder::Nuclear if rank != 2 => return wrong("2"),
        NormOrder::L2 => {}
        _ => check::not_empty("norm", a)?,
    }
    // MLX passes integers on to operations that take floats.
    let a = if a.dtype().is_float() || a.dtype() == Dtype::Complex64 { a.clone() } else { a.astype(Dtype::Float32)? };
    let spectral = rank == 2 && matches!(order, NormOrder::Nuclear | NormOrder::P(2.) | NormOrder::P(-2.));
    if spectral && ![Dtype::Float32, Dtype::Float64].contains(&a.dtype()) {
        return Err(Error::Dtype(format!("norm: singular values need float32 or float64, got {}", a.dtype().name())));
    }
    if spectral {
        return spectral_norm(&a, order, axes, keepdims);
    }
    let stream = stream::current();
    let (list, count) = axes.map_or((std::ptr::null(), 0), |axes| (axes.as_ptr(), axes.len()));
    // SAFETY: the axes live during the call; a null list means all.
    output(|result| unsafe {
        match order {
            NormOrder::P(p) => sys::mlx_linalg_norm(result, a.0, p, list, count, keepdims, stream),
            // Over two axes the Frobenius norm is the root of the sum of squares.
            _ => sys::mlx_linalg_norm_l2(result, a.0, list, count, keepdims, stream),
        }
    })
}

/// The norms that singular values give.
fn spectral_norm(a: &Array, order: NormOrder, axes: Option<&[i32]>, keepdims: bool) -> Result<Array> {
    let places = check::axes("norm", axes.unwrap_or(&[0, 1]), a.ndim())?;
    let (row, column) = (places[0] as i32, places[1] as i32);
    let others = (0..a.ndim() as i32).filter(|place| ![row, column].contains(place));
    let values = svdvals(&a.transpose(&others.chain([row, column]).collect::<Vec<_>>())?)?;
    let norm = match order {
        NormOrder::Nuclear => values.sum(&[-1], false)?,
        NormOrder::P(p) if p < 0. => values.min(&[-1], false)?,
        _ => values.max(&[-1], false)?,
    };
    if keepdims { norm.expand_dims(&[row, column]) } else { Ok(norm) }
}
