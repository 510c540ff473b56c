//! Linear algebra: factors rebuild their matrix.

use super::{array, ints, noise, read};
use crate::mlx::linalg::{self, NormOrder, Triangle};
use crate::mlx::{Array, Dtype, ops};
use crate::testing::assert_close;

#[test]
fn factorisations_reassemble() {
    for (rows, columns) in [(3, 3), (5, 3), (3, 5), (40, 40)] {
        let a = noise(&[2, rows, columns], 7);
        let least = rows.min(columns);
        let [u, s, vt] = linalg::svd(&a).unwrap();
        let (u, vt) = (u.slice_axis(-1, 0, least).unwrap(), vt.slice_axis(-2, 0, least).unwrap());
        let whole = u.multiply(&s.expand_dims(&[-2]).unwrap()).unwrap().matmul(&vt).unwrap();
        assert_close(&whole, &a, 2e-4, 0., "svd");
        assert_close(&linalg::svdvals(&a).unwrap(), &s, 1e-4, 1e-4, "svdvals");
        let (q, r) = linalg::qr(&a).unwrap();
        assert_close(&q.matmul(&r).unwrap(), &a, 1e-4, 0., "qr");
        let unit = q.swapaxes(-1, -2).unwrap().matmul(&q).unwrap();
        let identity = ops::eye(least, least, 0, Dtype::Float32).unwrap().broadcast_to(&[2, least, least]).unwrap();
        assert_close(&unit, &identity, 1e-5, 0., "orthogonality");
        let [p, l, u] = linalg::lu(&a).unwrap();
        let rows_back = p.astype(Dtype::Int32).unwrap().expand_dims(&[-1]).unwrap();
        let product = l.matmul(&u).unwrap();
        let places = rows_back.broadcast_to(product.shape()).unwrap();
        assert_close(&product.take_along_axis_bounded(&places, 1).unwrap(), &a, 1e-4, 0., "lu");
        let inverse = linalg::pinv(&a).unwrap();
        assert_close(&a.matmul(&inverse).unwrap().matmul(&a).unwrap(), &a, 1e-3, 1e-3, "pinv");
    }
}

#[test]
fn square_systems() {
    for size in [1, 2, 3, 17, 64] {
        let identity = ops::identity(size, Dtype::Float32).unwrap();
        let a = noise(&[size, size], 3).add(&identity.multiply_scalar(size as f32).unwrap()).unwrap();
        assert_close(&a.matmul(&linalg::inv(&a).unwrap()).unwrap(), &identity, 1e-4, 0., "inv");
        let x = noise(&[size], 4);
        assert_close(&linalg::solve(&a, &a.matmul(&x).unwrap()).unwrap(), &x, 1e-4, 1e-4, "solve");
        let positive = a.matmul(&a.t().unwrap()).unwrap();
        let factor = linalg::cholesky(&positive, false).unwrap();
        let scale = positive.abs().unwrap().max_all().unwrap();
        let residual = factor.matmul(&factor.t().unwrap()).unwrap().subtract(&positive).unwrap().divide(&scale).unwrap();
        assert_close(&residual, &ops::zeros_like(&residual).unwrap(), 1e-5, 0., "cholesky");
        let upper = linalg::cholesky(&positive, true).unwrap();
        let residual = upper.t().unwrap().matmul(&upper).unwrap().subtract(&positive).unwrap().divide(&scale).unwrap();
        assert_close(&residual, &ops::zeros_like(&residual).unwrap(), 1e-5, 0., "upper cholesky");
        let inverse = linalg::cholesky_inv(&factor, false).unwrap();
        assert_close(&positive.matmul(&inverse).unwrap(), &identity, 1e-3, 0., "cholesky_inv");
        let triangle = a.tril(0).unwrap();
        assert_close(&triangle.matmul(&linalg::tri_inv(&triangle, false).unwrap()).unwrap(), &identity, 1e-4, 0., "tri_inv");
        let solved = linalg::solve_triangular(&triangle, &triangle.matmul(&x).unwrap(), false).unwrap();
        assert_close(&solved, &x, 1e-4, 1e-4, "solve_triangular");
        let (sign, log) = linalg::slogdet(&a).unwrap();
        if size <= 3 {
            assert_close(&linalg::det(&a).unwrap(), &sign.multiply(&log.exp().unwrap()).unwrap(), 1e-3, 1e-4, "det");
        }
        // Symmetric: values and vectors rebuild the matrix.
        let symmetric = a.add(&a.t().unwrap()).unwrap();
        for triangle in [Triangle::Lower, Triangle::Upper] {
            let (values, vectors) = linalg::eigh(&symmetric, triangle).unwrap();
            let whole = vectors.multiply(&values).unwrap().matmul(&vectors.t().unwrap()).unwrap();
            assert_close(&whole, &symmetric, 2e-3, 1e-4, "eigh");
            assert_close(&linalg::eigvalsh(&symmetric, triangle).unwrap(), &values, 1e-3, 1e-4, "eigvalsh");
        }
        // General: a v = v diag(values).
        let (values, vectors) = linalg::eig(&a).unwrap();
        let left = a.astype(Dtype::Complex64).unwrap().matmul(&vectors).unwrap();
        let gap = left.subtract(&vectors.multiply(&values).unwrap()).unwrap().abs().unwrap();
        assert_close(&gap, &ops::zeros_like(&gap).unwrap(), 1e-3, 0., "eig");
        assert_eq!(linalg::eigvals(&a).unwrap().shape(), [size]);
    }
    let known = array(&[2., 1., 1., 2.], &[2, 2]);
    assert_close(&linalg::eigvalsh(&known, Triangle::Lower).unwrap(), &array(&[1., 3.], &[2]), 1e-6, 0., "known values");
    assert_close(&linalg::det(&known).unwrap(), &Array::scalar(3.), 1e-5, 0., "known determinant");
    let (lu, pivots) = linalg::lu_factor(&known).unwrap();
    assert_eq!((lu.shape(), pivots.shape()), (&[2, 2][..], &[2][..]));
}

#[test]
fn what_has_no_factorisation_is_nan() {
    let bad = array(&[1., 2., 2., 1.], &[2, 2]);
    let both = ops::stack(&[bad.clone(), ops::identity(2, Dtype::Float32).unwrap()], 0).unwrap();
    for upper in [false, true] {
        let factors = read(&linalg::cholesky(&both, upper).unwrap());
        assert!(factors[..4].iter().all(|value| value.is_nan()), "{factors:?}");
        assert_eq!(factors[4..], [1., 0., 0., 1.]);
    }
    for value in [f32::NAN, f32::INFINITY] {
        let broken = ops::stack(&[bad.multiply_scalar(value).unwrap(), bad.clone()], 0).unwrap();
        let values = read(&linalg::eigvalsh(&broken, Triangle::Lower).unwrap());
        assert!(values[..2].iter().all(|value| value.is_nan()));
        assert!((values[2] + 1.).abs() < 1e-5 && (values[3] - 3.).abs() < 1e-5);
        assert!(read(&linalg::eig(&broken).unwrap().0.real().unwrap())[0].is_nan());
        assert!(read(&linalg::svdvals(&broken).unwrap())[0].is_nan());
    }
}

#[test]
fn norms_and_cross() {
    let v = array(&[3., -4., 0.], &[3]);
    let norm = |a: &Array, order, axes: Option<&[i32]>| read(&linalg::norm(a, order, axes, false).unwrap());
    assert_eq!(norm(&v, NormOrder::L2, None), [5.]);
    assert_eq!(norm(&v, NormOrder::P(1.), None), [7.]);
    assert_eq!(norm(&v, NormOrder::P(0.), None), [2.]);
    assert_eq!(norm(&v, NormOrder::P(f64::INFINITY), None), [4.]);
    assert_eq!(norm(&v, NormOrder::P(f64::NEG_INFINITY), None), [0.]);
    let m = array(&[3., 0., 0., -4.], &[2, 2]);
    assert_eq!(norm(&m, NormOrder::Frobenius, None), [5.]);
    assert_eq!(norm(&m, NormOrder::P(1.), None), [4.]);
    assert_eq!(norm(&m, NormOrder::P(-1.), None), [3.]);
    assert_eq!(norm(&m, NormOrder::P(f64::INFINITY), None), [4.]);
    for (order, want) in [(NormOrder::Nuclear, 7.), (NormOrder::P(2.), 4.), (NormOrder::P(-2.), 3.)] {
        assert!((norm(&m, order, None)[0] - want).abs() < 1e-5);
        let stacked = ops::stack(&[m.clone(), m.clone()], 2).unwrap();
        let kept = linalg::norm(&stacked, order, Some(&[0, 1]), true).unwrap();
        assert_eq!(kept.shape(), [1, 1, 2]);
        assert!((read(&kept)[1] - want).abs() < 1e-5);
    }
    assert_eq!(norm(&ints(&[3, 4], &[2]), NormOrder::L2, None), [5.]);
    let (x, y) = (array(&[1., 0., 0.], &[3]), array(&[0., 1., 0.], &[3]));
    assert_eq!(read(&linalg::cross(&x, &y, -1).unwrap()), [0., 0., 1.]);
}
