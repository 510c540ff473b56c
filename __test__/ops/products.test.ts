import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { codeOf, expectNear, expectNumbers } from '../helpers/arrays.ts';

const noise = (shape: number[], seed: number): MxArray => mx.random.normal(shape, { key: mx.random.key(seed) });
const a = mx.array(
  [
    [1, 2],
    [3, 4],
  ],
  'float32',
);
const b = mx.array(
  [
    [5, 6],
    [7, 8],
  ],
  'float32',
);

test('addmm weighs the product and what is added', () => {
  expectNumbers(mx.addmm(mx.array([1, 10], 'float32'), a, b), [20, 32, 44, 60]);
  const weighed = mx.addmm(mx.ones([2, 2]), a, b, { alpha: 2, beta: -1 });
  expectNumbers(weighed, [37, 43, 85, 99]);
});

test('products of empty matrices are empty, or sums of nothing', () => {
  const [tall, wide, none] = [mx.zeros([2, 0]), mx.zeros([0, 3]), mx.zeros([0, 2])];
  const nothing = mx.zeros([2, 3]);
  for (const product of [
    tall.matmul(wide),
    mx.inner(tall, mx.zeros([3, 0])),
    mx.tensordot(tall, wide, 1),
    mx.einsum('ik,kj->ij', tall, wide),
    mx.addmm(nothing, tall, wide),
  ]) {
    expect(product.shape).toEqual([2, 3]);
    expectNumbers(product, [0, 0, 0, 0, 0, 0]);
  }
  expect(none.matmul(a).shape).toEqual([0, 2]);
  expectNumbers(none.matmul(a), []);
  expectNumbers(mx.addmm(b, tall, mx.zeros([0, 2]), { beta: 2 }), [10, 12, 14, 16]);
});

test('inner, outer, kron and vecdot', () => {
  expectNumbers(mx.inner(a, b), [17, 23, 39, 53]);
  expectNumbers(mx.outer([1, 2], [3, 4, 5]), [3, 4, 5, 6, 8, 10]);
  expect(a.outer(b).shape).toEqual([4, 4]);
  expectNumbers(mx.kron(a, [[0, 1]]), [0, 1, 0, 2, 0, 3, 0, 4]);
  expectNumbers(mx.vecdot(a, b), [17, 53]);
  expectNumbers(a.vecdot(b, 0), [26, 44]);
});

test('tensordot sums over numbers of axes and lists of them', () => {
  const [x, y] = [noise([2, 3, 4], 1), noise([3, 4, 5], 2)];
  const want = x.reshape([2, 12]).matmul(y.reshape([12, 5]));
  // Sums of 12 products of about 1.
  expectNear(mx.tensordot(x, y), want, 1e-5);
  expectNear(x.tensordot(y, 2), want, 1e-5);
  expectNear(
    mx.tensordot(x, y.transpose([1, 0, 2]), [
      [1, 2],
      [1, 0],
    ]),
    want,
    1e-5,
  );
  expect(mx.tensordot(x, y, 0).shape).toEqual([2, 3, 4, 3, 4, 5]);
});

test('einsum', () => {
  const [x, y] = [noise([2, 3, 4], 1), noise([2, 4, 5], 2)];
  expectNear(mx.einsum('bij,bjk->bik', x, y), x.matmul(y), 1e-5);
  expectNumbers(mx.einsum('ij->ji', a), [1, 3, 2, 4]);
  expectNumbers(mx.einsum('ii', a), [5]);
  expectNumbers(mx.einsum('ij,jk,k->i', a, b, [1, 1]), [41, 93]);
});

test('hadamardTransform is an orthogonal matrix of signs', () => {
  expectNumbers(mx.hadamardTransform(mx.array([1, 2, 3, 4], 'float32'), 1), [10, -2, -4, 0]);
  for (const size of [8, 12, 40, 28]) {
    const rows = mx.eye(size).hadamardTransform(1);
    expectNumbers(rows.abs(), Array(size * size).fill(1));
    const x = noise([3, size], size);
    // Sums of up to 40 products of about 1.
    expectNear(x.hadamardTransform(), x.matmul(rows).multiply(size ** -0.5), 1e-5);
    expectNear(rows.matmul(rows.transpose()), mx.eye(size).multiply(size), 1e-4);
  }
});

describe('products of parts', () => {
  test('blockMaskedMm leaves blocks out and scales them', () => {
    const [x, y] = [noise([64, 64], 1), noise([64, 32], 2)];
    const kept = mx.array([[true], [false]]);
    const whole = x.matmul(y);
    const rows = mx.arange(64).less(32).reshape([64, 1]);
    expectNear(mx.blockMaskedMm(x, y, { blockSize: 32, maskOut: kept }), whole.multiply(rows), 1e-4);
    const lhs = mx
      .array([
        [1, 0],
        [2, 1],
      ])
      .astype('float32');
    const factors = mx.repeat(mx.repeat(lhs, 32, 0), 32, 1);
    expectNear(mx.blockMaskedMm(x, y, { blockSize: 32, maskLhs: lhs }), x.multiply(factors).matmul(y), 1e-4);
    expectNear(mx.blockMaskedMm(x, y, { maskRhs: mx.array([[true]]) }), whole, 1e-4);
  });

  test('segmentedMm multiplies ranges of the inner axis', () => {
    const [x, y] = [noise([3, 10], 1), noise([10, 2], 2)];
    const found = mx.segmentedMm(
      x,
      y,
      mx.array(
        [
          [0, 4],
          [4, 10],
          [5, 5],
        ],
        'uint32',
      ),
    );
    const part = (from: number, to: number): MxArray => {
      const inside = mx.arange(10).greaterEqual(from).logicalAnd(mx.arange(10).less(to));
      return x.multiply(inside).matmul(y);
    };
    expectNear(found, mx.stack([part(0, 4), part(4, 10), mx.zeros([3, 2])]), 1e-5);
  });

  test('gatherMm multiplies chosen matrices', () => {
    const [x, y] = [noise([3, 2, 4], 1), noise([5, 4, 6], 2)];
    const [lhs, rhs] = [mx.array([2, 0, 1, 1]), mx.array([0, 4, 4, -1])];
    const want = x.take(lhs, 0).matmul(y.take(mx.array([0, 4, 4, 4]), 0));
    expectNear(mx.gatherMm(x, y, { lhsIndices: lhs, rhsIndices: rhs }), want, 1e-5);
    expectNear(
      x.gatherMm(y, { rhsIndices: mx.array([0, 1, 1]), sortedIndices: true }),
      x.matmul(y.take(mx.array([0, 1, 1]), 0)),
      1e-5,
    );
  });
});

test('what does not fit is a typed error', () => {
  const f = noise([2, 3], 1);
  const errors: [code: string, action: () => unknown][] = [
    ['ERR_MLX_SHAPE', () => mx.addmm(f, f, f)],
    ['ERR_MLX_DTYPE', () => mx.inner([1, 2], [3, 4])],
    ['ERR_MLX_DTYPE', () => mx.einsum('i,i->', [1, 2], [3, 4])],
    ['ERR_MLX_SHAPE', () => mx.inner(f, noise([2, 2], 1))],
    ['ERR_MLX_SHAPE', () => mx.tensordot(f, f, 3)],
    ['ERR_MLX_SHAPE', () => mx.tensordot(f, f, [[0], [1]])],
    ['ERR_MLX_ARGUMENT', () => mx.tensordot(f, f, [[0]])],
    ['ERR_MLX_ARGUMENT', () => mx.tensordot(f, f, 1.5)],
    ['ERR_MLX_SHAPE', () => mx.vecdot(f, f, 2)],
    ['ERR_MLX_ARGUMENT', () => mx.einsum('ij,jk', f)],
    ['ERR_MLX_SHAPE', () => mx.einsum('ijk', f)],
    ['ERR_MLX_ARGUMENT', () => mx.einsum('i1', f)],
    ['ERR_MLX_ARGUMENT', () => mx.einsum(3 as never, f)],
    ['ERR_MLX_SHAPE', () => mx.hadamardTransform(noise([2, 9], 1))],
    ['ERR_MLX_DTYPE', () => mx.hadamardTransform(mx.array([1, 2]))],
    ['ERR_MLX_ARGUMENT', () => mx.blockMaskedMm(f, f.transpose(), { blockSize: 16 })],
    ['ERR_MLX_SHAPE', () => mx.blockMaskedMm(f, f.transpose(), { maskOut: mx.ones([2, 2]) })],
    ['ERR_MLX_CONFIG', () => mx.blockMaskedMm(f, f, { block_size: 32 } as never)],
    ['ERR_MLX_SHAPE', () => mx.segmentedMm(f, f, mx.array([[0, 1]]))],
    ['ERR_MLX_DTYPE', () => mx.segmentedMm(f, f.transpose(), mx.zeros([1, 2]))],
    ['ERR_MLX_DTYPE', () => mx.gatherMm(f, f.transpose(), { rhsIndices: mx.zeros([2]) })],
    ['ERR_MLX_SHAPE', () => mx.gatherMm(f, f)],
  ];
  for (const [code, action] of errors) expect([codeOf(action), String(action)]).toEqual([code, String(action)]);
});
