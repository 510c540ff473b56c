import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { codeOf, expectNear, expectNumbers, numbers } from '../helpers/arrays.ts';

const { linalg } = mx;
const noise = (shape: number[], seed: number): MxArray => mx.random.normal(shape, { key: mx.random.key(seed) });
const t = (a: MxArray): MxArray => a.swapaxes(-1, -2);
const identity = (batch: number, n: number): MxArray => mx.broadcastTo(mx.eye(n), [batch, n, n]);

/** Two matrices, and two well-conditioned symmetric positive definite ones. */
const general = noise([2, 4, 4], 1);
const positive = general.matmul(t(general)).add(mx.eye(4));
/** Factors of 4 × 4 matrices of norm up to about 10, in float32. */
const near = 1e-4;

describe('factors multiply back', () => {
  test('qr', () => {
    const [q, r] = linalg.qr(noise([2, 5, 3], 2));
    expectNear(q.matmul(r), noise([2, 5, 3], 2), near);
    expectNear(t(q).matmul(q), identity(2, 3), near);
    expectNear(mx.tril(r, -1), mx.zeros([2, 3, 3]), 0);
  });

  test('svd', () => {
    const x = noise([2, 3, 5], 3);
    const [u, s, vt] = linalg.svd(x);
    expect([u.shape, s.shape, vt.shape]).toEqual([
      [2, 3, 3],
      [2, 3],
      [2, 5, 5],
    ]);
    const diagonal = s.expandDims(-1).multiply(mx.eye(3, 5));
    expectNear(u.matmul(diagonal).matmul(vt), x, near);
    expectNear(linalg.svdvals(x), s, near);
    const [first, second, third] = numbers(s);
    expect(first! >= second! && second! >= third! && third! >= 0).toBe(true);
  });

  test('cholesky and its inverse', () => {
    const lower = linalg.cholesky(positive);
    expectNear(lower.matmul(t(lower)), positive, near);
    const upper = linalg.cholesky(positive, true);
    expectNear(t(upper).matmul(upper), positive, near);
    expectNear(linalg.choleskyInv(lower).matmul(positive), identity(2, 4), near);
    expectNear(linalg.choleskyInv(upper, true).matmul(positive), identity(2, 4), near);
    expect(numbers(linalg.cholesky(mx.eye(2).negative())).every(Number.isNaN)).toBe(true);
  });

  test('lu', () => {
    const x = noise([4, 4], 4);
    const [p, l, u] = linalg.lu(x);
    expectNear(l.take(p, 0).matmul(u), x, near);
    expectNear(mx.triu(l, 1), mx.zeros([4, 4]), 0);
    const [packed, pivots] = linalg.luFactor(x);
    expectNear(mx.triu(packed), u, near);
    expect(pivots.shape).toEqual([4]);
  });

  test('eigh and eigvalsh', () => {
    const [values, vectors] = linalg.eigh(positive);
    expectNear(positive.matmul(vectors), vectors.multiply(values.expandDims(-2)), 10 * near);
    expectNear(linalg.eigvalsh(positive, 'U'), values, 10 * near);
    const lower = mx.tril(positive);
    expectNear(linalg.eigvalsh(lower, 'L'), values, 10 * near);
    expectNear(linalg.eigvalsh(mx.tril(lower), 'U'), mx.sort(lower.diagonal(0, -2, -1)), 10 * near);
  });

  test('eig and eigvals', () => {
    const turn = mx.array(
      [
        [0, -1],
        [1, 0],
      ],
      'float32',
    );
    const [values, vectors] = linalg.eig(turn);
    expect([values.dtype, vectors.dtype]).toEqual(['complex64', 'complex64']);
    const products = mx.matmul(turn.astype('complex64'), vectors).subtract(vectors.multiply(values.expandDims(0)));
    expect(Math.max(...numbers(products.abs()))).toBeLessThan(near);
    // A quarter turn has the eigenvalues ± i.
    expectNumbers(linalg.eigvals(turn).imag().abs(), [1, 1], near);
    expectNumbers(linalg.eigvals(turn).real(), [0, 0], near);
  });
});

describe('inverses and solutions', () => {
  test('inv, triInv and pinv', () => {
    expectNear(linalg.inv(positive).matmul(positive), identity(2, 4), near);
    const lower = mx.tril(positive);
    expectNear(linalg.triInv(lower).matmul(lower), identity(2, 4), near);
    expectNear(linalg.triInv(t(lower), true).matmul(t(lower)), identity(2, 4), near);
    const tall = noise([5, 3], 5);
    expectNear(linalg.pinv(tall).matmul(tall), mx.eye(3), near);
  });

  test('solve and solveTriangular', () => {
    const x = noise([2, 4, 3], 6);
    expectNear(linalg.solve(positive, positive.matmul(x)), x, 10 * near);
    const vector = noise([4], 7);
    const matrix = positive.take(0, 0);
    expectNear(linalg.solve(matrix, matrix.matmul(vector)), vector, 10 * near);
    const lower = mx.tril(positive);
    expectNear(linalg.solveTriangular(lower, lower.matmul(x)), x, 10 * near);
    expectNear(linalg.solveTriangular(t(lower), t(lower).matmul(x), true), x, 10 * near);
  });

  test('det and slogdet', () => {
    const x = mx.array(
      [
        [2, 1],
        [1, -3],
      ],
      'float32',
    );
    expectNumbers(linalg.det(x), [-7], near);
    const [sign, logarithm] = linalg.slogdet(x);
    expectNumbers(sign, [-1]);
    expectNumbers(logarithm, [Math.log(7)], near);
  });
});

test('norms of vectors and matrices', () => {
  const x = mx.array(
    [
      [3, -4],
      [0, 12],
    ],
    'float32',
  );
  const value = (ord?: number | string | null, axis?: number | number[]): number[] =>
    numbers(linalg.norm(x, ord, axis));
  expectNumbers(linalg.norm(x), [13], 1e-5);
  expect(value('fro', [0, 1])[0]).toBeCloseTo(13, 4);
  expect(value(null, 1)).toEqual([5, 12]);
  expect(value(1, 1)).toEqual([7, 12]);
  expect(value(0, 1)).toEqual([2, 1]);
  expect(value(Infinity, 1)).toEqual([4, 12]);
  expect(value('-inf', 1)).toEqual([3, 0]);
  expect(value(1)).toEqual([16]);
  expect(value(-1)).toEqual([3]);
  expect(value(Infinity)).toEqual([12]);
  const singular = numbers(linalg.svdvals(x));
  expect(value(2)[0]).toBeCloseTo(singular[0]!, 4);
  expect(value(-2)[0]).toBeCloseTo(singular[1]!, 4);
  expect(value('nuc')[0]).toBeCloseTo(singular[0]! + singular[1]!, 4);
  expect(linalg.norm(x, 3, 0, true).shape).toEqual([1, 2]);
  expect(linalg.norm(mx.array([3, 4])).item()).toBe(5);
});

test('cross products', () => {
  expectNumbers(linalg.cross([1, 0, 0], [0, 1, 0]), [0, 0, 1]);
  expectNumbers(linalg.cross(mx.array([[1, 2, 3]]).transpose(), mx.array([[3, 2, 1]]).transpose(), 0), [-4, 8, -4]);
  // What has two elements has a third one of 0.
  expectNumbers(linalg.cross([1, 2], [3, 4]), [0, 0, -2]);
});

test('what does not fit is a typed error', () => {
  const square = noise([2, 2], 1);
  const wide = noise([2, 3], 1);
  const half = mx.ones([2, 2], 'float16');
  const ofSquares = [
    linalg.inv,
    linalg.triInv,
    linalg.cholesky,
    linalg.choleskyInv,
    linalg.det,
    linalg.slogdet,
    linalg.eig,
    linalg.eigvals,
    linalg.eigh,
    linalg.eigvalsh,
  ];
  for (const call of ofSquares) expect(codeOf(() => call(wide))).toBe('ERR_MLX_SHAPE');
  const all = [...ofSquares, linalg.qr, linalg.svd, linalg.svdvals, linalg.pinv, linalg.lu, linalg.luFactor];
  for (const call of all) {
    expect(codeOf(() => call(half))).toBe('ERR_MLX_DTYPE');
    expect(codeOf(() => call(mx.zeros([2])))).toBe('ERR_MLX_SHAPE');
    expect(codeOf(() => call(mx.zeros([0, 0])))).toBe('ERR_MLX_SHAPE');
    expect(codeOf(() => call(undefined as never))).toBe('ERR_MLX_ARGUMENT');
  }
  const errors: [code: string, action: () => unknown][] = [
    ['ERR_MLX_SHAPE', () => linalg.solve(square, noise([3], 1))],
    ['ERR_MLX_SHAPE', () => linalg.solveTriangular(square, noise([3, 2], 1))],
    ['ERR_MLX_ARGUMENT', () => linalg.eigh(square, 'X')],
    ['ERR_MLX_ARGUMENT', () => linalg.norm(square, 'max')],
    ['ERR_MLX_ARGUMENT', () => linalg.norm(square, 3)],
    ['ERR_MLX_ARGUMENT', () => linalg.norm(square, NaN)],
    ['ERR_MLX_SHAPE', () => linalg.norm(square, null, 2)],
    ['ERR_MLX_SHAPE', () => linalg.norm(square, 'fro', 1)],
    ['ERR_MLX_ARGUMENT', () => linalg.norm(square, null, [])],
    ['ERR_MLX_SHAPE', () => linalg.cross(noise([4], 1), noise([4], 2))],
    ['ERR_MLX_SHAPE', () => linalg.cross(noise([3], 1), noise([3], 2), 1)],
  ];
  for (const [code, action] of errors) expect([codeOf(action), String(action)]).toEqual([code, String(action)]);
});
