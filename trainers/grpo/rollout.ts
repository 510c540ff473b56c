import { MlxError } from '../../lib/errors.js';
import type { LanguageModel } from '../../lib/model.js';
import type { BatchProgress, TrainRow } from '../../lib/native-types.js';
import { resolveRequest } from '../../lib/request-options.js';
import type { RequestOptions } from '../../lib/request-options.js';
import { withSignal } from '../../lib/signal.js';
import type { ResolvedGRPOConfig } from './config.js';
import type { GRPORow } from './types.js';

/** Completions of one round, in group order. */
export interface Rollout {
  rows: TrainRow[];
  texts: string[];
  /** Rows that hit the length limit. */
  truncated: boolean[];
  /** Tokens read and made, for `num_tokens`. */
  promptTokens: number;
  generatedTokens: number;
}

export interface RolloutOptions {
  promptIds: number[][];
  numGenerations: number;
  temperature: number;
  seed: number;
  signal: AbortSignal | undefined;
  onProgress?: ((progress: BatchProgress) => void) | undefined;
}

/** Token ids of a row's prompt: a text as it is, a conversation through the chat template. */
export function encodePrompt(
  model: LanguageModel,
  row: GRPORow,
  config: Pick<ResolvedGRPOConfig, 'chatTemplateKwargs'>,
): number[] {
  return model.encodePrompt(row.prompt, { raw: true, chatTemplateOptions: config.chatTemplateKwargs });
}

/** Encodes all prompts once, refusing one that leaves no room for a completion. */
export function encodeDataset(
  model: LanguageModel,
  dataset: readonly GRPORow[],
  config: Pick<ResolvedGRPOConfig, 'chatTemplateKwargs' | 'maxCompletionLength'>,
  what: string,
): number[][] {
  const room = model.contextLength - config.maxCompletionLength;
  return dataset.map((row, i) => {
    const ids = encodePrompt(model, row, config);
    if (ids.length === 0) throw new MlxError('ERR_MLX_CONFIG', `${what}[${i}].prompt has no tokens`);
    if (ids.length > room) {
      throw new MlxError(
        'ERR_MLX_CONFIG',
        `${what}[${i}].prompt has ${ids.length} tokens; with maxCompletionLength ${config.maxCompletionLength} that exceeds the model's context of ${model.contextLength}`,
      );
    }
    return ids;
  });
}

/** The format that completions must fit; nothing where they are free. */
export function completionFormat({
  responseFormat,
  structuredOutputsRegex: regex,
  formatAfterThinking,
}: ResolvedGRPOConfig): Pick<RequestOptions, 'responseFormat' | 'formatAfterThinking'> {
  const format = responseFormat ?? (regex === undefined ? undefined : ({ type: 'regex', regex } as const));
  return format === undefined ? {} : { responseFormat: format, formatAfterThinking };
}

/** Samples `numGenerations` completions for each prompt, all in one batch. */
export async function rollout(
  model: LanguageModel,
  config: ResolvedGRPOConfig,
  options: RolloutOptions,
): Promise<Rollout> {
  const { promptIds, numGenerations, temperature, seed, signal, onProgress } = options;
  const sampling = {
    n: numGenerations,
    maxTokens: config.maxCompletionLength,
    temperature,
    topP: config.topP,
    topK: config.topK,
    minP: config.minP,
    repetitionPenalty: config.repetitionPenalty,
    // TRL's penalty looks at the whole text, prompt included: 0 is all.
    repetitionContextSize: 0,
    seed,
    ...resolveRequest(completionFormat(config), 'GRPOConfig'),
  };
  const formatted = sampling.responseFormat !== undefined;
  if (formatted) await model.tokenizer.prepareNative(sampling.responseFormat);
  const batch = await withSignal(signal, (cancel) =>
    model.handle.generateBatch(promptIds, sampling, cancel, onProgress, formatted ? model.tokenizer.handle : undefined),
  );
  return {
    rows: batch.tokens.map((completionIds, i) => ({
      promptIds: promptIds[Math.floor(i / numGenerations)]!,
      completionIds,
    })),
    texts: batch.tokens.map((ids) => model.tokenizer.decode(ids)),
    truncated: batch.finishReasons.map((reason) => reason === 'length'),
    promptTokens: promptIds.reduce((sum, ids) => sum + ids.length * numGenerations, 0),
    generatedTokens: batch.tokens.reduce((sum, ids) => sum + ids.length, 0),
  };
}
