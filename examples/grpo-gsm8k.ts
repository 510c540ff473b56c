/**
 * GRPO on grade-school problems with a real model: a LoRA adapter learns from whether the answers are right.
 *
 *   node dist/examples/grpo-gsm8k.js --model ./Qwen2.5-Coder-1.5B-Instruct --data ./gsm8k
 */
import { existsSync } from 'node:fs';
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
  MlxError,
  readJsonl,
  ReportLogger,
  stopOnSignals,
} from 'mlx-node';
import type { Logger, Message } from 'mlx-node';

const help = `GRPO with LoRA on GSM8K (train.jsonl and test.jsonl of the openai/gsm8k data set).

  --model DIR            checkpoint folder, such as Qwen2.5-Coder-1.5B-Instruct
  --data DIR             folder with train.jsonl: one {"question", "answer"} a line
  --output DIR           metrics, report, completions, checkpoints, adapter (runs/gsm8k)
  --steps N              optimizer steps (3)
  --prompts N            problems in a step (2)
  --generations N        answers to each problem (4)
  --max-tokens N         longest answer (96)
  --micro-batch N        answers in one backward pass: fewer need less memory (2)
  --lora-rank N          rank of the adapter; its alpha is twice that (8)
  --learning-rate X      peak learning rate (2e-5)
  --eval N               greedy answers to N problems of test.jsonl before, every 50 steps, and after (0)
  --checkpointing        recompute activations: much less memory, a third more time
  --resume               go on from the newest checkpoint in --output
  --help
`;

/** A mistake in the arguments. */
class Usage extends Error {}

function readOptions() {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    options: {
      model: text,
      data: text,
      output: { ...text, default: 'runs/gsm8k' },
      steps: { ...text, default: '3' },
      prompts: { ...text, default: '2' },
      generations: { ...text, default: '4' },
      'max-tokens': { ...text, default: '96' },
      'micro-batch': { ...text, default: '2' },
      'lora-rank': { ...text, default: '8' },
      'learning-rate': { ...text, default: '2e-5' },
      eval: { ...text, default: '0' },
      checkpointing: { type: 'boolean', default: false },
      resume: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return null;
  const whole = (name: Exclude<keyof typeof values, 'checkpointing' | 'resume' | 'help'>, least: number): number => {
    const number = Number(values[name]);
    if (!Number.isInteger(number) || number < least)
      throw new Usage(`--${name} must be a whole number from ${least}, got '${values[name]}'`);
    return number;
  };
  const file = (option: 'model' | 'data', name: string): string => {
    const folder = values[option];
    if (folder === undefined) throw new Usage(`--${option} DIR is missing`);
    const path = join(folder, name);
    if (!existsSync(path)) throw new Usage(`--${option} ${folder}: there is no ${path}`);
    return path;
  };
  file('model', 'config.json');
  const options = {
    model: values.model!,
    train: file('data', 'train.jsonl'),
    output: values.output,
    steps: whole('steps', 1),
    prompts: whole('prompts', 1),
    generations: whole('generations', 2),
    maxTokens: whole('max-tokens', 1),
    microBatch: whole('micro-batch', 1),
    loraRank: whole('lora-rank', 1),
    learningRate: Number(values['learning-rate']),
    evalRows: whole('eval', 0),
    test: '',
    checkpointing: values.checkpointing,
    resume: values.resume,
  };
  if (!(options.learningRate > 0))
    throw new Usage(`--learning-rate must be a number above 0, got '${values['learning-rate']}'`);
  if (options.evalRows > 0) options.test = file('data', 'test.jsonl');
  const rows = options.prompts * options.generations;
  if (rows % options.microBatch !== 0)
    throw new Usage(`--micro-batch must divide the ${rows} answers of a step, got ${options.microBatch}`);
  return options;
}

/** What is asked for, and one example of it: otherwise a small model explains until its tokens run out. */
const lead: Message[] = [
  { role: 'system', content: 'Solve the problem in a few short lines. The last line is "#### " and the number.' },
  { role: 'user', content: 'A box holds 12 pens. Tom buys 3 boxes and gives 8 pens away. How many pens has he left?' },
  { role: 'assistant', content: '3 boxes hold 3 * 12 = 36 pens.\nHe has 36 - 8 = 28 pens left.\n#### 28' },
];

/** Problems as conversations, with the right answers for the reward. */
async function readProblems(path: string): Promise<{ prompt: Message[]; answer: string | null }[]> {
  const rows = await readJsonl<{ question: string; answer: string }>(path);
  return rows.map(({ question, answer }) => ({
    prompt: [...lead, { role: 'user', content: question }],
    answer: gsm8kAnswer(answer),
  }));
}

/** 1 for the right number. */
const right = exactAnswer({ name: 'right', extract: completionAnswer });

/** A little for ending as asked, so that there is something to learn before the first right answer. */
const ending = formatReward(/.*\n#### -?\$?[\d.,]+\s*/s, 'ending');

// Qwen3 would fill the few tokens with thoughts; templates of other models do not look at this.
const chatTemplateKwargs = { enableThinking: false };

const say = (line: string): void => void process.stderr.write(`${line}\n`);

/** Where the time of a step goes, and the memory: MLX's peak, and what the operating system counts. */
const costs: Logger = {
  metrics(_step, record) {
    if (record['time/generate'] === undefined) return;
    const parts = {
      generate: 'generate',
      reward: 'reward',
      logprob: 'logprob',
      train: 'forward_backward',
      optimizer: 'optimizer',
    };
    const seconds = Object.entries(parts).map(([name, key]) => `${name} ${(record[`time/${key}`] ?? 0).toFixed(2)}`);
    const rss = process.resourceUsage().maxRSS * 1024;
    say(
      `     seconds: ${seconds.join(', ')}; generation ${record['generation/tokens_per_second']!.toFixed(1)} tokens/s; ` +
        `peak memory ${record['peak_memory_gb']!.toFixed(2)} GB, process ${(rss / 1e9).toFixed(2)} GB`,
    );
  },
};

async function main(signal: AbortSignal): Promise<void> {
  const options = readOptions();
  if (options === null) return void process.stdout.write(help);
  const dataset = await readProblems(options.train);
  const held = options.test === '' ? [] : (await readProblems(options.test)).slice(0, options.evalRows);

  const began = performance.now();
  const model = await loadModel(options.model, { signal });
  say(`loaded in ${((performance.now() - began) / 1000).toFixed(1)} s`);
  const { maxTokens } = options;

  try {
    model.applyLora({ rank: options.loraRank, alpha: 2 * options.loraRank });
    const outputDir = options.output;
    await new GRPOTrainer({
      model,
      dataset,
      ...(held.length > 0 ? { evalDataset: held } : {}),
      rewards: [right, ending],
      config: {
        outputDir,
        maxSteps: options.steps,
        learningRate: options.learningRate,
        lrSchedulerType: 'constant',
        numGenerations: options.generations,
        perDeviceTrainBatchSize: options.microBatch,
        gradientAccumulationSteps: (options.prompts * options.generations) / options.microBatch,
        gradientCheckpointing: options.checkpointing,
        maxCompletionLength: maxTokens,
        rewardWeights: [1, 0.2],
        chatTemplateKwargs,
        evalSteps: held.length > 0 ? 50 : 0,
        perDeviceEvalBatchSize: 8,
        saveSteps: 50,
        saveTotalLimit: 2,
      },
      loggers: [new JsonlLogger(outputDir), new ReportLogger(outputDir), new ConsoleLogger(), costs],
    }).train({ signal, resumeFrom: options.resume });
    const adapter = join(outputDir, 'adapter');
    await model.saveAdapter(adapter);
    say(`The adapter is in ${adapter}; mlx-node generate --model ${options.model} --adapter ${adapter} uses it`);
  } finally {
    model.dispose();
  }
}

const stop = stopOnSignals();
try {
  await main(stop.signal);
} catch (error) {
  if (error instanceof Interrupted) {
    say(`${error.message}; go on with --resume`);
    process.exitCode = error.exitCode;
  } else if (error instanceof Usage || (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS')) {
    say(`${(error as Error).message}\n--help shows the options`);
    process.exitCode = 2;
  } else if (MlxError.isInstance(error)) {
    say(`${error.message} [${error.code}]`);
    process.exitCode = 1;
  } else throw error;
} finally {
  stop.release();
}
