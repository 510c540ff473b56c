import { readFile } from 'node:fs/promises';
import { templateMessages } from './chat/messages.js';
import type { ChatMessage } from './chat/messages.js';
import { readJsonl } from './data.js';
import { errorText, MlxError } from './errors.js';
import { buildInfo } from './memory.js';
import { nearestName, rejectUnknownKeys } from './options.js';
import { Random } from './seeded.js';
import type { Tokenizer } from './tokenizer.js';

/**
 * How weights become codes: each to the nearest ('rtn'), or fitted to the inputs that texts give a layer, by GPTQ (Frantar et al. 2022,
 * arXiv:2210.17323) or AWQ (Lin et al. 2023, arXiv:2306.00978).
 */
export type QuantizationMethod = 'rtn' | 'gptq' | 'awq';

/** @internal */
export const quantizationMethods = ['rtn', 'gptq', 'awq'] as const satisfies readonly QuantizationMethod[];

/** @internal */
export function methodOf(value: unknown, where: string): QuantizationMethod {
  if ((quantizationMethods as readonly unknown[]).includes(value)) return value as QuantizationMethod;
  const near = typeof value === 'string' ? nearestName(value, quantizationMethods) : undefined;
  throw new MlxError(
    'ERR_MLX_CONFIG',
    `${where}: method must be one of ${quantizationMethods.join(', ')}, got ${JSON.stringify(value)}${near === undefined ? '' : `; did you mean '${near}'?`}`,
  );
}

/** The texts that a model is fitted to. */
export interface CalibrationOptions {
  /** A text, or several, or several as token ids: like what the model is going to read and write. They are read one after the other. */
  data: string | readonly string[] | readonly (readonly number[])[];
  /** The most pieces that are taken of them. Default 128. */
  numSamples?: number;
  /** Tokens of a piece. Default 512. */
  sequenceLength?: number;
  /** Pieces that are computed together. Default 8 on a GPU and 1 on the CPU. */
  batchSize?: number;
  /** Which pieces are taken where there are more than `numSamples`. Default 0. */
  seed?: number;
}

const keys = ['data', 'numSamples', 'sequenceLength', 'batchSize', 'seed'] as const;

function whole(where: string, name: string, value: number, least: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new MlxError('ERR_MLX_CONFIG', `${where}: ${name} must be a whole number from ${least}, got ${String(value)}`);
}

/** @internal Pieces of token ids of one length, chosen by the seed, and how many are computed together. */
export function calibrationRows(
  options: CalibrationOptions,
  tokenizer: () => Tokenizer,
  where: string,
): { rows: number[][]; batchSize: number } {
  rejectUnknownKeys(options, keys, where);
  const { data } = options;
  const most = whole(where, 'numSamples', options.numSamples ?? 128, 1);
  const length = whole(where, 'sequenceLength', options.sequenceLength ?? 512, 1);
  const seed = whole(where, 'seed', options.seed ?? 0, 0);
  const batchSize = whole(where, 'batchSize', options.batchSize ?? (buildInfo().device === 'gpu' ? 8 : 1), 1);
  const texts: unknown = typeof data === 'string' ? [data] : data;
  if (!Array.isArray(texts) || texts.length === 0)
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `${where}: data must be a text, or a list of texts or of lists of token ids`,
    );
  const ids = texts.flatMap((text: unknown, i): number[] => {
    if (typeof text === 'string') return tokenizer().encode(text);
    if (Array.isArray(text) && text.every((id) => Number.isSafeInteger(id))) return text as number[];
    throw new MlxError('ERR_MLX_ARGUMENT', `${where}: data[${i}] must be a text or a list of token ids`);
  });
  const pieces: number[][] = [];
  for (let at = 0; at + length <= ids.length; at += length) pieces.push(ids.slice(at, at + length));
  if (pieces.length === 0)
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `${where}: the data has ${ids.length} tokens, fewer than one piece of ${length} (sequenceLength); give more text, or make the pieces shorter`,
    );
  const chosen = new Random(seed).permutation(pieces.length).slice(0, most);
  return { rows: chosen.map((i) => pieces[i]!), batchSize };
}

/**
 * The texts of a file as token ids: all of a text file, or of a `.jsonl` file the `text` of each line, its conversation `messages` by the
 * tokenizer's chat template, or its `prompt` and `completion`.
 *
 * @example
 * const data = await readCalibrationData('train.jsonl', model.tokenizer);
 * await model.quantize({ bits: 4, method: 'gptq', calibration: { data } });
 */
export async function readCalibrationData(path: string, tokenizer: Tokenizer): Promise<number[][]> {
  if (!path.endsWith('.jsonl')) {
    const text = await readFile(path, 'utf8').catch((error: unknown) => {
      throw new MlxError('ERR_MLX_LOAD', `${path} cannot be read: ${errorText(error)}`, { cause: error });
    });
    return [tokenizer.encode(text)];
  }
  const rows = await readJsonl(path);
  return rows.map((row, i) => {
    const { text, messages, prompt, completion } = row;
    if (typeof text === 'string') return tokenizer.encode(text);
    if (Array.isArray(messages))
      return tokenizer.encodeChat(templateMessages(messages as ChatMessage[]), { addGenerationPrompt: false });
    if (typeof prompt === 'string' && typeof completion === 'string') return tokenizer.encode(prompt + completion);
    throw new MlxError(
      'ERR_MLX_LOAD',
      `${path}: object ${i + 1} has neither a 'text', nor 'messages', nor 'prompt' and 'completion'`,
    );
  });
}

/** @internal Texts to calibrate with, and the last tenth to measure with: whole texts where there are ten, else a part of the only ones. */
export function holdOut(texts: readonly (readonly number[])[]): { data: number[][]; heldOut: number[] } {
  if (texts.length >= 10) {
    const kept = Math.floor(texts.length * 0.9);
    return { data: texts.slice(0, kept).map((ids) => [...ids]), heldOut: texts.slice(kept).flat() };
  }
  const ids = texts.flat();
  const kept = Math.floor(ids.length * 0.9);
  return { data: [ids.slice(0, kept)], heldOut: ids.slice(kept) };
}
