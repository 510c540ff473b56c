import { native } from '../../lib/native.js';
import type { LoraOptions } from '../../lib/adapters.js';
import type { LanguageModel } from '../../lib/model.js';
import type { BatchProgress, NativeTrainer } from '../../lib/native-types.js';
import { rejectUnknownKeys } from '../../lib/options.js';
import { withSignal } from '../../lib/signal.js';
import { guard, MlxError } from '../../lib/errors.js';
import { CheckpointStore, refuseLaterCheckpoints, resolveResume } from '../checkpoint.js';
import { applyPeftConfig } from '../peft.js';
import { LoggerGroup } from '../loggers/logger.js';
import type { Logger, Progress } from '../loggers/logger.js';
import { defaultLoggers } from '../loggers/index.js';
import { resolveRouterAuxLossCoef } from '../router.js';
import { learningRateAt } from '../schedule.js';
import { configWarnings, resolveGRPOConfig } from './config.js';
import type { GRPOConfig, ResolvedGRPOConfig } from './config.js';
import { evaluate } from './evaluate.js';
import { completionMetrics, MetricStore, rewardMetrics } from './metrics.js';
import { checkDataset, nameRewards, score } from './rewards.js';
import type { NamedReward } from './rewards.js';
import { completionFormat, encodeDataset, rollout } from './rollout.js';
import { RoundSampler } from './sampler.js';
import { compareConfigs, readGRPOState, restoreWeights, stateVersion } from './state.js';
import type { RunState, SavedState } from './state.js';
import { GRPOStep, trainerOptions } from './step.js';
import type { Round } from './step.js';
import type { GRPORow, Reward, TrainerState } from './types.js';

export interface GRPOTrainerOptions<Row extends GRPORow = GRPORow> {
  /** The policy. Its weights are changed in place. */
  model: LanguageModel;
  dataset: readonly Row[];
  /** Held-out prompts, answered greedily every `evalSteps`. */
  evalDataset?: readonly Row[];
  /** Functions that score completions; their weighted sum is maximised. */
  rewards: Reward<Row> | readonly Reward<Row>[];
  config?: GRPOConfig;
  /** A fresh adapter that is put on the model and trained in its place, as TRL's `peft_config`. */
  peftConfig?: LoraOptions;
  /** Default: metrics.jsonl, completions/ and report.html in `outputDir`, when there is one. */
  loggers?: readonly Logger[];
}

export interface TrainOptions {
  /** Stops the run: the last whole step is saved, and `train()` rejects with the signal's reason. */
  signal?: AbortSignal;
  /** A checkpoint folder, the folder of a run, or true for the newest checkpoint in `outputDir`. */
  resumeFrom?: string | boolean;
}

export interface TrainResult {
  /** Optimizer steps done in all. */
  steps: number;
  /** The last logged metrics. */
  metrics: Record<string, number>;
  /** Folder of the last checkpoint, when the run has an `outputDir`. */
  checkpoint: string | undefined;
}

const seconds = (since: number): number => (performance.now() - since) / 1000;

/**
 * Group Relative Policy Optimization: sample a group of answers to each prompt, score them, and make those better than their group's
 * mean more likely.
 *
 * @example
 * const right: Reward = ({ completions, answer }) => completions.map((text, i) => (text.includes(answer[i]) ? 1 : 0));
 * const trainer = new GRPOTrainer({ model, dataset, rewards: right, config: { outputDir: 'runs/first', maxSteps: 100 } });
 * await trainer.train();
 */
export class GRPOTrainer<Row extends GRPORow = GRPORow> {
  readonly config: ResolvedGRPOConfig;
  readonly #model: LanguageModel;
  readonly #dataset: readonly GRPORow[];
  readonly #evalDataset: readonly GRPORow[] | undefined;
  readonly #rewards: NamedReward[];
  readonly #loggers: LoggerGroup;
  readonly #sampler: RoundSampler;
  readonly #store: CheckpointStore | undefined;

  #state: RunState = { step: 0, microStep: 0, numTokens: 0, countedRound: -1, skippedSteps: 0 };
  #metrics = new MetricStore();
  #lastRecord: Record<string, number> = {};
  #promptIds: number[][] = [];
  /** The round in use, and the one that the present optimizer step began with. */
  #round: Round | null = null;
  #firstRound: Round | null = null;
  #savedStep = 0;
  #lastCheckpoint: string | undefined;
  #running = false;

  constructor(options: GRPOTrainerOptions<Row>) {
    rejectUnknownKeys(
      options,
      ['model', 'dataset', 'evalDataset', 'rewards', 'config', 'peftConfig', 'loggers'],
      'GRPOTrainer',
    );
    const rewards = typeof options.rewards === 'function' ? [options.rewards] : options.rewards;
    if (!Array.isArray(rewards) || rewards.length === 0 || rewards.some((reward) => typeof reward !== 'function')) {
      throw new MlxError(
        'ERR_MLX_CONFIG',
        'GRPOTrainer needs at least one reward, and every reward must be a function',
      );
    }
    const config = resolveGRPOConfig(options.config ?? {}, rewards.length);
    const routerAuxLossCoef = resolveRouterAuxLossCoef(config.routerAuxLossCoef, options.model, 'GRPOConfig');
    this.config = { ...config, ...(routerAuxLossCoef === undefined ? {} : { routerAuxLossCoef }) };
    for (const warning of configWarnings(this.config)) process.emitWarning(warning, 'MlxConfigWarning');
    checkDataset(options.dataset, 'dataset');
    if (options.evalDataset !== undefined) checkDataset(options.evalDataset, 'evalDataset');
    if (this.config.evalSteps > 0 && options.evalDataset === undefined) {
      throw new MlxError('ERR_MLX_CONFIG', `evalSteps is ${this.config.evalSteps}, but there is no evalDataset`);
    }
    this.#model = options.model;
    applyPeftConfig(options.model, options.peftConfig, 'GRPOTrainer');
    this.#dataset = options.dataset;
    this.#evalDataset = options.evalDataset;
    // The rewards get the columns of the data set that they are typed for.
    this.#rewards = nameRewards(rewards as readonly Reward[]);
    this.#sampler = new RoundSampler(this.config, options.dataset.length);
    const { outputDir, saveTotalLimit } = this.config;
    this.#store = outputDir === undefined ? undefined : new CheckpointStore(outputDir, saveTotalLimit);
    this.#loggers = new LoggerGroup(options.loggers ?? defaultLoggers(outputDir, this.config.logCompletions));
  }

  /** Optimizer steps of the whole run. */
  get totalSteps(): number {
    return this.#sampler.totalSteps;
  }

  /** Runs until `totalSteps`, an abort, or an error; in the last two cases the last whole step is saved first. */
  async train(options: TrainOptions = {}): Promise<TrainResult> {
    rejectUnknownKeys(options, ['signal', 'resumeFrom'], 'train()');
    const { signal } = options;
    signal?.throwIfAborted();
    if (this.#running) throw new MlxError('ERR_MLX_ARGUMENT', 'this trainer is already running');
    this.#running = true;
    let trainer: NativeTrainer | undefined;
    try {
      await this.#store?.open();
      const resumed = await this.#resume(options);
      if (this.#store !== undefined) await refuseLaterCheckpoints(this.#store, this.#state.step);
      trainer = guard(() => new (native().NativeTrainer)(this.#model.handle, trainerOptions(this.config)));
      if (resumed !== undefined) await withSignal(signal, () => trainer!.load(resumed));
      this.#promptIds = encodeDataset(this.#model, this.#dataset, this.config, 'dataset');
      await this.#loggers.start(this.#runInfo());
      await this.#loop(trainer, signal);
      await this.#loggers.finish('completed');
      return { steps: this.#state.step, metrics: this.#lastRecord, checkpoint: this.#lastCheckpoint };
    } catch (error) {
      if (trainer !== undefined) await this.#rescue(trainer, error);
      await this.#loggers.finish(signal?.aborted ? 'stopped' : 'failed', error);
      throw error;
    } finally {
      trainer?.dispose();
      this.#running = false;
    }
  }

  async #loop(trainer: NativeTrainer, signal: AbortSignal | undefined): Promise<void> {
    const { loggingSteps, saveSteps, evalSteps, evalOnStart } = this.config;
    const step = new GRPOStep(trainer, this.config);
    guard(() => native().resetPeakMemory());
    if (evalSteps > 0 && evalOnStart && this.#state.step === 0) await this.#evaluate(signal);
    let since = performance.now();
    while (this.#state.step < this.totalSteps) {
      signal?.throwIfAborted();
      await this.#optimizerStep(step, signal);
      const done = this.#state.step;
      const last = done === this.totalSteps;
      if (done % loggingSteps === 0 || last) {
        await this.#log(seconds(since));
        since = performance.now();
      }
      if (evalSteps > 0 && (done % evalSteps === 0 || last)) await this.#evaluate(signal);
      if (last || (saveSteps > 0 && done % saveSteps === 0)) await this.#save(trainer);
    }
  }

  /** One optimizer step: rollouts where a round begins, then the micro-batches, then AdamW. */
  async #optimizerStep(step: GRPOStep, signal: AbortSignal | undefined): Promise<void> {
    const { microStep: start, step: index } = this.#state;
    const began = performance.now();
    const windowSize = this.#sampler.windowSize(start);
    let loss = 0;
    for (let i = 0; i < windowSize; i++) {
      signal?.throwIfAborted();
      const round = await this.#roundFor(step, start + i, signal);
      if (i === 0) this.#firstRound = round;
      this.#progress('train', i / windowSize, `micro-batch ${i + 1} of ${windowSize}`);
      const slice = this.#sampler.sliceOf(start + i);
      const result = await this.#timed('forward_backward', () =>
        withSignal(signal, (cancel) => step.microStep(round, slice, windowSize, cancel)),
      );
      loss += result.loss;
      this.#metrics.addAll(result.metrics);
      this.#metrics.add('rows_computed', result.rowsComputed);
    }
    const learningRate = learningRateAt(index, { ...this.config, totalSteps: this.totalSteps });
    const { gradNorm, skipped } = await this.#timed('optimizer', () =>
      withSignal(undefined, () => step.optimizerStep(learningRate)),
    );

    this.#state.step += 1;
    this.#state.microStep += windowSize;
    if (skipped) this.#state.skippedSteps += 1;
    if (Number.isFinite(loss)) this.#metrics.add('loss', loss);
    if (Number.isFinite(gradNorm)) this.#metrics.add('grad_norm', gradNorm);
    this.#metrics.add('learning_rate', learningRate);
    if (this.config.entropyCoef !== 0) this.#metrics.add('entropy_coef', this.config.entropyCoef);
    this.#metrics.add('step_time', seconds(began));
    this.#metrics.endStep();
  }

  /** The round that serves a micro-step: the one in use, or a new one. */
  async #roundFor(step: GRPOStep, microStep: number, signal: AbortSignal | undefined): Promise<Round> {
    const index = this.#sampler.roundOf(microStep);
    if (this.#round?.index === index) return this.#round;
    this.#round = await this.#newRound(step, index, signal);
    return this.#round;
  }

  /** Prompts, rollouts, rewards, advantages, and the log-probs of the old policy and the reference where the loss needs them. */
  async #newRound(step: GRPOStep, index: number, signal: AbortSignal | undefined): Promise<Round> {
    const { numGenerations, temperature } = this.config;
    const prompts = this.#sampler.promptsOf(index);
    const made = await this.#timed('generate', () =>
      rollout(this.#model, this.config, {
        promptIds: prompts.map((i) => this.#promptIds[i]!),
        numGenerations,
        temperature,
        seed: this.#sampler.generationSeed(index),
        signal,
        onProgress: (progress: BatchProgress) =>
          this.#progress(
            'generate',
            progress.step / progress.maxTokens,
            `${progress.rowsLeft} rows left, ${progress.tokens} tokens`,
          ),
      }),
    );
    this.#countTokens(index, made.promptTokens, made.generatedTokens);

    this.#progress('reward', 0, `${made.rows.length} completions`);
    const completionIds = made.rows.map((row) => row.completionIds);
    const examples = made.rows.map((_, i) => this.#dataset[prompts[Math.floor(i / numGenerations)]!]!);
    const rewards = await this.#timed('reward', () =>
      score(this.#rewards, {
        rows: examples,
        completions: made.texts,
        completionIds,
        trainerState: this.#trainerState(),
        logMetric: (name, value) => this.#metrics.add(name, value),
        signal,
      }),
    );
    this.#metrics.addAll(
      rewardMetrics(
        this.#rewards.map(({ name }) => name),
        rewards,
        this.config,
      ),
    );
    this.#metrics.addAll(
      completionMetrics(
        completionIds.map((ids) => ids.length),
        made.truncated,
      ),
    );

    const order = this.#sampler.rowOrder(index);
    const round = await this.#timed('logprob', () =>
      withSignal(signal, (cancel) =>
        step.prepare({ index, rows: made.rows, rewards, truncated: made.truncated, order }, cancel),
      ),
    );
    await this.#loggers.samples(
      this.#state.step + 1,
      examples.map((row, i) => ({
        prompt:
          typeof row.prompt === 'string'
            ? row.prompt
            : row.prompt.map(({ role, content }) => `${role}: ${content ?? ''}`).join('\n'),
        completion: made.texts[i]!,
        rewards: Object.fromEntries(
          this.#rewards.map(({ name }, f) => [name, Number.isNaN(rewards[i]![f]) ? null : rewards[i]![f]!]),
        ),
        advantage: round.advantages[i]!,
        tokens: completionIds[i]!.length,
        truncated: made.truncated[i]!,
      })),
    );
    return round;
  }

  /** Counts a round's tokens once, also when it is made again after a resumption. */
  #countTokens(index: number, promptTokens: number, generatedTokens: number): void {
    this.#metrics.addToSum('generated_tokens', generatedTokens);
    if (index <= this.#state.countedRound) return;
    this.#state.countedRound = index;
    this.#state.numTokens += promptTokens + generatedTokens;
  }

  async #log(elapsed: number): Promise<void> {
    const generated = this.#metrics.sum('generated_tokens');
    const generateTime = this.#metrics.sum('time/generate');
    const { loss, generated_tokens: _, ...rest } = this.#metrics.flush();
    const record: Record<string, number> = {
      epoch: this.#sampler.epochAt(this.#state.microStep),
      ...(loss === undefined ? {} : { loss }),
      ...rest,
      num_tokens: this.#state.numTokens,
      tokens_per_second: generated / elapsed,
      ...(generateTime > 0 ? { 'generation/tokens_per_second': generated / generateTime } : {}),
      peak_memory_gb: guard(() => native().memoryStats()).peak / 1e9,
      skipped_steps: this.#state.skippedSteps,
    };
    this.#lastRecord = record;
    await this.#loggers.metrics(this.#state.step, record);
  }

  async #evaluate(signal: AbortSignal | undefined): Promise<void> {
    if (this.#evalDataset === undefined) return;
    const began = performance.now();
    const { metrics } = await evaluate(this.#model, {
      dataset: this.#evalDataset,
      rewards: this.#rewards.map(({ reward }) => reward),
      maxCompletionLength: this.config.maxCompletionLength,
      batchSize: this.config.perDeviceEvalBatchSize,
      chatTemplateKwargs: this.config.chatTemplateKwargs,
      ...completionFormat(this.config),
      trainerState: this.#trainerState(),
      onProgress: ({ done, total }) => this.#progress('evaluate', done / total, `${done} of ${total} prompts`),
      ...(signal === undefined ? {} : { signal }),
    });
    const record = Object.fromEntries(Object.entries(metrics).map(([name, value]) => [`eval_${name}`, value]));
    record['eval_runtime'] = seconds(began);
    await this.#loggers.metrics(this.#state.step, record);
  }

  async #save(trainer: NativeTrainer): Promise<void> {
    if (this.#store === undefined || this.#state.step === this.#savedStep) return;
    this.#progress('save', 0, '');
    const round = this.#sampler.roundOf(this.#state.microStep);
    const saved: SavedState = {
      version: stateVersion,
      trainer: 'grpo',
      ...this.#state,
      epoch: this.#sampler.epochAt(this.#state.microStep),
      config: this.config,
      datasetSize: this.#dataset.length,
      weights: this.#model.hasAdapter ? 'adapter' : 'model',
      round: [this.#round, this.#firstRound].find((candidate) => candidate?.index === round) ?? null,
      pending: this.#metrics.toJSON(),
    };
    const { path } = await this.#timed('save', () =>
      this.#store!.save(this.#state.step, saved, async (dir) => {
        await this.#model.writeTrained(dir);
        await trainer.save(dir);
      }),
    );
    this.#savedStep = this.#state.step;
    this.#lastCheckpoint = path;
  }

  /** After an abort or an error: drops the unfinished step and saves the last whole one, unless saving is what failed. */
  async #rescue(trainer: NativeTrainer, error: unknown): Promise<void> {
    if (MlxError.isInstance(error, 'ERR_MLX_SAVE') || this.#model.disposed) return;
    try {
      await trainer.discardGradients();
      await this.#save(trainer);
    } catch (saveFailure) {
      const text = saveFailure instanceof Error ? saveFailure.message : String(saveFailure);
      process.emitWarning(
        `step ${this.#state.step} could not be saved after the run stopped: ${text}`,
        'MlxCheckpointWarning',
      );
    }
  }

  /** Restores weights and position; returns the checkpoint's folder for the optimizer. */
  async #resume({ resumeFrom, signal }: TrainOptions): Promise<string | undefined> {
    const path = await resolveResume(resumeFrom, this.#store);
    if (path === undefined) return undefined;
    const saved = await readGRPOState(path);
    const changed = compareConfigs(saved, this.config, this.#dataset.length, path);
    if (changed.length > 0) {
      process.emitWarning(`resuming with another ${changed.join(', ')} than the run began with`, 'MlxConfigWarning');
    }
    await restoreWeights(this.#model, path, saved, signal);
    const { step, microStep, numTokens, countedRound, skippedSteps } = saved;
    this.#state = { step, microStep, numTokens, countedRound, skippedSteps };
    this.#round = saved.round;
    this.#metrics = new MetricStore(saved.pending);
    this.#savedStep = step;
    this.#lastCheckpoint = path;
    return path;
  }

  #runInfo(): Parameters<LoggerGroup['start']>[0] {
    const { path, modelType, dtype, numParameters, numTrainable } = this.#model;
    return {
      trainer: 'GRPO',
      config: this.config,
      model: { path, modelType, dtype, numParameters, numTrainable },
      outputDir: this.config.outputDir,
      totalSteps: this.totalSteps,
      startStep: this.#state.step,
    };
  }

  #trainerState(): TrainerState {
    return {
      globalStep: this.#state.step,
      maxSteps: this.totalSteps,
      epoch: this.#sampler.epochAt(this.#state.microStep),
    };
  }

  #progress(phase: Progress['phase'], fraction: number, detail: string): void {
    this.#loggers.progress({ step: this.#state.step, totalSteps: this.totalSteps, phase, fraction, detail });
  }

  /** Runs `work` and adds its wall time to `time/<part>`. */
  async #timed<T>(part: string, work: () => Promise<T>): Promise<T> {
    const began = performance.now();
    try {
      return await work();
    } finally {
      this.#metrics.addToSum(`time/${part}`, seconds(began));
    }
  }
}
