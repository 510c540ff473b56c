import type { LanguageModel } from '../../lib/model.js';
import { rejectUnknownKeys } from '../../lib/options.js';
import type { ResponseFormat } from '../../lib/request-options.js';
import { resolveGRPOConfig } from './config.js';
import { completionMetrics, nanMean } from './metrics.js';
import { checkDataset, nameRewards, score } from './rewards.js';
import { encodeDataset, rollout } from './rollout.js';
import type { GRPORow, Reward, TrainerState } from './types.js';

export interface EvaluateOptions<Row extends GRPORow = GRPORow> {
  dataset: readonly Row[];
  rewards: readonly Reward<Row>[];
  /** Longest answer in tokens. Default 512. */
  maxCompletionLength?: number;
  /** Prompts answered at once. Default 32. */
  batchSize?: number;
  /** Default 0: greedy, so that the result is the same every time. */
  temperature?: number;
  /** Answers for each prompt. Default 1. */
  numGenerations?: number;
  seed?: number;
  chatTemplateKwargs?: Record<string, unknown>;
  /** What every answer must fit. Default: any text. */
  responseFormat?: ResponseFormat;
  /** The format begins behind `</think>` where the model thinks first. Default false. */
  formatAfterThinking?: boolean;
  trainerState?: TrainerState;
  signal?: AbortSignal;
  /** Prompts done and in all. */
  onProgress?: (progress: { done: number; total: number }) => void;
}

export interface EvaluateResult {
  /** `rewards/<name>/mean`, `reward` (their sum), and the `completions/*` lengths. */
  metrics: Record<string, number>;
  samples: { prompt: GRPORow['prompt']; completion: string; rewards: Record<string, number | null> }[];
}

const keys = [
  'dataset',
  'rewards',
  'maxCompletionLength',
  'batchSize',
  'temperature',
  'numGenerations',
  'seed',
  'chatTemplateKwargs',
  'responseFormat',
  'formatAfterThinking',
  'trainerState',
  'signal',
  'onProgress',
];

/**
 * Answers held-out prompts, greedily unless told otherwise, and scores the answers. With a reward that is 1 for a right answer and 0
 * for a wrong one, `rewards/<name>/mean` is the accuracy.
 */
export async function evaluate<Row extends GRPORow>(
  model: LanguageModel,
  options: EvaluateOptions<Row>,
): Promise<EvaluateResult> {
  rejectUnknownKeys(options, keys, 'evaluate()');
  const { dataset, signal, batchSize = 32, temperature = 0, numGenerations = 1, seed = 0 } = options;
  checkDataset(dataset, 'dataset');
  const config = resolveGRPOConfig({
    maxCompletionLength: options.maxCompletionLength ?? 512,
    chatTemplateKwargs: options.chatTemplateKwargs ?? {},
    responseFormat: options.responseFormat,
    formatAfterThinking: options.formatAfterThinking,
  });
  const named = nameRewards(options.rewards as readonly Reward[]);
  const promptIds = encodeDataset(model, dataset, config, 'dataset');
  const extra = new Map<string, number[]>();
  const logMetric = (name: string, value: number): void => void extra.set(name, [...(extra.get(name) ?? []), value]);
  const scores: number[][] = [];
  const lengths: number[] = [];
  const truncated: boolean[] = [];
  const samples: EvaluateResult['samples'] = [];
  for (let start = 0; start < dataset.length; start += batchSize) {
    const ids = promptIds.slice(start, start + batchSize);
    const made = await rollout(model, config, {
      promptIds: ids,
      numGenerations,
      temperature,
      seed: seed + start,
      signal,
    });
    const rows = made.rows.map((_, i) => dataset[start + Math.floor(i / numGenerations)]!);
    const completionIds = made.rows.map((row) => row.completionIds);
    const trainerState = options.trainerState ?? { globalStep: 0, maxSteps: 0, epoch: 0 };
    const values = await score(named, {
      rows,
      completions: made.texts,
      completionIds,
      trainerState,
      logMetric,
      signal,
    });
    scores.push(...values);
    lengths.push(...completionIds.map((row) => row.length));
    truncated.push(...made.truncated);
    rows.forEach((row, i) => {
      const rewards = Object.fromEntries(
        named.map(({ name }, f) => [name, Number.isNaN(values[i]![f]) ? null : values[i]![f]!]),
      );
      samples.push({ prompt: row.prompt, completion: made.texts[i]!, rewards });
    });
    options.onProgress?.({ done: Math.min(start + batchSize, dataset.length), total: dataset.length });
  }
  const metrics: Record<string, number> = {};
  named.forEach(({ name }, f) => (metrics[`rewards/${name}/mean`] = nanMean(scores.map((row) => row[f]!))));
  metrics['reward'] = nanMean(
    scores.map((row) => (row.every(Number.isNaN) ? NaN : row.reduce((sum, x) => sum + (Number.isNaN(x) ? 0 : x), 0))),
  );
  Object.assign(metrics, completionMetrics(lengths, truncated));
  for (const [name, values] of extra) metrics[name] = nanMean(values);
  return { metrics, samples };
}
