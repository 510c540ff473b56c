import { Command } from 'commander';
import { evalAsync } from '../array/core.js';
import { tidy } from '../array/tidy.js';
import { makePromptCache, savePromptCache } from '../cache/index.js';
import type { ModelCache } from '../cache/index.js';
import { stopOnSignals } from '../interrupt.js';
import type { LanguageModel } from '../model.js';
import { peakGb } from './generate.js';
import { UsageError, wholeNumber } from './io.js';
import type { CliIo } from './io.js';
import { loadModelOf, ProgressLine, withModel } from './loading.js';
import type { ModelFlags } from './loading.js';
import { beginningIds, promptText, withPrompt } from './prompt.js';
import type { PromptFlags } from './prompt.js';

interface Flags extends ModelFlags, PromptFlags {
  promptCacheFile: string;
  maxKvSize?: number;
  kvBits?: number;
  kvGroupSize: number;
  quantizedKvStart: number;
  prefillStepSize: number;
  json?: boolean;
}

/** `mlx-node cache-prompt`: a file that `loadPromptCache` and mlx-lm's `generate --prompt-cache-file` read. */
export function cachePromptCommand(io: CliIo): Command {
  return withPrompt(
    withModel(new Command('cache-prompt').description('Read a prompt once and keep what the model remembers of it.')),
  )
    .requiredOption('--prompt-cache-file <file>', 'the file to write, .safetensors')
    .option(
      '--max-kv-size <n>',
      'most tokens to remember: the first four and the latest',
      wholeNumber('max-kv-size', 1),
    )
    .option('--kv-bits <n>', 'keep keys and values in so many bits (4 or 8)', wholeNumber('kv-bits', 1))
    .option('--kv-group-size <n>', 'numbers that share a scale', wholeNumber('kv-group-size', 1), 64)
    .option(
      '--quantized-kv-start <n>',
      'tokens from which on --kv-bits counts',
      wholeNumber('quantized-kv-start', 0),
      5000,
    )
    .option('--prefill-step-size <n>', 'tokens that are read at a time', wholeNumber('prefill-step-size', 1), 2048)
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nThe prompt is the beginning of a user\'s message, which is left open, or with --raw a text.\n\nExamples:\n  mlx-node cache-prompt --model ./Qwen3-0.6B --prompt-cache-file book.safetensors - < book.txt\n  mlx_lm.generate --prompt-cache-file book.safetensors --prompt "Who is the hero?"',
    )
    .action(async (argument: string | undefined, flags: Flags) => {
      const prompt = await promptText(io, argument, flags);
      if (!flags.promptCacheFile.endsWith('.safetensors'))
        throw new UsageError(`--prompt-cache-file must end in .safetensors, got '${flags.promptCacheFile}'`);
      const stop = stopOnSignals();
      try {
        const model = await loadModelOf(flags, stop.signal, io.stderr);
        try {
          await cachePrompt(io, model, prompt, flags, stop.signal);
        } finally {
          model.dispose();
        }
      } finally {
        stop.release();
      }
    });
}

async function cachePrompt(
  io: CliIo,
  model: LanguageModel,
  prompt: string,
  flags: Flags,
  signal: AbortSignal,
): Promise<void> {
  const ids = beginningIds(model, prompt, flags);
  const { maxKvSize, kvBits, kvGroupSize, quantizedKvStart } = flags;
  const cache = makePromptCache(model, {
    ...(maxKvSize === undefined ? {} : { maxKvSize }),
    ...(kvBits === undefined ? {} : { kvBits, kvGroupSize, quantizedKvStart }),
  });
  const start = performance.now();
  const speed = (tokens: number): number => (1000 * tokens) / (performance.now() - start);
  const line = new ProgressLine(io.stderr);
  try {
    for (let at = 0; at < ids.length;) {
      signal.throwIfAborted();
      const end = Math.min(at + flags.prefillStepSize, ids.length);
      await read(model, cache, ids.slice(at, end));
      at = end;
      line.draw(`Processed ${at} of ${ids.length} tokens (${speed(at).toFixed(2)} tok/s)`);
    }
  } finally {
    line.end();
  }
  const promptTps = speed(ids.length);
  // As mlx-lm's: generate looks whether it is the same model.
  const metadata = { model: flags.model, tokenizer_config: '{}' };
  await savePromptCache(flags.promptCacheFile, cache, { metadata, signal });
  const { promptCacheFile } = flags;
  io.stdout.write(
    flags.json === true
      ? `${JSON.stringify({ promptCacheFile, promptTokens: ids.length, promptTps, peakMemoryGb: peakGb() })}\n`
      : `Processed ${ids.length} tokens (${promptTps.toFixed(2)} tok/s)\nPeak memory: ${peakGb().toFixed(3)} GB\nSaved ${promptCacheFile}\n`,
  );
}

/** Reads tokens; the logits are not computed, for nobody evaluates them. */
async function read(model: LanguageModel, cache: ModelCache, ids: readonly number[]): Promise<void> {
  const states = tidy(() => {
    model.forward([ids], { cache });
    return cache.flatMap((layer) => layer.state);
  });
  try {
    await evalAsync(...states);
  } finally {
    for (const state of states) state.dispose();
  }
}
