import { z } from 'zod';
import { guard, MlxError } from '../../lib/errors.js';
import type { LoraOptions } from '../../lib/adapters.js';
import type { LanguageModel } from '../../lib/model.js';
import { native } from '../../lib/native.js';
import { rejectUnknownKeys } from '../../lib/options.js';
import { withSignal } from '../../lib/signal.js';
import type { Message } from '../../lib/tokenizer.js';
import { applyPeftConfig } from '../peft.js';
import { LoggerGroup } from '../loggers/logger.js';
import type { Logger } from '../loggers/logger.js';
import { defaultLoggers } from '../loggers/index.js';
import { Random } from '../../lib/seeded.js';
import { MetricStore } from '../grpo/metrics.js';
import { resolveRouterAuxLossCoef } from '../router.js';
import { learningRateAt, schedulerTypes } from '../schedule.js';
import { parseConfig } from '../validate.js';

/** Options of supervised fine-tuning, named as TRL's. */
export const sftConfigSchema = z.strictObject({
  /** Folder for metrics.jsonl, report.html and the trained model (`model/`). Without it nothing is written. */
  outputDir: z.string().min(1).optional(),
  /** Peak learning rate of AdamW. */
  learningRate: z.number().min(0).default(2e-5),
  /** How the rate goes after the warm-up: down to 0 at the last step, in a straight line or along a cosine, or not at all. 'constant' has no warm-up. */
  lrSchedulerType: z.enum(schedulerTypes).default('linear'),
  /** Steps of linear warm-up; below 1, a share of all steps. */
  warmupSteps: z.number().min(0).default(0),
  /** Decoupled weight decay on matrices; biases and norms are exempt. */
  weightDecay: z.number().min(0).default(0),
  /** Decay of AdamW's mean of gradients, below 1. */
  adamBeta1: z.number().min(0).lt(1).default(0.9),
  /** Decay of AdamW's mean of squared gradients, below 1. */
  adamBeta2: z.number().min(0).lt(1).default(0.999),
  /** Added to the root of AdamW's mean of squared gradients. */
  adamEpsilon: z.number().positive().default(1e-8),
  /** Global gradient norm above which gradients are scaled down; 0 is off. */
  maxGradNorm: z.number().min(0).default(1),
  /** Optimizer steps in all; -1 means `numTrainEpochs` decides. */
  maxSteps: z.int().min(-1).default(-1),
  /** Passes over the rows, where maxSteps does not decide. */
  numTrainEpochs: z.number().positive().default(3),
  /** Rows in one micro-batch (one forward and backward pass). */
  perDeviceTrainBatchSize: z.int().min(1).default(8),
  /** Micro-batches in one optimizer step. */
  gradientAccumulationSteps: z.int().min(1).default(1),
  /** Longest row in tokens; longer ones are cut at the end. */
  maxLength: z.int().min(2).default(1024),
  /** Recompute activations in the backward pass: less memory, about a third more time. */
  gradientCheckpointing: z.boolean().default(false),
  /**
   * Models with experts: weight of the loss that makes routers use these evenly, its mean over the micro-batches of a step; 0 is off.
   * Default: router_aux_loss_coef of the model's config.json.
   */
  routerAuxLossCoef: z.number().min(0).optional(),
  /** Optimizer steps between log lines. */
  loggingSteps: z.int().min(1).default(10),
  /** Of the order of the rows. */
  seed: z.int().min(0).default(42),
});

/**
 * The options of supervised fine-tuning, all of them optional. A wrong value, or a name that is unknown, is ERR_MLX_CONFIG with all problems at once.
 *
 * @interface
 */
export type SFTConfig = z.input<typeof sftConfigSchema>;

/** All fields. The trainer fills in `routerAuxLossCoef`, which depends on the model. */
export type ResolvedSFTConfig = z.output<typeof sftConfigSchema>;

/** The answer that should follow a prompt. A conversation goes through the chat template, a text is taken as it is. */
export interface SFTRow {
  prompt: string | readonly Message[];
  completion: string;
}

export interface SFTTrainerOptions {
  model: LanguageModel;
  dataset: readonly SFTRow[];
  config?: SFTConfig;
  /** A fresh adapter that is put on the model and trained in its place, as TRL's `peft_config`. */
  peftConfig?: LoraOptions;
  loggers?: readonly Logger[];
}

interface Example {
  ids: number[];
  /** 1 on the tokens of the completion, which alone are learnt. */
  mask: number[];
}

/** Batches sorted by length within stretches of this many, so that little is padded and the order stays random. */
const sortedStretch = 32;

/** Supervised fine-tuning on completions: the mean cross-entropy of the completion's tokens and the end-of-text token. */
export class SFTTrainer {
  readonly config: ResolvedSFTConfig;
  readonly #model: LanguageModel;
  readonly #examples: Example[];
  readonly #loggers: LoggerGroup;

  constructor(options: SFTTrainerOptions) {
    rejectUnknownKeys(options, ['model', 'dataset', 'config', 'peftConfig', 'loggers'], 'SFTTrainer');
    const config = parseConfig(sftConfigSchema, options.config ?? {}, 'SFTConfig');
    const routerAuxLossCoef = resolveRouterAuxLossCoef(config.routerAuxLossCoef, options.model, 'SFTConfig');
    this.config = { ...config, ...(routerAuxLossCoef === undefined ? {} : { routerAuxLossCoef }) };
    if (options.dataset.length === 0) throw new MlxError('ERR_MLX_CONFIG', 'SFTTrainer: the dataset is empty');
    this.#model = options.model;
    applyPeftConfig(options.model, options.peftConfig, 'SFTTrainer');
    this.#examples = options.dataset.map((row) => encodeExample(options.model, row, this.config.maxLength));
    this.#loggers = new LoggerGroup(options.loggers ?? defaultLoggers(this.config.outputDir, false));
  }

  /** Runs all steps, then writes the model to `<outputDir>/model`. Rejects with the signal's reason when aborted. */
  async train(options: { signal?: AbortSignal } = {}): Promise<{ steps: number; loss: number }> {
    const { signal } = options;
    const { config } = this;
    signal?.throwIfAborted();
    const { adamBeta1, adamBeta2, adamEpsilon, weightDecay, maxGradNorm, gradientCheckpointing, seed } = config;
    const optimizer = { adamBeta1, adamBeta2, adamEpsilon, weightDecay, maxGradNorm, gradientCheckpointing, seed };
    const trainer = guard(() => new (native().NativeTrainer)(this.#model.handle, optimizer));
    const perEpoch = Math.ceil(
      this.#examples.length / (config.perDeviceTrainBatchSize * config.gradientAccumulationSteps),
    );
    const totalSteps = config.maxSteps > 0 ? config.maxSteps : Math.ceil(config.numTrainEpochs * perEpoch);
    let loss = NaN;
    try {
      await this.#loggers.start({
        trainer: 'SFT',
        config,
        model: this.#model,
        outputDir: config.outputDir,
        totalSteps,
        startStep: 0,
      });
      const losses: number[] = [];
      const routing = new MetricStore();
      let batches: Example[][] = [];
      let epoch = 0;
      let began = performance.now();
      for (let step = 0; step < totalSteps; step++) {
        if (batches.length === 0) batches = this.#epochBatches(epoch++);
        const window = batches.splice(0, config.gradientAccumulationSteps);
        const numItemsInBatch = window.flat().reduce((sum, { mask }) => sum + mask.reduce((a, b) => a + b, 0), 0);
        const routerAuxLossCoef = (config.routerAuxLossCoef ?? 0) / window.length;
        let stepLoss = 0;
        for (const rows of window) {
          const result = await withSignal(signal, (cancel) =>
            trainer.sftMicroStep(rows, { numItemsInBatch, routerAuxLossCoef }, cancel),
          );
          stepLoss += result.loss;
          routing.addAll(result.metrics);
        }
        const learningRate = learningRateAt(step, { ...config, totalSteps });
        const { gradNorm } = await withSignal(undefined, () => trainer.optimizerStep({ learningRate }));
        losses.push(stepLoss);
        this.#loggers.progress({ step, totalSteps, phase: 'train', fraction: 1, detail: '' });
        if ((step + 1) % config.loggingSteps === 0 || step + 1 === totalSteps) {
          loss = losses.reduce((a, b) => a + b, 0) / losses.length;
          const stepTime = (performance.now() - began) / 1000 / losses.length;
          const record = {
            epoch: (step + 1) / perEpoch,
            loss,
            grad_norm: gradNorm,
            learning_rate: learningRate,
            step_time: stepTime,
            ...routing.flush(),
          };
          await this.#loggers.metrics(step + 1, record);
          losses.length = 0;
          began = performance.now();
        }
      }
      if (config.outputDir !== undefined) await this.#model.save(`${config.outputDir}/model`);
      await this.#loggers.finish('completed');
      return { steps: totalSteps, loss };
    } catch (error) {
      await this.#loggers.finish(signal?.aborted ? 'stopped' : 'failed', error);
      throw error;
    } finally {
      trainer.dispose();
    }
  }

  /** The examples of an epoch in random order, cut into batches of similar length. */
  #epochBatches(epoch: number): Example[][] {
    const { perDeviceTrainBatchSize: size, seed } = this.config;
    const random = new Random(seed, epoch);
    const shuffled = random.permutation(this.#examples.length).map((i) => this.#examples[i]!);
    const batches: Example[][] = [];
    for (let start = 0; start < shuffled.length; start += size * sortedStretch) {
      const stretch = shuffled
        .slice(start, start + size * sortedStretch)
        .toSorted((a, b) => b.ids.length - a.ids.length);
      for (let at = 0; at < stretch.length; at += size) batches.push(stretch.slice(at, at + size));
    }
    return random.permutation(batches.length).map((i) => batches[i]!);
  }
}

function encodeExample(model: LanguageModel, row: SFTRow, maxLength: number): Example {
  const prompt = model.encodePrompt(row.prompt, { raw: true });
  const end = model.eosTokenIds[0];
  const completion = [
    ...model.tokenizer.encode(row.completion, { addSpecialTokens: false }),
    ...(end === undefined ? [] : [end]),
  ];
  const ids = [...prompt, ...completion].slice(0, maxLength);
  return { ids, mask: ids.map((_, i) => (i < prompt.length ? 0 : 1)) };
}
