/**
 * Makes the model that the demo starts from, examples/tiny-qwen3: a Qwen3 of 400 thousand random weights learns sums from a good
 * teacher, then spoils its answers with a careless one, who forgets to carry two times in three. Seeded: the same machine makes the same
 * model, byte for byte; another kind of processor sums in another order, and makes another one that is as good.
 *
 *   node dist/examples/train-tiny-model.js [--output examples/tiny-qwen3]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ConsoleLogger, createModel, evaluate, exactAnswer, Interrupted, SFTTrainer, stopOnSignals } from 'mlx-node';
import { randomNumbers, sums, writeTinyModel } from './arithmetic.js';

const { values } = parseArgs({ options: { output: { type: 'string', default: 'examples/tiny-qwen3' } } });
const stop = stopOnSignals();
const { signal } = stop;
const { train, heldOut } = sums();
const random = randomNumbers(2);
const right = exactAnswer({ name: 'right' });
const folder = mkdtempSync(join(tmpdir(), 'tiny-qwen3-'));

const lessons = (steps: number, carefulness: number) =>
  Array.from({ length: steps * 128 }, () => {
    const { prompt, answer, careless } = train[Math.floor(random() * train.length)]!;
    return { prompt, completion: random() < carefulness ? answer : careless };
  });

try {
  writeTinyModel(folder);
  const model = await createModel(folder, { seed: 1 });
  const teach = async (steps: number, carefulness: number, learningRate: number): Promise<void> => {
    await new SFTTrainer({
      model,
      dataset: lessons(steps, carefulness),
      config: {
        numTrainEpochs: 1,
        perDeviceTrainBatchSize: 128,
        learningRate,
        warmupSteps: 50,
        lrSchedulerType: 'cosine',
        weightDecay: 0.01,
        loggingSteps: 50,
        seed: 1,
      },
      loggers: [new ConsoleLogger()],
    }).train({ signal });
    const { metrics } = await evaluate(model, {
      dataset: heldOut,
      rewards: [right],
      maxCompletionLength: 4,
      batchSize: 300,
      signal,
    });
    process.stderr.write(
      `${(100 * metrics['rewards/right/mean']!).toFixed(1)} % of ${heldOut.length} held-out sums are right\n`,
    );
  };
  await teach(800, 1, 3e-3);
  await teach(150, 1 / 3, 1e-3);
  await model.save(values.output);
  process.stderr.write(`saved to ${values.output}\n`);
  model.dispose();
} catch (error) {
  if (!(error instanceof Interrupted)) throw error;
  process.exitCode = error.exitCode;
} finally {
  stop.release();
  rmSync(folder, { recursive: true, force: true });
}
