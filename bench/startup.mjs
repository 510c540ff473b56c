#!/usr/bin/env node
// From the start of Node to the first token of the tiny model, and how long the event loop is held up while that model trains.
// Prints one JSON object of milliseconds. node bench/startup.mjs [--runs N] [--steps N], after npm run build.
// `import` is of the package, `firstToken` from the import to the first token, `process` from the start of Node to it: medians of 9 new
// processes. `delay` is by how much a timer of 1 ms comes late while 100 steps of the demo's GRPO run.
import { execFile } from 'node:child_process';
import path from 'node:path';
import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import process from 'node:process';
import { parseArgs, promisify } from 'node:util';
import { guard } from '../scripts/task.mjs';
import { here, machine, warnOfLoad } from './environment.mjs';
import { median } from './times.mjs';

const { values: options } = parseArgs({
  options: {
    runs: { type: 'string', default: '9' },
    steps: { type: 'string', default: '100' },
    child: { type: 'boolean', default: false },
  },
});
const tiny = path.join(here, '../examples/tiny-qwen3');

/** One start, in a process of its own. */
async function start() {
  const before = performance.now();
  const { loadModel } = await import('mlx-node');
  const imported = performance.now();
  const model = await loadModel(tiny);
  for await (const chunk of model.stream('47+35=', { maxTokens: 4, temperature: 0 })) {
    if (chunk.tokens.length > 0) break;
  }
  const first = performance.now();
  // `performance.now()` counts from the start of the process.
  return { import: imported - before, firstToken: first - before, process: first };
}

const right = ({ completions, answer }) => completions.map((text, i) => (text.startsWith(answer[i]) ? 1 : 0));

/** The demo's training, and a histogram of the event loop's delay meanwhile. */
async function train() {
  const { GRPOTrainer, loadModel } = await import('mlx-node');
  const model = await loadModel(tiny);
  const sums = Array.from({ length: 8100 }, (_, i) => [10 + (i % 90), 10 + Math.floor(i / 90)]);
  const dataset = sums.map(([a, b]) => ({ prompt: `${a}+${b}=`, answer: String(a + b) }));
  const config = {
    learningRate: 5e-4,
    beta: 0.001,
    numGenerations: 8,
    perDeviceTrainBatchSize: 256,
    maxCompletionLength: 4,
    maxSteps: Number(options.steps),
  };
  const resolution = 1;
  const delay = monitorEventLoopDelay({ resolution });
  delay.enable();
  const started = performance.now();
  await new GRPOTrainer({ model, dataset, rewards: [right], config, loggers: [] }).train();
  const trainMs = performance.now() - started;
  delay.disable();
  // Node counts the timer's own interval as delay.
  const late = (percentile) => Math.max(0, delay.percentile(percentile) / 1e6 - resolution);
  return { steps: config.maxSteps, train: trainMs, delay: { p50: late(50), p99: late(99), max: late(100) } };
}

if (options.child) console.log(JSON.stringify(await start()));
else {
  await guard(async () => {
    warnOfLoad();
    const starts = [];
    for (let i = 0; i < Number(options.runs); i++) {
      const { stdout } = await promisify(execFile)(process.execPath, [import.meta.filename, '--child']);
      starts.push(JSON.parse(stdout));
    }
    const of = (name) => median(starts.map((one) => one[name]));
    const numbers = { import: of('import'), firstToken: of('firstToken'), process: of('process'), ...(await train()) };
    console.log(JSON.stringify({ machine: machine(), ...numbers }));
  });
}
