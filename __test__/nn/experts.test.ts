import { describe, expect, test } from 'vitest';
import { mx, MxArray, nn } from '../../lib/index.ts';
import { goldenCases, goldenPath, readSafetensors } from '../helpers/golden.ts';
import type { Tensor } from '../helpers/golden.ts';
import { thrown } from '../helpers/thrown.ts';

interface SwitchCase {
  name: string;
  kind: string;
  options: { experts: number; k: number; sorted_path: boolean };
  tolerance: { atol: number; rtol: number };
}

const cases = goldenCases<SwitchCase>('switch').filter(({ kind }) => kind === 'switch_glu');
const tensors = readSafetensors(goldenPath('switch', 'tensors.safetensors'));
const numbers = (value: MxArray): number[] => [...value.toFloat32()];

const load = (name: string): MxArray => {
  const { dtype, shape, data } = tensors.get(name)!;
  return dtype === 'F32'
    ? MxArray.fromFloat32(Float32Array.from(data), shape)
    : MxArray.fromInt32(Int32Array.from(data), shape);
};

function expectClose(found: MxArray, wanted: Tensor, atol: number, rtol: number, what: string): void {
  expect(found.shape, what).toEqual(wanted.shape);
  for (const [i, value] of numbers(found).entries()) {
    expect(Math.abs(value - wanted.data[i]!), what).toBeLessThanOrEqual(atol + rtol * Math.abs(wanted.data[i]!));
  }
}

function glu(name: string): nn.SwitchGLU {
  const [experts, hidden, inputs] = tensors.get(`${name}/in/gate`)!.shape as [number, number, number];
  return new nn.SwitchGLU(inputs, hidden, experts).loadWeights(
    ['gate', 'up', 'down'].map((part) => [`${part}_proj.weight`, load(`${name}/in/${part}`)] as const),
  );
}

test('both ways are recorded', () => {
  expect(cases.filter(({ options }) => options.sorted_path).length).toBeGreaterThan(2);
  expect(cases.filter(({ options }) => !options.sorted_path).length).toBeGreaterThan(3);
});

test.each(cases)('SwitchGLU has the numbers of mlx-lm: $name', ({ name, tolerance: { atol, rtol } }) => {
  expect.hasAssertions();
  const layer = glu(name);
  const [x, indices, cotangent] = ['x', 'indices', 'cotangent'].map((part) => load(`${name}/in/${part}`)) as [
    MxArray,
    MxArray,
    MxArray,
  ];
  expectClose(layer.forward(x, indices), tensors.get(`${name}/out/y`)!, atol, rtol, 'y');
  const loss = (input: MxArray): MxArray => mx.sum(mx.multiply(layer.forward(input, indices), cotangent));
  const [, gradients] = nn.valueAndGrad(layer, loss)(x);
  for (const part of ['gate', 'up', 'down']) {
    const gradient = (gradients[`${part}Proj`] as { weight: MxArray }).weight;
    expectClose(gradient, tensors.get(`${name}/out/grad_${part}`)!, atol, rtol, part);
  }
  expectClose(mx.grad(loss)(x), tensors.get(`${name}/out/grad_x`)!, atol, rtol, 'x');
});

test('biases of experts', () => {
  const layer = new nn.SwitchLinear(4, 3, 5);
  layer.bias = mx.random.normal([5, 3]);
  const x = mx.random.normal([2, 1, 1, 4]);
  const y = layer.forward(
    x,
    mx.array(
      [
        [4, 0],
        [2, 2],
      ],
      'uint32',
    ),
  );
  expect(y.shape).toEqual([2, 2, 1, 3]);
  for (const [at, [token, expert]] of [
    [0, 4],
    [0, 0],
    [1, 2],
    [1, 2],
  ].entries()) {
    const weight = mx.take(layer.weight, mx.array(expert!, 'int32'), 0);
    const bias = mx.take(layer.bias, mx.array(expert!, 'int32'), 0);
    const row = mx.take(x.reshape([2, 4]), mx.array(token!, 'int32'), 0);
    const wanted = numbers(mx.add(mx.matmul(weight, row.reshape([4, 1])).reshape([3]), bias));
    for (const [i, value] of wanted.entries()) expect(numbers(y)[3 * at + i]).toBeCloseTo(value, 5);
  }
});

const expectNear = (found: MxArray, wanted: MxArray): void => {
  expect(found.shape).toEqual(wanted.shape);
  const values = numbers(wanted);
  // Sums of 64 products of about 1 in another order; the codes' scales may be in half precision.
  for (const [i, value] of numbers(found).entries()) expect(Math.abs(value - values[i]!)).toBeLessThan(2e-3);
};

const block = (): nn.Sequential =>
  new nn.Sequential(new nn.Embedding(12, 64), new nn.TransformerBlock(64, 2, 128), new nn.Linear(64, 12));

describe('packed weights', () => {
  const modes: [nn.QuantizationMode, number, number][] = [
    ['affine', 64, 4],
    ['affine', 32, 8],
    ['mxfp4', 32, 4],
    ['mxfp8', 32, 8],
    ['nvfp4', 16, 4],
  ];

  test.each(modes)('compute what the numbers do that they stand for: %s, %i, %i', (mode, groupSize, bits) => {
    expect.hasAssertions();
    const how = { mode, groupSize, bits };
    const x = mx.random.normal([3, 64]);
    const linear = new nn.Linear(64, 8);
    const packed = nn.QuantizedLinear.fromLinear(linear, how);
    const same = new nn.Linear(64, 8);
    [same.weight, same.bias] = [packed.dequantized().astype('float32'), linear.bias!];
    expectNear(packed.forward(x), same.forward(x));

    const embedding = new nn.Embedding(10, 64);
    const table = nn.QuantizedEmbedding.fromEmbedding(embedding, how);
    const ids = mx.array([
      [1, 9],
      [0, 3],
    ]);
    expectNear(table.forward(ids).astype('float32'), mx.take(table.dequantized().astype('float32'), ids, 0));
    const logits = new nn.Linear(64, 10, { bias: false });
    logits.weight = table.dequantized().astype('float32');
    expectNear(table.asLinear(x), logits.forward(x));

    const experts = new nn.SwitchLinear(64, 8, 4);
    const packedExperts = nn.QuantizedSwitchLinear.fromSwitchLinear(experts, how);
    const sameExperts = new nn.SwitchLinear(64, 8, 4);
    sameExperts.weight = packedExperts.dequantized().astype('float32');
    const chosen = mx.array(
      [
        [0, 3],
        [1, 1],
        [2, 0],
      ],
      'uint32',
    );
    const rows = x.reshape([3, 1, 1, 64]);
    expectNear(packedExperts.forward(rows, chosen), sameExperts.forward(rows, chosen));
  });

  test('modes have their usual forms', () => {
    const forms = (['affine', 'mxfp4', 'mxfp8', 'nvfp4'] as const).map((mode) => {
      const { groupSize, bits } = new nn.QuantizedLinear(64, 2, { mode });
      return [groupSize, bits];
    });
    expect(forms).toEqual([
      [64, 4],
      [32, 4],
      [32, 8],
      [16, 4],
    ]);
    expect(String(new nn.QuantizedLinear(128, 2))).toBe(
      'QuantizedLinear(inputDims=128, outputDims=2, bias=true, groupSize=64, bits=4, mode=affine)',
    );
    expect(thrown(() => new nn.QuantizedLinear(64, 2, { bits: 7 }))).toMatchObject({ code: 'ERR_MLX_ARGUMENT' });
    expect(thrown(() => new nn.QuantizedLinear(65, 2))).toMatchObject({ code: 'ERR_MLX_SHAPE' });
  });

  test('nn.quantize replaces layers, close to what they were', () => {
    const plain = block();
    const packed = block();
    packed.update(plain.parameters());
    expect(nn.quantize(packed, { bits: 8, groupSize: 32 })).toBe(packed);
    const kinds = packed.modules().map((module) => module.constructor.name);
    expect(kinds.filter((kind) => kind === 'QuantizedLinear').length).toBe(8);
    expect(kinds.filter((kind) => kind === 'QuantizedEmbedding').length).toBe(1);
    expect(kinds).not.toContain('Linear');
    const ids = mx.array([[1, 5, 9]]);
    const wanted = numbers(plain.forward(ids));
    for (const [i, value] of numbers(packed.forward(ids)).entries())
      expect(Math.abs(value - wanted[i]!)).toBeLessThan(0.05);
    // Biases and norms train; codes never do.
    packed.unfreeze();
    const trainable = mx.treeFlatten(packed.trainableParameters()).map(([path]) => path);
    expect(trainable.some((path) => /(scales|biases)$/.test(path))).toBe(false);
    expect(trainable).toContain('layers.2.bias');
    expect(trainable).toContain('layers.1.inputLayernorm.weight');
  });

  test('which layers, and how, by path', () => {
    const model = nn.quantize(block(), {
      classPredicate: (path, module) =>
        module instanceof nn.Linear && (path === 'layers.2' ? { bits: 8 } : path.includes('mlp')),
    });
    expect(model.layers[0]).toBeInstanceOf(nn.Embedding);
    expect((model.layers[2] as nn.QuantizedLinear).bits).toBe(8);
    const inner = model.layers[1] as nn.TransformerBlock;
    expect((inner.mlp as nn.MLP).upProj).toBeInstanceOf(nn.QuantizedLinear);
    expect((inner.selfAttn as nn.Attention).qProj).toBeInstanceOf(nn.Linear);
    const error = thrown(() => nn.quantize(block(), { classPredicate: () => true }));
    expect(error).toMatchObject({
      code: 'ERR_MLX_ARGUMENT',
      message: expect.stringMatching(/no packed layer for 'layers\.1\./),
    });
  });

  test('LoRA on a packed layer trains and fuses', () => {
    const lora = new nn.LoRALinear(new nn.QuantizedLinear(64, 4), { rank: 2, scale: 2 });
    const x = mx.random.normal([5, 64]);
    expect(mx.treeFlatten(lora.trainableParameters()).map(([path]) => path)).toEqual(['loraA', 'loraB']);
    const [, gradients] = nn.valueAndGrad(lora, () => lora.forward(x).square().mean())();
    lora.loraB = mx.subtract(lora.loraB, mx.multiply(gradients['loraB'] as MxArray, 0.5));
    const [found, wanted] = [numbers(lora.fuse().forward(x)), numbers(lora.forward(x))];
    for (const [i, value] of wanted.entries()) expect(found[i]).toBeCloseTo(value, 3);
  });
});
