/** The GRPO loss and what belongs to it, as functions of arrays. */
import { operand, optionalOperand } from './array/convert.js';
import { wrap } from './array/core.js';
import type { ArrayLike, MxArray } from './array/core.js';
import { guard, MlxError } from './errors.js';
import { native } from './native.js';
import type { AdvantageResult, ArrayHandle, NativeLossResult } from './native-types.js';
import { rejectUnknownKeys } from './options.js';

export type { RatioInputs } from './generated/rl.js';
export { computeEntropy, computeImportanceRatios, selectiveLogSoftmax } from './generated/rl.js';

const loss = native().loss;

/** Of `computeAdvantages`; names and defaults are TRL's. */
export interface AdvantageOptions {
  /** So many neighbouring rows answer the same prompt. */
  numGenerations: number;
  /** One for each reward function; 1 unless given. */
  rewardWeights?: number[] | null;
  /** Divide by the standard deviation of the group (the default) or of the whole batch, or not at all. */
  scaleRewards?: 'group' | 'batch' | 'none';
  /** Whether several rewards are summed first or normalised first. */
  multiObjectiveAggregation?: 'sum_then_normalize' | 'normalize_then_sum';
}

/**
 * Advantages of rewards `[rows][functions]`, as in TRL; NaN where a function gave no score.
 *
 * @example computeAdvantages([[1], [0], [0], [1]], { numGenerations: 2 }).advantages
 */
export function computeAdvantages(rewards: number[][], options: AdvantageOptions): AdvantageResult {
  return guard(() => native().computeAdvantages(rewards, options));
}

/** Inputs of the GRPO loss: `B` completions padded to `T` tokens. */
export interface GrpoLossInputs {
  /** [B, T], under the current policy. */
  perTokenLogps: ArrayLike;
  /** [B, T]; absent on-policy. */
  oldPerTokenLogps?: ArrayLike;
  /** [B, T]; needed when `beta` is not 0. */
  refPerTokenLogps?: ArrayLike;
  /** [B, T], NaN where unknown; for the off-policy mask. */
  samplingPerTokenLogps?: ArrayLike;
  /** [B, T] or [B, 1]. */
  importanceSamplingRatio?: ArrayLike;
  /** [B, T], nats. */
  entropies?: ArrayLike;
  /** [B, T], not 0 on completion tokens. */
  completionMask: ArrayLike;
  /** [B, T], 0 on tokens that a tool wrote. */
  toolMask?: ArrayLike;
  /** [B] or [B, T]. */
  advantages: ArrayLike;
}

export interface GrpoLossResult {
  /** A lazy scalar. */
  loss: MxArray;
  /** Lazy scalars by TRL's names. */
  metrics: Record<string, MxArray>;
}

export interface GrpoLossAndGradResult extends GrpoLossResult {
  /** [B, T]. */
  gradPerTokenLogps: MxArray;
  /** [B, T], where entropies were given. */
  gradEntropies?: MxArray;
}

const required = ['perTokenLogps', 'completionMask', 'advantages'] as const;
const optional = [
  'oldPerTokenLogps',
  'refPerTokenLogps',
  'samplingPerTokenLogps',
  'importanceSamplingRatio',
  'entropies',
  'toolMask',
] as const;

function handles(inputs: GrpoLossInputs, where: string): Record<(typeof required)[number], ArrayHandle> {
  rejectUnknownKeys(inputs, [...required, ...optional], where);
  const missing = required.find((name) => inputs[name] === undefined);
  if (missing !== undefined) throw new MlxError('ERR_MLX_ARGUMENT', `${where} needs '${missing}'`);
  const entries = required.map((name) => [name, operand(inputs[name])] as const);
  const others = optional.map((name) => [name, optionalOperand(inputs[name])] as const);
  return Object.fromEntries([...entries, ...others.filter(([, handle]) => handle !== undefined)]) as ReturnType<
    typeof handles
  >;
}

function wrapped(result: NativeLossResult): GrpoLossResult & Partial<GrpoLossAndGradResult> {
  return {
    loss: wrap(result.loss),
    metrics: Object.fromEntries(result.metricNames.map((name, i) => [name, wrap(result.metrics[i]!)])),
    ...(result.gradPerTokenLogps == null ? {} : { gradPerTokenLogps: wrap(result.gradPerTokenLogps) }),
    ...(result.gradEntropies == null ? {} : { gradEntropies: wrap(result.gradEntropies) }),
  };
}

/** The GRPO loss of one micro-batch. Options are TRL's names in camelCase, with TRL's defaults. */
export function grpoLoss(inputs: GrpoLossInputs, options: object = {}): GrpoLossResult {
  return guard(() => wrapped(loss.grpoLoss(handles(inputs, 'grpoLoss()'), options)));
}

/** `grpoLoss` with its gradients with respect to the log-probs and, where given, the entropies. */
export function grpoLossAndGrad(inputs: GrpoLossInputs, options: object = {}): GrpoLossAndGradResult {
  return guard(
    () => wrapped(loss.grpoLossAndGrad(handles(inputs, 'grpoLossAndGrad()'), options)) as GrpoLossAndGradResult,
  );
}
