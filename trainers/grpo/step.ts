import { guard } from '../../lib/errors.js';
import { native } from '../../lib/native.js';
import type {
  NativeGrpoBatch,
  NativeCancel,
  NativeLossOptions,
  NativeTrainer,
  NativeTrainerOptions,
  TrainRow,
} from '../../lib/native-types.js';
import { needsOldLogprobs } from './config.js';
import type { ResolvedGRPOConfig } from './config.js';

/** One generation round, scored and ready to be trained on. Plain data, so that a checkpoint can hold it. */
export interface Round {
  /** Number of the round, counted over all epochs. */
  index: number;
  /** Rows in group order: `numGenerations` neighbours share a prompt. */
  rows: TrainRow[];
  advantages: number[];
  /** Rows left out of the loss because they were truncated. */
  masked: boolean[];
  /** Tokens of the round that count in the loss: the denominator of 'dapo', 'cispo' and 'vespo'. */
  numItemsInBatch: number;
  /** Order in which the rows are cut into micro-batches. */
  order: number[];
  oldLogprobs?: number[][];
  refLogprobs?: number[][];
}

export interface RoundInput {
  index: number;
  rows: TrainRow[];
  /** [rows][functions], NaN where a reward was null. */
  rewards: number[][];
  /** Rows that hit the length limit. */
  truncated: boolean[];
  order: number[];
}

export interface MicroStepResult {
  loss: number;
  metrics: Record<string, number>;
  /** Rows that went through the model; the others had no influence. */
  rowsComputed: number;
}

/**
 * The training half of GRPO: scored rollouts in, weight updates out. It neither generates nor calls rewards, so recorded rollouts
 * can be replayed through the same code.
 */
export class GRPOStep {
  readonly #trainer: NativeTrainer;
  readonly #config: ResolvedGRPOConfig;

  /** @internal Made by the trainer. */
  constructor(trainer: NativeTrainer, config: ResolvedGRPOConfig) {
    this.#trainer = trainer;
    this.#config = config;
  }

  /** Advantages, masks and the log-probs that must be taken before the weights change. */
  async prepare(input: RoundInput, cancel?: NativeCancel): Promise<Round> {
    const { index, rows, rewards, truncated, order } = input;
    const config = this.#config;
    const { advantages } = guard(() =>
      native().computeAdvantages(rewards, {
        numGenerations: config.numGenerations,
        scaleRewards: config.scaleRewards,
        multiObjectiveAggregation: config.multiObjectiveAggregation,
        ...(config.rewardWeights === undefined ? {} : { rewardWeights: config.rewardWeights }),
      }),
    );
    const masked = truncated.map((cut) => cut && config.maskTruncatedCompletions);
    const numItemsInBatch = rows.reduce((sum, row, i) => sum + (masked[i] ? 0 : row.completionIds.length), 0);
    const round: Round = { index, rows, advantages, masked, numItemsInBatch, order };
    if (needsOldLogprobs(config)) round.oldLogprobs = await this.#logprobs(round, false, cancel);
    if (config.beta !== 0) round.refLogprobs = await this.#logprobs(round, true, cancel);
    return round;
  }

  async #logprobs(round: Round, reference: boolean, cancel: NativeCancel | undefined): Promise<number[][]> {
    const length = (i: number): number => round.rows[i]!.promptIds.length + round.rows[i]!.completionIds.length;
    // Rows of similar length side by side waste the least padding.
    const wanted = round.rows
      .map((_, i) => i)
      .filter((i) => !this.#isIdle(round, i))
      .toSorted((a, b) => length(b) - length(a));
    const rows = wanted.map((i) => round.rows[i]!);
    if (rows.length === 0) return round.rows.map((row) => row.completionIds.map(() => 0));
    const { logprobs } = await this.#trainer.logprobs(
      rows,
      { temperature: this.#config.temperature, reference },
      cancel,
    );
    const filled: number[][] = round.rows.map((row) => row.completionIds.map(() => 0));
    wanted.forEach((i, k) => (filled[i] = logprobs[k]!));
    return filled;
  }

  /** True for rows that change neither the loss nor any gradient. */
  #isIdle(round: Round, i: number): boolean {
    const { skipZeroAdvantageRows, beta, entropyCoef, topEntropyQuantile, routerAuxLossCoef = 0 } = this.#config;
    if (!skipZeroAdvantageRows || beta !== 0 || entropyCoef !== 0 || topEntropyQuantile !== 1) return false;
    if (routerAuxLossCoef !== 0) return false;
    return round.advantages[i] === 0 || round.masked[i]!;
  }

  /**
   * Adds the gradients of one micro-batch: slice `slice` of the round's shuffled rows. `windowSize` is the number of micro-batches
   * that this optimizer step sums.
   */
  async microStep(round: Round, slice: number, windowSize: number, cancel?: NativeCancel): Promise<MicroStepResult> {
    const size = this.#config.perDeviceTrainBatchSize;
    const all = round.order.slice(slice * size, (slice + 1) * size);
    const { chosen, scale } = this.#select(round, all);
    const pick = (values: number[][] | undefined): number[][] | undefined => values && chosen.map((i) => values[i]!);
    const batch: NativeGrpoBatch = {
      rows: chosen.map((i) => round.rows[i]!),
      advantages: chosen.map((i) => round.advantages[i]! * scale),
    };
    const oldLogprobs = pick(round.oldLogprobs);
    const refLogprobs = pick(round.refLogprobs);
    if (oldLogprobs !== undefined) batch.oldLogprobs = oldLogprobs;
    if (refLogprobs !== undefined) batch.refLogprobs = refLogprobs;
    if (chosen.some((i) => round.masked[i])) {
      batch.completionMask = chosen.map((i) => round.rows[i]!.completionIds.map(() => (round.masked[i] ? 0 : 1)));
    }
    const { loss, metrics } = await this.#trainer.grpoMicroStep(batch, this.#lossOptions(round, windowSize), cancel);
    return { loss, metrics, rowsComputed: chosen.length };
  }

  /**
   * Leaves idle rows out. Losses whose denominator counts the rows or tokens of the micro-batch would then divide by too little; all of
   * them are proportional to the advantages, so scaling those restores the exact value. A micro-batch of idle rows keeps its shortest
   * one: its gradients are 0, but the optimizer must still take its step.
   */
  #select(round: Round, all: number[]): { chosen: number[]; scale: number } {
    const busy = all.filter((i) => !this.#isIdle(round, i));
    if (busy.length === all.length) return { chosen: all, scale: 1 };
    const length = (i: number): number => round.rows[i]!.completionIds.length;
    if (busy.length === 0) {
      const shortest = all.reduce((a, b) => (length(b) < length(a) ? b : a));
      return { chosen: [shortest], scale: 0 };
    }
    const { lossType } = this.#config;
    if (lossType === 'dapo' || lossType === 'cispo' || lossType === 'vespo') return { chosen: busy, scale: 1 };
    if (lossType !== 'bnpo') return { chosen: busy, scale: busy.length / all.length };
    const tokens = (rows: number[]): number => rows.reduce((sum, i) => sum + (round.masked[i] ? 0 : length(i)), 0);
    return { chosen: busy, scale: tokens(busy) / tokens(all) };
  }

  #lossOptions(round: Round, windowSize: number): NativeLossOptions {
    const config = this.#config;
    return {
      lossType: config.lossType,
      importanceSamplingLevel: config.importanceSamplingLevel,
      epsilon: config.epsilon,
      ...(config.epsilonHigh === undefined ? {} : { epsilonHigh: config.epsilonHigh }),
      ...(config.delta === undefined ? {} : { delta: config.delta }),
      ...(config.offPolicyMaskThreshold === undefined ? {} : { offPolicyMaskThreshold: config.offPolicyMaskThreshold }),
      beta: config.beta,
      useBiasCorrectionKl: config.useBiasCorrectionKl,
      temperature: config.temperature,
      maxCompletionLength: config.maxCompletionLength,
      numItemsInBatch: round.numItemsInBatch,
      gradientAccumulationSteps: windowSize,
      stepsPerGeneration: config.stepsPerGeneration,
      topEntropyQuantile: config.topEntropyQuantile,
      entropyCoef: config.entropyCoef,
      sapoTemperatureNeg: config.sapoTemperatureNeg,
      sapoTemperaturePos: config.sapoTemperaturePos,
      vespoKPos: config.vespoKPos,
      vespoLambdaPos: config.vespoLambdaPos,
      vespoKNeg: config.vespoKNeg,
      vespoLambdaNeg: config.vespoLambdaNeg,
      routerAuxLossCoef: config.routerAuxLossCoef ?? 0,
    };
  }

  /** Clips the summed gradients and takes one AdamW step; non-finite gradients leave everything as it was. */
  async optimizerStep(learningRate: number): Promise<{ gradNorm: number; skipped: boolean }> {
    return await this.#trainer.optimizerStep({ learningRate });
  }
}

/** The optimizer's options as a config states them. */
export function trainerOptions(config: ResolvedGRPOConfig): NativeTrainerOptions {
  return {
    adamBeta1: config.adamBeta1,
    adamBeta2: config.adamBeta2,
    adamEpsilon: config.adamEpsilon,
    weightDecay: config.weightDecay,
    maxGradNorm: config.maxGradNorm,
    beta: config.beta,
    gradientCheckpointing: config.gradientCheckpointing,
    seed: config.seed,
  };
}
