import type { MxArray } from './array/core.js';
import type { LayerCache } from './cache/base.js';
import { PrefixCache } from './cache/prompt.js';
import type { KvCacheOptions, PrefixCacheOptions } from './cache/prompt.js';
import { MlxError } from './errors.js';
import type { LanguageModel } from './model.js';
import type { NativeEngineOptions, NativeGenerateOptions, NativeModel } from './native-types.js';
import { rejectUnknownKeys } from './options.js';

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

/** What an answer must fit. The first three are OpenAI's. */
export type ResponseFormat =
  | { type: 'text' }
  | { type: 'json_object' }
  | {
      type: 'json_schema';
      json_schema: {
        schema: object | boolean;
        /** False ignores keywords that cannot be enforced, instead of refusing them. Default true. */
        strict?: boolean | null;
        name?: string;
        description?: string;
      };
    }
  /** Matched from beginning to end. */
  | { type: 'regex'; regex: string }
  | { type: 'grammar'; grammar: { syntax: 'lark' | 'regex'; definition: string } };

/** What a request asks of the engine beside how to sample. */
export interface RequestOptions {
  /** Texts that end the answer, which ends before them; found wherever tokens begin and end. */
  stop?: string | readonly string[];
  /** Answers to the prompt, which is read once for all. Default 1. */
  n?: number;
  /** So many of the likeliest tokens come with each token, with their log-probs. Default 0. */
  topLogprobs?: number;
  /** Only tokens that this format allows are chosen, so that the whole answer fits it. Default: any text. */
  responseFormat?: ResponseFormat;
  /**
   * The format begins behind `</think>` where the model thinks first; one that answers at once is held to it from the first token.
   * Needs a model with the tokens `<think>` and `</think>`. Default false: the format holds from the first token.
   */
  formatAfterThinking?: boolean;
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

/** Where guesses come from without a second model. */
export interface PromptLookupOptions {
  /** The most last tokens that must have come before, for what followed them to be guessed again. Default 3. */
  maxNgramSize?: number;
  /** The fewest. Default 1. */
  minNgramSize?: number;
}

/**
 * Speculative decoding: several tokens are guessed and checked in one pass of the model. Answers are distributed as without it, and
 * greedy answers are the same. The requests of an engine then take turns, one pass each, instead of sharing a batch.
 */
export interface SpeculationOptions {
  /** A smaller model with the same vocabulary, which makes the guesses. */
  draftModel?: LanguageModel;
  /** Guess what followed the last tokens earlier in the text: for answers that quote their prompt. */
  promptLookup?: boolean | PromptLookupOptions;
  /**
   * The most guesses for one pass; how many are made follows from how many were right before. Default: 4 with a draft model, 10 with
   * `promptLookup`.
   */
  numDraftTokens?: number;
  /**
   * Where `responseFormat` leaves no choice about the text, read it in one pass, token by token as the model would have had to write it.
   * May be combined with either kind of guesses. Default false: with a seed, drawn answers are others than without it.
   */
  fastForward?: boolean;
}

/** What an answer of its own begins with, beside the prompt. */
export interface CachingOptions {
  /**
   * Caches that the prompt goes on from (`makePromptCache`, `loadPromptCache`), in place of what the options of caches say. Those of a
   * `draftModel` may follow; without them it sees only the prompt. When the answer has ended by itself they have read the prompt and the answer, but perhaps its last token; otherwise they are as before.
   */
  promptCache?: readonly LayerCache[];
  /** Looks up the beginning of the prompt here before it is read, and puts in the prompt and the answer. */
  prefixCache?: PrefixCache;
}

export const cachingKeys = ['promptCache', 'prefixCache'] as const;

export const kvCacheKeys = ['maxKvSize', 'keep', 'kvBits', 'kvGroupSize', 'quantizedKvStart'] as const;

export const speculationKeys = ['draftModel', 'promptLookup', 'numDraftTokens', 'fastForward'] as const;

export const requestKeys = [
  'stop',
  'n',
  'topLogprobs',
  'responseFormat',
  'formatAfterThinking',
  'logitsProcessors',
  'onProgress',
] as const;

const isWhole = (value: unknown, least: number): boolean => Number.isInteger(value) && (value as number) >= least;

function refuse(key: string, where: string, wanted: string, value: unknown): never {
  throw new MlxError(
    'ERR_MLX_CONFIG',
    `${key} of ${where} must be ${wanted}, got ${JSON.stringify(value) ?? String(value)}`,
  );
}

/** The addon's options of a request, checked. */
export function resolveRequest(
  { stop, n, topLogprobs, responseFormat, formatAfterThinking, logitsProcessors, onProgress }: RequestOptions,
  where: string,
): Pick<NativeGenerateOptions, 'stop' | 'n' | 'topLogprobs' | 'responseFormat' | 'formatAfterThinking' | 'processed'> {
  const strings = typeof stop === 'string' ? [stop] : stop;
  if (strings !== undefined && !(Array.isArray(strings) && strings.every((s) => typeof s === 'string' && s !== '')))
    refuse('stop', where, 'a text or a list of texts, none of them empty', stop);
  if (n !== undefined && !isWhole(n, 1)) refuse('n', where, 'a whole number from 1', n);
  if (topLogprobs !== undefined && !isWhole(topLogprobs, 0))
    refuse('topLogprobs', where, 'a whole number from 0', topLogprobs);
  if (formatAfterThinking !== undefined && typeof formatAfterThinking !== 'boolean')
    refuse('formatAfterThinking', where, 'true or false', formatAfterThinking);
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
    ...(responseFormat === undefined ? {} : { responseFormat: JSON.stringify(responseFormat) ?? 'null' }),
    ...(formatAfterThinking === undefined ? {} : { formatAfterThinking }),
    ...(logitsProcessors === undefined || logitsProcessors.length === 0 ? {} : { processed: true }),
  };
}

/** The addon's limits, checked. */
export function resolveLimits(limits: NativeEngineOptions, where: string): NativeEngineOptions {
  const given = Object.entries(limits).filter(([, value]) => value !== undefined);
  for (const [key, value] of given) if (!isWhole(value, 1)) refuse(key, where, 'a whole number from 1', value);
  return Object.fromEntries(given);
}

const kvBits: readonly unknown[] = [2, 3, 4, 5, 6, 8];
const kvGroupSizes: readonly unknown[] = [32, 64, 128];

/** The addon's options of caches, checked; nothing where none are given. */
export function resolveCache(options: KvCacheOptions, where: string): Pick<NativeEngineOptions, 'cache'> {
  const given = Object.fromEntries(
    kvCacheKeys.map((key) => [key, options[key]] as const).filter(([, value]) => value !== undefined),
  ) as KvCacheOptions;
  const { maxKvSize, keep, quantizedKvStart } = given;
  if (maxKvSize !== undefined && !isWhole(maxKvSize, 1)) refuse('maxKvSize', where, 'a whole number from 1', maxKvSize);
  if (keep !== undefined && maxKvSize === undefined)
    throw new MlxError('ERR_MLX_CONFIG', `keep of ${where} belongs to a bounded cache: give maxKvSize too`);
  if (keep !== undefined && !(isWhole(keep, 0) && keep < maxKvSize!))
    refuse('keep', where, `a whole number from 0, below maxKvSize (${maxKvSize})`, keep);
  if (given.kvBits !== undefined && !kvBits.includes(given.kvBits))
    refuse('kvBits', where, `one of ${kvBits.join(', ')}`, given.kvBits);
  if (given.kvGroupSize !== undefined && !kvGroupSizes.includes(given.kvGroupSize))
    refuse('kvGroupSize', where, `one of ${kvGroupSizes.join(', ')}`, given.kvGroupSize);
  if (quantizedKvStart !== undefined && !isWhole(quantizedKvStart, 0))
    refuse('quantizedKvStart', where, 'a whole number from 0', quantizedKvStart);
  return Object.keys(given).length === 0 ? {} : { cache: given };
}

/** The cache of prefixes that an engine is told to use. */
export function resolvePrefixCache(
  prefixCache: boolean | PrefixCacheOptions | PrefixCache | undefined,
  where: string,
): PrefixCache | undefined {
  if (prefixCache === undefined || prefixCache === false) return undefined;
  if (prefixCache instanceof PrefixCache) return prefixCache;
  if (prefixCache === true) return new PrefixCache();
  if (typeof prefixCache !== 'object' || prefixCache === null)
    refuse('prefixCache', where, 'true, false, options or a PrefixCache', prefixCache);
  rejectUnknownKeys(prefixCache, ['maxEntries', 'maxBytes'], `prefixCache of ${where}`);
  return new PrefixCache(prefixCache);
}

/** Checks what an answer of its own begins with. */
export function checkCaching(
  { promptCache, prefixCache, maxKvSize, keep }: CachingOptions & KvCacheOptions,
  where: string,
): void {
  if (prefixCache !== undefined && !(prefixCache instanceof PrefixCache))
    throw new MlxError(
      'ERR_MLX_CONFIG',
      `prefixCache of ${where} must be a PrefixCache, which outlives one answer; true belongs to an Engine`,
    );
  if (promptCache === undefined) return;
  const bound = maxKvSize === undefined ? (keep === undefined ? undefined : 'keep') : 'maxKvSize';
  if (bound !== undefined)
    throw new MlxError(
      'ERR_MLX_CONFIG',
      `${bound} of ${where} cannot be given beside promptCache: that cache is bounded or not; see makePromptCache(model, { maxKvSize })`,
    );
}

/** The addon's options of speculative decoding and the draft model, checked. */
export function resolveSpeculation(
  { draftModel, promptLookup, numDraftTokens, fastForward }: SpeculationOptions,
  where: string,
): { limits: NativeEngineOptions; draft: NativeModel | undefined } {
  if (draftModel !== undefined && promptLookup !== undefined && promptLookup !== false) {
    throw new MlxError('ERR_MLX_CONFIG', `${where} takes guesses from draftModel or from promptLookup, not from both`);
  }
  const handle: unknown = (draftModel as { handle?: unknown } | null | undefined)?.handle;
  if (draftModel !== undefined && typeof handle !== 'object')
    refuse('draftModel', where, 'a loaded model', typeof draftModel);
  const lookup = promptLookup === true ? {} : promptLookup === false ? undefined : promptLookup;
  if (lookup !== undefined && (typeof lookup !== 'object' || lookup === null))
    refuse('promptLookup', where, 'true, false or an object', promptLookup);
  if (lookup !== undefined) rejectUnknownKeys(lookup, ['maxNgramSize', 'minNgramSize'], `promptLookup of ${where}`);
  if (fastForward !== undefined && typeof fastForward !== 'boolean')
    refuse('fastForward', where, 'true or false', fastForward);
  const sizes = resolveLimits({ ...lookup } as NativeEngineOptions, `promptLookup of ${where}`);
  return {
    limits: {
      ...resolveLimits({ numDraftTokens }, where),
      ...(lookup === undefined ? {} : { promptLookup: sizes as NativeEngineOptions['promptLookup'] }),
      ...(fastForward === true ? { fastForward } : {}),
    },
    draft: handle as NativeModel | undefined,
  };
}
