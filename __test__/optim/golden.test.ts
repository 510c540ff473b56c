import { expect, test } from 'vitest';
import { MxArray, mx, optim } from '../../lib/index.ts';
import { goldenCases, goldenPath, readSafetensors } from '../helpers/golden.ts';

// What a case holds depends on its kind.
/* eslint-disable typescript/no-explicit-any */
interface OptimCase {
  name: string;
  kind: string;
  options: Record<string, any>;
  inputs: Record<string, { tensor: string }>;
  expected: Record<string, any>;
  tolerance: { atol: number; rtol: number };
}

const cases = goldenCases<OptimCase>('optim');
const tensors = readSafetensors(goldenPath('optim', 'tensors.safetensors'));

function tensor(reference: { tensor: string }): MxArray {
  const { data, shape } = tensors.get(reference.tensor)!;
  return MxArray.fromFloat32(Float32Array.from(data), shape);
}

/** The arrays of each step. */
const rows = (reference: { tensor: string }): MxArray[] => {
  const { data, shape } = tensors.get(reference.tensor)!;
  const size = shape.slice(1).reduce((product, length) => product * length, 1);
  return Array.from({ length: shape[0]! }, (_, i) =>
    MxArray.fromFloat32(Float32Array.from(data.slice(i * size, (i + 1) * size)), shape.slice(1)),
  );
};

function close(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  { atol, rtol }: { atol: number; rtol: number },
  what: string,
): void {
  expect(got.length, what).toBe(want.length);
  for (let i = 0; i < want.length; i++) {
    const [a, b] = [got[i]!, want[i]!];
    if (!(Math.abs(a - b) <= atol + rtol * Math.abs(b))) expect.fail(`${what}[${i}]: ${a} should be ${b}`);
  }
}

const camel = (name: string): string => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

/** The peer's arguments as our options; an argument that we do not have is refused by the optimizer. */
function optionsOf({ kind, options }: OptimCase): Record<string, unknown> {
  const made: Record<string, unknown> = {};
  for (const [name, value] of Object.entries<unknown>(options.args)) {
    if (value === null || name === 'weight_decay_w' || name === 'weight_decay_b') continue;
    made[name === 'lr' ? 'learningRate' : camel(name)] = value;
  }
  if (kind === 'torch') {
    const ofTorch: Record<string, object> = {
      Adam: { biasCorrection: true },
      AdamW: { biasCorrection: true },
      SGD: { dampenFirst: false },
      RMSprop: {},
    };
    const own = ofTorch[options.optimizer];
    if (own === undefined) throw new Error(`torch's ${options.optimizer} has no counterpart`);
    Object.assign(made, own);
  }
  if (options.schedule !== undefined) {
    const { warmup_steps: warmupSteps } = options;
    made.learningRate = optim.schedules.transformers(options.schedule, {
      learningRate: options.args.lr,
      warmupSteps,
      maxSteps: 10,
    });
  }
  if (options.args.weight_decay_w !== undefined) {
    made.weightDecay = options.args.weight_decay_w;
    made.groups = [{ filter: (name: string) => name === 'b', weightDecay: options.args.weight_decay_b }];
  }
  return made;
}

function trajectory(one: OptimCase, compiled: boolean): void {
  const Rule = (optim as unknown as Record<string, new (options: object) => optim.Optimizer>)[one.options.optimizer];
  if (Rule === undefined) throw new Error(`there is no optimizer ${one.options.optimizer}`);
  const optimizer = new Rule(optionsOf(one));
  const model = { w: tensor(one.inputs.w0!), b: tensor(one.inputs.b0!) };
  const gradients = { w: rows(one.inputs.grads_w!), b: rows(one.inputs.grads_b!) };
  const want = { w: rows(one.expected.w), b: rows(one.expected.b) };
  optimizer.init(model);
  const limit = one.options.max_grad_norm as number | undefined;
  const apply = (w: MxArray, b: MxArray): MxArray => {
    let tree = { w, b };
    let norm = optim.globalNorm(tree);
    if (limit !== undefined) [tree, norm] = optim.clipGradNorm(tree, limit);
    optimizer.update(model, tree);
    return norm;
  };
  const state = [model, optimizer.state];
  const step = compiled ? mx.compile(apply, { inputs: state, outputs: state }) : apply;
  expect(want.w).toHaveLength(10);
  for (let i = 0; i < 10; i++) {
    const norm = step(gradients.w[i]!, gradients.b[i]!).item();
    if (limit !== undefined) close([norm], [one.expected.grad_norm[i]], one.tolerance, `norm ${i}`);
    if (one.expected.lr !== undefined) close([optimizer.learningRate], [one.expected.lr[i]], one.tolerance, `lr ${i}`);
    for (const key of ['w', 'b'] as const)
      close(model[key].toFloat32(), want[key][i]!.toFloat32(), one.tolerance, `${key} after step ${i}`);
  }
  expect(optimizer.step).toBe(10);
}

const checks: Record<string, (one: OptimCase) => void> = {
  torch: (one) => [false, true].forEach((compiled) => trajectory(one, compiled)),
  mlx: (one) => [false, true].forEach((compiled) => trajectory(one, compiled)),
  schedule: ({ options, expected, tolerance }) => {
    const extra = Object.entries(options.lr_scheduler_kwargs).map(([name, value]) => [camel(name), value]);
    const schedule = optim.schedules.transformers(options.lr_scheduler_type, {
      learningRate: options.learning_rate,
      warmupSteps: options.warmup_steps,
      maxSteps: options.max_steps,
      ...Object.fromEntries(extra),
    });
    const rates = expected.lr.map((_: number, step: number) => schedule.at(step));
    expect(rates).toHaveLength(21);
    close(rates, expected.lr, tolerance, 'lr');
  },
  clip: ({ options, inputs, expected, tolerance }) => {
    const [clipped, norm] = optim.clipGradNorm({ a: tensor(inputs.a!), b: [tensor(inputs.b!)] }, options.max_norm);
    close([norm.item()], [expected.norm], tolerance, 'norm');
    close(clipped.a.toFloat32(), tensor(expected.a).toFloat32(), tolerance, 'a');
    close(clipped.b[0]!.toFloat32(), tensor(expected.b).toFloat32(), tolerance, 'b');
  },
};

test.each(cases.map((one) => [one.name, one] as const))('%s agrees with its peer', (_, one) => {
  const check = checks[one.kind];
  if (check === undefined) throw new Error(`a case of the unknown kind ${one.kind}`);
  check(one);
});

test('all kinds of cases are there', () => {
  const count = (kind: string): number => cases.filter((one) => one.kind === kind).length;
  expect(['torch', 'mlx', 'schedule', 'clip'].map(count)).toEqual([16, 17, 20, 3]);
});
