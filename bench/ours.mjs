// Our side of the benchmarks: the same models, inputs and timing as bench/peers. Prints one JSON object.
// Usage: node bench/ours.mjs small MODEL_FOLDER | node bench/ours.mjs grpo MODEL_FOLDER
import { performance } from 'node:perf_hooks';
import process from 'node:process';
import { GRPOTrainer, loadModel, mx } from 'mlx-node';
import { buildInfo, NativeModel, NativeTrainer } from 'mlx-node/native';
import { median, times } from './times.mjs';

const [what, folder] = process.argv.slice(2);

function grid(height, width, value) {
  const columns = [...Array(width).keys()];
  return [...Array(height).keys()].map((row) => columns.map((column) => value(row, column)));
}

/** A float32 product of two 1024 x 1024 matrices. */
async function sgemm() {
  const size = 1024;
  const a = mx.random.normal([size, size], { key: mx.random.key(0) });
  const b = mx.random.normal([size, size], { key: mx.random.key(1) });
  const ms =
    (await times(() => {
      for (let i = 0; i < 10; i++) {
        const product = a.matmul(b);
        product.eval();
        product.dispose();
      }
    })) / 10;
  return { sgemm_ms: ms, sgemm_gflops: (2 * size ** 3) / ms / 1e6 };
}

/** Greedy decoding of 16 rows, and one training step on 8 sequences of 128 tokens. */
async function small() {
  const model = await NativeModel.load(folder, { dtype: 'float32' });
  const prompts = grid(16, 32, (row, column) => (17 + 7919 * row + 31 * column) % 8000);
  const decodeMs = [];
  let tokens;
  for (let run = 0; run < 7; run++) {
    const options = { maxTokens: 48, temperature: 0, ignoreEos: true };
    const result = await model.generateBatch(prompts, options);
    decodeMs.push(result.decodeMs / (result.steps - 1));
    tokens = result.tokens;
  }

  const trainer = new NativeTrainer(model, { learningRate: 1e-4, weightDecay: 0.01, maxGradNorm: 0 });
  const batch = grid(8, 128, (row, column) => (5 + 104729 * row + 7919 * column + row * column) % 8000);
  const rows = batch.map((ids) => ({ ids, mask: ids.map((_, column) => (column === 0 ? 0 : 1)) }));
  const losses = [];
  const trainMs = await times(async () => {
    const { loss } = await trainer.sftMicroStep(rows, { numItemsInBatch: 8 * 127 });
    await trainer.optimizerStep({ learningRate: 1e-4 });
    losses.push(loss);
  });
  return {
    decode_ms: median(decodeMs.slice(2)),
    train_ms: trainMs,
    first_loss: losses[0],
    last_loss: losses.at(-1),
    tokens,
  };
}

const reward = ({ completions, answer }) => completions.map((text, i) => (text.startsWith(answer[i]) ? 1 : 0));

/** GRPO steps of the demo: 256 completions of sums such as "47+35=". */
async function grpo() {
  const dataset = grid(90, 90, (a, b) => ({ prompt: `${a + 10}+${b + 10}=`, answer: String(a + b + 20) })).flat();
  const stepMs = [];
  let previous;
  const logger = {
    start: () => (previous = performance.now()),
    metrics: () => {
      const now = performance.now();
      stepMs.push(now - previous);
      previous = now;
    },
  };
  const model = await loadModel(folder, { dtype: 'float32' });
  const config = {
    learningRate: 5e-4,
    beta: 0.001,
    numGenerations: 8,
    perDeviceTrainBatchSize: 256,
    maxCompletionLength: 4,
    maxSteps: 12,
    loggingSteps: 1,
  };
  await new GRPOTrainer({ model, dataset, rewards: [reward], config, loggers: [logger] }).train();
  return { grpo_ms: median(stepMs.slice(2)) };
}

const info = buildInfo();
const numbers = what === 'grpo' ? await grpo() : { ...(await sgemm()), ...(await small()) };
console.log(JSON.stringify({ peer: `mlx-node (mlx ${info.mlxVersion}, ${info.flavour})`, ...numbers }));
