import { alone } from './array/convert.js';
import { MxArray, wrap } from './array/core.js';
import { keep, tidy } from './array/tidy.js';
import { nativeCaches } from './cache/base.js';
import type { LayerCache } from './cache/base.js';
import type { KvCacheOptions, PrefixCache, PrefixCacheOptions } from './cache/prompt.js';
import { guard, MlxError, wrapNativeError } from './errors.js';
import type { LanguageModel, Prompt } from './model.js';
import type {
  ArrayHandle,
  EngineEvents,
  EngineStats,
  NativeCache,
  NativeEngine,
  NativeGenerateOptions,
  UnprocessedLogits,
} from './native-types.js';
import { rejectUnknownKeys } from './options.js';
import {
  kvCacheKeys,
  resolveCache,
  resolveLimits,
  resolvePrefixCache,
  resolveSpeculation,
  speculationKeys,
} from './request-options.js';
import type { BatchLimits, CachingOptions, RequestOptions, SpeculationOptions } from './request-options.js';
import type { GenerateOptions } from './sampling.js';
import { GenerateStream, summarize } from './stream.js';
import type { GenerateChunk, GenerateResult, Totals } from './stream.js';
import type { Tokenizer } from './tokenizer.js';

/** How much an engine takes on at a time, and what its caches remember: the same for all its requests. */
export interface EngineOptions extends BatchLimits, SpeculationOptions, KvCacheOptions {
  /** The most answers that are decoded together; further requests wait. Default 32. */
  maxBatchSize?: number;
  /** The most prompts that are read together. Default 8. */
  prefillBatchSize?: number;
  /**
   * Prompts that begin like an earlier prompt and its answer are not read again. True keeps the 10 that were used last; options say how many
   * and how many bytes; a {@link PrefixCache} may be shared with other engines. Answers are as without it.
   */
  prefixCache?: boolean | PrefixCacheOptions | PrefixCache;
}

const engineKeys = [
  'maxBatchSize',
  'prefillBatchSize',
  'prefillStepSize',
  'prefixCache',
  ...speculationKeys,
  ...kvCacheKeys,
];
const engineOnly: ReadonlySet<string> = new Set(['prefillStepSize', 'prefixCache', ...speculationKeys, ...kvCacheKeys]);

/** Options of one request. */
export type SubmitOptions = Omit<
  GenerateOptions,
  keyof BatchLimits | keyof SpeculationOptions | keyof KvCacheOptions | keyof CachingOptions
>;

/** Caches that answers go on from at this moment. */
const inUse = new WeakSet<LayerCache>();

/** Takes the caches that a prompt goes on from until the answer has ended. */
function claim(caches: readonly LayerCache[]): NativeCache[] {
  const natives = nativeCaches(caches, 'promptCache');
  if (caches.some((cache) => inUse.has(cache)))
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      'another answer goes on from this promptCache; wait for it, or copy the caches: cache.map((layer) => layer.copy())',
    );
  caches.forEach((cache) => inUse.add(cache));
  return natives;
}

/** A request under way: its chunks until somebody reads them, and how it ended. */
class Answer {
  readonly #chunks: GenerateChunk[] = [];
  #end: { totals: Totals } | { error: unknown } | undefined;
  #wake: (() => void) | undefined;

  constructor(
    readonly options: RequestOptions & Pick<CachingOptions, 'promptCache'> & { signal?: AbortSignal },
    /** Ends the native request. */
    readonly cancel: () => void,
  ) {}

  push(chunk: GenerateChunk): void {
    this.#chunks.push(chunk);
    this.#wake?.();
  }

  finish(totals: Totals): void {
    this.#end ??= { totals };
    this.#wake?.();
  }

  /** What has not been read by then is lost. */
  fail(error: unknown): void {
    this.#end ??= { error };
    this.#chunks.length = 0;
    this.#wake?.();
  }

  async *read(): AsyncGenerator<GenerateChunk, Totals, undefined> {
    try {
      for (;;) {
        for (let chunk = this.#chunks.shift(); chunk !== undefined; chunk = this.#chunks.shift()) yield chunk;
        if (this.#end !== undefined) {
          if ('error' in this.#end) throw this.#end.error;
          return this.#end.totals;
        }
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      if (this.#end === undefined) {
        this.fail(new MlxError('ERR_MLX_CANCELLED', 'cancelled'));
        this.cancel();
      }
    }
  }
}

/**
 * The requests of one native engine. It calls the addon as long as there are any, so that an idle engine costs nothing and holds
 * nobody up.
 */
export class EngineCore {
  readonly #native: NativeEngine;
  readonly #tokenizer: Tokenizer | null;
  readonly #speculates: boolean;
  readonly #answers = new Map<number, Answer>();
  /** Requests whose formats are being compiled. */
  readonly #preparing = new Set<Answer>();
  /** Something was cancelled that the addon has not freed yet. */
  #untidy = false;
  #pumping = false;
  #closed = false;

  constructor(native: NativeEngine, tokenizer: Tokenizer | null, speculates: boolean) {
    this.#native = native;
    this.#tokenizer = tokenizer;
    this.#speculates = speculates;
  }

  get stats(): EngineStats {
    const stats = this.#native.stats();
    return { ...stats, waiting: stats.waiting + this.#preparing.size };
  }

  submit(ids: number[], native: NativeGenerateOptions, options: Answer['options']): Answer {
    if (this.#closed) throw new MlxError('ERR_MLX_DISPOSED', 'this engine has been closed; make another one');
    const { signal, promptCache } = options;
    const caches = promptCache === undefined ? undefined : claim(promptCache);
    const onAbort = (): void => {
      answer.fail(signal!.reason);
      answer.cancel();
    };
    let request: number | undefined;
    const answer = new Answer(options, () => {
      if (request === undefined) this.#leave(answer);
      else if (this.#forget(request)) {
        this.#native.cancel(request);
        this.#untidy = true;
        void this.#pump();
      }
    });
    const enter = (): void => {
      request = guard(() => this.#native.submit(ids, native, this.#tokenizer?.handle, caches));
      this.#answers.set(request, answer);
      void this.#pump();
    };
    this.#release.set(answer, () => {
      signal?.removeEventListener('abort', onAbort);
      promptCache?.forEach((cache) => inUse.delete(cache));
    });
    if (native.responseFormat !== undefined && this.#tokenizer !== null) {
      void this.#enterPrepared(answer, this.#tokenizer.prepareNative(native.responseFormat), enter);
    } else {
      try {
        enter();
      } catch (error) {
        this.#leave(answer);
        throw error;
      }
    }
    signal?.addEventListener('abort', onAbort, { once: true });
    return answer;
  }

  /** Lets a request in when its format has been compiled, unless it has ended before. */
  async #enterPrepared(answer: Answer, prepared: Promise<void>, enter: () => void): Promise<void> {
    this.#preparing.add(answer);
    try {
      await prepared;
      if (this.#preparing.delete(answer)) enter();
    } catch (error) {
      this.#leave(answer);
      answer.fail(error);
    }
  }

  readonly #release = new Map<Answer, () => void>();

  #leave(answer: Answer): void {
    this.#preparing.delete(answer);
    this.#release.get(answer)?.();
    this.#release.delete(answer);
  }

  #forget(request: number): boolean {
    const answer = this.#answers.get(request);
    if (answer !== undefined) this.#leave(answer);
    return this.#answers.delete(request);
  }

  /** Ends what runs and frees the cache. */
  close(): void {
    this.#closed = true;
    const closed = new MlxError('ERR_MLX_CANCELLED', 'the engine has been closed');
    this.#failAll(closed);
    for (const answer of this.#preparing) {
      this.#leave(answer);
      answer.fail(closed);
    }
    this.#native.close();
  }

  #failAll(error: unknown): void {
    for (const [request, answer] of this.#answers) {
      this.#forget(request);
      answer.fail(error);
    }
  }

  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    let rows: number[] | undefined;
    let logits: MxArray[] | undefined;
    try {
      while ((this.#answers.size > 0 || this.#untidy) && !this.#closed) {
        this.#untidy = false;
        const step = this.#native.next(rows, logits?.map(alone));
        logits?.forEach((array) => array.dispose());
        rows = logits = undefined;
        const events = await step;
        this.#deliver(events);
        if (events.unprocessed.length > 0) [rows, logits] = this.#process(events.unprocessed);
      }
    } catch (error) {
      this.#failAll(wrapNativeError(error));
    } finally {
      this.#pumping = false;
    }
  }

  #deliver({ prefills, tokens, finished, failed }: EngineEvents): void {
    for (const { request, processed, total } of prefills) {
      const answer = this.#answers.get(request);
      try {
        answer?.options.onProgress?.({ processed, total });
      } catch (error) {
        this.#fail(request, error);
      }
    }
    for (const { request, sample, token, logprob, topLogprobs, text, finishReason } of tokens) {
      this.#answers.get(request)?.push({
        index: sample,
        text,
        tokens: [token],
        logprobs: [logprob],
        ...(topLogprobs === undefined ? {} : { topLogprobs: [topLogprobs] }),
        finishReason: finishReason ?? null,
      });
    }
    for (const {
      request,
      promptTokens,
      cachedTokens,
      generatedTokens,
      promptMs,
      decodeMs,
      draftTokens,
      acceptedTokens,
      plainTokens,
      caches,
    } of finished) {
      const answer = this.#answers.get(request);
      const { promptCache } = answer?.options ?? {};
      if (promptCache !== undefined && caches?.length !== promptCache.length)
        answer?.fail(new MlxError('ERR_MLX_INTERNAL', 'the caches that the answer went on from did not come back'));
      else promptCache?.forEach((cache, layer) => cache.native.becomeOther(caches![layer]!));
      this.#forget(request);
      const acceptanceRate = draftTokens > 0 ? acceptedTokens / draftTokens : 0;
      answer?.finish({
        ...summarize(promptTokens, cachedTokens, generatedTokens, promptMs, decodeMs),
        ...(this.#speculates ? { speculation: { draftTokens, acceptedTokens, acceptanceRate, plainTokens } } : {}),
      });
    }
    for (const { request, code, message } of failed) {
      const answer = this.#answers.get(request);
      this.#forget(request);
      answer?.fail(new MlxError(code, message));
    }
  }

  #fail(request: number, error: unknown): void {
    const answer = this.#answers.get(request);
    answer?.fail(error);
    answer?.cancel();
  }

  /** What the requests' processors make of their logits. One that throws ends its request. */
  #process(unprocessed: readonly UnprocessedLogits[]): [number[], MxArray[]] {
    const rows: number[] = [];
    const processed: MxArray[] = [];
    for (const { row, request, tokens, logits } of unprocessed) {
      const input = wrap(logits as ArrayHandle);
      const processors = this.#answers.get(request)?.options.logitsProcessors;
      try {
        if (processors === undefined) continue;
        const output = tidy(() =>
          keep(processors.reduce((array, processor) => applied(processor, tokens, array), input)),
        );
        rows.push(row);
        processed.push(output);
      } catch (error) {
        this.#fail(request, error);
      } finally {
        if (!processed.includes(input)) input.dispose();
      }
    }
    return [rows, processed];
  }
}

function applied(
  processor: (tokens: number[], logits: MxArray) => MxArray,
  tokens: number[],
  logits: MxArray,
): MxArray {
  const output: unknown = processor([...tokens], logits);
  if (output instanceof MxArray) return output;
  const kind = output instanceof Promise ? 'a promise' : output === null ? 'null' : typeof output;
  throw new MlxError('ERR_MLX_ARGUMENT', `a logits processor must return an array of logits, not ${kind}`);
}

/**
 * One request of an {@link Engine}: iterate it for the chunks, or await it for the whole answer. It runs whether or not anybody reads;
 * leaving the loop early ends it.
 */
export class EngineRequest extends GenerateStream implements PromiseLike<GenerateResult> {
  readonly #answer: Answer;
  #collected: Promise<GenerateResult> | undefined;

  /** @internal Use `engine.submit(…)`. */
  constructor(answer: Answer, signal: AbortSignal | undefined) {
    super(() => answer.read(), signal);
    this.#answer = answer;
  }

  /** Ends the request within one token; whoever reads it gets ERR_MLX_CANCELLED. */
  cancel(): void {
    this.#answer.fail(new MlxError('ERR_MLX_CANCELLED', 'the request has been cancelled'));
    this.#answer.cancel();
  }

  // oxlint-disable-next-line unicorn/no-thenable -- awaiting a request for its result is the point
  then<A = GenerateResult, B = never>(
    onFulfilled?: ((value: GenerateResult) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): PromiseLike<A | B> {
    this.#collected ??= this.collect();
    return this.#collected.then(onFulfilled, onRejected);
  }
}

/**
 * Decodes the requests of many callers in one batch: they join and leave it at any step, wait in a queue when it is full, and what goes
 * wrong with one does not harm the others. An answer is the same as alone.
 *
 * @example
 * using engine = new Engine(model, { maxBatchSize: 16 });
 * const answers = await Promise.all(questions.map((question) => engine.submit(question, { maxTokens: 100 })));
 */
export class Engine {
  readonly #model: LanguageModel;
  readonly #core: EngineCore;
  /** What knows the beginnings of prompts, where there is such a cache. */
  readonly prefixCache: PrefixCache | undefined;

  constructor(model: LanguageModel, options: EngineOptions = {}) {
    rejectUnknownKeys(options, engineKeys, 'Engine');
    this.#model = model;
    const { maxBatchSize, prefillBatchSize, prefillStepSize } = options;
    const { limits, draft } = resolveSpeculation(options, 'Engine');
    const sizes = resolveLimits({ maxBatchSize, prefillBatchSize, prefillStepSize }, 'Engine');
    this.prefixCache = resolvePrefixCache(options.prefixCache, 'Engine');
    this.#core = model.startEngine(
      { ...sizes, ...limits, ...resolveCache(options, 'Engine') },
      draft,
      this.prefixCache,
    );
  }

  /** Puts a request at the end of the queue. */
  submit(prompt: Prompt, options: SubmitOptions = {}): EngineRequest {
    const misplaced = Object.keys(options).find((key) => engineOnly.has(key));
    if (misplaced !== undefined)
      throw new MlxError('ERR_MLX_CONFIG', `${misplaced} is an option of the engine, not of a request`);
    if ('promptCache' in options)
      throw new MlxError(
        'ERR_MLX_CONFIG',
        'promptCache is an option of generate() and stream(): requests of an engine share a batch',
      );
    options.signal?.throwIfAborted();
    const { ids, sampling } = this.#model.request(prompt, options, 'submit()');
    return new EngineRequest(this.#core.submit(ids, sampling, options), options.signal);
  }

  /** Requests that wait, are read and are decoded, and tokens, steps and times so far. */
  stats(): EngineStats {
    return this.#core.stats;
  }

  /** Ends all requests with ERR_MLX_CANCELLED and frees the cache. Safe to call twice. */
  close(): void {
    this.#core.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
