/**
 * The demo: a tiny Qwen3 that often forgets to carry learns to add from a reward alone, in a minute or two on a CPU.
 *
 *   npm run demo
 *   node dist/examples/grpo-arithmetic.js [--output runs/demo] [--steps 100] [--resume]
 */
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  ConsoleLogger,
  evaluate,
  exactAnswer,
  GRPOTrainer,
  Interrupted,
  JsonlLogger,
  loadModel,
  ReportLogger,
  stopOnSignals,
} from 'mlx-node';
import { sums } from './arithmetic.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const stamp = new Date().toISOString().slice(0, 19).replaceAll(/[:T]/g, '-');
const { values } = parseArgs({
  options: {
    output: { type: 'string', default: join('runs', `demo-${stamp}`) },
    steps: { type: 'string', default: '100' },
    resume: { type: 'boolean', default: false },
  },
});
const { train, heldOut } = sums();
const right = exactAnswer({ name: 'right' });
const stop = stopOnSignals();
const { signal } = stop;

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

try {
  const model = await loadModel(join(root, 'examples/tiny-qwen3'), { signal });
  const accuracy = async (): Promise<number> => {
    const { metrics } = await evaluate(model, {
      dataset: heldOut,
      rewards: [right],
      maxCompletionLength: 4,
      batchSize: 300,
      signal,
    });
    return metrics['rewards/right/mean']!;
  };
  const before = await accuracy();
  const started = performance.now();
  const result = await new GRPOTrainer({
    model,
    dataset: train,
    evalDataset: heldOut,
    rewards: right,
    config: {
      outputDir: values.output,
      maxSteps: Number(values.steps),
      learningRate: 5e-4,
      lrSchedulerType: 'linear',
      warmupSteps: 5,
      // 32 prompts a step, 8 answers each; the KL penalty is small, its metric shows how far the model has moved.
      perDeviceTrainBatchSize: 256,
      numGenerations: 8,
      maxCompletionLength: 4,
      beta: 0.001,
      evalSteps: 10,
      perDeviceEvalBatchSize: 300,
      saveSteps: 20,
      saveTotalLimit: 2,
    },
    loggers: [new JsonlLogger(values.output), new ReportLogger(values.output), new ConsoleLogger()],
  }).train({ signal, resumeFrom: values.resume });
  const seconds = (performance.now() - started) / 1000;
  const after = await accuracy();

  const metric = (name: string, digits: number): string => (result.metrics[name] ?? NaN).toFixed(digits);
  const run = relative(process.cwd(), values.output) || '.';
  console.log(`
${result.steps} steps in ${seconds.toFixed(0)} s
right answers to ${heldOut.length} sums never trained on (greedy): ${percent(before)} before, ${percent(after)} after
${metric('tokens_per_second', 0)} tokens per second in the last step, ${(1000 * (result.metrics['peak_memory_gb'] ?? NaN)).toFixed(0)} MB peak memory of MLX

${join(run, 'report.html')}     charts: open it in a browser
${join(run, 'metrics.jsonl')}   every number of every step
${join(run, 'completions')}     samples of what the model wrote
${join(run, 'checkpoints')}     checkpoints; --output ${run} --resume goes on from the last`);
  model.dispose();
} catch (error) {
  if (!(error instanceof Interrupted)) throw error;
  process.stderr.write(`${error.message}; --output ${values.output} --resume goes on\n`);
  process.exitCode = error.exitCode;
} finally {
  stop.release();
}
