import { expect, test } from 'vitest';
import { mx, nn } from '../../lib/index.ts';
import type { MlxError, MxArray } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

const numbers = (array: MxArray): number[] => [...array.toFloat32()];

// Shapes and texts of Python's MLX 0.32.4.
test('outside of training the weight is packed; in training it floats', () => {
  const layer = new nn.QQLinear(32, 8);
  expect(String(layer)).toBe('QQLinear(inputDims=32, outputDims=8, groupSize=16, bits=4, mode=nvfp4)');
  expect(layer.namedParameters().map(([name]) => name)).toEqual(['weight']);
  const before = numbers(layer.weight);
  new nn.Sequential(layer).eval();
  expect([layer.weight.dtype, layer.weight.shape, layer.scales!.shape]).toEqual(['uint32', [8, 4], [8, 2]]);
  expect(String(layer)).toBe('QQLinear(inputDims=32, outputDims=8, groupSize=16, bits=4, mode=nvfp4)');
  layer.eval();
  layer.train();
  expect([layer.weight.dtype, layer.weight.shape, layer.scales]).toEqual(['float32', [8, 32], undefined]);
  // 4-bit floats have one bit of fraction: at most a quarter off, and the scales of 16 weights half as precise as 8-bit floats are.
  const largest = Math.max(...before.map(Math.abs));
  for (const [i, value] of numbers(layer.weight).entries())
    expect(Math.abs(value - before[i]!)).toBeLessThan(0.3 * largest);
  expect(numbers(layer.weight)).not.toEqual(before);
});

test('draws the weights of a linear layer', () => {
  mx.random.seed(3);
  const linear = new nn.Linear(32, 8, { bias: false });
  mx.random.seed(3);
  const packed = new nn.QQLinear(32, 8, { mode: 'mxfp8' });
  expect(numbers(packed.weight)).toEqual(numbers(linear.weight));
  expect([packed.groupSize, packed.bits]).toEqual([32, 8]);
  const of = nn.QQLinear.fromLinear(linear);
  expect([of.training, numbers(of.weight)]).toEqual([true, numbers(linear.weight)]);
  expect(nn.QQLinear.fromLinear(linear.eval()).weight.dtype).toBe('uint32');
});

test('multiplies on a GPU, and says so on a CPU', () => {
  const layer = new nn.QQLinear(64, 4, { mode: 'mxfp8' });
  const x = mx.random.normal([2, 64]);
  const plain = numbers(x.matmul(layer.weight.T));
  if (mx.isAvailable('gpu')) {
    for (const y of [layer.forward(x), layer.eval().forward(x)]) {
      // Three bits of fraction: each factor is off by a sixteenth at most.
      for (const [i, value] of numbers(y).entries()) expect(Math.abs(value - plain[i]!)).toBeLessThan(0.5);
    }
    return;
  }
  for (const act of [() => layer.train().forward(x), () => layer.eval().forward(x)]) {
    const error = thrown(act) as MlxError;
    expect([error.code, error.message]).toEqual(['ERR_MLX_ARGUMENT', expect.stringContaining('MLX has no CPU code')]);
  }
});

test('what cannot be is a typed error', () => {
  const refused: [() => unknown, string, RegExp][] = [
    [() => new nn.QQLinear(32, 8, { mode: 'affine' as never }), 'ERR_MLX_ARGUMENT', /nvfp4 or mxfp8/],
    [() => new nn.QQLinear(32, 8, { bits: 5 }), 'ERR_MLX_ARGUMENT', /bits/],
    [() => new nn.QQLinear(32, 8, { group_size: 16 } as never), 'ERR_MLX_CONFIG', /groupSize/],
    [() => new nn.QQLinear(0, 8), 'ERR_MLX_ARGUMENT', /inputDims/],
    [() => nn.QQLinear.fromLinear(new nn.Linear(32, 8)), 'ERR_MLX_ARGUMENT', /no bias/],
  ];
  for (const [act, code, text] of refused) {
    const error = thrown(act) as MlxError;
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(text)]);
  }
});
