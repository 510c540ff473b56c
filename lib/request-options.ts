import type { MxArray } from './array/core.js';
import { MlxError } from './errors.js';
import type { NativeEngineOptions, NativeGenerateOptions } from './native-types.js';

/**
 * Changes the logits of a step before a token is chosen: `tokens` are the prompt and the answer so far, `logits` has shape [1, V], and so
 * has what it returns. Synchronous.
 */
export type LogitsProcessor = (tokens: number[], logits: MxArray) => MxArray;

/** How many tokens of a prompt have been read. */
export interface PromptProgress {
  processed: number;
  total: number;
}

/** What a request asks of the engine beside how to sample. */
export interface RequestOptions {
  /** Texts that end the answer, which ends before them; found wherever tokens begin and end. */
  stop?: string | readonly string[];
  /** Answers to the prompt, which is read once for all. Default 1. */
  n?: number;
  /** So many of the likeliest tokens come with each token, with their log-probs. Default 0. */
  topLogprobs?: number;
  /**
   * Applied one after the other to the logits of each step. Each token then takes a round trip to JavaScript, also those of other
   * requests in the same batch; a processor that throws ends its own request only.
   */
  logitsProcessors?: readonly LogitsProcessor[];
  /** Called while a long prompt is read, after each chunk. */
  onProgress?: (progress: PromptProgress) => void;
}

/** How the batch is run. */
export interface BatchLimits {
  /** Tokens of a prompt that are read at a time; other requests get a token in between. Default 512. */
  prefillStepSize?: number;
}

export const requestKeys = ['stop', 'n', 'topLogprobs', 'logitsProcessors', 'onProgress'] as const;

const isWhole = (value: unknown, least: number): boolean => Number.isInteger(value) && (value as number) >= least;

function refuse(key: string, where: string, wanted: string, value: unknown): never {
  throw new MlxError(
    'ERR_MLX_CONFIG',
    `${key} of ${where} must be ${wanted}, got ${JSON.stringify(value) ?? String(value)}`,
  );
}

/** The addon's options of a request, checked. */
export function resolveRequest(
  { stop, n, topLogprobs, logitsProcessors, onProgress }: RequestOptions,
  where: string,
): Pick<NativeGenerateOptions, 'stop' | 'n' | 'topLogprobs' | 'processed'> {
  const strings = typeof stop === 'string' ? [stop] : stop;
  if (strings !== undefined && !(Array.isArray(strings) && strings.every((s) => typeof s === 'string' && s !== '')))
    refuse('stop', where, 'a text or a list of texts, none of them empty', stop);
  if (n !== undefined && !isWhole(n, 1)) refuse('n', where, 'a whole number from 1', n);
  if (topLogprobs !== undefined && !isWhole(topLogprobs, 0))
    refuse('topLogprobs', where, 'a whole number from 0', topLogprobs);
  if (
    logitsProcessors !== undefined &&
    !(Array.isArray(logitsProcessors) && logitsProcessors.every((processor) => typeof processor === 'function'))
  )
    refuse('logitsProcessors', where, 'a list of functions', logitsProcessors);
  if (onProgress !== undefined && typeof onProgress !== 'function')
    refuse('onProgress', where, 'a function', onProgress);
  return {
    ...(strings === undefined ? {} : { stop: [...strings] }),
    ...(n === undefined ? {} : { n }),
    ...(topLogprobs === undefined ? {} : { topLogprobs }),
    ...(logitsProcessors === undefined || logitsProcessors.length === 0 ? {} : { processed: true }),
  };
}

/** The addon's limits, checked. */
export function resolveLimits(limits: NativeEngineOptions, where: string): NativeEngineOptions {
  const given = Object.entries(limits).filter(([, value]) => value !== undefined);
  for (const [key, value] of given) if (!isWhole(value, 1)) refuse(key, where, 'a whole number from 1', value);
  return Object.fromEntries(given);
}
