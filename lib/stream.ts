import { MlxError, wrapNativeError } from './errors.js';
import type { FinishReason, TokenLogprob } from './native-types.js';

export interface Usage {
  promptTokens: number;
  /** Tokens of the prompt that a prefix cache had read before; OpenAI's `prompt_tokens_details.cached_tokens`. */
  cachedTokens: number;
  completionTokens: number;
}

/** Wall time in milliseconds and the speeds that follow from it, in tokens a second. */
export interface Timings {
  promptMs: number;
  decodeMs: number;
  promptTokensPerSecond: number;
  decodeTokensPerSecond: number;
}

/** How speculative decoding went. */
export interface Speculation {
  draftTokens: number;
  acceptedTokens: number;
  /** Of the guesses, from 0 to 1; 0 where there were none. */
  acceptanceRate: number;
  /** Tokens for which nothing was guessed, because a cache bounded by `maxKvSize` was full and could not have taken wrong guesses back. */
  plainTokens: number;
}

/** One answer. */
export interface Completion {
  text: string;
  /** Generated ids, with the end-of-text token when one ended the answer, and with those of a stop string. */
  tokens: number[];
  /** Log-probability of each token under softmax(logits / temperature), before top-k, top-p and min-p. */
  logprobs: number[];
  /** With `topLogprobs`: the likeliest tokens at each place, the best first. */
  topLogprobs?: TokenLogprob[][];
  finishReason: FinishReason;
}

/** The first answer, all of them, and what they took. */
export interface GenerateResult extends Completion {
  /** As many as `n`. */
  completions: Completion[];
  usage: Usage;
  timings: Timings;
  /** With `draftModel`, `promptLookup` or `fastForward`. */
  speculation?: Speculation;
}

/** What one step of the stream brings: whole characters of text and the tokens decoded since the last step. */
export interface GenerateChunk {
  /** Which of the `n` answers. */
  index: number;
  text: string;
  tokens: number[];
  logprobs: number[];
  /** With `topLogprobs`. */
  topLogprobs?: TokenLogprob[][];
  /** Set on the last chunk of an answer only. */
  finishReason: FinishReason | null;
}

/** What comes after the last chunk. */
export type Totals = Pick<GenerateResult, 'usage' | 'timings' | 'speculation'>;

const perSecond = (tokens: number, ms: number): number => (ms > 0 ? (tokens * 1000) / ms : 0);

/** Usage and speeds of `promptTokens` tokens, of which all but `cachedTokens` were read, and `completionTokens` decoded ones. */
export function summarize(
  promptTokens: number,
  cachedTokens: number,
  completionTokens: number,
  promptMs: number,
  decodeMs: number,
): { usage: Usage; timings: Timings } {
  return {
    usage: { promptTokens, cachedTokens, completionTokens },
    timings: {
      promptMs,
      decodeMs,
      promptTokensPerSecond: perSecond(promptTokens - cachedTokens, promptMs),
      decodeTokensPerSecond: perSecond(completionTokens, decodeMs),
    },
  };
}

/** An answer that has not ended. */
type Unfinished = Omit<Completion, 'finishReason'> & { finishReason: FinishReason | null };

/**
 * An answer while it is being generated. Iterate it once; leaving the loop early (`break`, an exception, an abort) stops the native
 * work within one token and frees its cache. After the loop, `result` holds the whole answer.
 */
export class GenerateStream implements AsyncIterable<GenerateChunk> {
  readonly #open: () => AsyncGenerator<GenerateChunk, Totals, undefined>;
  readonly #signal: AbortSignal | undefined;
  #started = false;
  #result: GenerateResult | null = null;

  /** @internal Use `model.stream(…)`. */
  constructor(open: () => AsyncGenerator<GenerateChunk, Totals, undefined>, signal: AbortSignal | undefined) {
    this.#open = open;
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
    const answers: Unfinished[] = [];
    try {
      const chunks = this.#open();
      try {
        for (;;) {
          const { done, value } = await chunks.next();
          if (done === true) {
            this.#result = resultOf(answers, value);
            return;
          }
          add(answers, value);
          yield value;
          this.#signal?.throwIfAborted();
        }
      } finally {
        await chunks.return({} as Totals);
      }
    } catch (error) {
      throw wrapNativeError(error);
    }
  }

  /** Runs to the end and returns the whole answer. */
  async collect(): Promise<GenerateResult> {
    if (this.#result === null) for await (const chunk of this) void chunk;
    return this.#result!;
  }
}

function add(answers: Unfinished[], chunk: GenerateChunk): void {
  const answer = (answers[chunk.index] ??= { text: '', tokens: [], logprobs: [], finishReason: null });
  answer.text += chunk.text;
  answer.tokens.push(...chunk.tokens);
  answer.logprobs.push(...chunk.logprobs);
  if (chunk.topLogprobs !== undefined) (answer.topLogprobs ??= []).push(...chunk.topLogprobs);
  answer.finishReason = chunk.finishReason;
}

function resultOf(answers: Unfinished[], totals: Totals): GenerateResult {
  const completions = answers.map(({ finishReason, ...answer }) => {
    if (finishReason === null) throw new MlxError('ERR_MLX_INTERNAL', 'an answer ended without a reason');
    return { ...answer, finishReason };
  });
  const first = completions[0];
  if (first === undefined) throw new MlxError('ERR_MLX_INTERNAL', 'a generation ended without an answer');
  return { ...first, completions, ...totals };
}
