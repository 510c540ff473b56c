import { MlxError } from '../../lib/errors.js';
import { loadNativeModel } from '../../lib/model.js';
import type { Dtype, LanguageModel } from '../../lib/model.js';
import { readState } from '../checkpoint.js';
import type { ResolvedGRPOConfig } from './config.js';
import type { MetricStoreState } from './metrics.js';
import type { Round } from './step.js';

/** Format of the state file; raised when a field changes its meaning. */
export const stateVersion = 1;

/** Where a run stands after a whole number of optimizer steps. Orders and seeds follow from `microStep` and `config.seed`. */
export interface RunState {
  /** Optimizer steps done. */
  step: number;
  /** Micro-steps done. */
  microStep: number;
  /** Prompt and completion tokens generated so far; rounds up to `countedRound` are in it. */
  numTokens: number;
  countedRound: number;
  /** Optimizer steps left out because a gradient was not finite. */
  skippedSteps: number;
}

export interface SavedState extends RunState {
  version: number;
  trainer: string;
  epoch: number;
  config: ResolvedGRPOConfig;
  datasetSize: number;
  /** What was saved beside this file. */
  weights: 'model' | 'adapter';
  /** The generation round in use, when its micro-steps are not all done. */
  round: Round | null;
  /** Metrics since the last log line. */
  pending: MetricStoreState;
}

/** Fields that decide which rows a micro-step trains on; a resumed run must have the same. */
const orderFields = [
  'seed',
  'perDeviceTrainBatchSize',
  'gradientAccumulationSteps',
  'stepsPerGeneration',
  'generationBatchSize',
  'numGenerations',
  'numIterations',
  'shuffleDataset',
] as const satisfies readonly (keyof ResolvedGRPOConfig)[];

/** Fields that change nothing in the weights. */
const harmlessFields = new Set<string>([
  'outputDir',
  'loggingSteps',
  'logCompletions',
  'saveSteps',
  'saveTotalLimit',
  'evalSteps',
  'evalOnStart',
  'perDeviceEvalBatchSize',
  'skipZeroAdvantageRows',
  'gradientCheckpointing',
]);

/** Throws where the config would train on other rows than the saved run; returns the names of other fields that differ. */
export function compareConfigs(
  saved: SavedState,
  config: ResolvedGRPOConfig,
  datasetSize: number,
  path: string,
): string[] {
  const problems: string[] = orderFields
    .filter((name) => saved.config[name] !== config[name])
    .map((name) => `${name} was ${String(saved.config[name])} and is ${String(config[name])}`);
  if (saved.datasetSize !== datasetSize)
    problems.push(`the dataset had ${saved.datasetSize} rows and has ${datasetSize}`);
  if (problems.length > 0) {
    throw new MlxError(
      'ERR_MLX_CHECKPOINT',
      `${path}: the run cannot be resumed with another order of rows: ${problems.join('; ')}`,
    );
  }
  const names = new Set([...Object.keys(saved.config), ...Object.keys(config)]) as Set<keyof ResolvedGRPOConfig>;
  return [...names].filter(
    (name) => !harmlessFields.has(name) && JSON.stringify(saved.config[name]) !== JSON.stringify(config[name]),
  );
}

export async function readGRPOState(path: string): Promise<SavedState> {
  return await readState<SavedState>(path, 'grpo', stateVersion);
}

/** Puts the weights of a checkpoint into the model, in the dtype it has. */
export async function restoreWeights(
  model: LanguageModel,
  path: string,
  saved: SavedState,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (saved.weights === 'adapter') {
    await model.loadAdapter(path, { name: model.activeAdapter ?? 'default' });
    return;
  }
  if (model.hasAdapter) {
    throw new MlxError(
      'ERR_MLX_CHECKPOINT',
      `${path}: holds a whole model, but the model given to the trainer has an adapter`,
    );
  }
  const options = { dtype: model.dtype as Dtype, ...(signal === undefined ? {} : { signal }) };
  model.replaceHandle(await loadNativeModel(path, options));
}
