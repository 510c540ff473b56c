import type { ResolvedGRPOConfig } from './config.js';

const defined = (values: readonly number[]): number[] => values.filter((value) => !Number.isNaN(value));

/** Mean of the entries that are not NaN; NaN when there is none. */
export function nanMean(values: readonly number[]): number {
  const kept = defined(values);
  return kept.length === 0 ? NaN : kept.reduce((sum, value) => sum + value, 0) / kept.length;
}

/** Standard deviation with Bessel's correction over the entries that are not NaN; NaN below two. */
export function nanStd(values: readonly number[]): number {
  const kept = defined(values);
  if (kept.length < 2) return NaN;
  const mean = nanMean(kept);
  return Math.sqrt(kept.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (kept.length - 1));
}

/** Weighted sum of a row's rewards; NaN when the row has none. */
function weightedSum(row: readonly number[], weights: readonly number[]): number {
  if (row.every(Number.isNaN)) return NaN;
  return row.reduce((sum, value, f) => sum + (Number.isNaN(value) ? 0 : value * weights[f]!), 0);
}

/**
 * TRL's reward metrics of one round. `rewards` is [rows][functions] with NaN for "not scored".
 *
 * `reward_std` is over the whole batch and `reward_group_std` (not in TRL) the mean over groups; `frac_reward_zero_std` is the share of
 * rows whose standard deviation is 0 and which therefore teach nothing.
 */
export function rewardMetrics(
  names: readonly string[],
  rewards: readonly (readonly number[])[],
  config: Pick<ResolvedGRPOConfig, 'numGenerations' | 'rewardWeights' | 'scaleRewards' | 'multiObjectiveAggregation'>,
): Record<string, number> {
  const weights = config.rewardWeights ?? names.map(() => 1);
  const metrics: Record<string, number> = {};
  names.forEach((name, f) => {
    const column = rewards.map((row) => row[f]!);
    metrics[`rewards/${name}/mean`] = nanMean(column);
    metrics[`rewards/${name}/std`] = nanStd(column);
  });
  const sums = rewards.map((row) => weightedSum(row, weights));
  const groupStds: number[] = [];
  for (let i = 0; i < sums.length; i += config.numGenerations)
    groupStds.push(nanStd(sums.slice(i, i + config.numGenerations)));
  const batchStd = nanStd(sums);
  metrics['reward'] = nanMean(sums);
  metrics['reward_std'] = batchStd;
  metrics['reward_group_std'] = nanMean(groupStds);
  metrics['frac_reward_zero_std'] = zeroShare(rewards, groupStds, batchStd, config);
  return metrics;
}

const isZero = (std: number): boolean => Math.abs(std) <= 1e-8;

function zeroShare(
  rewards: readonly (readonly number[])[],
  groupStds: readonly number[],
  batchStd: number,
  config: Pick<ResolvedGRPOConfig, 'numGenerations' | 'rewardWeights' | 'scaleRewards' | 'multiObjectiveAggregation'>,
): number {
  if (config.multiObjectiveAggregation === 'normalize_then_sum')
    return isZero(nanStd(normalizedSums(rewards, config))) ? 1 : 0;
  if (config.scaleRewards === 'batch') return isZero(batchStd) ? 1 : 0;
  return groupStds.filter(isZero).length / groupStds.length;
}

/** Rewards normalised for each function within its group, then summed (GDPO). */
function normalizedSums(
  rewards: readonly (readonly number[])[],
  config: Pick<ResolvedGRPOConfig, 'numGenerations' | 'rewardWeights'>,
): number[] {
  const { numGenerations: n, rewardWeights } = config;
  return rewards.map((row, i) => {
    const group = rewards.slice(i - (i % n), i - (i % n) + n);
    const scaled = row.map((value, f) => {
      const column = group.map((other) => other[f]!);
      return (value - nanMean(column)) / (nanStd(column) + 1e-4);
    });
    return scaled.reduce((sum, value, f) => sum + (Number.isNaN(value) ? 0 : value * (rewardWeights?.[f] ?? 1)), 0);
  });
}

/** TRL's length metrics of one round, in tokens. `terminated` are completions that ended by themselves. */
export function completionMetrics(lengths: readonly number[], truncated: readonly boolean[]): Record<string, number> {
  const ended = lengths.filter((_, i) => !truncated[i]);
  return {
    'completions/mean_length': nanMean(lengths),
    'completions/min_length': Math.min(...lengths),
    'completions/max_length': Math.max(...lengths),
    'completions/clipped_ratio': 1 - ended.length / lengths.length,
    'completions/mean_terminated_length': ended.length === 0 ? 0 : nanMean(ended),
    'completions/min_terminated_length': ended.length === 0 ? 0 : Math.min(...ended),
    'completions/max_terminated_length': ended.length === 0 ? 0 : Math.max(...ended),
  };
}

/** What a {@link MetricStore} holds, as plain JSON. */
export interface MetricStoreState {
  means: Record<string, { sum: number; count: number }>;
  sums: Record<string, number>;
  steps: number;
}

/** Collects metrics between two log lines: means skip NaN, times are summed and given for one optimizer step. */
export class MetricStore {
  #state: MetricStoreState;

  constructor(state?: MetricStoreState) {
    this.#state = state ?? { means: {}, sums: {}, steps: 0 };
  }

  /** Adds one value to the mean of `name`. */
  add(name: string, value: number): void {
    const entry = (this.#state.means[name] ??= { sum: 0, count: 0 });
    if (Number.isNaN(value)) return;
    entry.sum += value;
    entry.count += 1;
  }

  addAll(metrics: Readonly<Record<string, number>>): void {
    for (const [name, value] of Object.entries(metrics)) this.add(name, value);
  }

  /** Adds to a total that is logged per optimizer step, such as seconds. */
  addToSum(name: string, value: number): void {
    this.#state.sums[name] = (this.#state.sums[name] ?? 0) + value;
  }

  sum(name: string): number {
    return this.#state.sums[name] ?? 0;
  }

  endStep(): void {
    this.#state.steps += 1;
  }

  /** All metrics since the last flush; a mean without values is left out. */
  flush(): Record<string, number> {
    const record: Record<string, number> = {};
    for (const [name, { sum, count }] of Object.entries(this.#state.means)) if (count > 0) record[name] = sum / count;
    for (const [name, sum] of Object.entries(this.#state.sums)) record[name] = sum / Math.max(1, this.#state.steps);
    this.#state = { means: {}, sums: {}, steps: 0 };
    return record;
  }

  toJSON(): MetricStoreState {
    return this.#state;
  }
}
