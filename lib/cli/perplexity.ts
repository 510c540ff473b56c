import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { errorText } from '../errors.js';
import { stopOnSignals } from '../interrupt.js';
import { perplexity } from '../perplexity.js';
import type { PerplexityOptions } from '../perplexity.js';
import { readStdin, UsageError, wholeNumber } from './io.js';
import type { CliIo } from './io.js';
import { loadModelOf, ProgressLine, progressBar, withModel } from './loading.js';
import type { ModelFlags } from './loading.js';

interface Flags extends ModelFlags {
  sequenceLength: number;
  batchSize?: number;
  numSamples?: number;
  json?: boolean;
}

async function textOf(io: CliIo, file: string): Promise<string> {
  if (file === '-') return await readStdin(io);
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(`${file} cannot be read: ${errorText(error)}`);
  }
}

/** `mlx-node perplexity`: how well a model foretells a text. */
export function perplexityCommand(io: CliIo): Command {
  return withModel(
    new Command('perplexity')
      .description('Measure how well a model foretells a text; before and after quantising it tells what that costs.')
      .argument('<file>', 'the text; - is standard input'),
  )
    .option(
      '--sequence-length <n>',
      'tokens that the text is cut into; each piece is read by itself',
      wholeNumber('sequence-length', 2),
      512,
    )
    .option(
      '--batch-size <n>',
      'pieces that are read together (8 on a GPU, 1 on the CPU)',
      wholeNumber('batch-size', 1),
    )
    .option('--num-samples <n>', 'the most pieces (all)', wholeNumber('num-samples', 1))
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nExamples:\n  mlx-node perplexity --model ./Qwen3-0.6B wiki.txt\n  mlx-node perplexity --model ./Qwen3-0.6B-4bit wiki.txt --json | jq .perplexity',
    )
    .action(async (file: string, flags: Flags) => {
      const text = await textOf(io, file);
      const stop = stopOnSignals();
      const line = new ProgressLine(io.stderr);
      try {
        const model = await loadModelOf(flags, stop.signal, io.stderr);
        try {
          const options: PerplexityOptions = {
            sequenceLength: flags.sequenceLength,
            ...(flags.batchSize === undefined ? {} : { batchSize: flags.batchSize }),
            ...(flags.numSamples === undefined ? {} : { numSamples: flags.numSamples }),
            signal: stop.signal,
            onProgress: ({ done, total }) => line.draw(`${progressBar(done, total)} ${done} of ${total} pieces`),
          };
          const result = await perplexity(model, text, options);
          line.end();
          const { perplexity: value, standardError, tokens } = result;
          io.stdout.write(
            flags.json === true
              ? `${JSON.stringify(result)}\n`
              : `Perplexity: ${value.toFixed(3)} ± ${standardError.toFixed(3)} (${tokens} tokens)\n`,
          );
        } finally {
          model.dispose();
        }
      } finally {
        line.end();
        stop.release();
      }
    });
}
