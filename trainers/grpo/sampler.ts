import { MlxError } from '../../lib/errors.js';
import { Random } from '../../lib/seeded.js';
import type { ResolvedGRPOConfig } from './config.js';

const epochStream = 1;
const shuffleStream = 2;
const generationStream = 3;

/**
 * Which rows each micro-step trains on, as TRL's RepeatSampler and buffer decide it: the prompts of an epoch are permuted, cut into
 * chunks of `promptsPerRound` (an incomplete last chunk is dropped), and each chunk is generated once and served for
 * `stepsPerGeneration x numIterations` micro-steps. Everything follows from the seed and the number of the micro-step, so there is
 * no state to save.
 */
export class RoundSampler {
  /** Prompts of one generation round. */
  readonly promptsPerRound: number;
  readonly roundsPerEpoch: number;
  /** Micro-steps that one round serves. */
  readonly microStepsPerRound: number;
  readonly microStepsPerEpoch: number;
  /** Optimizer steps of one epoch; the last one may have fewer micro-batches. */
  readonly stepsPerEpoch: number;
  readonly totalSteps: number;
  readonly #config: ResolvedGRPOConfig;
  readonly #datasetSize: number;

  constructor(config: ResolvedGRPOConfig, datasetSize: number) {
    this.#config = config;
    this.#datasetSize = datasetSize;
    this.promptsPerRound = config.generationBatchSize / config.numGenerations;
    this.roundsPerEpoch = Math.floor(datasetSize / this.promptsPerRound);
    if (this.roundsPerEpoch === 0) {
      throw new MlxError(
        'ERR_MLX_CONFIG',
        `the dataset has ${datasetSize} prompts, but one generation round takes ${this.promptsPerRound} different ones ` +
          `(generationBatchSize ${config.generationBatchSize} / numGenerations ${config.numGenerations}); add prompts, raise numGenerations, or lower the batch size`,
      );
    }
    this.microStepsPerRound = config.stepsPerGeneration * config.numIterations;
    this.microStepsPerEpoch = this.roundsPerEpoch * this.microStepsPerRound;
    this.stepsPerEpoch = Math.ceil(this.microStepsPerEpoch / config.gradientAccumulationSteps);
    this.totalSteps = config.maxSteps > 0 ? config.maxSteps : Math.ceil(config.numTrainEpochs * this.stepsPerEpoch);
  }

  /** Round (counted over all epochs) that serves a micro-step. */
  roundOf(microStep: number): number {
    return Math.floor(microStep / this.microStepsPerRound);
  }

  /** Slice of the round's shuffled rows that a micro-step trains on. */
  sliceOf(microStep: number): number {
    return microStep % this.#config.stepsPerGeneration;
  }

  /** Micro-batches of the optimizer step that starts at `microStep`: fewer at the end of an epoch. */
  windowSize(microStep: number): number {
    const left = this.microStepsPerEpoch - (microStep % this.microStepsPerEpoch);
    return Math.min(this.#config.gradientAccumulationSteps, left);
  }

  /** Epochs done after `microStep` micro-steps, as a fraction. */
  epochAt(microStep: number): number {
    return microStep / this.microStepsPerEpoch;
  }

  /** Dataset indices of the different prompts of a round. */
  promptsOf(round: number): number[] {
    const epoch = Math.floor(round / this.roundsPerEpoch);
    const start = (round % this.roundsPerEpoch) * this.promptsPerRound;
    const order = this.#config.shuffleDataset
      ? new Random(this.#config.seed, epochStream, epoch).permutation(this.#datasetSize)
      : Array.from({ length: this.#datasetSize }, (_, i) => i);
    return order.slice(start, start + this.promptsPerRound);
  }

  /** Order in which a round's rows are cut into micro-batches: shuffled across groups. */
  rowOrder(round: number): number[] {
    return new Random(this.#config.seed, shuffleStream, round).permutation(this.#config.generationBatchSize);
  }

  /** Seed of a round's sampling. */
  generationSeed(round: number): number {
    return new Random(this.#config.seed, generationStream, round).uint32();
  }
}
