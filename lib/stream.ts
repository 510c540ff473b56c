import { guard, wrapNativeError } from './errors.js';
import type { FinishReason, NativeGeneration } from './native-types.js';
import { withSignal } from './signal.js';
import type { Tokenizer } from './tokenizer.js';

export interface Usage {
  promptTokens: number;
  completionTokens: number;
}

/** Wall time in milliseconds and the speeds that follow from it, in tokens a second. */
export interface Timings {
  promptMs: number;
  decodeMs: number;
  promptTokensPerSecond: number;
  decodeTokensPerSecond: number;
}

export interface GenerateResult {
  text: string;
  /** Generated ids, with the end-of-text token when one ended the answer. */
  tokens: number[];
  /** Log-probability of each token under softmax(logits / temperature), before top-k, top-p and min-p. */
  logprobs: number[];
  finishReason: FinishReason;
  usage: Usage;
  timings: Timings;
}

/** What one step of the stream brings: whole characters of text and the tokens decoded since the last step. */
export interface GenerateChunk {
  text: string;
  tokens: number[];
  logprobs: number[];
  /** Set on the last chunk only. */
  finishReason: FinishReason | null;
}

const perSecond = (tokens: number, ms: number): number => (ms > 0 ? (tokens * 1000) / ms : 0);

/** Usage and speeds of `promptTokens` prefilled and `completionTokens` decoded tokens. */
export function summarize(
  promptTokens: number,
  completionTokens: number,
  promptMs: number,
  decodeMs: number,
): { usage: Usage; timings: Timings } {
  return {
    usage: { promptTokens, completionTokens },
    timings: {
      promptMs,
      decodeMs,
      promptTokensPerSecond: perSecond(promptTokens, promptMs),
      decodeTokensPerSecond: perSecond(completionTokens, decodeMs),
    },
  };
}

/**
 * An answer while it is being generated. Iterate it once; leaving the loop early (`break`, an exception, an abort) stops the native
 * work within one token and frees its cache. After the loop, `result` holds the whole answer.
 */
export class GenerateStream implements AsyncIterable<GenerateChunk> {
  readonly #start: () => NativeGeneration;
  readonly #tokenizer: Tokenizer | null;
  readonly #signal: AbortSignal | undefined;
  #started = false;
  #result: GenerateResult | null = null;

  /** @internal Use `model.stream(…)`. */
  constructor(start: () => NativeGeneration, tokenizer: Tokenizer | null, signal: AbortSignal | undefined) {
    this.#start = start;
    this.#tokenizer = tokenizer;
    this.#signal = signal;
  }

  /** The whole answer once the stream has ended by itself, else null. */
  get result(): GenerateResult | null {
    return this.#result;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerateChunk, void, undefined> {
    if (this.#started) throw new TypeError('a generation stream can be iterated once; call stream() again');
    this.#started = true;
    this.#signal?.throwIfAborted();
    const generation = guard(this.#start);
    try {
      const decoder = this.#tokenizer?.decodeStream();
      const tokens: number[] = [];
      const logprobs: number[] = [];
      let text = '';
      for (;;) {
        const part = await withSignal(this.#signal, (cancel) => generation.next(cancel));
        let piece = '';
        for (const token of part.tokens) piece += decoder?.push(token) ?? '';
        const finishReason = part.finishReason ?? null;
        if (finishReason !== null) piece += decoder?.finish() ?? '';
        tokens.push(...part.tokens);
        logprobs.push(...part.logprobs);
        text += piece;
        if (finishReason !== null) {
          const stats = generation.stats();
          const totals = summarize(stats.promptTokens, tokens.length, stats.promptMs, stats.decodeMs);
          this.#result = { text, tokens, logprobs, finishReason, ...totals };
        }
        yield { text: piece, tokens: part.tokens, logprobs: part.logprobs, finishReason };
        if (finishReason !== null) return;
        this.#signal?.throwIfAborted();
      }
    } catch (error) {
      throw wrapNativeError(error);
    } finally {
      generation.close();
    }
  }

  /** Runs to the end and returns the whole answer. */
  async collect(): Promise<GenerateResult> {
    for await (const chunk of this) void chunk;
    return this.#result!;
  }
}
