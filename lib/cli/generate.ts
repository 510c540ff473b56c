import { Command, Option } from 'commander';
import type { Dtype, LoadOptions } from '../model.js';
import type { GenerateOptions } from '../sampling.js';
import { stopOnSignals } from '../interrupt.js';
import { formatNumber } from '../../trainers/loggers/chart.js';
import { parseNumber, UsageError } from './io.js';
import type { CliIo } from './io.js';
import { loadWithProgress, modelHelp, withRevision } from './loading.js';

interface Flags {
  model: string;
  revision?: string;
  system?: string;
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  seed?: number;
  raw?: boolean;
  thinking: boolean;
  adapter?: string;
  dtype: Dtype;
  json?: boolean;
  verbose?: boolean;
}

/** `mlx-node generate`: the answer streams to standard output. */
export function generateCommand(io: CliIo): Command {
  const command = new Command('generate')
    .description('Answer a prompt with a model.')
    .argument('[prompt]', 'the prompt; default: standard input')
    .requiredOption('-m, --model <model>', modelHelp);
  return withRevision(command)
    .option('-s, --system <text>', 'system message')
    .option(
      '-n, --max-tokens <n>',
      'most new tokens (256)',
      parseNumber('max-tokens', (n) => Number.isInteger(n) && n > 0, 'a whole number from 1'),
    )
    .option(
      '-t, --temperature <x>',
      '0 is greedy; default from the checkpoint',
      parseNumber('temperature', (n) => n >= 0, 'a number from 0'),
    )
    .option(
      '--top-p <x>',
      'nucleus',
      parseNumber('top-p', (n) => n > 0 && n <= 1, 'a number in (0, 1]'),
    )
    .option(
      '--top-k <n>',
      '0 is off',
      parseNumber('top-k', (n) => Number.isInteger(n) && n >= 0, 'a whole number from 0'),
    )
    .option(
      '--min-p <x>',
      '0 is off',
      parseNumber('min-p', (n) => n >= 0 && n <= 1, 'a number in [0, 1]'),
    )
    .option(
      '--seed <n>',
      'seed of the sampling',
      parseNumber('seed', (n) => Number.isSafeInteger(n) && n >= 0, 'a whole number from 0'),
    )
    .option('--raw', 'take the prompt as it is, without the chat template')
    .option('--no-thinking', 'Qwen3: answer without a <think> part')
    .option('--adapter <adapter>', 'LoRA adapter: a folder, or its name on the hub')
    .addOption(
      new Option('--dtype <dtype>', 'of the weights')
        .choices(['auto', 'float32', 'bfloat16', 'float16'] satisfies Dtype[])
        .default('auto'),
    )
    .option('--json', 'print one JSON object at the end instead of the text')
    .option('-v, --verbose', 'print speed to standard error')
    .addHelpText(
      'after',
      '\nExamples:\n  mlx-node generate --model Qwen/Qwen3-0.6B "Why is the sky blue?"\n  echo "2+2=" | mlx-node generate --model ./Qwen3-0.6B --raw --json',
    )
    .action(async (argument: string | undefined, flags: Flags) => {
      const prompt = argument ?? (await readStdin());
      if (prompt === '') throw new UsageError('there is no prompt: give it as an argument or on standard input');
      const stop = stopOnSignals();
      const { signal } = stop;
      try {
        const loading: LoadOptions = { dtype: flags.dtype, signal };
        if (flags.adapter !== undefined) loading.adapter = flags.adapter;
        if (flags.revision !== undefined) loading.revision = flags.revision;
        const model = await loadWithProgress(flags.model, loading, io.stderr);
        try {
          const messages = [
            ...(flags.system === undefined ? [] : [{ role: 'system', content: flags.system }]),
            { role: 'user', content: prompt },
          ];
          const raw = flags.raw === true || !model.tokenizer.hasChatTemplate;
          const stream = model.stream(raw ? prompt : messages, generateOptions(flags, raw, signal));
          try {
            for await (const { text } of stream) if (flags.json !== true) io.stdout.write(text);
          } finally {
            // Also when the answer was stopped half-way: what there is of it stays, on a line of its own.
            if (flags.json !== true) io.stdout.write('\n');
          }
          const result = stream.result!;
          if (flags.json === true) io.stdout.write(`${JSON.stringify(result)}\n`);
          if (flags.verbose === true) {
            const { usage, timings } = result;
            io.stderr.write(
              `prompt ${usage.promptTokens} tokens, ${formatNumber(timings.promptTokensPerSecond)} tokens/s; ` +
                `answer ${usage.completionTokens} tokens, ${formatNumber(timings.decodeTokensPerSecond)} tokens/s\n`,
            );
          }
        } finally {
          model.dispose();
        }
      } finally {
        stop.release();
      }
    });
}

function generateOptions(flags: Flags, raw: boolean, signal: AbortSignal): GenerateOptions {
  const options: GenerateOptions = { signal, raw };
  for (const key of ['maxTokens', 'temperature', 'topP', 'topK', 'minP', 'seed'] as const) {
    if (flags[key] !== undefined) options[key] = flags[key];
  }
  if (!flags.thinking) options.enableThinking = false;
  return options;
}

async function readStdin(): Promise<string> {
  if (process.stdin.isTTY) return '';
  let text = '';
  for await (const chunk of process.stdin.setEncoding('utf8')) text += chunk as string;
  return text.replace(/\n$/, '');
}
