import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { stopOnSignals } from '../interrupt.js';
import type { LanguageModel } from '../model.js';
import { key, randint } from '../random.js';
import type { GenerateOptions } from '../sampling.js';
import type { Timings } from '../stream.js';
import { peakGb } from './generate.js';
import { parseNumber, wholeNumber } from './io.js';
import type { CliIo } from './io.js';
import { loadModelOf, withModel } from './loading.js';
import type { ModelFlags } from './loading.js';

interface Flags extends ModelFlags {
  promptTokens: number;
  generationTokens: number;
  batchSize: number;
  numTrials: number;
  delay: number;
  prefillStepSize?: number;
  json?: boolean;
}

/** Tokens a second, gigabytes and seconds. */
interface Measures {
  promptTps: number;
  generationTps: number;
  peakMemory: number;
}

interface Trial extends Measures {
  totalTime: number;
}

/** `mlx-node bench`: mlx-lm's benchmark, with its options and its columns. */
export function benchCommand(io: CliIo): Command {
  return withModel(
    new Command('bench').description("Measure a model's speed on random prompts, as mlx_lm.benchmark does."),
  )
    .option('-p, --prompt-tokens <n>', 'tokens of each prompt', wholeNumber('prompt-tokens', 1), 512)
    .option('-g, --generation-tokens <n>', 'tokens of each answer', wholeNumber('generation-tokens', 1), 1024)
    .option('-b, --batch-size <n>', 'prompts at once', wholeNumber('batch-size', 1), 1)
    .option('-n, --num-trials <n>', 'timed runs, after one that is not', wholeNumber('num-trials', 1), 5)
    .option(
      '--delay <seconds>',
      'pause before each trial',
      parseNumber('delay', (n) => n >= 0, 'a number from 0'),
      0,
    )
    .option(
      '--prefill-step-size <n>',
      'tokens of the prompts that are read at a time (512)',
      wholeNumber('prefill-step-size', 1),
    )
    .option('--json', 'print one JSON object at the end')
    .addHelpText(
      'after',
      '\nprompt_tps and generation_tps are tokens a second of all prompts together, peak_memory is in GB, total_time in seconds.\n\nExamples:\n  mlx-node bench --model Qwen/Qwen3-0.6B\n  mlx-node bench --model ./Qwen3-0.6B -p 2048 -g 128 -b 8 -n 3 --json | jq .averages',
    )
    .action(async (flags: Flags) => {
      const stop = stopOnSignals();
      try {
        const model = await loadModelOf(flags, stop.signal, io.stderr);
        try {
          await bench(io, model, flags, stop.signal);
        } finally {
          model.dispose();
        }
      } finally {
        stop.release();
      }
    });
}

async function bench(io: CliIo, model: LanguageModel, flags: Flags, signal: AbortSignal): Promise<void> {
  const { promptTokens, generationTokens, batchSize, numTrials, delay } = flags;
  const say = (line: string): void => void (flags.json === true || io.stdout.write(`${line}\n`));
  const prompts = randomPrompts(model.vocabSize, batchSize, promptTokens);
  say('Running warmup..');
  await once(model, prompts, flags, signal);
  say(`Timing with prompt_tokens=${promptTokens}, generation_tokens=${generationTokens}, batch_size=${batchSize}.`);
  const trials: Trial[] = [];
  for (let i = 1; i <= numTrials; i++) {
    if (delay > 0) await sleep(delay * 1000, undefined, { signal }).catch(() => signal.throwIfAborted());
    const start = performance.now();
    const measures = await once(model, prompts, flags, signal);
    const totalTime = (performance.now() - start) / 1000;
    trials.push({ ...measures, totalTime });
    say(`Trial ${i}:  ${columns(measures)}, total_time=${totalTime.toFixed(3)}`);
  }
  const average = (name: keyof Measures): number => trials.reduce((sum, trial) => sum + trial[name], 0) / numTrials;
  const averages: Measures = {
    promptTps: average('promptTps'),
    generationTps: average('generationTps'),
    peakMemory: average('peakMemory'),
  };
  say(`Averages: ${columns(averages)}`);
  if (flags.json === true) {
    const { model: name } = flags;
    const report = { model: name, dtype: model.dtype, promptTokens, generationTokens, batchSize, trials, averages };
    io.stdout.write(`${JSON.stringify(report)}\n`);
  }
}

/** The same prompts every time. */
function randomPrompts(vocabSize: number, batchSize: number, promptTokens: number): number[][] {
  const drawn = randint(0, vocabSize, [batchSize, promptTokens], { key: key(0) });
  try {
    return drawn.toArray() as number[][];
  } finally {
    drawn.dispose();
  }
}

/** Every answer has all its tokens, and no time goes into penalties that the checkpoint may ask for. */
const plain = {
  ignoreEos: true,
  temperature: 0,
  repetitionPenalty: 1,
  noRepeatNgramSize: 0,
  minTokens: 0,
  badWordsIds: [],
} satisfies GenerateOptions;

/** One run of all prompts. */
async function once(
  model: LanguageModel,
  prompts: readonly number[][],
  { generationTokens: maxTokens, prefillStepSize }: Flags,
  signal: AbortSignal,
): Promise<Measures> {
  const options = { ...plain, maxTokens, signal, ...(prefillStepSize === undefined ? {} : { prefillStepSize }) };
  let timings: Timings;
  if (prompts.length === 1) ({ timings } = await model.generate(prompts[0]!, options));
  else ({ timings } = await model.generateBatch(prompts, options));
  return {
    promptTps: timings.promptTokensPerSecond,
    generationTps: timings.decodeTokensPerSecond,
    peakMemory: peakGb(),
  };
}

const columns = ({ promptTps, generationTps, peakMemory }: Measures): string =>
  Object.entries({ prompt_tps: promptTps, generation_tps: generationTps, peak_memory: peakMemory })
    .map(([name, value]) => `${name}=${value.toFixed(3)}`)
    .join(', ');
