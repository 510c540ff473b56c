import { existsSync, realpathSync } from 'node:fs';
import { Option } from 'commander';
import type { Command } from 'commander';
import { loadPromptCache } from '../cache/index.js';
import type { KvCacheOptions, ModelCache } from '../cache/index.js';
import { errorText } from '../errors.js';
import { kvCacheKeys, resolveCache } from '../request-options.js';
import { UsageError, wholeNumber } from './io.js';

/** What {@link withKvCache} reads. */
export interface KvCacheFlags {
  maxKvSize?: number;
  keep?: number;
  kvBits?: number;
  kvGroupSize?: number;
  quantizedKvStart?: number;
  promptCacheFile?: string;
}

/** Adds the options of caches to a command; names and defaults are mlx-lm's, but for `--keep`. */
export function withKvCache(command: Command): Command {
  const add = (name: string, least: number, help: string): void =>
    void command.addOption(
      new Option(`--${name} <n>`, help).argParser(wholeNumber(name, least)).helpGroup('Memory of the model:'),
    );
  add('max-kv-size', 1, 'most tokens to remember: the first and the latest');
  add('keep', 0, 'how many of the first, with --max-kv-size (4)');
  add('kv-bits', 1, 'keep keys and values in so many bits (4 or 8)');
  add('kv-group-size', 1, 'numbers that share a scale: 32, 64 or 128 (64)');
  add('quantized-kv-start', 0, 'tokens from which on --kv-bits counts (5000)');
  return command;
}

/** Adds `--prompt-cache-file`. */
export function withPromptCacheFile(command: Command): Command {
  return command.addOption(
    new Option(
      '--prompt-cache-file <file>',
      "what 'mlx-node cache-prompt' or mlx-lm has read: the prompt goes on from there",
    ).helpGroup('Memory of the model:'),
  );
}

const flag = (key: string): string => `--${key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** The library's options, checked before anything is loaded. */
export function kvCacheOptions(flags: KvCacheFlags): KvCacheOptions {
  const { maxKvSize, keep, kvBits, promptCacheFile } = flags;
  for (const [name, value] of [
    ['kv-group-size', flags.kvGroupSize],
    ['quantized-kv-start', flags.quantizedKvStart],
  ] as const) {
    if (value !== undefined && kvBits === undefined) throw new UsageError(`--${name} needs --kv-bits`);
  }
  if (maxKvSize !== undefined && promptCacheFile !== undefined)
    throw new UsageError('--max-kv-size belongs to the command that made the --prompt-cache-file');
  const options: KvCacheOptions = {
    ...(maxKvSize === undefined ? {} : { maxKvSize }),
    ...(keep === undefined ? {} : { keep }),
    ...(kvBits === undefined
      ? {}
      : { kvBits, kvGroupSize: flags.kvGroupSize ?? 64, quantizedKvStart: flags.quantizedKvStart ?? 5000 }),
  };
  try {
    resolveCache(options, 'the command');
  } catch (error) {
    const names = new RegExp(`\\b(${kvCacheKeys.join('|')})\\b`, 'g');
    throw new UsageError(errorText(error).replaceAll(' of the command', '').replaceAll(names, flag));
  }
  return options;
}

/** The same folder, or the same name on the hub. */
const place = (model: string): string => (existsSync(model) ? realpathSync(model) : model);

/** The caches of a file, which must be this model's. */
export async function readPromptCache(file: string, model: string, signal: AbortSignal): Promise<ModelCache> {
  const { cache, metadata } = await loadPromptCache(file, { signal });
  const maker = metadata['model'];
  if (maker !== undefined && place(maker) !== place(model))
    throw new UsageError(
      `--prompt-cache-file: ${file} is what '${maker}' has read; it means nothing to '${model}'. Make another with 'mlx-node cache-prompt --model ${model}'`,
    );
  return cache;
}
