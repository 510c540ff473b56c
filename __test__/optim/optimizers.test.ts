import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as yielded } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { memoryStats, mx, MxArray, optim } from '../../lib/index.ts';
import { native } from '../../lib/native.ts';
import { tempDir } from '../helpers/temp.ts';
import { thrown } from '../helpers/thrown.ts';

type Make = () => optim.BaseOptimizer;

const { cosineDecay, joinSchedules, linearSchedule } = optim.schedules;

/** Every optimizer with the options that give it the most state. */
const all: [string, Make][] = [
  ['SGD', () => new optim.SGD({ learningRate: 0.05, momentum: 0.8, dampening: 0.1, dampenFirst: false })],
  ['SGD without state', () => new optim.SGD({ learningRate: 0.1 })],
  ['Adam', () => new optim.Adam({ learningRate: 0.05, biasCorrection: true, amsgrad: true })],
  ['AdamW', () => new optim.AdamW({ learningRate: cosineDecay(0.05, 30), biasCorrection: true })],
  ['Adamax', () => new optim.Adamax({ learningRate: 0.05 })],
  ['RMSprop', () => new optim.RMSprop({ learningRate: 0.005, alpha: 0.9, momentum: 0.3, centered: true })],
  ['Adagrad', () => new optim.Adagrad({ learningRate: 0.5 })],
  ['AdaDelta', () => new optim.AdaDelta({ learningRate: 10 })],
  ['Adafactor', () => new optim.Adafactor({ beta1: 0.8 })],
  ['Lion', () => new optim.Lion({ learningRate: 0.01, weightDecay: 1e-3 })],
  ['Muon', () => new optim.Muon({ learningRate: 0.02 })],
  [
    'groups',
    () =>
      new optim.AdamW({
        learningRate: 0.05,
        decayedParameters: 'matrices',
        groups: [
          { filter: (name) => name === 'layers.0.b', learningRate: linearSchedule(0, 0.1, 5), betas: [0.8, 0.9] },
        ],
      }),
  ],
  [
    'MultiOptimizer',
    () =>
      new optim.MultiOptimizer(
        [new optim.Muon({ learningRate: 0.02 }), new optim.AdamW({ learningRate: 0.01 })],
        [(_, array) => array.ndim === 2],
      ),
  ],
];

interface Model {
  w: MxArray;
  layers: { b: MxArray }[];
}

const start = (dtype: 'float32' | 'bfloat16' = 'float32'): Model => ({
  w: mx.random.normal([4, 3], { key: mx.random.key(1) }).astype(dtype),
  layers: [{ b: mx.random.normal([5], { key: mx.random.key(2) }).astype(dtype) }],
});

/** The gradients of a quadratic around 1. */
const gradientsOf = (model: Model): Model => ({
  w: model.w.subtract(1),
  layers: [{ b: model.layers[0]!.b.subtract(1) }],
});

function run(optimizer: optim.BaseOptimizer, model: Model, steps: number): void {
  for (let i = 0; i < steps; i++) {
    optimizer.update(model, gradientsOf(model));
    mx.eval(...mx.treeLeaves([model, optimizer.state]));
  }
}

const bytes = (tree: unknown): Uint8Array[] => mx.treeLeaves(tree).map((array) => array.toBytes());

describe.each(all)('%s', (_, make) => {
  test('restored from a file or a copy goes on bit for bit', () => {
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const [whole, split] = [start(dtype), start(dtype)];
      const straight = make();
      run(straight, whole, 7);
      const first = make();
      run(first, split, 3);
      const path = join(tempDir(), 'state.safetensors');
      first.save(path);
      const again = mx.treeMap((array: MxArray) => mx.array(array), split) as unknown as Model;
      const [fromFile, fromCopy] = [make().init(split), make().init(split)];
      fromFile.load(path);
      fromCopy.loadState(first.state);
      expect(fromFile.step).toBe(3);
      expect(fromFile.learningRate).toBe(first.learningRate);
      run(fromFile, split, 4);
      run(fromCopy, again, 4);
      expect(bytes([split, fromFile.state])).toEqual(bytes([whole, straight.state]));
      expect(bytes([again, fromCopy.state])).toEqual(bytes([whole, straight.state]));
    }
  });

  test('compiled steps agree with uncompiled ones', () => {
    const [plain, traced] = [start(), start()];
    const [one, other] = [make(), make().init(traced)];
    const state = [traced, other.state];
    let traces = 0;
    const step = mx.compile(
      () => {
        traces++;
        const gradients = gradientsOf(traced);
        other.update(traced, gradients);
        return gradients.w.sum();
      },
      { inputs: state, outputs: state },
    );
    for (let i = 0; i < 20; i++) {
      run(one, plain, 1);
      step();
      const [got, want] = [traced, plain].map((model) =>
        mx.treeLeaves(model).flatMap((array) => [...array.toFloat32()]),
      );
      // The numbers of a step are float32 here and float64 there: a few roundings of 6e-8 each, twenty times.
      got!.forEach((value, at) => expect(Math.abs(value - want![at]!), `step ${i}`).toBeLessThanOrEqual(1e-5));
    }
    expect(traces).toBe(1);
    expect([other.step, one.step]).toEqual([20, 20]);
    if (!Number.isNaN(one.learningRate)) expect(Math.abs(other.learningRate / one.learningRate - 1)).toBeLessThan(1e-6);
    // Uncompiled steps go on from there.
    run(one, plain, 1);
    run(other, traced, 1);
    expect(other.step).toBe(21);
    expect(Math.max(...traced.w.subtract(plain.w).abs().toFloat32())).toBeLessThanOrEqual(1e-5);
  });

  test('what does not fit is refused and changes nothing', () => {
    const model = start();
    const optimizer = make();
    run(optimizer, model, 2);
    const before = bytes([model, optimizer.state]);
    const good = gradientsOf(model);
    const refused: [unknown, string, RegExp][] = [
      [
        { ...good, layers: [{ b: mx.zeros([4]) }] },
        'ERR_MLX_SHAPE',
        /'layers\.0\.b' has shape \[5\]; its gradient has \[4\]/,
      ],
      [{ ...good, x: good.w }, 'ERR_MLX_ARGUMENT', /a gradient 'x', but no parameter/],
      [{ ...good, w: mx.zeros([4, 3], 'int32') }, 'ERR_MLX_DTYPE', /gradient of 'w' is int32/],
      [good.w, 'ERR_MLX_ARGUMENT', /module or a tree/],
    ];
    for (const [gradients, code, text] of refused) {
      const error = thrown(() => optimizer.update(model, gradients));
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(text)]);
    }
    const grown = { ...model, w: mx.zeros([2, 2]) };
    expect(thrown(() => optimizer.update(grown, { w: mx.zeros([2, 2]) })).code).toBe('ERR_MLX_SHAPE');
    expect(bytes([model, optimizer.state])).toEqual(before);
    expect(optimizer.step).toBe(2);
    // A new parameter that is refused leaves no trace.
    const wider = { ...model, v: mx.zeros([2, 2]) };
    expect(thrown(() => optimizer.update(wider, { v: mx.zeros([2, 2]), w: mx.zeros([1]) })).code).toBe('ERR_MLX_SHAPE');
    expect(bytes([model, optimizer.state])).toEqual(before);
    optimizer.update(wider, { v: mx.zeros([2, 2]), w: mx.zeros([4, 3]) });
    expect(optimizer.step).toBe(3);
  });

  test('a state that does not fit is refused and changes nothing', () => {
    const model = start();
    const optimizer = make().init(model);
    const entries = new Map(mx.treeFlatten(optimizer.state));
    const before = bytes(optimizer.state);
    const refuse = (change: (state: Map<string, MxArray>) => void, code: string): void => {
      const state = new Map(entries);
      change(state);
      expect(thrown(() => optimizer.loadState(state)).code).toBe(code);
      expect(bytes(optimizer.state)).toEqual(before);
    };
    const last = [...entries.keys()].at(-1)!;
    const step = [...entries.keys()].find((key) => key.endsWith('step'))!;
    refuse((state) => state.delete(last), 'ERR_MLX_ARGUMENT');
    refuse((state) => state.set('other.m', mx.zeros([1])), 'ERR_MLX_ARGUMENT');
    refuse((state) => state.set(last, mx.zeros([7, 7])), 'ERR_MLX_SHAPE');
    refuse((state) => state.set(step, mx.array(-1)), 'ERR_MLX_ARGUMENT');
    refuse((state) => state.set(step, mx.array(NaN)), 'ERR_MLX_ARGUMENT');
  });
});

test('applyGradients gives new parameters and leaves the old ones', () => {
  const parameters = { w: mx.array([1, 2], 'float32') };
  const optimizer = new optim.SGD({ learningRate: 0.5 });
  const updated = optimizer.applyGradients({ w: mx.array([2, 4], 'float32') }, parameters);
  expect([...updated.w.toFloat32()]).toEqual([0, 0]);
  expect([...parameters.w.toFloat32()]).toEqual([1, 2]);
  const map = new Map([['w', mx.array([1, 2], 'float32')]]);
  optimizer.update(map, new Map([['w', mx.array([2, 4], 'float32')]]));
  expect([...map.get('w')!.toFloat32()]).toEqual([0, 0]);
  // Parameters without gradients rest.
  const two = { w: mx.array([1], 'float32'), b: mx.array([1], 'float32') };
  new optim.SGD({ learningRate: 1 }).update(two, { b: mx.array([1], 'float32') });
  expect([two.w.item(), two.b.item()]).toEqual([1, 0]);
});

test('a shortened state of names that Python knows', () => {
  const optimizer = new optim.AdamW({ learningRate: 0.25 }).init(start());
  expect(mx.treeFlatten(optimizer.state).map(([name, array]) => [name, array.shape, array.dtype])).toEqual([
    ['step', [], 'uint64'],
    ['learningRate', [], 'float32'],
    ['w.m', [4, 3], 'float32'],
    ['w.v', [4, 3], 'float32'],
    ['layers.0.b.m', [5], 'float32'],
    ['layers.0.b.v', [5], 'float32'],
  ]);
  const folder = tempDir();
  const path = join(folder, 'names.safetensors');
  optimizer.save(path);
  expect(Object.keys(mx.loadSync(path))).toContain('learning_rate');
  writeFileSync(path, 'no tensors');
  expect(thrown(() => optimizer.load(path)).code).toBe('ERR_MLX_LOAD');
  expect(thrown(() => optimizer.load(join(folder, 'missing'))).code).toBe('ERR_MLX_LOAD');
  expect(thrown(() => optimizer.save(join(folder, 'missing', 'x'))).code).toBe('ERR_MLX_SAVE');
  expect(thrown(() => new optim.AdamW({ learningRate: 1 }).loadState(optimizer.state)).message).toContain('init(');
});

describe('learning rates', () => {
  const one = (): { w: MxArray } => ({ w: mx.array(0, 'float32') });
  const gradient = { w: mx.array(-1, 'float32') };
  const walk = (optimizer: optim.Optimizer, steps: number): number[] => {
    const model = one();
    return Array.from({ length: steps }, () => {
      optimizer.update(model, gradient);
      return model.w.item();
    });
  };

  test('numbers, schedules and functions', () => {
    expect(walk(new optim.SGD({ learningRate: 0.5 }), 3)).toEqual([0.5, 1, 1.5]);
    const line = linearSchedule(1, 0, 4);
    expect([0, 1, 2, 3, 4, 9].map((step) => line.at(step))).toEqual([1, 0.75, 0.5, 0.25, 0, 0]);
    const scheduled = new optim.SGD({ learningRate: line });
    expect(scheduled.learningRate).toBe(1);
    expect(walk(scheduled, 3)).toEqual([1, 1.75, 2.25]);
    expect([scheduled.learningRate, scheduled.step]).toEqual([0.5, 3]);
    const steps: number[] = [];
    const byFunction = new optim.SGD({ learningRate: (step) => (steps.push(step), 1 / (step + 1)) });
    expect(walk(byFunction, 2)).toEqual([1, 1.5]);
    expect(steps).toEqual([0, 0, 1]);
    scheduled.learningRate = 2;
    expect(walk(scheduled, 2)).toEqual([2, 4]);
    const joined = joinSchedules([linearSchedule(0, 1, 2), 0.5], [2]);
    expect([0, 1, 2, 3].map((step) => joined.at(step))).toEqual([0, 0.5, 0.5, 0.5]);
    expect(optim.schedules.exponentialDecay(1, 0.5).at(3)).toBe(0.125);
    expect(optim.schedules.stepDecay(1, 0.5, 2).at(3)).toBe(0.5);
    expect(optim.schedules.cosineDecay(1, 10, 0.5).at(10)).toBe(0.5);
  });

  test('a rate that is set is seen by a compiled function', () => {
    const model = one();
    for (const rate of [1, linearSchedule(1, 1, 5)]) {
      const optimizer = new optim.SGD({ learningRate: rate });
      const state = [model, optimizer.state];
      const step = mx.compile((g: MxArray) => (optimizer.update(model, { w: g }), g), {
        inputs: state,
        outputs: state,
      });
      model.w = mx.array(0, 'float32');
      step(gradient.w);
      optimizer.learningRate = 10;
      step(gradient.w);
      expect(model.w.item()).toBe(11);
      expect(optimizer.learningRate).toBe(10);
    }
  });

  test('two updates in one compiled function, and errors that leave no trace', () => {
    const model = one();
    const optimizer = new optim.SGD({ learningRate: linearSchedule(1, 0, 4) });
    const state = [model, optimizer.state];
    const capture = { inputs: state, outputs: state };
    const twice = mx.compile((g: MxArray) => {
      optimizer.update(model, { w: g });
      optimizer.update(model, { w: g });
      return g;
    }, capture);
    twice(gradient.w);
    expect([model.w.item(), optimizer.step, optimizer.learningRate]).toEqual([1.75, 2, 0.75]);
    const failing = mx.compile((g: MxArray): MxArray => {
      optimizer.update(model, { w: g });
      throw new Error('mine');
    }, capture);
    expect(thrown(() => failing(gradient.w)).message).toBe('mine');
    expect([model.w.item(), optimizer.step]).toEqual([1.75, 2]);
    optimizer.update(model, gradient);
    expect(model.w.item()).toBe(2.25);
  });

  test('what a trace would freeze is an error', () => {
    const model = one();
    const byFunction = new optim.SGD({ learningRate: () => 1 });
    const state = [model, byFunction.state];
    const step = mx.compile((g: MxArray) => (byFunction.update(model, { w: g }), g), { inputs: state, outputs: state });
    const error = thrown(() => step(gradient.w));
    expect([error.code, error.message]).toEqual(['ERR_MLX_ARGUMENT', expect.stringContaining('JavaScript function')]);
    const optimizer = new optim.SGD({ learningRate: 1 });
    const bare = mx.compile((g: MxArray) => (optimizer.update(model, { w: g }), g), {
      inputs: [model],
      outputs: [model],
    });
    expect(thrown(() => bare(gradient.w)).message).toContain('optimizer.state');
    expect(model.w.item()).toBe(0);
    optimizer.update(model, gradient);
    expect(model.w.item()).toBe(1);
  });

  test('a compiled step frees the state that it replaces, and nothing else', () => {
    const model = one();
    const optimizer = new optim.AdamW({ learningRate: 1e-3 }).init(model);
    const other = new optim.SGD({ learningRate: 1, momentum: 0.5 }).init(model);
    const both = new optim.MultiOptimizer([optimizer, other], [() => true]);
    const state = [model, { optimizer: both.state }];
    const step = mx.compile((g: MxArray) => (both.update(model, { w: g }), g), { inputs: state, outputs: state });
    step(gradient.w);
    for (let i = 0; i < 3; i++) {
      const [weights, owned] = [model.w, mx.treeLeaves(both.state)];
      step(gradient.w);
      expect(owned.every((array) => array.disposed)).toBe(true);
      expect(mx.treeLeaves(both.state).some((array) => array.disposed)).toBe(false);
      expect(weights.disposed).toBe(false);
    }
    expect([optimizer.step, both.step]).toEqual([4, 4]);
  });

  test('without init, the first compiled call makes the state', () => {
    const model = one();
    const optimizer = new optim.SGD({ learningRate: 1, momentum: 0.5 });
    const state = [model, optimizer.state];
    const step = mx.compile((g: MxArray) => (optimizer.update(model, { w: g }), g), { inputs: state, outputs: state });
    for (let i = 0; i < 3; i++) step(gradient.w);
    expect([model.w.item(), optimizer.step]).toEqual([1 + 1.5 + 1.75, 3]);
  });

  test('a function that gives no rate is refused', () => {
    const model = one();
    const optimizer = new optim.SGD({ learningRate: (step) => (step === 0 ? 1 : NaN) });
    optimizer.update(model, gradient);
    expect(thrown(() => optimizer.update(model, gradient)).code).toBe('ERR_MLX_ARGUMENT');
    expect([model.w.item(), optimizer.step]).toEqual([1, 1]);
    for (const bad of [NaN, -1, Infinity, '1'])
      expect(thrown(() => (optimizer.learningRate = bad as never)).code).toBe('ERR_MLX_ARGUMENT');
    const own = new optim.Adafactor();
    expect(thrown(() => (own.learningRate = 1)).message).toContain('makes its own');
  });
});

test('groups have their own settings', () => {
  const ones = (): { w: MxArray; norm: MxArray; bias: MxArray } => ({
    w: mx.ones([2, 2]),
    norm: mx.ones([2]),
    bias: mx.ones([2]),
  });
  const model = ones();
  const optimizer = new optim.SGD({
    learningRate: 1,
    weightDecay: 0.5,
    decayedParameters: 'matrices',
    groups: [
      { filter: (name) => name === 'bias', learningRateScale: 0.1 },
      { filter: (_, array) => array.ndim === 1, learningRate: 0.25, decayedParameters: 'all' },
    ],
  });
  optimizer.update(model, ones());
  const firsts = (): number[] => [model.w, model.norm, model.bias].map((array) => array.toFloat32()[0]!);
  // 1 - 1 * (1 + 0.5), 1 - 0.25 * (1 + 0.5), 1 - 0.1 * 1
  expect(firsts()).toEqual([-0.5, 0.625, Math.fround(0.9)]);
  expect(optimizer.state['groups.1.learningRate']).toBeInstanceOf(MxArray);
  optimizer.learningRate = 2;
  const before = firsts();
  optimizer.update(model, { w: mx.zeros([2, 2]), norm: mx.ones([2]), bias: mx.ones([2]) });
  const after = firsts();
  expect(after[0]).toBe(before[0]! - 2 * 0.5 * before[0]!);
  expect(after[1]).toBe(before[1]! - 0.25 * (1 + 0.5 * before[1]!));
  expect(after[2]).toBeCloseTo(before[2]! - 0.2, 6);
});

test('MultiOptimizer is its optimizers side by side', () => {
  const [both, matrix, vector] = [start(), start(), start()];
  const parts = () => [new optim.Muon({ learningRate: 0.1 }), new optim.AdamW({ learningRate: 0.01 })] as const;
  const multi = new optim.MultiOptimizer(parts(), [(name) => name === 'w']);
  const [muon, adamw] = parts();
  for (let i = 0; i < 3; i++) {
    multi.update(both, gradientsOf(both));
    muon.update(matrix, { w: gradientsOf(matrix).w });
    adamw.update(vector, { layers: gradientsOf(vector).layers });
  }
  expect(bytes(both)).toEqual(bytes({ w: matrix.w, layers: vector.layers }));
  expect(multi.learningRate).toBe(Math.fround(0.1));
  multi.learningRate = 0.5;
  expect(multi.optimizers.map((one) => one.learningRate)).toEqual([0.5, 0.5]);
  expect(thrown(() => new optim.MultiOptimizer(parts(), [])).message).toContain(
    'a filter for each optimizer but the last: 1, not 0',
  );
  expect(thrown(() => new optim.MultiOptimizer([])).code).toBe('ERR_MLX_ARGUMENT');
  expect(thrown(() => new optim.MultiOptimizer([multi, multi], [() => true])).code).toBe('ERR_MLX_ARGUMENT');
});

test('bad options name themselves', () => {
  const refused: [() => unknown, string, RegExp][] = [
    [
      () => new optim.AdamW({ learningRate: 1, weigthDecay: 1 } as never),
      'ERR_MLX_CONFIG',
      /did you mean 'weightDecay'/,
    ],
    [
      () => new optim.AdamW({ learningRate: 1, weight_decay: 1 } as never),
      'ERR_MLX_CONFIG',
      /did you mean 'weightDecay'/,
    ],
    [() => new optim.AdamW({} as never), 'ERR_MLX_ARGUMENT', /learningRate is missing/],
    [() => new optim.AdamW(undefined as never), 'ERR_MLX_ARGUMENT', /options as an object/],
    [() => new optim.AdamW({ learningRate: -1 }), 'ERR_MLX_ARGUMENT', /learningRate is -1/],
    [() => new optim.AdamW({ learningRate: '1' as never }), 'ERR_MLX_ARGUMENT', /learningRate must be/],
    [() => new optim.AdamW({ learningRate: 1, betas: [0.9, 1] }), 'ERR_MLX_ARGUMENT', /betas\[1\] is 1/],
    [() => new optim.AdamW({ learningRate: 1, betas: [0.9, NaN] }), 'ERR_MLX_ARGUMENT', /betas is 0.9,NaN/],
    [() => new optim.AdamW({ learningRate: 1, eps: '1' as never }), 'ERR_MLX_ARGUMENT', /eps/],
    [() => new optim.SGD({ learningRate: 1, nesterov: true }), 'ERR_MLX_ARGUMENT', /nesterov needs/],
    [() => new optim.Adafactor({ relativeStep: false }), 'ERR_MLX_ARGUMENT', /learningRate is needed/],
    [() => new optim.Muon({ learningRate: 1, nsSteps: 0 }), 'ERR_MLX_ARGUMENT', /nsSteps is 0/],
    [
      () => new optim.SGD({ learningRate: 1, decayedParameters: 'matrix' as never }),
      'ERR_MLX_ARGUMENT',
      /did you mean 'matrices'/,
    ],
    [
      () => new optim.SGD({ learningRate: 1, groups: [{} as never] }),
      'ERR_MLX_ARGUMENT',
      /groups\[0\] of SGD\(\) needs a filter/,
    ],
    [
      () => new optim.SGD({ learningRate: 1, groups: [{ filter: () => true, momentun: 1 } as never] }),
      'ERR_MLX_CONFIG',
      /momentum/,
    ],
    [() => cosineDecay(-1, 5), 'ERR_MLX_ARGUMENT', /init is -1/],
    [() => cosineDecay(1, 0), 'ERR_MLX_ARGUMENT', /decaySteps is 0/],
    [() => cosineDecay(1, 5).at(-1), 'ERR_MLX_ARGUMENT', /whole number/],
    [() => joinSchedules([1, 2], []), 'ERR_MLX_ARGUMENT', /boundar/],
    [
      () => optim.schedules.transformers('cosin' as never, { learningRate: 1 } as never),
      'ERR_MLX_ARGUMENT',
      /did you mean 'cosine'/,
    ],
    [
      () => optim.schedules.transformers('linear', { learningRate: 1, warmup: 1 } as never),
      'ERR_MLX_CONFIG',
      /warmupSteps/,
    ],
    [() => optim.clipGradNorm([mx.ones([2])], 0), 'ERR_MLX_ARGUMENT', /maxGradNorm is 0/],
    [() => optim.clipGradValue([mx.ones([2])], NaN), 'ERR_MLX_ARGUMENT', /clip value is NaN/],
  ];
  for (const [make, code, text] of refused) {
    const error = thrown(make);
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(text)]);
  }
});

test('clipping', () => {
  const tree = { a: mx.array([3, 0], 'float32'), b: [mx.array([-4], 'float32')] };
  expect(optim.globalNorm(tree).item()).toBe(5);
  const [clipped, norm] = optim.clipGradNorm(tree, 1);
  expect(norm.item()).toBe(5);
  expect(optim.globalNorm(clipped).item()).toBeCloseTo(1, 5);
  expect([...optim.clipGradValue(tree, 2).b[0]!.toFloat32()]).toEqual([-2]);
  expect([...optim.clipGradNorm(tree, 9)[0].a.toFloat32()]).toEqual([3, 0]);
});

test('disposing frees the state', () => {
  const live = (): number => native().core.liveArrays();
  const model = start();
  const before = live();
  const optimizer = new optim.AdamW({ learningRate: 1 }).init(model);
  expect(live()).toBe(before + 6);
  // A step leaves as many arrays of the state, and its own parameters beside the old ones.
  const gradients = gradientsOf(model);
  const held = live();
  optimizer.update(model, gradients);
  expect(live()).toBe(held + 2);
  optimizer.dispose();
  expect(live()).toBe(held + 2 - 6);
  expect(thrown(() => optimizer.update(model, gradients)).code).toBe('ERR_MLX_DISPOSED');
});

test('2000 steps that yield keep memory flat', async () => {
  const model = { w: mx.zeros([256, 256]) };
  const optimizer = new optim.AdamW({ learningRate: 1e-3 });
  let early = 0;
  for (let i = 0; i < 2000; i++) {
    optimizer.update(model, { w: mx.ones([256, 256]) });
    await mx.evalAsync(...mx.treeLeaves([model, optimizer.state]));
    if (i % 10 === 0) await yielded();
    if (i === 200) early = memoryStats().peak;
  }
  // Parameters and gradients wait for the garbage collector; all of them would be 1 GB.
  expect(memoryStats().peak).toBeLessThan(early + 100e6);
}, 60_000);
