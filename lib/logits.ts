/** Penalties, filters and the draw of the sampler as functions of arrays. */
import { randomInt } from 'node:crypto';
import { operand } from './array/convert.js';
import { MxArray, handleOf, wrap } from './array/core.js';
import type { ArrayLike } from './array/core.js';
import { array } from './array/create.js';
import { guard, MlxError } from './errors.js';
import { native } from './native.js';
import type { ArrayHandle, NativeGenerateOptions } from './native-types.js';
import { rejectUnknownKeys } from './options.js';
import { checkSampling, settingKeys } from './sampling.js';
import type { SamplerSettings } from './sampling.js';

/** One value for all rows of logits, or one for each. */
export type PerRow<T> = T | readonly T[];

/** Tokens of each row, the newest last: an array [B, N] that is negative before the first token of a shorter row, or lists. */
export type TokenHistory = MxArray | readonly (readonly number[])[];

/** {@link SamplerSettings} for one row or several; breakers are ids here. */
type Settings = { [K in keyof SamplerSettings]?: PerRow<NonNullable<SamplerSettings[K]>> };

/** How deep lists are in the value of one row. */
const depths: Partial<Record<string, number>> = { xtcSpecialTokens: 1, drySequenceBreakers: 1, badWordsIds: 2 };

const depth = (value: unknown): number => (Array.isArray(value) ? 1 + Math.max(0, ...value.slice(0, 1).map(depth)) : 0);

const isPerRow = (key: string, value: unknown): value is readonly unknown[] =>
  Array.isArray(value) && depth(value) > (depths[key] ?? 0);

/** One set of options, or one per row where any value is a list. */
function rowsOf(settings: object, where: string): NativeGenerateOptions[] {
  const entries = Object.entries(settings).filter(([, value]) => value !== undefined);
  const lengths = entries.flatMap(([key, value]) => (isPerRow(key, value) ? [value.length] : []));
  const count = lengths[0] ?? 1;
  if (lengths.some((length) => length !== count) || count === 0)
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `${where} needs lists of equal lengths, got ${lengths.join(' and ')} values`,
    );
  return Array.from({ length: count }, (_, row) => {
    const own = Object.fromEntries(
      entries.map(([key, value]) => [key, isPerRow(key, value) ? value[row] : (value as unknown)]),
    );
    for (const [key, value] of Object.entries(own)) checkSampling(key as keyof SamplerSettings, value, where);
    return own as NativeGenerateOptions;
  });
}

function historyHandle(history: TokenHistory): ArrayHandle {
  if (history instanceof MxArray) return handleOf(history);
  const width = Math.max(0, ...history.map((row) => row.length));
  const rows = history.map((row) => [...Array<number>(width - row.length).fill(-1), ...row]);
  return handleOf(width === 0 ? array(new Int32Array(0), 'int32').reshape([rows.length, 0]) : array(rows, 'int32'));
}

const addon = native().sampling;

function process(logits: ArrayLike, history: TokenHistory | null, settings: Settings, where: string): MxArray {
  return guard(() =>
    wrap(
      addon.processLogits(
        operand(logits),
        history === null ? null : historyHandle(history),
        rowsOf(settings, `${where}()`),
      ),
    ),
  );
}

function filter(logits: ArrayLike, settings: Settings, where: string): MxArray {
  return guard(() => wrap(addon.filterLogits(operand(logits), rowsOf(settings, `${where}()`))));
}

/** How far a penalty looks back. */
export interface PenaltyOptions {
  /** The last so many tokens of the history. Default: all of them. */
  contextSize?: PerRow<number>;
}

function windowed(options: PenaltyOptions, where: string): PerRow<number> {
  rejectUnknownKeys(options, ['contextSize'], `${where}()`);
  return options.contextSize ?? 0;
}

/**
 * Logits [B, V] with the tokens of `history` made less likely (or more, below 1): positive logits are divided by the penalty,
 * negative ones multiplied; each token counts once.
 *
 * @example applyRepetitionPenalty(logits, [[1, 2], [7]], 1.3)
 */
export function applyRepetitionPenalty(
  logits: ArrayLike,
  history: TokenHistory,
  penalty: PerRow<number>,
  options: PenaltyOptions = {},
): MxArray {
  const where = 'applyRepetitionPenalty';
  const settings = { repetitionPenalty: penalty, repetitionContextSize: windowed(options, where) };
  return process(logits, history, settings, where);
}

/** Logits [B, V] less the penalty for each token that is in `history`, however often. */
export function applyPresencePenalty(
  logits: ArrayLike,
  history: TokenHistory,
  penalty: PerRow<number>,
  options: PenaltyOptions = {},
): MxArray {
  const where = 'applyPresencePenalty';
  return process(logits, history, { presencePenalty: penalty, presenceContextSize: windowed(options, where) }, where);
}

/** Logits [B, V] less the penalty for each time that a token is in `history`. */
export function applyFrequencyPenalty(
  logits: ArrayLike,
  history: TokenHistory,
  penalty: PerRow<number>,
  options: PenaltyOptions = {},
): MxArray {
  const where = 'applyFrequencyPenalty';
  return process(logits, history, { frequencyPenalty: penalty, frequencyContextSize: windowed(options, where) }, where);
}

/** Logits [.., V] with `bias` added, by token id. */
export function applyLogitBias(logits: ArrayLike, bias: PerRow<Readonly<Record<number, number>>>): MxArray {
  return process(logits, null, { logitBias: bias }, 'applyLogitBias');
}

export interface DryOptions {
  /** 0 is off. */
  multiplier: PerRow<number>;
  /** Default 1.75. */
  base?: PerRow<number>;
  /** Default 2. */
  allowedLength?: PerRow<number>;
  /** Default: the whole history. */
  contextSize?: PerRow<number>;
  /** Token ids; a list, or one list for each row. */
  sequenceBreakers?: PerRow<readonly number[]>;
}

/** Logits [B, V] less DRY's penalty on tokens that would lengthen a repetition: `multiplier * base ** (length - allowedLength)`. */
export function applyDry(logits: ArrayLike, history: TokenHistory, options: DryOptions): MxArray {
  rejectUnknownKeys(options, ['multiplier', 'base', 'allowedLength', 'contextSize', 'sequenceBreakers'], 'applyDry()');
  const settings = {
    dryMultiplier: options.multiplier,
    dryBase: options.base,
    dryAllowedLength: options.allowedLength,
    dryContextSize: options.contextSize,
    drySequenceBreakers: options.sequenceBreakers,
  } as Settings;
  return process(logits, history, settings, 'applyDry');
}

/** Tokens that would complete a sequence of `size` tokens which `history` has already become -inf. */
export function applyNoRepeatNgram(logits: ArrayLike, history: TokenHistory, size: PerRow<number>): MxArray {
  return process(logits, history, { noRepeatNgramSize: size }, 'applyNoRepeatNgram');
}

/** The last token of each sequence becomes -inf where `history` ends with the others. */
export function applyBadWords(
  logits: ArrayLike,
  history: TokenHistory,
  badWordsIds: PerRow<readonly (readonly number[])[]>,
): MxArray {
  return process(logits, history, { badWordsIds }, 'applyBadWords');
}

/** All but the `k` largest logits become -inf; equals of the last one stay. 0 keeps all. */
export function applyTopK(logits: ArrayLike, k: PerRow<number>): MxArray {
  return filter(logits, { topK: k }, 'applyTopK');
}

/** Keeps the likeliest tokens until their mass reaches `p`, and the equals of the last one. 1 keeps all. */
export function applyTopP(logits: ArrayLike, p: PerRow<number>): MxArray {
  return filter(logits, { topP: p }, 'applyTopP');
}

/** Keeps tokens at least `p` times as likely as the likeliest. 0 keeps all. */
export function applyMinP(
  logits: ArrayLike,
  p: PerRow<number>,
  options: { minTokensToKeep?: PerRow<number> } = {},
): MxArray {
  rejectUnknownKeys(options, ['minTokensToKeep'], 'applyMinP()');
  return filter(logits, { minP: p, ...options }, 'applyMinP');
}

/** Keeps the tokens whose surprise is nearest to the entropy until their mass reaches `p`. 1 keeps all. */
export function applyTypicalP(logits: ArrayLike, p: PerRow<number>): MxArray {
  return filter(logits, { typicalP: p }, 'applyTypicalP');
}

/** Keeps logits within `n` standard deviations of the largest. 0 keeps all. */
export function applyTopNSigma(logits: ArrayLike, n: PerRow<number>): MxArray {
  return filter(logits, { topNSigma: n }, 'applyTopNSigma');
}

export interface XtcOptions {
  /** Chance that a row is filtered. Default 1. */
  probability?: PerRow<number>;
  /** Default 0.1. */
  threshold?: PerRow<number>;
  /** Token ids that stay; a list, or one list for each row. */
  specialTokens?: PerRow<readonly number[]>;
  /** Decides which rows are filtered. Default: another one each time. */
  seed?: PerRow<number>;
}

/** Of the tokens above a threshold, removes all but the least likely. */
export function applyXtc(logits: ArrayLike, options: XtcOptions = {}): MxArray {
  rejectUnknownKeys(options, ['probability', 'threshold', 'specialTokens', 'seed'], 'applyXtc()');
  const settings = {
    xtcProbability: options.probability ?? 1,
    xtcThreshold: options.threshold,
    xtcSpecialTokens: options.specialTokens,
    seed: options.seed ?? randomInt(2 ** 32),
  } as Settings;
  return filter(logits, settings, 'applyXtc');
}

export interface TemperatureOptions {
  /** 0 is off. */
  range?: PerRow<number>;
  /** Default 1. */
  exponent?: PerRow<number>;
}

/** Logits divided by the temperature, which follows the entropy within `range` of it where a range is given. */
export function applyTemperature(
  logits: ArrayLike,
  temperature: PerRow<number>,
  options: TemperatureOptions = {},
): MxArray {
  rejectUnknownKeys(options, ['range', 'exponent'], 'applyTemperature()');
  const settings = { temperature, dynatempRange: options.range, dynatempExponent: options.exponent } as Settings;
  return filter(logits, settings, 'applyTemperature');
}

/** Any of {@link SamplerSettings}, each one value or a list of one per row. */
export interface SampleOptions extends Omit<Settings, 'drySequenceBreakers' | 'minTokens'> {
  drySequenceBreakers?: PerRow<readonly number[]>;
  /** Tokens of each row, for penalties. */
  history?: readonly (readonly number[])[];
  /** How many tokens the rows have drawn with their seeds before. Default 0. */
  step?: number;
  /** Return so many of the likeliest tokens, too. Default 0. */
  topLogprobs?: number;
}

export interface Sample {
  /** int32 [B]. */
  tokens: MxArray;
  /** float32 [B]: of the tokens under `logits / temperature` (plain logits where greedy), before penalties and filters. */
  logprobs: MxArray;
  /** int32 [B, topLogprobs], the likeliest first. */
  topTokens?: MxArray;
  /** float32 [B, topLogprobs]. */
  topLogprobs?: MxArray;
}

/**
 * A token for each row of logits [B, V]. Rows of one seed draw different numbers; with lists of seeds row i draws what its seed gives
 * it alone.
 *
 * @example sample(logits, { temperature: [0, 0.7], topP: 0.9, seed: 1 }).tokens
 */
export function sample(logits: ArrayLike, options: SampleOptions = {}): Sample {
  rejectUnknownKeys(
    options,
    [...settingKeys.filter((key) => key !== 'minTokens'), 'history', 'step', 'topLogprobs'],
    'sample()',
  );
  const { history = [], step = 0, topLogprobs = 0, ...settings } = options;
  return guard(() => {
    const handle = operand(logits);
    const seed = settings.seed ?? randomInt(2 ** 32);
    const rows = rowsOf({ ...settings, seed }, 'sample()').map((row, i) => ({
      ...row,
      row: Array.isArray(seed) ? 0 : i,
      topLogprobs,
    }));
    const sampled = addon.sampleLogits(
      handle,
      history.map((row) => [...row]),
      step,
      rows,
    );
    return {
      tokens: wrap(sampled.tokens),
      logprobs: wrap(sampled.logprobs),
      ...(sampled.topIds == null ? {} : { topTokens: wrap(sampled.topIds), topLogprobs: wrap(sampled.topLogprobs!) }),
    };
  });
}
