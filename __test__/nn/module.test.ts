import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, describe, expect, test } from 'vitest';
import { MlxError, mx, MxArray, nn } from '../../lib/index.ts';
import { readSafetensors } from '../helpers/golden.ts';
import { thrown } from '../helpers/thrown.ts';

const folder = mkdtempSync(join(tmpdir(), 'mlx-node-nn-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const failure = (action: () => unknown): MlxError => thrown(action) as MlxError;
const numbers = (value: MxArray): number[] => [...value.toFloat32()];
const paths = (tree: unknown): string[] => mx.treeFlatten(tree).map(([path]) => path);

/** Arrays, modules, lists, Maps and objects of them, and what is no parameter. */
class Net extends nn.Module {
  embed = new nn.Embedding(5, 4);
  readonly layers = [new nn.Linear(4, 4), new nn.ReLU(), new nn.Linear(4, 2, { bias: false })];
  readonly heads = new Map<string, nn.Module>([['left', new nn.Linear(2, 1)]]);
  readonly scales = [mx.ones([2]), mx.zeros([3])];
  readonly table = { offset: mx.zeros([1]) };
  readonly _hidden = mx.ones([7]);
  readonly width = 4;
  readonly #secret = mx.ones([8]);

  forward(ids: MxArray): MxArray {
    void this.#secret;
    const [first, relu, second] = this.layers as [nn.Linear, nn.ReLU, nn.Linear];
    return second.forward(relu.forward(first.forward(this.embed.forward(ids))));
  }
}

const all = [
  'embed.weight',
  'layers.0.weight',
  'layers.0.bias',
  'layers.2.weight',
  'heads.left.weight',
  'heads.left.bias',
  'scales.0',
  'scales.1',
  'table.offset',
];

describe('the tree of a module', () => {
  test('parameters, by name and nested', () => {
    const net = new Net();
    expect(net.namedParameters().map(([path]) => path)).toEqual(all);
    const tree = net.parameters();
    expect(tree['layers'][0].weight).toBe(net.layers[0]!.parameters()['weight']);
    expect(tree['layers'][1]).toEqual({});
    expect(net.numParameters()).toBe(20 + 20 + 8 + 3 + 2 + 3 + 1);
  });

  test('modules', () => {
    const net = new Net();
    expect(net.namedModules().map(([name]) => name)).toEqual([
      '',
      'embed',
      'layers.0',
      'layers.1',
      'layers.2',
      'heads.left',
    ]);
    expect(net.modules()[0]).toBe(net);
    expect(net.children()['embed']).toBe(net.embed);
    expect(net.children()['layers']).toEqual(net.layers);
    const outer = new nn.Sequential(net, new nn.Tanh());
    expect(outer.leafModules()['layers'][0].heads.left).toBe(net.heads.get('left'));
    const seen: string[] = [];
    outer.applyToModules((name) => seen.push(name));
    expect(seen).toContain('layers.0.heads.left');
  });

  test('a module that contains itself is an error', () => {
    const net = new Net() as Net & { me?: nn.Module };
    net.me = net;
    expect(failure(() => net.parameters()).message).toMatch(/contains itself/);
  });

  test('text as in Python', () => {
    const net = new nn.Sequential(new nn.Linear(2, 3), new nn.Sequential(new nn.ReLU()));
    const text =
      'Sequential(\n  (layers.0): Linear(inputDims=2, outputDims=3, bias=true)\n  (layers.1): Sequential(\n    (layers.0): ReLU()\n  )\n)';
    expect(String(net)).toBe(text);
    expect(inspect(net)).toBe(text);
  });

  test('a tree of MLX functions: state holds what are no parameters, too', () => {
    const net = new Net();
    expect(paths(net.state)).toContain('_hidden');
    expect(paths(net.state)).toContain('heads.left.bias');
  });
});

describe('update', () => {
  test('a part of the parameters', () => {
    const net = new Net();
    const kept = net.layers[0]!.parameters()['bias'];
    net.update({ layers: [{ weight: mx.ones([4, 4]) }], heads: new Map([['left', { bias: mx.full([1], 3) }]]) });
    expect(numbers(net.layers[0]!.parameters()['weight'])).toEqual(Array.from({ length: 16 }, () => 1));
    expect(net.layers[0]!.parameters()['bias']).toBe(kept);
    expect((net.heads.get('left') as nn.Linear).bias!.item()).toBe(3);
    net.apply((array) => mx.zeros(array.shape, array.dtype));
    for (const [, array] of net.namedParameters()) expect(numbers(array).every((value) => value === 0)).toBe(true);
  });

  test.each<[string, nn.ParameterTree, string, RegExp]>([
    [
      'an unknown name',
      { embd: { weight: mx.ones([5, 4]) } },
      'ERR_MLX_ARGUMENT',
      /no parameter 'embd': did you mean 'embed'/,
    ],
    ['an unknown name inside', { layers: [{ wait: mx.ones([1]) }] }, 'ERR_MLX_ARGUMENT', /'layers\.0\.wait'/],
    [
      'another shape',
      { embed: { weight: mx.ones([4, 5]) } },
      'ERR_MLX_SHAPE',
      /'embed\.weight' has shape \[5, 4\].*\[4, 5\]/,
    ],
    ['no array', { embed: { weight: 3 } }, 'ERR_MLX_ARGUMENT', /'embed\.weight' was given a number/],
    ['an array for a module', { embed: mx.ones([1]) }, 'ERR_MLX_ARGUMENT', /'embed'/],
    ['an object for a list', { layers: { 0: { weight: mx.ones([4, 4]) } } }, 'ERR_MLX_ARGUMENT', /'layers' is a list/],
    [
      'a list that is too long',
      { scales: [mx.ones([2]), mx.ones([3]), mx.ones([1])] },
      'ERR_MLX_ARGUMENT',
      /'scales\.2'/,
    ],
  ])('%s is an error, and nothing changes', (_, wrong, code, message) => {
    const net = new Net();
    const before = net.namedParameters();
    const good = { table: { offset: mx.ones([1]) }, ...wrong };
    const error = failure(() => net.update(good));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    for (const [i, [, array]] of net.namedParameters().entries()) expect(array).toBe(before[i]![1]);
    net.update(good, { strict: false });
    expect(net.table.offset.item()).toBe(1);
  });

  test('modules', () => {
    const net = new Net();
    const fresh = new nn.Linear(4, 4);
    net.updateModules({ layers: [fresh] });
    expect(net.layers[0]).toBe(fresh);
    const outer = new nn.Sequential(net);
    outer.updateModules({ layers: [{ embed: new nn.Embedding(9, 4) }] });
    expect(net.embed.weight.shape).toEqual([9, 4]);
    expect(failure(() => net.updateModules({ layer: [fresh] })).message).toMatch(
      /no module 'layer': did you mean 'layers'/,
    );
    expect(failure(() => net.updateModules({ embed: 3 })).code).toBe('ERR_MLX_ARGUMENT');
  });

  test('dtypes', () => {
    const net = new Net().setDtype('bfloat16');
    for (const [, array] of net.namedParameters()) expect(array.dtype).toBe('bfloat16');
    expect(net._hidden.dtype).toBe('float32');
    net.setDtype('float32', (dtype) => dtype === 'float16');
    expect(net.embed.weight.dtype).toBe('bfloat16');
  });
});

describe('freezing and training', () => {
  test('all, by key, and one module', () => {
    const net = new Net().freeze();
    expect(paths(net.trainableParameters())).toEqual([]);
    net.layers[0]!.unfreeze();
    expect(paths(net.trainableParameters())).toEqual(['layers.0.weight', 'layers.0.bias']);
    net.unfreeze();
    expect(paths(net.trainableParameters())).toEqual(all);
    net.freeze({ keys: 'bias' });
    expect(paths(net.trainableParameters())).toEqual(all.filter((path) => !path.endsWith('bias')));
    net.unfreeze({ keys: ['bias'] });
    expect(paths(net.trainableParameters())).toEqual(all);
    net.freeze({ recurse: false });
    expect(paths(net.trainableParameters())).toEqual(all.slice(0, 6));
    expect(net.numParameters({ trainable: true })).toBe(51);
  });

  test('unknown keys', () => {
    const net = new Net();
    net.freeze({ keys: 'biass' });
    expect(failure(() => net.freeze({ keys: 'biass', strict: true })).message).toMatch(/'biass'.*did you mean 'bias'/);
    expect(failure(() => net.freeze({ keys: 'bias', strict: true, recurse: false })).code).toBe('ERR_MLX_ARGUMENT');
    expect(failure(() => net.unfreeze({ keys: 'biass', strict: true })).code).toBe('ERR_MLX_ARGUMENT');
  });

  test('training mode', () => {
    const net = new Net();
    expect(net.training).toBe(true);
    net.eval();
    expect(net.modules().some((module) => module.training)).toBe(false);
    net.train();
    expect(net.modules().every((module) => module.training)).toBe(true);
  });

  test('the statistics of batch normalisation stay frozen', () => {
    const net = new nn.Sequential(new nn.BatchNorm(3));
    expect(paths(net.trainableParameters())).toEqual(['layers.0.weight', 'layers.0.bias']);
    net.unfreeze();
    expect(paths(net.trainableParameters())).toEqual(['layers.0.weight', 'layers.0.bias']);
    expect(paths(net.parameters())).toContain('layers.0.runningMean');
  });
});

describe('files', () => {
  test('a round trip, under Python names', () => {
    const block = new nn.TransformerBlock(8, 2, 12, { numKeyValueHeads: 1, qkNorm: true });
    const path = join(folder, 'block.safetensors');
    block.saveWeights(path);
    const names = [...readSafetensors(path).keys()].toSorted();
    expect(names).toContain('self_attn.q_proj.weight');
    expect(names).toContain('post_attention_layernorm.weight');
    const other = new nn.TransformerBlock(8, 2, 12, { numKeyValueHeads: 1, qkNorm: true });
    other.loadWeights(path);
    for (const [i, [name, array]] of block.namedParameters().entries()) {
      expect(other.namedParameters()[i]![0]).toBe(name);
      expect(numbers(other.namedParameters()[i]![1])).toEqual(numbers(array));
    }
    const x = mx.random.normal([1, 3, 8]);
    expect(numbers(other.forward(x, 'causal'))).toEqual(numbers(block.forward(x, 'causal')));
  });

  test('npz', () => {
    const linear = new nn.Linear(3, 2);
    const path = join(folder, 'linear.npz');
    linear.saveWeights(path);
    expect(numbers(new nn.Linear(3, 2).loadWeights(path).weight)).toEqual(numbers(linear.weight));
  });

  test('names as here, and half precision', () => {
    const norm = new nn.BatchNorm(2);
    norm.loadWeights({ runningMean: mx.ones([2]) }, { strict: false });
    expect(numbers(norm.runningMean!)).toEqual([1, 1]);
    const linear = new nn.Linear(3, 2).setDtype('bfloat16');
    const path = join(folder, 'half.safetensors');
    linear.saveWeights(path);
    const other = new nn.Linear(3, 2).loadWeights(path);
    expect(other.weight.dtype).toBe('bfloat16');
    expect(numbers(other.weight)).toEqual(numbers(linear.weight));
  });

  test('strict errors name what is wrong, and nothing changes', () => {
    const linear = new nn.Linear(3, 2);
    const { weight } = linear;
    const error = failure(() =>
      linear.loadWeights([
        ['weight', mx.ones([2, 4])],
        ['wait', mx.ones([1])],
      ]),
    );
    expect(error.code).toBe('ERR_MLX_LOAD');
    expect(error.message).toMatch(/'weight' has shape \[2, 4\], the parameter \[2, 3\]/);
    expect(error.message).toMatch(/no parameters wait/);
    expect(error.message).toMatch(/nothing is given for bias/);
    expect(linear.weight).toBe(weight);
    linear.loadWeights(
      [
        ['weight', mx.ones([2, 3])],
        ['wait', mx.ones([1])],
      ],
      { strict: false },
    );
    expect(numbers(linear.weight)).toEqual([1, 1, 1, 1, 1, 1]);
  });

  test('bad files', () => {
    const linear = new nn.Linear(3, 2);
    expect(failure(() => linear.loadWeights(join(folder, 'missing.safetensors'))).code).toBe('ERR_MLX_LOAD');
    const broken = join(folder, 'broken.safetensors');
    writeFileSync(broken, 'nothing');
    expect(failure(() => linear.loadWeights(broken)).code).toBe('ERR_MLX_LOAD');
    expect(failure(() => linear.loadWeights('weights.bin')).code).toBe('ERR_MLX_LOAD');
    expect(failure(() => linear.saveWeights(join(folder, 'weights.bin'))).code).toBe('ERR_MLX_SAVE');
    expect(failure(() => linear.saveWeights(join(folder, 'no', 'folder.safetensors'))).code).toBe('ERR_MLX_SAVE');
  });

  test('two properties of one name in Python', () => {
    class Two extends nn.Module {
      aB = mx.ones([1]);
      a_b = mx.ones([1]);
      forward(): void {}
    }
    expect(failure(() => new Two().saveWeights(join(folder, 'two.safetensors'))).message).toMatch(/'aB' and 'a_b'/);
  });
});

describe('memory', () => {
  test('dispose frees the arrays', () => {
    const net = new Net();
    net.dispose();
    expect(net.namedParameters().every(([, array]) => array.disposed)).toBe(true);
    using linear = new nn.Linear(2, 2);
    expect(linear.weight.disposed).toBe(false);
  });
});

describe('bad arguments', () => {
  test.each<[string, () => unknown, string]>([
    ['sizes', () => new nn.Linear(0, 2), 'ERR_MLX_ARGUMENT'],
    ['fractions', () => new nn.Embedding(2.5, 2), 'ERR_MLX_ARGUMENT'],
    ['unknown options', () => new nn.Linear(2, 2, { bais: false } as object), 'ERR_MLX_CONFIG'],
    ['groups', () => new nn.GroupNorm(4, 6), 'ERR_MLX_ARGUMENT'],
    ['epsilon', () => new nn.RMSNorm(4, { eps: 0 }), 'ERR_MLX_ARGUMENT'],
    ['probabilities', () => new nn.Dropout(1), 'ERR_MLX_ARGUMENT'],
    ['heads', () => new nn.Attention(8, 3), 'ERR_MLX_ARGUMENT'],
    ['key-value heads', () => new nn.Attention(8, 4, { numKeyValueHeads: 3 }), 'ERR_MLX_ARGUMENT'],
    ['odd rotary dimensions', () => new nn.RoPE(3), 'ERR_MLX_CONFIG'],
    ['rotary scaling', () => new nn.RoPE(4, { scaling: { ropeType: 'wide' } as never }), 'ERR_MLX_CONFIG'],
    ['convolution groups', () => new nn.Conv1d(3, 4, 2, { groups: 2 }), 'ERR_MLX_ARGUMENT'],
    ['kernels', () => new nn.Conv2d(3, 4, [2, 2, 2]), 'ERR_MLX_ARGUMENT'],
    ['modes', () => new nn.Upsample(2, { mode: 'best' as 'nearest' }), 'ERR_MLX_ARGUMENT'],
    ['approximations', () => new nn.GELU('best' as 'none'), 'ERR_MLX_ARGUMENT'],
    ['modules', () => new nn.Sequential(3 as never), 'ERR_MLX_ARGUMENT'],
    ['inputs of linear', () => new nn.Linear(2, 3).forward(mx.ones([4, 5])), 'ERR_MLX_SHAPE'],
    ['inputs of embedding', () => new nn.Embedding(2, 3).forward(mx.ones([4])), 'ERR_MLX_DTYPE'],
    ['inputs of norms', () => new nn.RMSNorm(3).forward(mx.ones([4])), 'ERR_MLX_SHAPE'],
    ['inputs of attention', () => new nn.Attention(8, 2).forward(mx.ones([3, 8])), 'ERR_MLX_SHAPE'],
    ['inputs of pooling', () => new nn.MaxPool2d(3).forward(mx.ones([1, 2, 2, 1])), 'ERR_MLX_SHAPE'],
    ['inputs of recurrence', () => new nn.LSTM(2, 3).forward(mx.ones([2])), 'ERR_MLX_SHAPE'],
    ['one value for batch normalisation', () => new nn.BatchNorm(2).forward(mx.ones([1, 2])), 'ERR_MLX_SHAPE'],
    [
      'reductions',
      () => nn.losses.mseLoss(mx.ones([1]), mx.ones([1]), { reduction: 'max' as 'mean' }),
      'ERR_MLX_ARGUMENT',
    ],
    ['shapes of losses', () => nn.losses.mseLoss(mx.ones([2]), mx.ones([3])), 'ERR_MLX_SHAPE'],
    ['nothing to differentiate', () => nn.valueAndGrad(new nn.ReLU(), () => mx.ones([]))(), 'ERR_MLX_ARGUMENT'],
  ])('%s', (_, action, code) => {
    expect(failure(action).code).toBe(code);
  });
});
