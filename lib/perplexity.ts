import { MlxError } from './errors.js';
import { buildInfo } from './memory.js';
import type { LanguageModel } from './model.js';
import { rejectUnknownKeys } from './options.js';
import { withSignal } from './signal.js';

/** Options of {@link perplexity}. */
export interface PerplexityOptions {
  /** Tokens that the text is cut into; each piece is read by itself. Default 512. */
  sequenceLength?: number;
  /** Pieces that are read together. Default 8 on a GPU and 1 on the CPU, where more are no faster. */
  batchSize?: number;
  /** The most pieces, from the beginning. Default: all. */
  numSamples?: number;
  onProgress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** How well a model foretells a text. */
export interface PerplexityResult {
  /** e to the mean of the tokens' negative log-probs. */
  perplexity: number;
  /** Of the perplexity, by the delta method, as mlx-lm reports it. */
  standardError: number;
  /** Mean negative log-prob of a token, in nats. */
  loss: number;
  /** Tokens that were foretold: all but the first of each piece. */
  tokens: number;
}

const keys = ['sequenceLength', 'batchSize', 'numSamples', 'onProgress', 'signal'] as const;

function whole(name: string, value: number, least: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new MlxError('ERR_MLX_CONFIG', `perplexity(): ${name} must be a whole number from ${least}, got ${value}`);
}

/**
 * The perplexity of a text, or of token ids, in pieces of `sequenceLength` tokens, as `mlx_lm.perplexity` computes it; a last piece that
 * is shorter counts too. The same text before and after quantising tells what that costs.
 *
 * @example
 * const { perplexity: before } = await perplexity(model, text);
 * await model.quantize({ bits: 4 });
 * const { perplexity: after } = await perplexity(model, text);
 */
export async function perplexity(
  model: LanguageModel,
  text: string | readonly number[],
  options: PerplexityOptions = {},
): Promise<PerplexityResult> {
  rejectUnknownKeys(options, keys, 'perplexity()');
  const { onProgress, signal } = options;
  const length = whole('sequenceLength', options.sequenceLength ?? 512, 2);
  const batchSize = whole('batchSize', options.batchSize ?? (buildInfo().device === 'gpu' ? 8 : 1), 1);
  const most = whole('numSamples', options.numSamples ?? Number.MAX_SAFE_INTEGER, 1);
  const ids = typeof text === 'string' ? model.tokenizer.encode(text) : text;
  const pieces: number[][] = [];
  for (let at = 0; at + 1 < ids.length && pieces.length < most; at += length) pieces.push(ids.slice(at, at + length));
  if (pieces.length === 0)
    throw new MlxError('ERR_MLX_ARGUMENT', `perplexity(): the text has ${ids.length} tokens; at least 2 are needed`);
  const handle = model.handle;
  const scores = await withSignal(signal, (cancel) =>
    handle.tokenLogprobs(
      pieces,
      batchSize,
      cancel,
      onProgress === undefined ? undefined : (done, total) => onProgress({ done, total }),
    ),
  );
  let [tokens, sum, squares] = [0, 0, 0];
  for (const row of scores) {
    for (const logprob of row) {
      tokens += 1;
      sum -= logprob;
      squares += logprob * logprob;
    }
  }
  const loss = sum / tokens;
  const variance = tokens > 1 ? Math.max(0, (squares - tokens * loss * loss) / (tokens - 1)) : 0;
  const value = Math.exp(loss);
  return { perplexity: value, standardError: value * Math.sqrt(variance / tokens), loss, tokens };
}
