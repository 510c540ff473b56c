import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mx, MxArray, nn } from '../../lib/index.ts';
import { readSafetensors } from '../helpers/golden.ts';
import type { Tensor } from '../helpers/golden.ts';

const folder = join(import.meta.dirname, '..', 'fixtures', 'nn-layers');
const tensors = readSafetensors(join(folder, 'layers.safetensors'));

interface LayerCase {
  name: string;
  class: string;
  args: unknown[];
  evaluate: boolean;
  gradients: boolean;
  extra: unknown[];
}

interface LossCase {
  name: string;
  function: string;
  options: object;
}

const { cases, losses } = JSON.parse(readFileSync(join(folder, 'layers.json'), 'utf8')) as {
  cases: LayerCase[];
  losses: LossCase[];
};

const toArray = ({ dtype, shape, data }: Tensor): MxArray =>
  dtype === 'F32'
    ? MxArray.fromFloat32(Float32Array.from(data), shape)
    : MxArray.fromInt32(Int32Array.from(data), shape);

/** `[suffix, tensor]` of all tensors below a prefix. */
const below = (prefix: string): [string, Tensor][] =>
  [...tensors]
    .filter(([name]) => name.startsWith(`${prefix}/`))
    .map(([name, tensor]) => [name.slice(prefix.length + 1), tensor]);

const listedTensors = (prefix: string): Tensor[] =>
  below(prefix)
    .toSorted(([a], [b]) => Number(a) - Number(b))
    .map(([, tensor]) => tensor);

const listed = (prefix: string): MxArray[] => listedTensors(prefix).map(toArray);

/**
 * Sums of a few dozen float32 products in another order: some units in the last place of the largest term. Gradients of two layers lose one
 * digit more.
 */
function expectClose(found: MxArray, wanted: Tensor, what: string): void {
  expect(found.shape, what).toEqual(wanted.shape);
  const largest = Math.max(1, ...wanted.data.filter((value) => Number.isFinite(value)).map(Math.abs));
  const values = found.toFloat32();
  for (const [i, value] of wanted.data.entries()) {
    expect(Math.abs(values[i]! - value), `${what} [${i}]: ${values[i]} for ${value}`).toBeLessThanOrEqual(
      2e-5 * largest,
    );
  }
}

const layers = nn as unknown as { [name: string]: new (...args: unknown[]) => nn.Module };

function make(layer: LayerCase): nn.Module {
  // Functions are named.
  const args = layer.args.map((arg) => {
    const named = (arg as { activation?: string }).activation === 'gelu';
    return named ? { ...(arg as object), activation: nn.gelu } : arg;
  });
  const module = new layers[layer.class]!(...args);
  module.loadWeights(below(`${layer.name}/parameter`).map(([name, tensor]) => [name, toArray(tensor)]));
  return layer.evaluate ? module.eval() : module;
}

const outputsOf = (module: nn.Module, inputs: readonly MxArray[], extra: readonly unknown[]): MxArray[] => {
  const y = module.forward(...inputs, ...extra) as MxArray | MxArray[];
  return Array.isArray(y) ? y : [y];
};

const isFloat = (array: MxArray): boolean => array.dtype === 'float32';

test('the fixture covers the layers', () => {
  expect(cases.length).toBeGreaterThan(90);
  expect(losses.length).toBe(18);
});

describe('forward', () => {
  test.each(cases)('$name', (layer) => {
    const module = make(layer);
    const outputs = outputsOf(module, listed(`${layer.name}/input`), layer.extra);
    const wanted = below(`${layer.name}/output`);
    expect(outputs.length).toBe(wanted.length);
    for (const [i, tensor] of wanted) expectClose(outputs[Number(i)]!, tensor, `output ${i}`);
    const named = new Map(module.namedParameters());
    for (const [name, tensor] of below(`${layer.name}/after`)) {
      expectClose(named.get(name === 'running_mean' ? 'runningMean' : 'runningVar')!, tensor, name);
    }
  });
});

const camel = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** The sum of all outputs, each element times its cotangent. */
const lossOf = (module: nn.Module, layer: LayerCase): ((xs: readonly MxArray[]) => MxArray) => {
  const cotangents = listed(`${layer.name}/cotangent`);
  return (xs) =>
    outputsOf(module, xs, layer.extra)
      .map((y, i) => mx.sum(mx.multiply(y, cotangents[i]!)))
      .reduce((a, b) => mx.add(a, b));
};

describe('gradients', () => {
  const differentiable = cases.filter(({ gradients }) => gradients);

  test.each(differentiable.filter(({ name }) => below(`${name}/gradient`).length > 0))('$name: weights', (layer) => {
    const module = make(layer);
    const [, gradients] = nn.valueAndGrad(module, lossOf(module, layer))(listed(`${layer.name}/input`));
    const found = new Map(mx.treeFlatten(gradients));
    const wanted = below(`${layer.name}/gradient`);
    expect([...found.keys()].toSorted()).toEqual(wanted.map(([name]) => camel(name)).toSorted());
    for (const [name, tensor] of wanted) expectClose(found.get(camel(name))!, tensor, `gradient of ${name}`);
  });

  test.each(differentiable.filter(({ name }) => below(`${name}/input_gradient`).length > 0))(
    '$name: inputs',
    (layer) => {
      const inputs = listed(`${layer.name}/input`);
      const loss = lossOf(make(layer), layer);
      const gradients = mx.grad((xs: MxArray[]) => {
        let next = 0;
        return loss(inputs.map((x) => (isFloat(x) ? xs[next++]! : x)));
      })(inputs.filter(isFloat));
      const wanted = listedTensors(`${layer.name}/input_gradient`);
      expect(gradients.length).toBe(wanted.length);
      for (const [i, tensor] of wanted.entries()) expectClose(gradients[i]!, tensor, `gradient of input ${i}`);
    },
  );
});

describe('losses and their gradients', () => {
  test.each(losses)('$name', (loss) => {
    const [first, ...rest] = listed(`${loss.name}/input`) as [MxArray, ...MxArray[]];
    expect.hasAssertions();
    const fn = (nn.losses as unknown as { [name: string]: (...args: unknown[]) => MxArray })[loss.function]!;
    expectClose(fn(first, ...rest, loss.options), tensors.get(`${loss.name}/output/0`)!, 'value');
    const gradient = mx.grad((x: MxArray) => mx.sum(fn(x, ...rest, loss.options)))(first);
    expectClose(gradient, tensors.get(`${loss.name}/input_gradient/0`)!, 'gradient');
  });
});

test('the gradient of a transposed convolution with output padding is its adjoint', () => {
  // The layer is linear without a bias: the gradient of <g, f(x)>, times x, gives <g, f(x)> back.
  const layer = new nn.ConvTranspose1d(3, 2, 3, { stride: 2, outputPadding: 1, bias: false });
  const x = mx.random.normal([1, 4, 3]);
  const g = mx.random.normal([1, 10, 2]);
  const loss = (y: MxArray): MxArray => mx.sum(mx.multiply(layer.forward(y), g));
  const [value, gradient] = mx.valueAndGrad(loss)(x);
  expect(mx.sum(mx.multiply(gradient, x)).item()).toBeCloseTo(value.item(), 4);
});
