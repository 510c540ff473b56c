import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { codeOf, expectNear, expectNumbers, numbers } from '../helpers/arrays.ts';

const noise = (shape: number[], seed: number): MxArray => mx.random.normal(shape, { key: mx.random.key(seed) });
/** Sums of up to 100 products of about 1, in float32. */
const near = 1e-4;

interface Setting {
  stride: number[];
  low: number[];
  high: number[];
  kernel: number[];
  input: number[];
  groups: number;
  flip: boolean;
}

/** Every index of a shape. */
function* indices(shape: readonly number[]): Generator<number[]> {
  const size = shape.reduce((product, length) => product * length, 1);
  for (let flat = 0; flat < size; flat++) {
    let rest = flat;
    yield shape
      .toReversed()
      .map((length) => {
        const index = rest % length;
        rest = (rest - index) / length;
        return index;
      })
      .toReversed();
  }
}

/** A convolution as loops over its definition. */
function loop(x: MxArray, w: MxArray, setting: Partial<Setting>): { shape: number[]; data: number[] } {
  const spatial = x.ndim - 2;
  const each = (value: number): number[] => Array<number>(spatial).fill(value);
  const {
    stride = each(1),
    low = each(0),
    high = low,
    kernel = each(1),
    input = each(1),
    groups = 1,
    flip = false,
  } = setting;
  const [sizes, kernels] = [x.shape.slice(1, -1), w.shape.slice(1, -1)];
  const [channels, outputs] = [w.shape.at(-1)!, w.shape[0]!];
  const out = sizes.map((size, i) => {
    const padded = (size - 1) * input[i]! + 1 + low[i]! + high[i]!;
    return Math.floor((padded - (kernels[i]! - 1) * kernel[i]! - 1) / stride[i]!) + 1;
  });
  const at = (shape: number[], index: number[]): number => index.reduce((flat, one, i) => flat * shape[i]! + one, 0);
  const [values, weights] = [numbers(x), numbers(w)];
  const shape = [x.shape[0]!, ...out, outputs];
  const data = [...indices(shape)].map((place) => {
    const [n, o] = [place[0]!, place.at(-1)!];
    let sum = 0;
    for (const offset of indices(kernels)) {
      const spread = offset.map((k, i) => place[i + 1]! * stride[i]! - low[i]! + k * kernel[i]!);
      if (spread.some((p, i) => p < 0 || p % input[i]! !== 0 || p / input[i]! >= sizes[i]!)) continue;
      const from = spread.map((p, i) => p / input[i]!);
      const taken = flip ? offset.map((k, i) => kernels[i]! - 1 - k) : offset;
      const first = Math.floor(o / (outputs / groups)) * channels;
      for (let c = 0; c < channels; c++)
        sum += values[at(x.shape, [n, ...from, first + c])]! * weights[at(w.shape, [o, ...taken, c])]!;
    }
    return sum;
  });
  return { shape, data };
}

function expectLoop(got: MxArray, x: MxArray, w: MxArray, setting: Partial<Setting>): void {
  const want = loop(x, w, setting);
  expect(got.shape).toEqual(want.shape);
  expectNumbers(got, want.data, near);
}

describe('convolutions are the loops of their definition', () => {
  test('conv1d', () => {
    const [x, w] = [noise([2, 9, 4], 1), noise([6, 3, 4], 2)];
    expectLoop(mx.conv1d(x, w), x, w, {});
    expectLoop(mx.conv1d(x, w, { stride: 2, padding: 1 }), x, w, { stride: [2], low: [1] });
    expectLoop(mx.conv1d(x, w, { dilation: [3], padding: [2] }), x, w, { kernel: [3], low: [2] });
    const grouped = noise([6, 3, 2], 3);
    expectLoop(mx.conv1d(x, grouped, { groups: 2 }), x, grouped, { groups: 2 });
  });

  test('conv2d', () => {
    const [x, w] = [noise([2, 6, 5, 2], 1), noise([4, 3, 2, 2], 2)];
    expectLoop(mx.conv2d(x, w), x, w, {});
    const options = { stride: [2, 1], padding: [1, 2], dilation: [1, 2] };
    expectLoop(mx.conv2d(x, w, options), x, w, { stride: [2, 1], low: [1, 2], kernel: [1, 2] });
    const depthwise = noise([2, 3, 3, 1], 3);
    expectLoop(mx.conv2d(x, depthwise, { groups: 2, padding: 1 }), x, depthwise, { groups: 2, low: [1, 1] });
  });

  test('conv3d', () => {
    const [x, w] = [noise([1, 4, 3, 4, 2], 1), noise([3, 2, 2, 2, 2], 2)];
    expectLoop(mx.conv3d(x, w, { stride: [1, 2, 1], padding: 1 }), x, w, { stride: [1, 2, 1], low: [1, 1, 1] });
  });

  test('convGeneral', () => {
    const [x, w] = [noise([2, 5, 4, 2], 1), noise([3, 3, 2, 2], 2)];
    expectLoop(mx.convGeneral(x, w, { padding: 1 }), x, w, { low: [1, 1] });
    expectLoop(mx.convGeneral(x, w, { padding: [2, 0] }), x, w, { low: [2, 0] });
    const options = {
      stride: [1, 2],
      padding: [
        [0, 1],
        [2, 0],
      ],
      kernelDilation: 2,
      inputDilation: [2, 3],
      flip: true,
    };
    const setting = { stride: [1, 2], low: [0, 1], high: [2, 0], kernel: [2, 2], input: [2, 3], flip: true };
    expectLoop(mx.convGeneral(x, w, options), x, w, setting);
    const line = noise([2, 9, 4], 3);
    const grouped = noise([2, 3, 2], 4);
    expectLoop(mx.convGeneral(line, grouped, { groups: 2 }), line, grouped, { groups: 2 });
  });
});

describe('transposed convolutions are gradients of convolutions', () => {
  /** The gradient of `conv(x, w)` with respect to `x`, by the transform. */
  function gradient(
    conv: (x: MxArray, w: MxArray, options: object) => MxArray,
    shape: number[],
    w: MxArray,
    cotangent: MxArray,
    options: object,
  ): MxArray {
    return mx.grad((x: MxArray) => conv(x, w, options).multiply(cotangent).sum())(mx.zeros(shape));
  }

  /** `[C_in, .., C_out]`, as the transposed convolution takes it. */
  const turned = (w: MxArray): MxArray => w.swapaxes(0, -1);

  test('convTranspose1d', () => {
    const w = noise([3, 4, 2], 1);
    const options = { stride: 2, padding: 1, dilation: 2 };
    const y = mx.conv1d(mx.zeros([2, 12, 2]), w, options);
    const cotangent = noise(y.shape, 2);
    // The stride leaves one element over: 12 + 2 - 7 is odd.
    const found = mx.convTranspose1d(cotangent, turned(w), { ...options, outputPadding: 1 });
    expectNear(found, gradient(mx.conv1d, [2, 12, 2], w, cotangent, options), near);
    expect(mx.convTranspose1d(cotangent, turned(w), options).shape).toEqual([2, 11, 2]);
  });

  test('convTranspose2d', () => {
    const w = noise([3, 2, 3, 2], 1);
    const options = { stride: [1, 2], padding: [0, 1] };
    const y = mx.conv2d(mx.zeros([1, 4, 5, 2]), w, options);
    const cotangent = noise(y.shape, 2);
    expectNear(
      mx.convTranspose2d(cotangent, turned(w), options),
      gradient(mx.conv2d, [1, 4, 5, 2], w, cotangent, options),
      near,
    );
  });

  test('convTranspose3d', () => {
    const w = noise([2, 2, 2, 2, 3], 1);
    const y = mx.conv3d(mx.zeros([1, 3, 3, 4, 3]), w, {});
    const cotangent = noise(y.shape, 2);
    expectNear(mx.convTranspose3d(cotangent, turned(w)), gradient(mx.conv3d, [1, 3, 3, 4, 3], w, cotangent, {}), near);
  });
});

test('what does not fit is a typed error', () => {
  const [x, w] = [noise([2, 9, 4], 1), noise([6, 3, 4], 2)];
  const plane = noise([1, 4, 4, 2], 1);
  const errors: [code: string, action: () => unknown][] = [
    ['ERR_MLX_SHAPE', () => mx.conv1d(plane, w)],
    ['ERR_MLX_SHAPE', () => mx.conv2d(x, w)],
    ['ERR_MLX_SHAPE', () => mx.conv3d(x, w)],
    ['ERR_MLX_SHAPE', () => mx.convTranspose1d(plane, w)],
    ['ERR_MLX_SHAPE', () => mx.convTranspose2d(x, w)],
    ['ERR_MLX_SHAPE', () => mx.convTranspose3d(x, w)],
    ['ERR_MLX_SHAPE', () => mx.convGeneral(mx.zeros([2]), w)],
    ['ERR_MLX_SHAPE', () => mx.conv1d(x, noise([6, 3, 3], 1))],
    ['ERR_MLX_SHAPE', () => mx.conv1d(x, noise([6, 10, 4], 1))],
    ['ERR_MLX_DTYPE', () => mx.conv1d(mx.ones([2, 9, 4], 'int32'), w)],
    ['ERR_MLX_ARGUMENT', () => mx.conv1d(x, w, { stride: 0 })],
    ['ERR_MLX_ARGUMENT', () => mx.conv1d(x, w, { padding: -1 })],
    ['ERR_MLX_ARGUMENT', () => mx.conv1d(x, w, { stride: 1.5 })],
    ['ERR_MLX_ARGUMENT', () => mx.conv1d(x, w, { stride: '2' as never })],
    ['ERR_MLX_SHAPE', () => mx.conv1d(x, w, { stride: [1, 1] })],
    ['ERR_MLX_ARGUMENT', () => mx.conv1d(x, w, { groups: 0 })],
    ['ERR_MLX_SHAPE', () => mx.conv1d(x, w, { groups: 3 })],
    ['ERR_MLX_CONFIG', () => mx.conv1d(x, w, { strides: 2 } as never)],
    ['ERR_MLX_ARGUMENT', () => mx.convGeneral(x, w, { padding: [1, [2]] })],
    [
      'ERR_MLX_SHAPE',
      () =>
        mx.convGeneral(x, w, {
          padding: [
            [1, 1],
            [2, 2],
          ],
        }),
    ],
    ['ERR_MLX_SHAPE', () => mx.convTranspose1d(x, w, { padding: 9 })],
  ];
  for (const [code, action] of errors) expect([codeOf(action), String(action)]).toEqual([code, String(action)]);
});
