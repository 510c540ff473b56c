import { randomInt } from 'node:crypto';
import { MlxError } from './errors.js';
import type { NativeGenerateOptions } from './native-types.js';
import { rejectUnknownKeys } from './options.js';
import type { KvCacheOptions } from './cache/prompt.js';
import { cachingKeys, kvCacheKeys, requestKeys, speculationKeys } from './request-options.js';
import type { BatchLimits, CachingOptions, RequestOptions, SpeculationOptions } from './request-options.js';
import type { ChatTemplateOptions, Tokenizer } from './tokenizer.js';

/**
 * How each token is chosen. A context size says how many of the last tokens, the prompt's included, a penalty looks at; 0 and
 * `Infinity` are all of them.
 */
export interface SamplerSettings {
  /** 0 takes the likeliest token, whatever the filters say. */
  temperature?: number;
  /** Keep this many of the likeliest tokens; 0 is off. */
  topK?: number;
  /** Keep the likeliest tokens up to this mass; 1 is off. */
  topP?: number;
  /** Keep tokens at least this share as likely as the likeliest; 0 is off. */
  minP?: number;
  /** So many of the likeliest tokens stay whatever `minP` says. Default 1. */
  minTokensToKeep?: number;
  /** Chance that XTC ("exclude top choices") acts on a token; 0 is off. */
  xtcProbability?: number;
  /** XTC removes the tokens above this probability but for the least likely of them; from 0 to 0.5. Default 0.1. */
  xtcThreshold?: number;
  /** Tokens that XTC never removes. Default: end-of-text tokens and the newline. */
  xtcSpecialTokens?: readonly number[];
  /** Keep the tokens whose surprise is nearest to the entropy, up to this mass; 1 is off. */
  typicalP?: number;
  /** Keep logits within so many standard deviations of the largest; 0 is off. */
  topNSigma?: number;
  /** The temperature follows the entropy from `temperature - dynatempRange` to `temperature + dynatempRange`; 0 is off. */
  dynatempRange?: number;
  /** Power of the normalised entropy in that. Default 1. */
  dynatempExponent?: number;
  /**
   * `'hf'`, the default: temperature, topNSigma, topK, topP, minP, typicalP, XTC, as transformers. `'mlx'`: topNSigma, topP, minP,
   * typicalP, XTC, topK, temperature, as mlx-lm.
   */
  filterOrder?: 'hf' | 'mlx';
  /** Positive logits of tokens seen lately are divided by this, negative ones multiplied; 1 is off. */
  repetitionPenalty?: number;
  /** Default 20. */
  repetitionContextSize?: number;
  /** Subtracted once from each token seen lately; 0 is off. */
  presencePenalty?: number;
  /** Default 20. */
  presenceContextSize?: number;
  /** Subtracted from a token for each time it was seen lately; 0 is off. */
  frequencyPenalty?: number;
  /** Default 20. */
  frequencyContextSize?: number;
  /** Added to the logits of tokens, by id. */
  logitBias?: Readonly<Record<number, number>>;
  /** Strength of the DRY penalty on tokens that would lengthen a repetition; 0 is off, 0.8 is usual. */
  dryMultiplier?: number;
  /** The penalty is `dryMultiplier * dryBase ** (length of the repetition - dryAllowedLength)`. Default 1.75. */
  dryBase?: number;
  /** Repetitions shorter than this are free. Default 2. */
  dryAllowedLength?: number;
  /** Default 0: the whole history. */
  dryContextSize?: number;
  /** Tokens that no repetition goes across: ids, or texts of which the last token counts. Default: newline, `:`, `"` and `*`. */
  drySequenceBreakers?: readonly (number | string)[];
  /** No sequence of so many tokens comes twice; 0 is off. */
  noRepeatNgramSize?: number;
  /** Sequences of tokens that must not come. */
  badWordsIds?: readonly (readonly number[])[];
  /** End-of-text tokens are ruled out for so many tokens. */
  minTokens?: number;
  /** The same seed gives the same tokens, alone and in any batch, on the same backend. Default: another one each time. */
  seed?: number;
}

/**
 * How to sample, and for how long. What is not given comes from the checkpoint's `generation_config.json`, as in transformers: with
 * `do_sample: true` its temperature, top_k, top_p, min_p and typical_p; otherwise greedy. Its repetition_penalty (over the whole
 * text), no_repeat_ngram_size, bad_words_ids, suppress_tokens, min_new_tokens and max_new_tokens apply in both cases.
 */
export interface SamplingOptions extends SamplerSettings {
  /** Largest number of new tokens. Default 256. */
  maxTokens?: number;
  /** Replaces the model's end-of-text tokens. */
  stopTokenIds?: readonly number[];
  /** Go on after an end-of-text token until `maxTokens`. */
  ignoreEos?: boolean;
}

export interface GenerateOptions
  extends SamplingOptions, RequestOptions, BatchLimits, SpeculationOptions, KvCacheOptions, CachingOptions {
  /** Take a string prompt as it is, without the chat template. Default false: a string is a user message where the model has a template. */
  raw?: boolean;
  /** Qwen3: false asks for an answer without a `<think>` part. */
  enableThinking?: boolean;
  /** Tool descriptions in OpenAI's form, for the chat template. */
  tools?: readonly object[];
  /** Further variables of the chat template. */
  chatTemplateOptions?: ChatTemplateOptions;
  signal?: AbortSignal;
}

type Check = (value: unknown) => boolean;

const number =
  (valid: (value: number) => boolean): Check =>
  (value) =>
    typeof value === 'number' && Number.isFinite(value) && valid(value);
const whole = (least: number): Check => number((n) => Number.isSafeInteger(n) && n >= least);
const isId = whole(0);
const isIds: Check = (value) => Array.isArray(value) && value.every(isId);

const any = [number(() => true), 'a finite number'] as const;
const fromZero = [number((n) => n >= 0), 'a number from 0'] as const;
const share = [number((n) => n >= 0 && n <= 1), 'a number in [0, 1]'] as const;
const mass = [number((n) => n > 0 && n <= 1), 'a number in (0, 1]'] as const;
const count = [whole(0), 'a whole number from 0'] as const;
const atLeastOne = [whole(1), 'a whole number from 1'] as const;
const ids = [isIds, 'a list of token ids'] as const;
const contextSize: Check = (value) => value === Infinity || whole(0)(value);
const context = [contextSize, 'a whole number from 0, or Infinity (0 and Infinity are the whole history)'] as const;

/** What each setting must be. */
const settingChecks: Record<keyof SamplerSettings, readonly [Check, string]> = {
  temperature: [fromZero[0], 'a number from 0 (0 is greedy)'],
  topK: [count[0], 'a whole number from 0 (0 is off)'],
  topP: mass,
  minP: share,
  minTokensToKeep: atLeastOne,
  xtcProbability: share,
  xtcThreshold: [number((n) => n >= 0 && n <= 0.5), 'a number in [0, 0.5]'],
  xtcSpecialTokens: ids,
  typicalP: mass,
  topNSigma: fromZero,
  dynatempRange: fromZero,
  dynatempExponent: fromZero,
  filterOrder: [(value) => value === 'hf' || value === 'mlx', "'hf' or 'mlx'"],
  repetitionPenalty: [number((n) => n > 0), 'a number above 0'],
  repetitionContextSize: context,
  presencePenalty: any,
  presenceContextSize: context,
  frequencyPenalty: any,
  frequencyContextSize: context,
  logitBias: [
    (value) =>
      typeof value === 'object' &&
      value !== null &&
      Object.entries(value).every(([id, bias]) => /^\d+$/.test(id) && number(() => true)(bias)),
    'an object of finite numbers by token id',
  ],
  dryMultiplier: fromZero,
  dryBase: [number((n) => n >= 1), 'a number from 1'],
  dryAllowedLength: atLeastOne,
  dryContextSize: context,
  drySequenceBreakers: [
    (value) => Array.isArray(value) && value.every((one) => isId(one) || (typeof one === 'string' && one !== '')),
    'a list of token ids and texts',
  ],
  noRepeatNgramSize: count,
  badWordsIds: [
    (value) => Array.isArray(value) && value.every((word) => isIds(word) && (word as number[]).length > 0),
    'a list of lists of token ids, none of them empty',
  ],
  minTokens: count,
  seed: count,
};

/** Names of the settings of the sampler. */
export const settingKeys = Object.keys(settingChecks) as (keyof SamplerSettings)[];

const samplingChecks: Record<keyof SamplingOptions, readonly [Check, string]> = {
  ...settingChecks,
  maxTokens: atLeastOne,
  stopTokenIds: ids,
  ignoreEos: [(value) => typeof value === 'boolean', 'true or false'],
};

const samplingKeys = Object.keys(samplingChecks) as (keyof SamplingOptions)[];

export const generateKeys: readonly string[] = [
  ...samplingKeys,
  ...requestKeys,
  ...speculationKeys,
  ...kvCacheKeys,
  ...cachingKeys,
  'prefillStepSize',
  'raw',
  'enableThinking',
  'tools',
  'chatTemplateOptions',
  'signal',
];

/** Throws ERR_MLX_CONFIG unless the value may be that of the option; undefined may. */
export function checkSampling(key: keyof SamplingOptions, value: unknown, where: string): void {
  const [valid, wanted] = samplingChecks[key];
  if (value === undefined || valid(value)) return;
  // JSON has no words for NaN and Infinity.
  const got = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? String(value));
  throw new MlxError('ERR_MLX_CONFIG', `${key} of ${where} must be ${wanted}, got ${got}`);
}

interface GenerationConfig {
  do_sample?: boolean | null;
  temperature?: number | null;
  top_k?: number | null;
  top_p?: number | null;
  min_p?: number | null;
  typical_p?: number | null;
  repetition_penalty?: number | null;
  no_repeat_ngram_size?: number | null;
  bad_words_ids?: number[][] | null;
  suppress_tokens?: number[] | null;
  min_new_tokens?: number | null;
  max_new_tokens?: number | null;
}

/** Sampling values that `generation_config.json` asks for; see {@link SamplingOptions}. */
export function samplingDefaults(generationConfigJson: string): SamplingOptions {
  const file = JSON.parse(generationConfigJson || '{}') as GenerationConfig;
  const defaults: SamplingOptions = { maxTokens: file.max_new_tokens ?? 256, temperature: 0 };
  if (file.repetition_penalty != null) {
    defaults.repetitionPenalty = file.repetition_penalty;
    // In transformers the penalty looks at the whole text.
    if (file.repetition_penalty !== 1) defaults.repetitionContextSize = 0;
  }
  if (file.no_repeat_ngram_size != null) defaults.noRepeatNgramSize = file.no_repeat_ngram_size;
  const banned = [...(file.bad_words_ids ?? []), ...(file.suppress_tokens ?? []).map((id) => [id])];
  if (banned.length > 0) defaults.badWordsIds = banned;
  if (file.min_new_tokens != null) defaults.minTokens = file.min_new_tokens;
  if (file.do_sample === true) {
    defaults.temperature = file.temperature ?? 1;
    if (file.top_k != null) defaults.topK = file.top_k;
    if (file.top_p != null) defaults.topP = file.top_p;
    if (file.min_p != null) defaults.minP = file.min_p;
    if (file.typical_p != null) defaults.typicalP = file.typical_p;
  }
  return defaults;
}

const usualBreakers = ['\n', ':', '"', '*'];

/** The last token of each text, as it is in the middle of a text. */
function breakerIds(breakers: readonly (number | string)[], tokenizer: Tokenizer | null, where: string): number[] {
  return breakers.flatMap((breaker) => {
    if (typeof breaker === 'number') return [breaker];
    if (tokenizer === null)
      throw new MlxError(
        'ERR_MLX_CONFIG',
        `drySequenceBreakers of ${where} must be token ids: the model has no tokenizer`,
      );
    return tokenizer.encode(`a${breaker}`, { addSpecialTokens: false }).slice(-1);
  });
}

/** What depends on the tokenizer: the values of a text. */
function withTexts(given: SamplingOptions, tokenizer: Tokenizer | null, where: string): NativeGenerateOptions {
  const { drySequenceBreakers, xtcSpecialTokens, ...rest } = given;
  const result: NativeGenerateOptions = {
    ...rest,
    stopTokenIds: rest.stopTokenIds && [...rest.stopTokenIds],
    badWordsIds: rest.badWordsIds?.map((word) => [...word]),
    logitBias: rest.logitBias as Record<string, number> | undefined,
  };
  if (rest.dryMultiplier) {
    const breakers = drySequenceBreakers ?? (tokenizer === null ? [] : usualBreakers);
    result.drySequenceBreakers = breakerIds(breakers, tokenizer, where);
  }
  if (xtcSpecialTokens !== undefined) result.xtcSpecialTokens = [...xtcSpecialTokens];
  else if (rest.xtcProbability && tokenizer !== null) {
    const stop = rest.stopTokenIds ?? tokenizer.eosTokenIds;
    result.xtcSpecialTokens = [...stop, ...tokenizer.encode('\n', { addSpecialTokens: false }).slice(-1)];
  }
  return result;
}

/** Options for the addon: the user's values over the checkpoint's defaults, checked. */
export function resolveSampling(
  options: GenerateOptions,
  defaults: SamplingOptions,
  where: string,
  tokenizer: Tokenizer | null = null,
): NativeGenerateOptions & { maxTokens: number } {
  rejectUnknownKeys(options, generateKeys, where);
  const given = Object.fromEntries(
    samplingKeys.map((key) => [key, options[key]]).filter(([, value]) => value !== undefined),
  ) as SamplingOptions;
  const merged = { ...defaults, ...given } as SamplingOptions & { maxTokens: number };
  // The file's penalty looks at the whole text, the user's at the last 20 tokens unless the user says so.
  if (given.repetitionPenalty !== undefined && given.repetitionContextSize === undefined)
    delete merged.repetitionContextSize;
  for (const key of samplingKeys) checkSampling(key, merged[key], where);
  merged.seed ??= randomInt(2 ** 32);
  return { ...withTexts(merged, tokenizer, where), maxTokens: merged.maxTokens };
}
