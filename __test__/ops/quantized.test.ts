import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { codeOf, expectNear, expectNumbers, numbers } from '../helpers/arrays.ts';
import { goldenCases, goldenPath } from '../helpers/golden.ts';
import type { Case } from '../helpers/golden.ts';

const tensors = mx.loadSafetensorsSync(goldenPath('switch', 'tensors.safetensors'));
const ofKind = (kind: string): [string, Case][] =>
  goldenCases('switch')
    .filter((one) => one.kind === kind)
    .map((one) => [one.name, one]);

function find(one: Case, part: 'inputs' | 'expected', name: string): MxArray | undefined {
  const entry = one[part][name] as { tensor: string } | undefined;
  return entry === undefined ? undefined : tensors[entry.tensor];
}

/** How a case is packed. */
function how(one: Case): { mode: 'affine'; groupSize: number; bits: number } {
  const { mode, group_size: groupSize, bits } = one.options as { mode: 'affine'; group_size: number; bits: number };
  return { mode, groupSize, bits };
}

function expectRecorded(one: Case, name: string, got: MxArray | undefined): void {
  expectNear(got!, find(one, 'expected', name)!, one.tolerance.atol, one.tolerance.rtol);
}

const noise = (shape: number[], seed: number): MxArray => mx.random.normal(shape, { key: mx.random.key(seed) });

describe('recorded numbers of mlx', () => {
  test('are all there', () => {
    const counts = ['quantize', 'quantized_matmul', 'gather_qmm', 'gather_mm'].map((kind) => ofKind(kind).length);
    expect(counts.every((count) => count >= 4)).toBe(true);
  });

  test.each(ofKind('quantize'))('%s', (_, one) => {
    const { weight, scales, biases } = mx.quantize(find(one, 'inputs', 'w')!, how(one));
    expect(weight.dtype).toBe('uint32');
    expect(numbers(weight)).toEqual(numbers(find(one, 'expected', 'packed')!));
    expectRecorded(one, 'scales', scales);
    expect(biases !== undefined).toBe(how(one).mode === 'affine');
    if (biases !== undefined) expectRecorded(one, 'biases', biases);
    expectRecorded(one, 'dequantized', mx.dequantize(weight, scales, biases, { ...how(one), dtype: 'float32' }));
  });

  test.each(ofKind('quantized_matmul'))('%s', (_, one) => {
    const input = (name: string): MxArray => find(one, 'inputs', name)!;
    const biases = find(one, 'inputs', 'biases');
    expectRecorded(one, 'out', mx.quantizedMatmul(input('x'), input('packed'), input('scales'), biases, how(one)));
  });

  test.each(ofKind('gather_qmm'))('%s', (_, one) => {
    const input = (name: string): MxArray => find(one, 'inputs', name)!;
    const found = mx.gatherQmm(input('x'), input('packed'), input('scales'), find(one, 'inputs', 'biases'), {
      ...how(one),
      rhsIndices: input('rhs_indices'),
      sortedIndices: one.options['sorted_indices'] as boolean,
    });
    expectRecorded(one, 'out', found);
  });

  test.each(ofKind('gather_mm'))('%s', (_, one) => {
    const input = (name: string): MxArray => find(one, 'inputs', name)!;
    const found = mx.gatherMm(input('a'), input('b'), {
      rhsIndices: input('rhs_indices'),
      sortedIndices: one.options['sorted_indices'] as boolean,
    });
    expectRecorded(one, 'out', found);
  });
});

test('the products are those of the packed numbers', () => {
  const w = noise([3, 8, 64], 1);
  const { weight, scales, biases } = mx.quantize(w, { groupSize: 32, bits: 8 });
  const plain = mx.dequantize(weight, scales, biases, { groupSize: 32, bits: 8 });
  // 255 steps over a range of about 5: half a step is 0.01.
  expectNear(plain, w, 0.02);
  expect([
    plain.dtype,
    mx.dequantize(weight, scales, biases, { groupSize: 32, bits: 8, dtype: 'float16' }).dtype,
  ]).toEqual(['float32', 'float16']);
  const one = mx.quantize(w.take(0, 0));
  const options = { groupSize: 32, bits: 8 } as const;
  const x = noise([5, 64], 2);
  expectNear(
    mx.quantizedMatmul(x, one.weight, one.scales, one.biases),
    x.matmul(mx.dequantize(one.weight, one.scales, one.biases).transpose()),
    1e-4,
  );
  const y = noise([5, 8], 3);
  const across = { transpose: false, ...options };
  expectNear(mx.quantizedMatmul(y, weight, scales, biases, across), mx.matmul(y, plain), 1e-4);
  expectNear(
    mx.gatherQmm(y.reshape([1, 5, 8]), weight, scales, biases, { ...across, rhsIndices: mx.array([2, -3]) }),
    mx.matmul(y, plain.take(mx.array([2, 0]), 0)),
    1e-4,
  );
});

test('leading axes broadcast as in matmul', () => {
  const w = mx.quantize(noise([2, 1, 3, 8, 64], 1));
  const plain = mx.dequantize(w.weight, w.scales, w.biases).swapaxes(-1, -2);
  for (const shape of [[64], [5, 64], [3, 5, 64], [4, 1, 5, 64], [2, 4, 3, 5, 64], [2, 2, 4, 3, 5, 64]]) {
    const x = noise(shape, 2);
    expectNear(mx.quantizedMatmul(x, w.weight, w.scales, w.biases), x.matmul(plain), 1e-4);
  }
  const one = mx.quantize(noise([8, 64], 1));
  const matrix = mx.dequantize(one.weight, one.scales, one.biases).transpose();
  for (const shape of [[64], [5, 64], [2, 3, 5, 64]]) {
    const x = noise(shape, 2);
    expectNear(mx.quantizedMatmul(x, one.weight, one.scales, one.biases), x.matmul(matrix), 1e-4);
  }
});

test('gradients flow to the other side of a product', () => {
  const { weight, scales, biases } = mx.quantize(noise([8, 64], 1));
  const gradient = mx.grad((x: MxArray) => mx.quantizedMatmul(x, weight, scales, biases).sum())(noise([2, 64], 2));
  const sums = mx.dequantize(weight, scales, biases).sum(0);
  expectNear(gradient, mx.broadcastTo(sums, [2, 64]), 1e-4);
});

test('8-bit floats', () => {
  const a = mx.array([0, 1, -1.5, 0.4, 1000, 2 ** -9]);
  const coded = mx.toFp8(a);
  expect(coded.dtype).toBe('uint8');
  // e4m3: three bits after the point, at most 448, at least 2^-9.
  expectNumbers(mx.fromFp8(coded, 'float32'), [0, 1, -1.5, 0.40625, 448, 2 ** -9]);
  expect(a.toFp8().fromFp8().dtype).toBe('bfloat16');
});

test('qqmm computes on a GPU and says so on a CPU', () => {
  const [x, w] = [noise([4, 32], 1), noise([8, 32], 2)];
  const packed = mx.quantize(w, { mode: 'mxfp8' });
  const calls = [
    () => mx.qqmm(x, w, { mode: 'mxfp8' }).eval(),
    () => mx.qqmm(x, packed.weight, { mode: 'mxfp8', scales: packed.scales }).eval(),
    () => mx.gatherQqmm(x, w, { mode: 'mxfp8' }).eval(),
  ];
  for (const call of calls) {
    if (mx.defaultDevice() === 'cpu') expect(String(codeOf(call))).toMatch(/^ERR_MLX_/);
    else expect(call().shape).toEqual([4, 8]);
  }
});

test('what does not fit is a typed error', () => {
  const w = noise([8, 64], 1);
  const x = noise([2, 64], 2);
  const { weight, scales, biases } = mx.quantize(w);
  const errors: [code: string, action: () => unknown][] = [
    ['ERR_MLX_ARGUMENT', () => mx.quantize(w, { mode: 'fp4' as never })],
    ['ERR_MLX_ARGUMENT', () => mx.quantize(w, { mode: 4 as never })],
    ['ERR_MLX_ARGUMENT', () => mx.quantize(w, { bits: 7 })],
    ['ERR_MLX_ARGUMENT', () => mx.quantize(w, { groupSize: 48 })],
    ['ERR_MLX_ARGUMENT', () => mx.quantize(w, { mode: 'mxfp4', groupSize: 64 })],
    ['ERR_MLX_ARGUMENT', () => mx.quantize(w, { globalScale: mx.array(1.5) })],
    ['ERR_MLX_CONFIG', () => mx.quantize(w, { group_size: 32 } as never)],
    ['ERR_MLX_SHAPE', () => mx.quantize(noise([8, 60], 1))],
    ['ERR_MLX_SHAPE', () => mx.quantize(noise([64], 1))],
    ['ERR_MLX_DTYPE', () => mx.quantize(mx.ones([8, 64], 'int32'))],
    ['ERR_MLX_ARGUMENT', () => mx.dequantize(weight, scales)],
    ['ERR_MLX_SHAPE', () => mx.dequantize(weight, scales, biases, { groupSize: 32 })],
    ['ERR_MLX_DTYPE', () => mx.dequantize(w, scales, biases)],
    ['ERR_MLX_DTYPE', () => mx.dequantize(weight, scales, biases, { dtype: 'int8' })],
    ['ERR_MLX_SHAPE', () => mx.quantizedMatmul(noise([2, 32], 1), weight, scales, biases)],
    ['ERR_MLX_SHAPE', () => mx.quantizedMatmul(x, weight, scales, biases, { transpose: false })],
    ['ERR_MLX_SHAPE', () => mx.gatherQmm(noise([64], 1), weight, scales, biases)],
    ['ERR_MLX_DTYPE', () => mx.gatherQmm(x, weight, scales, biases, { rhsIndices: mx.zeros([1]) })],
    ['ERR_MLX_ARGUMENT', () => mx.qqmm(x, w, { mode: 'affine' as never })],
    ['ERR_MLX_DTYPE', () => mx.toFp8(mx.array([1]))],
    ['ERR_MLX_DTYPE', () => mx.fromFp8(mx.array([1]))],
  ];
  for (const [code, action] of errors) expect([codeOf(action), String(action)]).toEqual([code, String(action)]);
});
