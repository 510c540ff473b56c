import { randomInt } from 'node:crypto';
import { MlxError } from './errors.js';
import type { NativeGenerateOptions } from './native-types.js';
import { rejectUnknownKeys } from './options.js';
import { requestKeys, speculationKeys } from './request-options.js';
import type { BatchLimits, RequestOptions, SpeculationOptions } from './request-options.js';
import type { ChatTemplateOptions } from './tokenizer.js';

/**
 * How to sample. What is not given comes from the checkpoint's `generation_config.json`, as in transformers: with
 * `do_sample: true` its temperature, top_k, top_p, min_p; otherwise greedy. Its repetition_penalty applies in both cases.
 */
export interface SamplingOptions {
  /** Largest number of new tokens. Default 256. */
  maxTokens?: number;
  /** 0 takes the likeliest token. */
  temperature?: number;
  /** 0 is off. */
  topK?: number;
  /** 1 is off. */
  topP?: number;
  /** 0 is off. */
  minP?: number;
  /** 1 is off. */
  repetitionPenalty?: number;
  /** How many of the last tokens the penalty looks at. Default 20. */
  repetitionContextSize?: number;
  /** The same seed gives the same tokens on the same backend and batch shape. Default: another one each time. */
  seed?: number;
  /** Replaces the model's end-of-text tokens. */
  stopTokenIds?: readonly number[];
  /** Go on after an end-of-text token until `maxTokens`. */
  ignoreEos?: boolean;
}

export interface GenerateOptions extends SamplingOptions, RequestOptions, BatchLimits, SpeculationOptions {
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

const samplingKeys = [
  'maxTokens',
  'temperature',
  'topK',
  'topP',
  'minP',
  'repetitionPenalty',
  'repetitionContextSize',
  'seed',
  'stopTokenIds',
  'ignoreEos',
] as const;

export const generateKeys: readonly string[] = [
  ...samplingKeys,
  ...requestKeys,
  ...speculationKeys,
  'prefillStepSize',
  'raw',
  'enableThinking',
  'tools',
  'chatTemplateOptions',
  'signal',
];

interface GenerationConfig {
  do_sample?: boolean;
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  repetition_penalty?: number;
}

/** Sampling values that `generation_config.json` asks for; see {@link SamplingOptions}. */
export function samplingDefaults(generationConfigJson: string): SamplingOptions {
  const file = JSON.parse(generationConfigJson || '{}') as GenerationConfig;
  const defaults: SamplingOptions = { maxTokens: 256, temperature: 0 };
  if (file.repetition_penalty !== undefined && file.repetition_penalty !== null)
    defaults.repetitionPenalty = file.repetition_penalty;
  if (file.do_sample === true) {
    defaults.temperature = file.temperature ?? 1;
    if (typeof file.top_k === 'number') defaults.topK = file.top_k;
    if (typeof file.top_p === 'number') defaults.topP = file.top_p;
    if (typeof file.min_p === 'number') defaults.minP = file.min_p;
  }
  return defaults;
}

/** Options for the addon: the user's values over the checkpoint's defaults, checked. */
export function resolveSampling(
  options: GenerateOptions,
  defaults: SamplingOptions,
  where: string,
): NativeGenerateOptions {
  rejectUnknownKeys(options, generateKeys, where);
  const given = Object.fromEntries(
    samplingKeys.map((key) => [key, options[key]]).filter(([, value]) => value !== undefined),
  );
  const merged = { ...defaults, ...given } as SamplingOptions & { maxTokens: number };
  checkRange(merged, 'maxTokens', where, (n) => Number.isInteger(n) && n >= 1, 'a whole number from 1');
  checkRange(merged, 'temperature', where, (n) => n >= 0, 'a number from 0 (0 is greedy)');
  checkRange(merged, 'topK', where, (n) => Number.isInteger(n) && n >= 0, 'a whole number from 0 (0 is off)');
  checkRange(merged, 'topP', where, (n) => n > 0 && n <= 1, 'a number in (0, 1]');
  checkRange(merged, 'minP', where, (n) => n >= 0 && n <= 1, 'a number in [0, 1]');
  checkRange(merged, 'repetitionPenalty', where, (n) => n > 0, 'a number above 0');
  checkRange(merged, 'repetitionContextSize', where, (n) => Number.isInteger(n) && n >= 0, 'a whole number from 0');
  checkRange(merged, 'seed', where, (n) => Number.isSafeInteger(n) && n >= 0, 'a whole number from 0');
  merged.seed ??= randomInt(2 ** 32);
  return { ...merged, stopTokenIds: merged.stopTokenIds === undefined ? undefined : [...merged.stopTokenIds] };
}

function checkRange(
  options: SamplingOptions,
  key: keyof SamplingOptions,
  where: string,
  valid: (value: number) => boolean,
  wanted: string,
): void {
  const value: unknown = options[key];
  if (value === undefined) return;
  if (typeof value !== 'number' || !Number.isFinite(value) || !valid(value)) {
    throw new MlxError(
      'ERR_MLX_CONFIG',
      `${key} of ${where} must be ${wanted}, got ${JSON.stringify(value) ?? String(value)}`,
    );
  }
}
