/**
 * GRPO on GSM8K with any Qwen2 or Qwen3 instruct model.
 *
 *   node dist/examples/grpo-gsm8k.js --model ./Qwen3-0.6B --data ./gsm8k [--output runs/gsm8k] [--steps 200] [--lora] [--resume]
 *
 * `--data` is a folder with train.jsonl and test.jsonl, one {"question", "answer"} a line.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  completionAnswer,
  ConsoleLogger,
  exactAnswer,
  formatReward,
  GRPOTrainer,
  gsm8kAnswer,
  Interrupted,
  JsonlLogger,
  loadModel,
  readJsonl,
  ReportLogger,
  stopOnSignals,
} from 'mlx-node';

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    data: { type: 'string' },
    output: { type: 'string', default: 'runs/gsm8k' },
    steps: { type: 'string', default: '200' },
    lora: { type: 'boolean', default: false },
    resume: { type: 'boolean', default: false },
  },
});
if (values.model === undefined || values.data === undefined) {
  process.stderr.write(
    'usage: grpo-gsm8k --model <folder> --data <folder> [--output <folder>] [--steps <n>] [--lora] [--resume]\n',
  );
  process.exit(2);
}

const system = 'Solve the problem step by step. End with a line "#### " and the number.';

async function problems(file: string, limit?: number) {
  const rows = await readJsonl<{ question: string; answer: string }>(file);
  return rows.slice(0, limit).map(({ question, answer }) => ({
    prompt: [
      { role: 'system', content: system },
      { role: 'user', content: question },
    ],
    answer: gsm8kAnswer(answer),
  }));
}

const stop = stopOnSignals();
const { signal } = stop;
try {
  const model = await loadModel(values.model, { signal });
  if (values.lora) model.applyLora({ rank: 16, alpha: 32 });
  const trainer = new GRPOTrainer({
    model,
    dataset: await problems(join(values.data, 'train.jsonl')),
    evalDataset: await problems(join(values.data, 'test.jsonl'), 200),
    rewards: [
      exactAnswer({ name: 'right', extract: completionAnswer }),
      formatReward(/.*\n#### -?[\d.,]+\s*/s, 'marks_the_answer'),
    ],
    config: {
      outputDir: values.output,
      maxSteps: Number(values.steps),
      learningRate: values.lora ? 2e-5 : 1e-6,
      warmupSteps: 10,
      rewardWeights: [1, 0.2],
      numGenerations: 8,
      perDeviceTrainBatchSize: 8,
      gradientAccumulationSteps: 8,
      maxCompletionLength: 300,
      chatTemplateKwargs: { enableThinking: false },
      evalSteps: 50,
      saveSteps: 25,
      saveTotalLimit: 3,
    },
    loggers: [new JsonlLogger(values.output), new ReportLogger(values.output), new ConsoleLogger()],
  });
  await trainer.train({ signal, resumeFrom: values.resume });
  await model.save(join(values.output, 'model'));
  model.dispose();
} catch (error) {
  if (!(error instanceof Interrupted)) throw error;
  process.stderr.write(`${error.message}; go on with --resume\n`);
  process.exitCode = error.exitCode;
} finally {
  stop.release();
}
