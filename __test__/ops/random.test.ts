import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { codeOf, expectNear, numbers } from '../helpers/arrays.ts';
import { thrown } from '../helpers/thrown.ts';

const { random } = mx;
const key = random.key(7);
const count = 40_000;

function moments(draw: MxArray): [mean: number, variance: number] {
  const values = numbers(draw);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return [mean, values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length];
}

/** Pearson's statistic of classes against their probabilities. */
function chiSquared(draw: MxArray, probabilities: readonly number[]): number {
  const counts = probabilities.map(() => 0);
  for (const value of numbers(draw)) counts[value]! += 1;
  const expected = probabilities.map((p) => p * draw.size);
  return counts.reduce((sum, found, i) => sum + (found - expected[i]!) ** 2 / expected[i]!, 0);
}

/** One minus twice the tail beyond 1, and the density there. */
const inside = 0.682_689_492;
const density = 0.241_970_725;

describe('moments', () => {
  const draws: [name: string, draw: MxArray, mean: number, variance: number][] = [
    ['uniform', random.uniform(0, 1, [count], { key }), 0.5, 1 / 12],
    ['uniform between', random.uniform(-2, 4, [count], { key }), 1, 3],
    ['normal', random.normal([count], { key }), 0, 1],
    ['normal elsewhere', random.normal([count], { key, loc: 3, scale: 2 }), 3, 4],
    ['laplace', random.laplace([count], { key, loc: 1, scale: 2 }), 1, 8],
    ['gumbel', random.gumbel([count], { key }), 0.577_215_665, Math.PI ** 2 / 6],
    ['bernoulli', random.bernoulli(0.3, [count], { key }), 0.3, 0.21],
    ['randint', random.randint(-3, 7, [count], { key }), 1.5, 99 / 12],
    ['truncatedNormal', random.truncatedNormal(-1, 1, [count], { key }), 0, 1 - (2 * density) / inside],
    ['permutation', random.permutation(count, null, { key }), (count - 1) / 2, (count ** 2 - 1) / 12],
  ];
  test.each(draws)('%s', (_, draw, mean, variance) => {
    const [found, spread] = moments(draw);
    // Five standard errors of the mean; 10 % of the variance is more than five of its own for each of these.
    expect(Math.abs(found - mean)).toBeLessThan(5 * Math.sqrt(variance / count));
    expect(Math.abs(spread / variance - 1)).toBeLessThan(0.1);
  });

  test('bounds hold', () => {
    for (const [draw, low, high] of [
      [random.uniform(-2, 4, [count], { key }), -2, 4],
      [random.randint(-3, 7, [count], { key }), -3, 7],
      [random.truncatedNormal(-1, 1, [count], { key }), -1, 1 + 1e-9],
    ] as const) {
      const values = numbers(draw);
      expect(values.every((value) => value >= low && value < high)).toBe(true);
    }
    expect(new Set(numbers(random.randint(-3, 7, [count], { key }))).size).toBe(10);
  });

  test('bits are fair', () => {
    for (const [width, dtype] of [
      [1, 'uint8'],
      [2, 'uint16'],
      [4, 'uint32'],
    ] as const) {
      const draw = random.bits([4096], { width, key });
      expect(draw.dtype).toBe(dtype);
      const ones = numbers(draw).reduce((sum, word) => sum + word.toString(2).replaceAll('0', '').length, 0);
      // Five standard deviations of that many coins.
      expect(Math.abs(ones - 2048 * 8 * width)).toBeLessThan(5 * Math.sqrt(4096 * 2 * width));
    }
    expect(random.bits([3]).dtype).toBe('uint32');
  });

  test('multivariateNormal has its mean and covariance', () => {
    const mean = mx.array([1, -1], 'float32');
    const covariance = mx.array([
      [2, 0.5],
      [0.5, 1],
    ]);
    const draw = random.multivariateNormal(mean, covariance, [count], { key });
    expect(draw.shape).toEqual([count, 2]);
    const centred = draw.subtract(mean);
    // Standard errors are at most √(2 / 40,000) = 0.007 for the mean and 2 √2 / 200 = 0.014 for the covariance.
    expectNear(draw.mean(0), mean, 0.04);
    expectNear(centred.transpose().matmul(centred).divide(count), covariance, 0.08);
    expect(random.multivariateNormal(mx.zeros([3, 2]), covariance).shape).toEqual([3, 2]);
  });
});

describe('frequencies', () => {
  const probabilities = [0.1, 0.2, 0.3, 0.4];
  const logits = mx.array(probabilities).log();
  // Three degrees of freedom: 21.1 is passed once in 10,000 seeds.
  const bound = 21.1;

  test('categorical draws from the softmax, however many are asked for', () => {
    const rows = mx.broadcastTo(logits, [20_000, 4]);
    expect(chiSquared(random.categorical(rows, -1, { key }), probabilities)).toBeLessThan(bound);
    expect(chiSquared(random.categorical(rows.transpose(), 0, { key }), probabilities)).toBeLessThan(bound);
    expect(chiSquared(random.categorical(logits, -1, { shape: [20_000], key }), probabilities)).toBeLessThan(bound);
    expect(chiSquared(random.categorical(logits, null, { numSamples: 20_000, key }), probabilities)).toBeLessThan(
      bound,
    );
    const few = random.categorical(mx.zeros([2, 3, 4]), 1, { numSamples: 5 });
    expect([few.shape, few.dtype]).toEqual([[2, 4, 5], 'uint32']);
    expect(random.categorical(mx.array([-1e9, 0, -1e9])).item()).toBe(1);
    // The statistic sees a wrong distribution.
    expect(chiSquared(random.categorical(rows, -1, { key }), [0.25, 0.25, 0.25, 0.25])).toBeGreaterThan(1000);
  });

  test('randint draws every number alike', () => {
    const draw = random.randint(0, 8, [20_000], { key });
    // Seven degrees of freedom.
    expect(chiSquared(draw, Array(8).fill(1 / 8))).toBeLessThan(29.9);
  });

  test('permutation keeps every element, and slices whole', () => {
    const order = numbers(random.permutation(100, null, { key }));
    expect(order.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(order).not.toEqual(order.toSorted((a, b) => a - b));
    const grid = mx.arange(60).reshape([20, 3]);
    const rows = random.permutation(grid, 0, { key });
    expectNear(mx.sort(rows, 0), grid, 0);
    expectNear(rows.subtract(mx.min(rows, 1, true)), mx.broadcastTo(mx.array([0, 1, 2]), [20, 3]), 0);
    expectNear(mx.sort(random.permutation(grid, 1, { key }), 1), grid, 0);
    expect(random.permutation(0).shape).toEqual([0]);
  });
});

describe('keys', () => {
  test('a key gives the same numbers again, split ones other numbers', () => {
    const draw = (from: MxArray): number[] => numbers(random.normal([8], { key: from }));
    expect(draw(random.key(5))).toEqual(draw(random.key(5)));
    expect(draw(random.key(5))).not.toEqual(draw(random.key(6)));
    const keys = random.split(random.key(5), 4);
    expect([keys.shape, keys.dtype]).toEqual([[4, 2], 'uint32']);
    expect(random.split(random.key(5)).shape).toEqual([2, 2]);
    const drawn = [0, 1, 2, 3].map((row) => draw(keys.take(row, 0)).join());
    expect(new Set([...drawn, draw(random.key(5)).join()]).size).toBe(5);
  });

  test('the seed of the global state starts every draw anew', () => {
    const draws = (): number[] => {
      random.seed(3);
      return [
        random.bits([2]),
        random.uniform(0, 1, [2]),
        random.normal([2]),
        random.truncatedNormal(-1, 1, [2]),
        random.randint(0, 1000, [2]),
        random.bernoulli(0.5, [20]),
        random.laplace([2]),
        random.gumbel([2]),
        random.categorical(mx.zeros([2, 1000])),
        random.permutation(50),
        random.multivariateNormal(mx.zeros([2]), mx.eye(2)),
      ].flatMap(numbers);
    };
    const first = draws();
    expect(draws()).toEqual(first);
    expect(numbers(random.uniform(0, 1, [2]))).not.toEqual(numbers(random.uniform(0, 1, [2])));
  });

  test('a compiled function draws other numbers at every call', () => {
    const noisy = mx.compile((x: MxArray) =>
      mx.concatenate([random.uniform(0, 1, [3]), x, random.categorical(mx.zeros([3, 1000])).astype('float32')]),
    );
    const [first, second] = [numbers(noisy(mx.array([0.5]))), numbers(noisy(mx.array([0.5])))];
    expect(first.slice(0, 3)).not.toEqual(second.slice(0, 3));
    expect(first.slice(4)).not.toEqual(second.slice(4));
    expect(first[3]).toBe(0.5);
  });
});

describe('shapes, dtypes and parameters that are arrays', () => {
  test('without a shape parameters give it', () => {
    expect(random.uniform().shape).toEqual([]);
    expect(random.normal().shape).toEqual([]);
    expect(random.gumbel().shape).toEqual([]);
    expect(random.laplace().shape).toEqual([]);
    expect(random.bernoulli().dtype).toBe('bool');
    expect(random.randint(0, 5).shape).toEqual([]);
    expect(random.uniform(mx.zeros([2, 1]), mx.ones([3])).shape).toEqual([2, 3]);
    expect(random.truncatedNormal(mx.zeros([2, 1]), mx.ones([3])).shape).toEqual([2, 3]);
    expect(numbers(random.bernoulli(mx.array([0, 1, 0], 'float32')))).toEqual([0, 1, 0]);
    expect(numbers(random.randint(mx.array([5, 50]), mx.array([6, 51])))).toEqual([5, 50]);
    expect(numbers(random.randint(5, mx.array([6, 6]), [3, 2]))).toEqual(Array(6).fill(5));
    const spread = random.normal([2, 1000], { loc: mx.array([[0], [100]]), scale: mx.array([[0], [1]]), key });
    expect(numbers(spread.mean(1))[0]).toBe(0);
    // The standard error of 1,000 draws is 0.03.
    expect(Math.abs(numbers(spread.mean(1))[1]! - 100)).toBeLessThan(0.2);
  });

  test('dtypes are as asked for', () => {
    for (const dtype of ['float16', 'bfloat16', 'float32'] as const) {
      expect(random.uniform(0, 1, [2], { dtype }).dtype).toBe(dtype);
      expect(random.normal([2], { dtype }).dtype).toBe(dtype);
      expect(random.gumbel([2], { dtype }).dtype).toBe(dtype);
      expect(random.laplace([2], { dtype }).dtype).toBe(dtype);
      expect(random.truncatedNormal(0, 1, [2], { dtype }).dtype).toBe(dtype);
    }
    expect(random.randint(0, 9, [2], { dtype: 'uint8' }).dtype).toBe('uint8');
  });
});

test('what makes no sense is a typed error', () => {
  const errors: [code: string, action: () => unknown][] = [
    ['ERR_MLX_ARGUMENT', () => random.key(-1)],
    ['ERR_MLX_ARGUMENT', () => random.key(1.5)],
    ['ERR_MLX_ARGUMENT', () => random.key(NaN)],
    ['ERR_MLX_ARGUMENT', () => random.split(mx.zeros([2]))],
    ['ERR_MLX_ARGUMENT', () => random.split(key, 0)],
    ['ERR_MLX_ARGUMENT', () => random.normal([2], { key: mx.zeros([2]) })],
    ['ERR_MLX_ARGUMENT', () => random.bits([2], { width: 3 })],
    ['ERR_MLX_DTYPE', () => random.uniform(0, 1, [2], { dtype: 'int32' })],
    ['ERR_MLX_DTYPE', () => random.normal([2], { dtype: 'float31' as never })],
    ['ERR_MLX_SHAPE', () => random.uniform(mx.zeros([3]), 1, [2])],
    ['ERR_MLX_SHAPE', () => random.uniform([1, 2] as never, 3, [])],
    ['ERR_MLX_SHAPE', () => random.normal([-1])],
    ['ERR_MLX_ARGUMENT', () => random.randint(5, 5, [2])],
    ['ERR_MLX_ARGUMENT', () => random.randint(0, 2 ** 40, [2])],
    ['ERR_MLX_ARGUMENT', () => random.randint(0.5, 3, [2])],
    ['ERR_MLX_DTYPE', () => random.randint(0, 3, [2], { dtype: 'float32' })],
    ['ERR_MLX_ARGUMENT', () => random.bernoulli(1.5, [2])],
    ['ERR_MLX_ARGUMENT', () => random.bernoulli(NaN, [2])],
    ['ERR_MLX_DTYPE', () => random.bernoulli(mx.array([0, 1]))],
    ['ERR_MLX_SHAPE', () => random.categorical(mx.zeros([2, 0]))],
    ['ERR_MLX_SHAPE', () => random.categorical(mx.zeros([2, 3]), 2)],
    ['ERR_MLX_ARGUMENT', () => random.categorical(mx.zeros([2, 3]), -1, { shape: [2], numSamples: 1 })],
    ['ERR_MLX_SHAPE', () => random.categorical(mx.zeros([2, 3]), -1, { shape: [3] })],
    ['ERR_MLX_SHAPE', () => random.multivariateNormal(mx.zeros([2]), mx.eye(3))],
    ['ERR_MLX_SHAPE', () => random.multivariateNormal(mx.zeros([2]), mx.zeros([2]))],
    ['ERR_MLX_DTYPE', () => random.multivariateNormal(mx.zeros([2], 'float16'), mx.eye(2))],
    ['ERR_MLX_ARGUMENT', () => random.permutation(-1)],
    ['ERR_MLX_SHAPE', () => random.permutation(mx.zeros([2]), 1)],
    ['ERR_MLX_ARGUMENT', () => random.permutation('abc' as never)],
    ['ERR_MLX_ARGUMENT', () => random.uniform({} as never)],
    ['ERR_MLX_CONFIG', () => random.uniform(0, 1, [2], { sahpe: [2] } as never)],
  ];
  for (const [code, action] of errors) expect([codeOf(action), String(action)]).toEqual([code, String(action)]);
  expect(thrown(() => random.categorical(mx.zeros([2]), -1, { num_samples: 2 } as never)).message).toContain(
    'numSamples',
  );
});
