import { errorText, MlxError } from '../../lib/errors.js';
import type { Message } from '../../lib/tokenizer.js';
import type { GRPORow, Reward, RewardArgs, TrainerState } from './types.js';

const reservedColumns = new Set([
  'prompts',
  'completions',
  'completionMessages',
  'completionIds',
  'trainerState',
  'logMetric',
  'signal',
]);

export interface NamedReward {
  name: string;
  reward: Reward;
}

/** Names for the logs: the functions' own, numbered where two are alike or one has none. */
export function nameRewards(rewards: readonly Reward[]): NamedReward[] {
  const used = new Map<string, number>();
  return rewards.map((reward, i) => {
    const base = reward.name || `reward_${i + 1}`;
    const seen = (used.get(base) ?? 0) + 1;
    used.set(base, seen);
    return { name: seen === 1 ? base : `${base}_${seen}`, reward };
  });
}

/** Throws for rows without a usable prompt and for columns whose name rewards need for something else. */
export function checkDataset(dataset: readonly GRPORow[], what: string): void {
  dataset.forEach((row, i) => {
    const { prompt } = row;
    if (typeof prompt === 'string' ? prompt === '' : !Array.isArray(prompt) || prompt.length === 0) {
      throw new MlxError(
        'ERR_MLX_CONFIG',
        `${what}[${i}].prompt must be a text or a list of messages and must not be empty, got ${JSON.stringify(prompt)}`,
      );
    }
    for (const column of Object.keys(row)) {
      if (reservedColumns.has(column)) {
        throw new MlxError(
          'ERR_MLX_CONFIG',
          `${what}[${i}] has a column '${column}', a name that rewards use for something else; rename it`,
        );
      }
    }
  });
}

export interface ScoreInput {
  rows: readonly GRPORow[];
  completions: string[];
  completionIds: number[][];
  trainerState: TrainerState;
  logMetric: (name: string, value: number) => void;
  signal: AbortSignal | undefined;
}

/** Calls all rewards at once. Result: [rows][rewards] with NaN for null. */
export async function score(rewards: readonly NamedReward[], input: ScoreInput): Promise<number[][]> {
  const { rows, completions, completionIds, trainerState, logMetric, signal } = input;
  const columns: Record<string, unknown[]> = {};
  for (const name of new Set(rows.flatMap((row) => Object.keys(row)))) {
    if (name !== 'prompt') columns[name] = rows.map((row) => (row as GRPORow & Record<string, unknown>)[name]);
  }
  const args = (): RewardArgs => ({
    ...columns,
    prompts: rows.map((row) => row.prompt),
    completions: [...completions],
    completionMessages: completions.map((content): Message[] => [{ role: 'assistant', content }]),
    completionIds: completionIds.map((ids) => [...ids]),
    trainerState: { ...trainerState },
    logMetric,
    signal,
  });
  const all = Promise.all(rewards.map(({ name, reward }) => callReward(name, reward, args(), rows.length)));
  const scores = signal === undefined ? await all : await Promise.race([all, whenAborted(signal, all)]);
  return rows.map((_, i) => scores.map((column) => column[i]!));
}

async function callReward(name: string, reward: Reward, args: RewardArgs, length: number): Promise<number[]> {
  let values: unknown;
  try {
    values = await reward(args);
  } catch (error) {
    if (args.signal?.aborted) throw args.signal.reason;
    throw new MlxError('ERR_MLX_REWARD', `reward '${name}' threw: ${errorText(error)}`, { cause: error });
  }
  if (!Array.isArray(values) || values.length !== length) {
    const got = Array.isArray(values) ? `${values.length} values` : typeof values;
    throw new MlxError(
      'ERR_MLX_REWARD',
      `reward '${name}' must return one number or null for each of the ${length} completions, got ${got}`,
    );
  }
  return values.map((value: unknown, i) => {
    if (value === null) return NaN;
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    throw new MlxError(
      'ERR_MLX_REWARD',
      `reward '${name}' returned ${String(value)} for completion ${i}; return a finite number, or null for "cannot be scored"`,
    );
  });
}

/** Rejects with the reason of `signal` when it is aborted before `work` ends. */
function whenAborted(signal: AbortSignal, work: Promise<unknown>): Promise<never> {
  return new Promise((_, reject) => {
    const onAbort = (): void => reject(signal.reason);
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    const release = (): void => signal.removeEventListener('abort', onAbort);
    work.then(release, release);
  });
}
