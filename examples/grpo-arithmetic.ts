/**
 * GRPO from nothing, on a CPU, in a minute or two: a tiny model first learns sums from a teacher who is mostly one off, then learns
 * to be right from a reward alone.
 *
 *   node dist/examples/grpo-arithmetic.js [--output runs/arithmetic] [--resume]
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  ConsoleLogger,
  createModel,
  evaluate,
  exactAnswer,
  GRPOTrainer,
  Interrupted,
  JsonlLogger,
  loadModel,
  ReportLogger,
  SFTTrainer,
  stopOnSignals,
} from 'mlx-node';
import { randomNumbers, writeTinyModel } from './tiny-model.js';

const { values } = parseArgs({
  options: { output: { type: 'string', default: 'runs/arithmetic' }, resume: { type: 'boolean', default: false } },
});
const outputDir = values.output;

/** Every sum of two numbers below 50, in random order: "07+35=" and "42". */
const random = randomNumbers(1);
const sums = Array.from({ length: 2500 }, (_, i) => ({ a: i % 50, b: Math.floor(i / 50), key: random() }))
  .toSorted((x, y) => x.key - y.key)
  .map(({ a, b }) => ({ prompt: `${two(a)}+${two(b)}=`, answer: two(a + b) }));
const heldOut = sums.slice(0, 200);
const train = sums.slice(200);

/** The teacher is right two times in five, else one too high; he does every sum four times. */
const lessons = [...train, ...train, ...train, ...train].map(({ prompt, answer }) => ({
  prompt,
  completion: random() < 0.4 ? answer : two(Number(answer) + 1),
}));

function two(n: number): string {
  return String(n).padStart(2, '0');
}

const right = exactAnswer({ name: 'right' });
const stop = stopOnSignals();
const { signal } = stop;
const say = (text: string): void => void process.stderr.write(`${text}\n`);

try {
  const start = join(outputDir, 'start');
  if (!values.resume) {
    const tiny = join(outputDir, 'tiny');
    writeTinyModel(tiny);
    const model = await createModel(tiny);
    say('1. Learning sums from a bad teacher');
    await new SFTTrainer({
      model,
      dataset: lessons,
      config: {
        maxSteps: 400,
        perDeviceTrainBatchSize: 128,
        learningRate: 3e-3,
        warmupSteps: 50,
        lrSchedulerType: 'cosine',
        loggingSteps: 100,
      },
      loggers: [new ConsoleLogger()],
    }).train({ signal });
    await model.save(start);
    model.dispose();
  }

  const model = await loadModel(start, { signal });
  const accuracy = async (): Promise<string> => {
    const { metrics } = await evaluate(model, {
      dataset: heldOut,
      rewards: [right],
      maxCompletionLength: 4,
      batchSize: 200,
      signal,
    });
    return `${(100 * metrics['rewards/right/mean']!).toFixed(1)} % of ${heldOut.length} sums never seen in training are right`;
  };
  say(`   ${await accuracy()}`);

  say('2. GRPO: reward 1 for the right sum, 0 for any other');
  await new GRPOTrainer({
    model,
    dataset: train,
    evalDataset: heldOut,
    rewards: right,
    config: {
      outputDir,
      learningRate: 4e-4,
      lrSchedulerType: 'constant',
      numGenerations: 8,
      perDeviceTrainBatchSize: 256,
      maxCompletionLength: 4,
      maxSteps: 120,
      evalSteps: 30,
      evalOnStart: true,
      perDeviceEvalBatchSize: 200,
      saveSteps: 40,
      saveTotalLimit: 2,
    },
    loggers: [new JsonlLogger(outputDir), new ReportLogger(outputDir), new ConsoleLogger()],
  }).train({ signal, resumeFrom: values.resume });
  say(`   ${await accuracy()}\n   Open ${join(outputDir, 'report.html')}`);
  model.dispose();
} catch (error) {
  if (!(error instanceof Interrupted)) throw error;
  say(`${error.message}; go on with --resume`);
  process.exitCode = error.exitCode;
} finally {
  stop.release();
}
