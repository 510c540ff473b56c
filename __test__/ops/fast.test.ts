import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { codeOf, expectNear, expectNumbers } from '../helpers/arrays.ts';

const { fast } = mx;
const noise = (shape: number[], seed: number): MxArray => mx.random.normal(shape, { key: mx.random.key(seed) });
/** Sums of up to 32 products of about 1, in float32. */
const near = 2e-5;

test('rmsNorm and layerNorm are their formulas', () => {
  const [x, weight, bias] = [noise([3, 16], 1), noise([16], 2), noise([16], 3)];
  const rms = x.multiply(x.square().mean(-1, true).add(1e-3).rsqrt());
  expectNear(fast.rmsNorm(x, weight, 1e-3), rms.multiply(weight), near);
  expectNear(fast.rmsNorm(x, null, 1e-3), rms, near);
  const centred = x.subtract(x.mean(-1, true));
  const layer = centred.multiply(centred.square().mean(-1, true).add(1e-3).rsqrt());
  expectNear(fast.layerNorm(x, weight, bias, 1e-3), layer.multiply(weight).add(bias), near);
  expectNear(fast.layerNorm(x, weight, null, 1e-3), layer.multiply(weight), near);
  expectNear(fast.layerNorm(x, null, null, 1e-3), layer, near);
});

describe('rope', () => {
  const x = noise([2, 3, 5, 16], 1);

  /** `x` rotated by its formula, halves apart or neighbours. */
  function rotated(dims: number, traditional: boolean, wavelengths: readonly number[], positions: MxArray): MxArray {
    const angles = positions.expandDims(-1).divide(mx.array([...wavelengths], 'float32'));
    const turning = mx.slice(x, [0], [3], [2, 3, 5, dims]);
    const rest = mx.slice(x, [dims], [3], [2, 3, 5, 16 - dims]);
    const half = dims / 2;
    const pairs = traditional
      ? turning.reshape([2, 3, 5, half, 2])
      : turning.reshape([2, 3, 5, 2, half]).swapaxes(-1, -2);
    const [a, b] = [pairs.take(0, -1), pairs.take(1, -1)];
    const [cos, sin] = [angles.cos(), angles.sin()];
    const both = [a.multiply(cos).subtract(b.multiply(sin)), a.multiply(sin).add(b.multiply(cos))];
    const whole = traditional ? mx.stack(both, -1).reshape([2, 3, 5, dims]) : mx.concatenate(both, -1);
    return mx.concatenate([whole, rest], -1);
  }

  const positions = (from: number, scale = 1): MxArray => mx.arange(5).add(from).multiply(scale).astype('float32');
  const wavelengths = (dims: number, base: number): number[] =>
    Array.from({ length: dims / 2 }, (_, i) => base ** ((2 * i) / dims));

  test.each([
    [16, false],
    [16, true],
    [8, false],
    [8, true],
  ] as const)('of %i dims, traditional %s', (dims, traditional) => {
    expectNear(
      fast.rope(x, dims, { traditional }),
      rotated(dims, traditional, wavelengths(dims, 1e4), positions(0)),
      near,
    );
    const options = { traditional, base: 1000, scale: 0.5, offset: 7 };
    expectNear(
      fast.rope(x, dims, options),
      rotated(dims, traditional, wavelengths(dims, 1000), positions(7, 0.5)),
      near,
    );
  });

  test('positions per row, and a table of wavelengths', () => {
    const rows = mx.stack([positions(3), positions(50)]).reshape([2, 1, 5]);
    // Angles up to 54: float32 keeps them to 4e-6.
    expectNear(fast.rope(x, 16, { offset: mx.array([3, 50]) }), rotated(16, false, wavelengths(16, 1e4), rows), 1e-4);
    const table = [1, 2, 5, 9];
    expectNear(fast.rope(x, 8, { freqs: mx.array(table, 'float32') }), rotated(8, false, table, positions(0)), near);
  });
});

describe('scaledDotProductAttention', () => {
  const [q, k, v] = [noise([2, 4, 3, 8], 1), noise([2, 2, 5, 8], 2), noise([2, 2, 5, 8], 3)];

  /** Its formula; two queries' heads share a head of keys. */
  function attended(scale: number, bias?: MxArray, sinks?: MxArray): MxArray {
    const [keys, values] = [mx.repeat(k, 2, 1), mx.repeat(v, 2, 1)];
    let scores = q.multiply(scale).matmul(keys.swapaxes(-1, -2));
    if (bias !== undefined) scores = scores.add(bias);
    if (sinks === undefined) return scores.softmax(-1).matmul(values);
    const extra = mx.broadcastTo(sinks.reshape([1, 4, 1, 1]), [2, 4, 3, 1]);
    const weights = mx.concatenate([scores, extra], -1).softmax(-1);
    return mx.slice(weights, [0], [3], [2, 4, 3, 5]).matmul(values);
  }

  test('without and with masks and sinks', () => {
    expectNear(fast.scaledDotProductAttention(q, k, v), attended(8 ** -0.5), near);
    expectNear(fast.scaledDotProductAttention(q, k, v, { scale: 0.7 }), attended(0.7), near);
    const seen = mx.tri(3, 5, 2).greater(0);
    const bias = mx.where(seen, 0, -Infinity);
    expectNear(fast.scaledDotProductAttention(q, k, v, { mask: 'causal' }), attended(8 ** -0.5, bias), near);
    expectNear(fast.scaledDotProductAttention(q, k, v, { mask: seen }), attended(8 ** -0.5, bias), near);
    const added = noise([2, 1, 3, 5], 4);
    expectNear(fast.scaledDotProductAttention(q, k, v, { mask: added }), attended(8 ** -0.5, added), near);
    const sinks = noise([4], 5);
    expectNear(fast.scaledDotProductAttention(q, k, v, { sinks }), attended(8 ** -0.5, undefined, sinks), near);
  });
});

test('crossEntropy', () => {
  const logits = noise([2, 3, 7], 1);
  const targets = mx.array([
    [0, 6, 3],
    [2, 2, 5],
  ]);
  const chosen = mx.takeAlongAxis(mx.logSoftmax(logits, -1), targets.expandDims(-1), -1).squeeze(-1);
  expectNear(fast.crossEntropy(logits, targets), chosen.negative(), near);
  expectNumbers(fast.crossEntropy(mx.zeros([1, 2]), [-1]), [Math.log(2)], 1e-6);
});

test('what does not fit is a typed error', () => {
  const x = noise([2, 3, 5, 16], 1);
  const errors: [code: string, action: () => unknown][] = [
    ['ERR_MLX_SHAPE', () => fast.rmsNorm(x, noise([8], 1), 1e-5)],
    ['ERR_MLX_DTYPE', () => fast.rmsNorm(mx.array([1, 2]), null, 1e-5)],
    ['ERR_MLX_ARGUMENT', () => fast.rmsNorm(x, null, undefined as never)],
    ['ERR_MLX_SHAPE', () => fast.layerNorm(x, null, noise([8], 1), 1e-5)],
    ['ERR_MLX_SHAPE', () => fast.rope(x, 7)],
    ['ERR_MLX_SHAPE', () => fast.rope(x, 18)],
    ['ERR_MLX_SHAPE', () => fast.rope(noise([5, 16], 1), 16)],
    ['ERR_MLX_SHAPE', () => fast.rope(x, 16, { freqs: noise([4], 1) })],
    ['ERR_MLX_ARGUMENT', () => fast.rope(x, 16, { freqs: noise([8], 1), base: 10 })],
    ['ERR_MLX_ARGUMENT', () => fast.rope(x, 16, { offset: 1.5 })],
    ['ERR_MLX_SHAPE', () => fast.rope(x, 16, { offset: mx.array([1, 2, 3]) })],
    ['ERR_MLX_CONFIG', () => fast.rope(x, 16, { frequencies: noise([8], 1) } as never)],
    ['ERR_MLX_SHAPE', () => fast.scaledDotProductAttention(x, x, noise([2, 3, 4, 16], 1))],
    ['ERR_MLX_ARGUMENT', () => fast.scaledDotProductAttention(x, x, x, { mask: 'full' as never })],
    ['ERR_MLX_SHAPE', () => fast.scaledDotProductAttention(x, x, x, { mask: noise([4, 4], 1) })],
    ['ERR_MLX_SHAPE', () => fast.scaledDotProductAttention(x, x, x, { sinks: noise([2], 1) })],
    ['ERR_MLX_SHAPE', () => fast.crossEntropy(x, mx.array([1]))],
    ['ERR_MLX_DTYPE', () => fast.crossEntropy(noise([2, 3], 1), mx.zeros([2]))],
  ];
  for (const [code, action] of errors) expect([codeOf(action), String(action)]).toEqual([code, String(action)]);
});
