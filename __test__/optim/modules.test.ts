import { expect, test } from 'vitest';
import { mx, MxArray, nn, optim } from '../../lib/index.ts';

class MLP extends nn.Module {
  hidden = new nn.Linear(4, 16);
  out = new nn.Linear(16, 1);

  forward(x: MxArray): MxArray {
    return this.out.forward(nn.relu(this.hidden.forward(x)));
  }
}

const x = mx.random.normal([64, 4], { key: mx.random.key(5) });
const y = x.square().sum([1], true);

function setUp(): { model: MLP; optimizer: optim.AdamW; step: () => MxArray } {
  mx.random.seed(7);
  const model = new MLP();
  const optimizer = new optim.AdamW({
    learningRate: optim.schedules.cosineDecay(0.02, 60),
    biasCorrection: true,
    weightDecay: 0.1,
    decayedParameters: 'matrices',
  });
  const lossAndGrad = nn.valueAndGrad(model, () => nn.losses.mseLoss(model.forward(x), y));
  const step = (): MxArray => {
    const [loss, gradients] = lossAndGrad();
    const [clipped] = optim.clipGradNorm(gradients, 10);
    optimizer.update(model, clipped);
    return loss;
  };
  return { model, optimizer, step };
}

test('a module learns, compiled or not, and inside tidy', () => {
  const losses = (how: (run: ReturnType<typeof setUp>) => () => number): number[] => {
    const run = setUp();
    const step = how(run);
    return Array.from({ length: 40 }, step);
  };
  const plain = losses(
    ({ step }) =>
      () =>
        step().item(),
  );
  expect(plain.at(-1)!).toBeLessThan(plain[0]! / 3);
  const tidied = losses(
    ({ model, optimizer, step }) =>
      () =>
        mx.tidy(() => {
          const loss = step();
          mx.eval(loss, ...mx.treeLeaves([model, optimizer.state]));
          return loss.item();
        }),
  );
  expect(tidied).toEqual(plain);
  const compiled = losses(({ model, optimizer, step }) => {
    optimizer.init(model);
    const state = [model, optimizer.state];
    const traced = mx.compile(step, { inputs: state, outputs: state });
    return () => traced().item();
  });
  compiled.forEach((loss, i) => expect(Math.abs(loss / plain[i]! - 1), `step ${i}`).toBeLessThan(1e-3));
});

test('frozen layers rest and have no state', () => {
  const { model, optimizer } = setUp();
  model.hidden.freeze();
  const before = model.hidden.weight.toBytes();
  const [, gradients] = nn.valueAndGrad(model, () => nn.losses.mseLoss(model.forward(x), y))();
  optimizer.init(model).update(model, gradients);
  expect(model.hidden.weight.toBytes()).toEqual(before);
  const names = mx.treeFlatten(optimizer.state).map(([name]) => name);
  expect(names).toEqual(['step', 'learningRate', 'out.weight.m', 'out.weight.v', 'out.bias.m', 'out.bias.v']);
});
