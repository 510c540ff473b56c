import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MlxError, MxArray } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';
import { expectSame, toPlain } from './arbitrary.ts';

const vector = (data: readonly number[]): { shape: number[]; data: readonly number[] } => ({
  shape: [data.length],
  data,
});
const code = (call: () => unknown): unknown => (thrown(call) as MlxError).code;
const message = (call: () => unknown): string => thrown(call).message;

describe('functions of each element, against those of JavaScript', () => {
  // Two roundings of float32 beside results of at most 10.
  const bound = 10 * 2 ** -22;
  const inner = [-0.9, -0.25, 0, 0.5, 0.75];
  const above = [1, 1.5, 2.25, 7];
  const cases: [string, (a: MxArray) => MxArray, (x: number) => number, number[]][] = [
    ['tan', mx.tan, Math.tan, inner],
    ['arcsinh', mx.arcsinh, Math.asinh, [...inner, ...above]],
    ['arccosh', mx.arccosh, Math.acosh, above],
    ['arctanh', mx.arctanh, Math.atanh, inner],
    ['degrees', (a) => mx.degrees(a).divide(100), (x) => (x * 180) / Math.PI / 100, inner],
    ['radians', mx.radians, (x) => (x * Math.PI) / 180, above],
    ['silu', mx.silu, (x) => x / (1 + Math.exp(-x)), inner],
    ['positive', mx.positive, (x) => x, inner],
    ['trunc', mx.trunc, Math.trunc, [-1.5, -0.5, 0.5, 1.5]],
    ['stopGradient', mx.stopGradient, (x) => x, inner],
    ['round to a decimal', (a) => mx.round(a, 1), (x) => Math.round(x * 10) / 10, [0.11, -0.19, 2.34]],
  ];

  test.each(cases)('%s', (_, call, want, data) => {
    expectSame(call(mx.array(data, 'float32')), vector(data.map((x) => want(Math.fround(x)))), bound);
  });

  test('what is finite, infinite, or no number', () => {
    const a = mx.array([NaN, Infinity, -Infinity, 1]);
    expectSame(mx.isnan(a), vector([1, 0, 0, 0]));
    expectSame(mx.isinf(a), vector([0, 1, 1, 0]));
    expectSame(mx.isposinf(a), vector([0, 1, 0, 0]));
    expectSame(mx.isneginf(a), vector([0, 0, 1, 0]));
    expectSame(mx.isfinite(a), vector([0, 0, 0, 1]));
    expectSame(mx.nanToNum(a, 7, 8, 9), vector([7, 8, 9, 1]));
    expectSame(mx.nanToNum(a), vector([0, 3.4028234663852886e38, -3.4028234663852886e38, 1]));
  });

  test('bits and complex numbers', () => {
    expectSame(mx.bitwiseInvert(mx.array([0, 5, -1])), vector([-1, -6, 0]));
    const z = mx.array([{ re: 1, im: 2 }]);
    expect(mx.real(z).toArray()).toEqual([1]);
    expect(mx.imag(z).toArray()).toEqual([2]);
    expect(mx.conjugate(z).toArray()).toEqual([{ re: 1, im: -2 }]);
    expect(mx.conj(z).toArray()).toEqual([{ re: 1, im: -2 }]);
    expectSame(mx.abs(mx.array([{ re: 3, im: 4 }])), vector([5]));
  });

  test('comparisons of whole arrays', () => {
    const a = mx.array([1, NaN]);
    expect(mx.arrayEqual(a, a).item()).toBe(0);
    expect(mx.arrayEqual(a, a, true).item()).toBe(1);
    expect(mx.allclose(a, a).item()).toBe(0);
    expect(mx.allclose(a, a, 0, 0, { equalNan: true }).item()).toBe(1);
    expect(mx.allclose([1, 2], [1.05, 2.05], 0.1).item()).toBe(1);
    expect(mx.arrayEqual([1, 2], [[1, 2]]).item()).toBe(0);
  });
});

describe('new arrays', () => {
  test('like another', () => {
    const a = mx.ones([2, 1], 'int8');
    for (const made of [mx.zerosLike(a), mx.onesLike(a), mx.fullLike(a, 3)]) {
      expect(made.dtype).toBe('int8');
      expect(made.shape).toEqual([2, 1]);
    }
    expect(mx.onesLike(a, 'float16').dtype).toBe('float16');
    expectSame(mx.fullLike(a, [[4], [5]]), { shape: [2, 1], data: [4, 5] });
    expectSame(mx.full([2, 2], mx.array([1, 2])), { shape: [2, 2], data: [1, 2, 1, 2] });
    expect(mx.full(2, 1).dtype).toBe('float32');
    expect(mx.full(2, true).dtype).toBe('bool');
    expect(mx.full(2, mx.array(1)).dtype).toBe('int32');
    expect(code(() => mx.full([2], [1, 2, 3]))).toBe('ERR_MLX_SHAPE');
  });

  test('ranges', () => {
    expect(mx.arange(3).toArray()).toEqual([0, 1, 2]);
    expect(mx.arange(3).dtype).toBe('int32');
    expectSame(mx.arange(5, 0, -2), vector([5, 3, 1]));
    expectSame(mx.arange(0, 1, 0.25), vector([0, 0.25, 0.5, 0.75]));
    expect(mx.arange(2 ** 40, 2 ** 40 + 2).toArray()).toEqual([2 ** 40, 2 ** 40 + 1]);
    expect(mx.arange(2, null, null, 'float16').dtype).toBe('float16');
    expectSame(mx.linspace(0, 1, 5), vector([0, 0.25, 0.5, 0.75, 1]));
    expectSame(mx.linspace(0, 1, 4, { endpoint: false }), vector([0, 0.25, 0.5, 0.75]));
    expect(mx.linspace(0, 1).shape).toEqual([50]);
    expect(mx.linspace(0, 4, 5, { dtype: 'int32' }).toArray()).toEqual([0, 1, 2, 3, 4]);
    expect(code(() => mx.arange(0, 5, 0))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.arange(0, 2 ** 40))).toBe('ERR_MLX_SHAPE');
  });

  test('matrices with diagonals', () => {
    expect(mx.eye(2, 3, 1).toArray()).toEqual([
      [0, 1, 0],
      [0, 0, 1],
    ]);
    expect(mx.identity(2, 'int32').toArray()).toEqual(mx.eye(2).toArray());
    expect(mx.tri(2, 3, 0, 'int32').toArray()).toEqual([
      [1, 0, 0],
      [1, 1, 0],
    ]);
    expect(mx.diag([1, 2], -1).toArray()).toEqual([
      [0, 0, 0],
      [1, 0, 0],
      [0, 2, 0],
    ]);
    const a = mx.arange(6).reshape([2, 3]);
    expect(mx.diag(a, 1).toArray()).toEqual([1, 5]);
    expect(mx.diagonal(a).toArray()).toEqual([0, 4]);
    expect(mx.diagonal(a, 0, 1, 0).toArray()).toEqual([0, 4]);
    expect(mx.trace(a).item()).toBe(4);
    expect(mx.trace(a, 1, 0, 1, 'float32').dtype).toBe('float32');
  });

  test('windows', () => {
    const cosine = (n: number, k = 1): number => Math.cos((2 * Math.PI * k * n) / 7);
    const points = Array.from({ length: 8 }, (_, n) => n);
    const formulas: [(count: number) => MxArray, (n: number) => number][] = [
      [mx.bartlett, (n) => 1 - Math.abs((2 * n) / 7 - 1)],
      [mx.blackman, (n) => 0.42 - 0.5 * cosine(n) + 0.08 * cosine(n, 2)],
      [mx.hamming, (n) => 0.54 - 0.46 * cosine(n)],
      [mx.hanning, (n) => 0.5 - 0.5 * cosine(n)],
    ];
    for (const [window, formula] of formulas) {
      expectSame(window(8), vector(points.map(formula)), 2 ** -22);
      expect(window(0).shape).toEqual([0]);
    }
  });

  test('coordinates', () => {
    const [x, y] = mx.meshgrid([
      [1, 2, 3],
      [10, 20],
    ]) as [MxArray, MxArray];
    expect(x.toArray()).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ]);
    expect(y.toArray()).toEqual([
      [10, 10, 10],
      [20, 20, 20],
    ]);
    expect(
      mx
        .meshgrid(
          [
            [1, 2, 3],
            [10, 20],
          ],
          { indexing: 'ij', sparse: true },
        )
        .map((a) => a.shape),
    ).toEqual([
      [3, 1],
      [1, 2],
    ]);
    expect(message(() => mx.meshgrid([[1]], { indexing: 'yx' }))).toContain('known are xy, ij');
  });
});

describe('views', () => {
  test('at least so many axes', () => {
    expect([0, 1, 2].map((ndim) => mx.atleast1d(mx.ones(Array.from({ length: ndim }, () => 2))).ndim)).toEqual([
      1, 1, 2,
    ]);
    expect(mx.atleast2d([1, 2]).shape).toEqual([1, 2]);
    expect(mx.atleast3d([[1, 2]]).shape).toEqual([1, 2, 1]);
  });

  test('strides and bytes', () => {
    const a = mx.arange(6);
    expect(mx.asStrided(a, [2, 2], [3, 1], 1).toArray()).toEqual([
      [1, 2],
      [4, 5],
    ]);
    expect(mx.asStrided(a, [2, 3]).toArray()).toEqual(a.reshape([2, 3]).toArray());
    expect(code(() => mx.asStrided(a, [7], [1]))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.asStrided(a, [2], [1], -1))).toBe('ERR_MLX_ARGUMENT');
    expect(mx.view(mx.array([1], 'float32'), 'int32').item()).toBe(0x3f800000);
    expect(mx.view(mx.array([1, 2], 'int32'), 'int64').shape).toEqual([1]);
    expect(mx.contiguous(a.reshape([2, 3]).transpose()).toArray()).toEqual(toRows(a.reshape([2, 3]).transpose()));
  });

  test('split into equal parts', () => {
    expect(mx.split(mx.arange(6), 3).map((part) => part.toArray())).toEqual([
      [0, 1],
      [2, 3],
      [4, 5],
    ]);
    expect(code(() => mx.split(mx.arange(6), 4))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.split(mx.array(1).broadcastTo([2 ** 31 - 1]), 2 ** 31 - 1))).toBe('ERR_MLX_SHAPE');
  });

  test('rolls along several axes', () => {
    const a = mx.arange(6).reshape([2, 3]);
    expect(a.roll([1, 1], [0, 1]).toArray()).toEqual(a.roll(1, 0).roll(1, 1).toArray());
    expect(a.roll(1, [0, 1]).toArray()).toEqual(a.roll(1, 0).roll(1, 1).toArray());
    expect(a.roll([1, 1]).toArray()).toEqual(a.roll(2).toArray());
  });
});

const toRows = (a: MxArray): unknown => a.toArray();

describe('reading and writing at places', () => {
  test('a slice at a place that is known, or not', () => {
    const a = mx.arange(12).reshape([3, 4]);
    const want = [
      [5, 6],
      [9, 10],
    ];
    expect(mx.slice(a, [1, 1], [0, 1], [2, 2]).toArray()).toEqual(want);
    expect(mx.slice(a, mx.array([1, 1]), [0, 1], [2, 2]).toArray()).toEqual(want);
    expect(mx.slice(a, mx.array([9, 9]), [0, 1], [2, 2]).toArray()).toEqual([
      [6, 7],
      [10, 11],
    ]);
    expect(message(() => mx.slice(a, [2], [-2], [2, 4]))).toContain('leaves axis -2 of 3 elements');
    expect(message(() => mx.sliceUpdate(a, mx.ones([1, 2]), [3], [1]))).toContain('leaves axis 1 of 4 elements');
  });

  test('without an axis, in row-major order', () => {
    const a = mx.arange(6).reshape([2, 3]);
    expect(mx.take(a, -1).item()).toBe(5);
    expect(mx.takeAlongAxis(a, [5, 0], null).toArray()).toEqual([5, 0]);
    expect(mx.putAlongAxis(a, [5, 0], -1).toArray()).toEqual([
      [-1, 1, 2],
      [3, 4, -1],
    ]);
    expect(mx.repeat(a, 2).shape).toEqual([12]);
    expect(mx.cumsum(a).toArray()).toEqual([0, 1, 3, 6, 10, 15]);
    expect(mx.argmax(a).item()).toBe(5);
    expect(mx.argmax(mx.array(3), null, true).shape).toEqual([]);
    expect(mx.topk(a, 1, null).toArray()).toEqual([5]);
  });

  test('indices in any kind of plain data are checked', () => {
    const a = mx.arange(3);
    const outside = [3, [3], [[-4]], [3n], Int8Array.of(3), Uint32Array.of(4294967295), BigInt64Array.of(2n ** 40n)];
    for (const indices of outside) expect(code(() => mx.take(a, indices))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.take(a, [0.5]))).toBe('ERR_MLX_DTYPE');
    expect(mx.take(a, []).shape).toEqual([0]);
    expect(code(() => mx.takeAlongAxis(a, [3], 0))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.putAlongAxis(a, [3], 1, 0))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.scatterAddAxis(a, [3], 1, 0))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.gather(a, [[2]], [0], [2]))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.scatter(a, [[3]], [[1]], [0]))).toBe('ERR_MLX_SHAPE');
  });
});

describe('reductions', () => {
  test('log-softmax, and softmax over all axes', () => {
    const a = mx.array([
      [1, 2],
      [3, 4],
    ]);
    expect(mx.logSoftmax(a).exp().sum(-1).toArray()).toEqual([expect.closeTo(1, 6), expect.closeTo(1, 6)]);
    expect(mx.softmax(a).sum().item()).toBeCloseTo(1, 6);
    expect(mx.softmax(a, [0, 1]).toArray()).toEqual(mx.softmax(a).toArray());
    expect(mx.softmax(a.astype('bfloat16'), 1, { precise: true }).dtype).toBe('bfloat16');
  });

  test('a running sum in another dtype', () => {
    const a = mx.array([100, 100], 'int8');
    expect(mx.cumsum(a, 0, { dtype: 'int32' }).toArray()).toEqual([100, 200]);
  });

  // What Python's MLX 0.32.4 gives.
  test('scans of booleans and of whole numbers', () => {
    const flags = [true, true, false];
    const scans = [
      [mx.cumsum(flags), 'int32', [1, 2, 2]],
      [mx.cumprod(flags), 'bool', [true, true, false]],
      [mx.cumprod(flags, 0, { dtype: 'int32' }), 'int32', [1, 1, 0]],
      [mx.cummax(flags), 'bool', [true, true, true]],
      [mx.cummin(flags), 'bool', [true, true, false]],
      [mx.cumsum(mx.array([1, 1, 0], 'uint8')), 'uint8', [1, 2, 2]],
      [mx.cumprod(mx.array([3, 2, 5], 'int8')), 'int8', [3, 6, 30]],
    ] as const;
    for (const [scan, dtype, values] of scans) {
      expect(scan.dtype).toBe(dtype);
      expect(scan.toArray()).toEqual(values);
    }
    for (const whole of [mx.array(flags), mx.array([1, 1, 0], 'int8'), mx.array([1, 1, 0], 'uint64')]) {
      const sums = mx.logcumsumexp(whole);
      expect(sums.dtype).toBe('float32');
      expect(sums.toArray()).toEqual([1, 1 + Math.log(2), Math.log(2 * Math.E + 1)].map((x) => expect.closeTo(x, 6)));
    }
    expect(mx.logcumsumexp(mx.zeros([0], 'int32')).dtype).toBe('float32');
  });
});

describe('distinct elements', () => {
  // Numbers of Python's MLX 0.32.4.
  const a = mx.array([2, 1, 2, 3, 1]);
  const parts = ({ values, index, inverse, counts }: ReturnType<typeof mx.unique>): unknown[] =>
    [values, index, inverse, counts].map((part) => part.toArray());

  test('as many as there are, fewer, and more', () => {
    const found = mx.unique(a, 3);
    expect(parts(found)).toEqual([
      [1, 2, 3],
      [1, 0, 3],
      [1, 0, 1, 2, 0],
      [2, 2, 1],
    ]);
    expect([found.values, found.index, found.inverse, found.counts].map(({ dtype }) => dtype)).toEqual([
      'int32',
      'uint32',
      'uint32',
      'int32',
    ]);
    expect(parts(a.unique(4, { fillValue: 0 }))).toEqual([
      [1, 2, 3, 0],
      [1, 0, 3, 1],
      [1, 0, 1, 2, 0],
      [2, 2, 1, 0],
    ]);
    expect(parts(mx.unique(a, 5))).toEqual([
      [1, 2, 3, 1, 1],
      [1, 0, 3, 1, 1],
      [1, 0, 1, 2, 0],
      [2, 2, 1, 0, 0],
    ]);
    expect(parts(mx.unique(a, 2))).toEqual([
      [1, 2],
      [1, 0],
      [1, 0, 1, 1, 0],
      [2, 2],
    ]);
    expect(parts(mx.unique(a, 0))).toEqual([[], [], [0, 0, 0, 0, 0], []]);
  });

  test('of several axes, of booleans, of none', () => {
    const flags = mx.array([
      [true, false],
      [true, true],
    ]);
    const inverse = [
      [1, 0],
      [1, 1],
    ];
    expect(parts(mx.unique(flags, 3))).toEqual([[false, true, false], [1, 0, 1], inverse, [1, 3, 0]]);
    expect(parts(mx.unique(5, 2))).toEqual([[5, 5], [0, 0], 0, [1, 0]]);
    expect(parts(mx.unique(mx.array([NaN, 1, NaN]), 4))).toEqual([
      [1, NaN, NaN, 1],
      [1, 0, 2, 1],
      [1, 0, 2],
      [1, 1, 1, 0],
    ]);
    expect(parts(mx.unique(mx.array([], 'int32'), 2, { fillValue: 7 }))).toEqual([[7, 7], [0, 0], [], [0, 0]]);
    expect(parts(mx.unique(mx.array([], 'int32'), 0))).toEqual([[], [], [], []]);
    expect(mx.unique(a, 4, { fillValue: 2.7 }).values.toArray()).toEqual([1, 2, 3, 2]);
    expect(mx.unique(mx.array([2n ** 60n + 1n, 5n]), 3, { fillValue: 2n ** 60n }).values.toArray()).toEqual([
      5,
      2n ** 60n + 1n,
      2n ** 60n,
    ]);
  });

  test('are those of a set, and lead back', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -4, max: 4 }), { minLength: 1, maxLength: 30 }), (list) => {
        const wanted = [...new Set(list)].toSorted((x, y) => x - y);
        mx.tidy(() => {
          const { values, index, inverse, counts } = mx.unique(list, wanted.length);
          expect(values.toArray()).toEqual(wanted);
          expect(index.toArray()).toEqual(wanted.map((value) => list.indexOf(value)));
          expect(values.take(inverse).toArray()).toEqual(list);
          expect(counts.toArray()).toEqual(wanted.map((value) => list.filter((other) => other === value).length));
        });
      }),
    );
  });

  test('what cannot be is a typed error', () => {
    expect(code(() => mx.unique(a, -1))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.unique(mx.zeros([0]), 2))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.unique(a, 4, { fillValue: [1, 2] }))).toBe('ERR_MLX_SHAPE');
  });
});

describe('the convolution of vectors', () => {
  test('as NumPy and Python have it', () => {
    const cases: [number[], number[], string, number[]][] = [
      [[1, 2, 3], [0, 1, 0.5], 'full', [0, 1, 2.5, 4, 1.5]],
      [[1, 2, 3], [0, 1, 0.5], 'valid', [2.5]],
      [[1, 2, 3], [0, 1, 0.5], 'same', [1, 2.5, 4]],
      [[1, 2, 3, 4], [1, -1], 'same', [1, 1, 1, 1]],
      [[1], [1, 2, 3], 'valid', [1, 2, 3]],
      [[1, 2, 3, 4, 5], [1, 2, 3, 4], 'full', [1, 4, 10, 20, 30, 34, 31, 20]],
      [[1, 2, 3, 4, 5], [1, 2, 3, 4], 'same', [4, 10, 20, 30, 34]],
    ];
    for (const [a, v, mode, wanted] of cases) {
      expect(mx.convolve(mx.array(a, 'float32'), mx.array(v, 'float32'), mode).toArray()).toEqual(wanted);
    }
    expect(mx.array([1, 2.5]).convolve([1, 1.5]).toArray()).toEqual([1, 4, 3.75]);
  });

  test('of anything else is a typed error', () => {
    const v = mx.ones([2]);
    expect(code(() => mx.convolve(v, v, 'circular'))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.convolve(mx.ones([2, 2]), v))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.convolve(mx.zeros([0]), v))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.convolve([1, 2], mx.array([3, 4])))).toBe('ERR_MLX_DTYPE');
  });
});

test('transposed: all axes, and the last two', () => {
  const a = mx.arange(24).reshape([2, 3, 4]);
  expect([a.T.shape, a.mT.shape, mx.array([1, 2]).T.shape]).toEqual([[4, 3, 2], [2, 4, 3], [2]]);
  expect(a.mT.toArray()).toEqual(a.swapaxes(1, 2).toArray());
  expect(
    mx
      .matrixTranspose([
        [1, 2],
        [3, 4],
      ])
      .toArray(),
  ).toEqual([
    [1, 3],
    [2, 4],
  ]);
  expect(code(() => mx.array([1]).mT)).toBe('ERR_MLX_SHAPE');
  expect((['bool', 'bfloat16', 'uint32', 'complex64'] as const).map((dtype) => mx.zeros([1], dtype).itemsize)).toEqual([
    1, 2, 4, 8,
  ]);
});

test('depends gives the same arrays', () => {
  const [a, b] = [mx.array([1, 2]), mx.array([3])];
  expect(mx.depends([a, b], [b.add(1)]).map((array) => array.toArray())).toEqual([[1, 2], [3]]);
  expect(mx.depends([], [a])).toEqual([]);
  expect(mx.depends([a], [])[0]!.toArray()).toEqual([1, 2]);
  expect(code(() => mx.depends(a as never, [b]))).toBe('ERR_MLX_ARGUMENT');
});

test('second names are the same functions', () => {
  const a = mx.array([0.25, 0.5]);
  const pairs: [MxArray, MxArray][] = [
    [mx.acos(a), mx.arccos(a)],
    [mx.acosh(a.add(1)), mx.arccosh(a.add(1))],
    [mx.asin(a), mx.arcsin(a)],
    [mx.asinh(a), mx.arcsinh(a)],
    [mx.atan(a), mx.arctan(a)],
    [mx.atan2(a, 1), mx.arctan2(a, 1)],
    [mx.atanh(a), mx.arctanh(a)],
    [mx.concat([a, a]), mx.concatenate([a, a])],
    [mx.cumulativeProd(a), mx.cumprod(a)],
    [mx.cumulativeSum(a), mx.cumsum(a)],
    [mx.bitwiseLeftShift([1], 2), mx.leftShift([1], 2)],
    [mx.bitwiseRightShift([4], 2), mx.rightShift([4], 2)],
    [mx.pow(a, 2), mx.power(a, 2)],
    [mx.permuteDims(a.expandDims(0), [1, 0]), a.expandDims(1)],
    [mx.empty([2]), mx.zeros([2])],
    [mx.emptyLike(a), mx.zerosLike(a)],
    [mx.asarray([0.25, 0.5]), a],
    [mx.matrixNorm(a), mx.linalg.norm(a)],
  ];
  for (const [second, first] of pairs) expectSame(second, toPlain(first));
});

test('an argument of the wrong kind is named', () => {
  const a = mx.ones([2, 2]);
  const messages: [() => unknown, string][] = [
    [() => mx.argmax(a, 'x' as never), 'mx.argmax(): axis must be a number, not "x"'],
    [() => mx.reshape(a, 4 as never), 'mx.reshape(): shape must be a list of numbers, not 4'],
    [() => a.sum([0, null] as never), 'mx.sum(): axes must be a number or a list of numbers, not a list with null'],
    [() => mx.add(a, undefined as never), 'mx.add(): b must be an array or numbers, not undefined'],
    [() => mx.cumsum(a, 0, { reverse: 1 } as never), 'mx.cumsum(): options.reverse must be true or false, not 1'],
    [() => a.astype(32 as never), 'mx.astype(): dtype must be the name of a dtype, not 32'],
    [() => mx.stack(a as never), 'mx.stack(): arrays must be a list of arrays, not an MxArray'],
    [() => a.reshape([1.5]), 'mx.reshape(): shape must hold whole 32-bit numbers, got [1.5]'],
  ];
  for (const [call, text] of messages) {
    expect(code(call)).toBe('ERR_MLX_ARGUMENT');
    expect(message(call)).toBe(text);
  }
  // An array in the place of a word is not read, however large it is.
  expect(code(() => a.astype(mx.ones([1]).broadcastTo([2 ** 31 - 1]) as never))).toBe('ERR_MLX_ARGUMENT');
});
