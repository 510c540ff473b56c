// Small operations, reading, and a training loop of a 2-layer MLP written in TypeScript's terms, as in peers/mlx_arrays.py. Prints one
// JSON object.

import { setImmediate as yielded } from 'node:timers/promises';
import { buildInfo, mx, nn, optim } from 'mlx-node';
import { times } from './times.mjs';

const COUNT = 200_000;
const one = mx.array(1, 'float32');
const two = mx.array(2, 'float32');

/** Arrays are freed when the loop yields, so it does, once in a while, inside the measured time. */
async function adds(other) {
  for (let i = 0; i < COUNT; i++) {
    one.add(other);
    if (i % 5000 === 0) await yielded();
  }
}

class MLP extends nn.Module {
  hidden = new nn.Linear(784, 256);
  out = new nn.Linear(256, 10);

  forward(x) {
    return this.out.forward(nn.relu(this.hidden.forward(x)));
  }
}

mx.random.seed(0);
const x = mx.random.normal([256, 784]);
const y = mx.random.randint(0, 10, [256]);
const model = new MLP();
const optimizer = new optim.AdamW({ learningRate: 1e-3 });
const lossAndGrad = nn.valueAndGrad(model, () => nn.losses.crossEntropy(model.forward(x), y, { reduction: 'mean' }));
mx.eval(x, y, model.parameters());
let last = 0;

async function train() {
  for (let i = 0; i < 100; i++) {
    const [loss, gradients] = lossAndGrad();
    optimizer.update(model, gradients);
    await mx.evalAsync(model.parameters(), optimizer.state, loss);
    last = loss;
  }
  last = last.item();
}

const megabyte = mx.random.normal([512, 512]);
mx.eval(megabyte);

async function read() {
  for (let i = 0; i < 1000; i++) {
    megabyte.toFloat32();
    if (i % 20 === 0) await yielded();
  }
}

const target = new Float32Array(megabyte.size);

async function readInto() {
  for (let i = 0; i < 1000; i++) {
    megabyte.readInto(target);
    if (i % 20 === 0) await yielded();
  }
}

const info = buildInfo();
const numbers = {
  op_us: ((await times(() => adds(two))) * 1000) / COUNT,
  op_number_us: ((await times(() => adds(2))) * 1000) / COUNT,
  mlp_ms: (await times(train)) / 100,
  mlp_loss: last,
  read_gbs: (megabyte.nbytes * 1000) / ((await times(read)) * 1e6),
  read_into_gbs: (megabyte.nbytes * 1000) / ((await times(readInto)) * 1e6),
};
console.log(JSON.stringify({ peer: `mlx-node (mlx ${info.mlxVersion}, ${info.flavour})`, ...numbers }));
