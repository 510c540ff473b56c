/** The caches of a whole model: made, trimmed, kept in files and found again by their tokens. */
import { known } from '../array/convert.js';
import { guard, MlxError } from '../errors.js';
import { pathOf, reporter } from '../io.js';
import type { FileWorkOptions } from '../io.js';
import { native } from '../native.js';
import type { LanguageModel } from '../model.js';
import type { NativeCache, NativePrefixCache } from '../native-types.js';
import { withSignal } from '../signal.js';
import { nativeCaches } from './base.js';
import type { LayerCache } from './base.js';
import { layerOf } from './kinds.js';

/** One cache per layer of a model. */
export type ModelCache = LayerCache[];

/** What the caches of a model remember. The defaults keep every token as it is. */
export interface KvCacheOptions {
  /** The most slots per layer; beyond them the latest tokens and the first `keep` are seen. */
  maxKvSize?: number;
  /**
   * First tokens that stay in a bounded cache: 4 unless told, or, as in mlx-lm, 0 where rows of different prompts share a batch (`Engine`,
   * `generateBatch()`).
   */
  keep?: number;
  /** Bits per number of keys and values, 4 or 8 most of all; without it they stay as they are. */
  kvBits?: number;
  /** Numbers that share a scale, 32, 64 (default) or 128; it divides the features of a head. */
  kvGroupSize?: number;
  /**
   * Tokens from which on the cache is quantised. 0, the default: from the first on, so that the answer does not depend on how the prompt is
   * divided, nor on other rows. A later one: once the chunk of the prompt that reaches it has been read, as in mlx-lm, whose 0 is 1
   * here; the rows of a batch then change together, when the longest gets there.
   */
  quantizedKvStart?: number;
}

export interface PromptCacheOptions extends KvCacheOptions {
  /** A cache of as many rows, each of which begins with so much padding. */
  leftPadding?: readonly number[];
}

const cacheKeys = ['maxKvSize', 'keep', 'kvBits', 'kvGroupSize', 'quantizedKvStart', 'leftPadding'];

/** Empty caches for a model, one per layer, to pass to `model.forward(ids, { cache })`. */
export function makePromptCache(model: LanguageModel, options?: PromptCacheOptions): ModelCache {
  const { leftPadding, ...rest } = known(options, cacheKeys, 'makePromptCache()');
  const padding = leftPadding === undefined ? null : [...leftPadding];
  return guard(() => model.handle.newCaches(rest, padding)).map(layerOf);
}

/** Whether every layer's cache can be trimmed. */
export function canTrimPromptCache(cache: readonly LayerCache[]): boolean {
  return cache.every((layer) => layer.isTrimmable);
}

/** Forgets the last `n` tokens in every layer; returns how many that were: 0 where a layer cannot be trimmed. */
export function trimPromptCache(cache: readonly LayerCache[], n: number): number {
  if (cache.length === 0 || !canTrimPromptCache(cache)) return 0;
  return cache.map((layer) => layer.trim(n))[0]!;
}

export interface SavePromptCacheOptions extends FileWorkOptions {
  /** Texts to keep beside the cache. */
  metadata?: Record<string, string>;
}

/** Writes caches to a safetensors file that mlx-lm 0.32.2 reads. It holds the slots that are filled; it appears when it is complete. */
export async function savePromptCache(
  path: string | URL,
  cache: readonly LayerCache[],
  options?: SavePromptCacheOptions,
): Promise<void> {
  const {
    metadata = {},
    signal,
    onProgress,
  } = known(options, ['metadata', 'signal', 'onProgress'], 'savePromptCache()');
  const name = pathOf(path);
  const layers = nativeCaches(cache, 'savePromptCache()');
  if (layers.length === 0) throw new MlxError('ERR_MLX_ARGUMENT', 'savePromptCache() needs at least one cache');
  const texts = Object.entries(metadata);
  for (const [key, text] of texts) {
    if (typeof text !== 'string')
      throw new MlxError('ERR_MLX_ARGUMENT', `metadata '${key}' must be a text, not ${typeof text}`);
  }
  const keys = texts.map(([key]) => key);
  const values = texts.map(([, text]) => text);
  await withSignal(signal, (cancel) =>
    native().savePromptCache(name, layers, keys, values, cancel, reporter(onProgress)),
  );
}

/** Caches and the texts beside them. */
export interface LoadedPromptCache {
  cache: ModelCache;
  metadata: Record<string, string>;
}

/** Reads caches that `savePromptCache` or mlx-lm 0.32.2 wrote. */
export async function loadPromptCache(path: string | URL, options?: FileWorkOptions): Promise<LoadedPromptCache> {
  const { signal, onProgress } = known(options, ['signal', 'onProgress'], 'loadPromptCache()');
  const name = pathOf(path);
  const { caches, keys, texts } = await withSignal(signal, (cancel) =>
    native().loadPromptCache(name, cancel, reporter(onProgress)),
  );
  return { cache: caches.map(layerOf), metadata: Object.fromEntries(keys.map((key, i) => [key, texts[i]!])) };
}

export interface PrefixCacheOptions {
  /** The most entries, 10 unless told. */
  maxEntries?: number;
  /** The most bytes of all entries together; no bound unless told. */
  maxBytes?: number;
}

/** Caches that hold the first `cached` tokens of a prompt. */
export interface PrefixHit {
  cache: ModelCache;
  cached: number;
}

/**
 * Caches by the tokens they have read, so that a prompt that begins like an earlier one is not read again. What was used longest ago goes
 * first. With `new Engine(model, { prefixCache })` or `model.generate(prompt, { prefixCache })` prompts are looked up and put in by
 * themselves; what other models, or caches with other options, have put in is then left alone, and what a model has put in is dropped
 * when its weights change. `fetch` and `insert` have entries of their own.
 *
 * A hit shares its buffers with the entry: they are copied when the hit is first appended to, and not before.
 */
export class PrefixCache {
  readonly #native: NativePrefixCache;

  /** @internal */
  get native(): NativePrefixCache {
    return this.#native;
  }

  constructor(options?: PrefixCacheOptions) {
    const { maxEntries, maxBytes } = known(options, ['maxEntries', 'maxBytes'], 'PrefixCache');
    this.#native = guard(() => new (native().NativePrefixCache)(maxEntries, maxBytes));
  }

  /** How many entries there are. */
  get size(): number {
    return this.#native.size;
  }

  /** Bytes of the buffers of all entries. */
  get nbytes(): number {
    return this.#native.nbytes;
  }

  /**
   * Caches that hold as much as possible of the beginning of `tokens` but not the last `leave` of them (1 unless told), which the model is
   * to read; null when nothing is known.
   */
  fetch(tokens: readonly number[], options?: { leave?: number }): PrefixHit | null {
    const { leave = 1 } = known(options, ['leave'], 'fetch()');
    const hit = guard(() => this.#native.fetch([...tokens], leave));
    return hit === null || hit === undefined ? null : { cache: hit.caches.map(layerOf), cached: hit.cached };
  }

  /**
   * Puts in the caches of a model that has read just `tokens`; they are shared, not copied. Returns false if they alone are more bytes than
   * allowed. `segment` says what the tokens end with: answers go before questions, questions before system prompts.
   */
  insert(
    tokens: readonly number[],
    cache: readonly LayerCache[],
    options?: { segment?: 'assistant' | 'user' | 'system' },
  ): boolean {
    const { segment = 'assistant' } = known(options, ['segment'], 'insert()');
    const layers: NativeCache[] = nativeCaches(cache, 'insert()');
    return guard(() => this.#native.insert([...tokens], layers, segment));
  }

  /** Drops entries, those used longest ago first, until no more are left than said. */
  trimTo(options: PrefixCacheOptions): void {
    const { maxEntries, maxBytes } = known(options, ['maxEntries', 'maxBytes'], 'trimTo()');
    guard(() => this.#native.trimTo(maxEntries, maxBytes));
  }

  clear(): void {
    this.#native.clear();
  }
}
