import { describe, expect, it } from 'vitest';
import { native } from '../../lib/native.ts';
import type { NativeModel } from '../../lib/native-types.ts';
import { resolveGRPOConfig } from '../../trainers/grpo/config.ts';
import type { GRPOConfig, ResolvedGRPOConfig } from '../../trainers/grpo/config.ts';
import { completionMetrics, rewardMetrics } from '../../trainers/grpo/metrics.ts';
import { RoundSampler } from '../../trainers/grpo/sampler.ts';
import { GRPOStep, trainerOptions } from '../../trainers/grpo/step.ts';
import type { Round } from '../../trainers/grpo/step.ts';
import { learningRateAt } from '../../trainers/schedule.ts';
import { goldenCases, goldenPath, readSafetensors } from '../helpers/golden.ts';
import type { Tensor } from '../helpers/golden.ts';
import { MxArray } from '../../lib/index.ts';

interface RecordedRound {
  prompt_ids: number[][];
  completion_ids: number[][];
  scores_a: (number | null)[];
  scores_b: (number | null)[];
  advantages: number[];
  num_items_in_batch: number;
  metrics: Record<string, number | string>;
}

interface Recorded {
  options: Record<string, unknown>;
  inputs: { generation_rounds: RecordedRound[] };
  expected: {
    micro_batches: {
      optimizer_step: number;
      generation_round: number;
      rows: number[];
      loss: number;
      metrics: Record<string, number>;
    }[];
    optimizer_steps: { grad_norm: number; learning_rate: number; logged_loss: number }[];
  };
  tolerance: {
    loss: { atol: number; rtol: number };
    grad_norm: { rtol: number };
    weights_step1: { atol: number; share: number };
    weights_step3: { atol: number; share: number };
  };
}

const camel = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

const notOurs = new Set(['pad_token_id', 'eos_token_id', 'generation_batch_size']);

/** TRL's options as ours, without those that only exist there. */
function configOf(options: Record<string, unknown>): GRPOConfig {
  const entries = Object.entries(options).filter(([name, value]) => value !== null && !notOurs.has(name));
  return Object.fromEntries(entries.map(([name, value]) => [camel(name), value]));
}

function close(
  got: number,
  want: number,
  { atol = 0, rtol = 0 }: { atol?: number; rtol?: number },
  what: string,
): void {
  expect(Math.abs(got - want), `${what}: ${got} should be ${want}`).toBeLessThanOrEqual(atol + rtol * Math.abs(want));
}

/** A weight by its name in transformers' checkpoints, which have one for each expert. */
function weightOf(model: NativeModel, name: string): Float32Array {
  const [, layer, expert, part] = /^(.*)\.experts\.(\d+)\.(.*)$/.exec(name) ?? [];
  if (layer === undefined) return new MxArray(model.parameter(name)).toFloat32();
  return new MxArray(model.parameter(`${layer}.switch_mlp.${part}`)).take([Number(expert)], 0).toFloat32();
}

/** Share of all weights that agree within `atol`. */
function agreement(model: NativeModel, want: Map<string, Tensor>, atol: number): number {
  let same = 0;
  let all = 0;
  for (const [name, { data }] of want) {
    const got = weightOf(model, name);
    expect(got.length, name).toBe(data.length);
    data.forEach((value, i) => (same += Math.abs(got[i]! - value) <= atol ? 1 : 0));
    all += data.length;
  }
  return same / all;
}

/** Scores a recorded round and compares what TRL derived from it. */
async function prepare(step: GRPOStep, config: ResolvedGRPOConfig, recorded: Recorded, index: number): Promise<Round> {
  const source = recorded.inputs.generation_rounds[index]!;
  const truncated = source.completion_ids.map((ids) => ids.at(-1) !== recorded.options['eos_token_id']);
  const rewards = source.scores_a.map((a, i) => [a ?? NaN, source.scores_b[i] ?? NaN]);
  // TRL's shuffle, put together from the slices that it trained on first.
  const slices = recorded.expected.micro_batches
    .filter(({ generation_round }) => generation_round === index)
    .slice(0, config.stepsPerGeneration);
  const round = await step.prepare({
    index,
    rows: source.prompt_ids.map((promptIds, i) => ({ promptIds, completionIds: source.completion_ids[i]! })),
    rewards,
    truncated,
    order: slices.flatMap(({ rows }) => rows),
  });
  source.advantages.forEach((want, i) =>
    close(round.advantages[i]!, want, { atol: 2e-6, rtol: 2e-5 }, `advantage ${i}`),
  );
  expect(round.numItemsInBatch).toBe(source.num_items_in_batch);
  const lengths = source.completion_ids.map((ids) => ids.length);
  const metrics = {
    ...rewardMetrics(['reward_a', 'reward_b'], rewards, config),
    ...completionMetrics(lengths, truncated),
  };
  const shared = Object.keys(metrics).filter((name) => name in source.metrics);
  // Ours has one more, reward_group_std.
  expect(shared.length).toBe(Object.keys(metrics).length - 1);
  for (const name of shared) close(metrics[name]!, Number(source.metrics[name]), { atol: 1e-5, rtol: 1e-5 }, name);
  return round;
}

/** Weights after a step against the recorded ones. */
function compareWeights(model: NativeModel, file: string, { atol, share }: { atol: number; share: number }): void {
  expect(agreement(model, readSafetensors(file), atol), file).toBeGreaterThanOrEqual(share);
}

/** Trains on the recorded rollouts and compares everything on the way; returns the optimizer steps taken. */
async function replay(variant: string, skipZeroAdvantageRows: boolean): Promise<number> {
  const recorded = goldenCases<Recorded>(`grpo_e2e/${variant}`)[0]!;
  const { options, expected, tolerance } = recorded;
  const config = resolveGRPOConfig({ ...configOf(options), skipZeroAdvantageRows }, 2);
  expect(config.generationBatchSize).toBe(options['generation_batch_size']);
  const model = await native().NativeModel.load(goldenPath('grpo_e2e', variant, 'start'), { dtype: 'float32' });
  const trainer = new (native().NativeTrainer)(model, trainerOptions(config));
  const step = new GRPOStep(trainer, config);
  const sampler = new RoundSampler(config, 1000);
  const rounds = new Map<number, Round>();
  let microStep = 0;
  for (const [s, want] of expected.optimizer_steps.entries()) {
    const window = expected.micro_batches.filter(({ optimizer_step }) => optimizer_step === s);
    expect(sampler.windowSize(microStep)).toBe(window.length);
    let loss = 0;
    for (const micro of window) {
      const r = micro.generation_round;
      expect(sampler.roundOf(microStep)).toBe(r);
      const round = rounds.get(r) ?? (await prepare(step, config, recorded, r));
      rounds.set(r, round);
      const result = await step.microStep(round, sampler.sliceOf(microStep), window.length);
      close(result.loss, micro.loss, tolerance.loss, `loss of micro-step ${microStep}`);
      // Left-out rows are missing from the metrics of a micro-step.
      const names = Object.keys(skipZeroAdvantageRows ? {} : micro.metrics);
      for (const name of names) {
        // A constant here, which the trainer logs by itself.
        const got = name === 'entropy_coef' ? config.entropyCoef : result.metrics[name]!;
        close(got, micro.metrics[name]!, { atol: 1e-4, rtol: 1e-3 }, `${name} of micro-step ${microStep}`);
      }
      loss += result.loss;
      microStep += 1;
    }
    const learningRate = learningRateAt(s, { ...config, totalSteps: config.maxSteps });
    close(learningRate, want.learning_rate, { rtol: 1e-12 }, 'learning rate');
    const { gradNorm, skipped } = await step.optimizerStep(learningRate);
    expect(skipped).toBe(false);
    close(gradNorm, want.grad_norm, tolerance.grad_norm, `gradient norm of step ${s}`);
    close(loss, want.logged_loss, { atol: 2 * tolerance.loss.atol, rtol: tolerance.loss.rtol }, `loss of step ${s}`);
    if (s === 0)
      compareWeights(model, goldenPath('grpo_e2e', variant, 'weights_step1.safetensors'), tolerance.weights_step1);
  }
  compareWeights(model, goldenPath('grpo_e2e', variant, 'weights_step3.safetensors'), tolerance.weights_step3);
  trainer.dispose();
  model.dispose();
  return expected.optimizer_steps.length;
}

const variants = [
  'dapo',
  'grpo_kl',
  'dr_grpo_iterations2',
  'dapo_spg2_ga2',
  'grpo_spg4_ga2',
  'truncated_batch_entropy',
  'gspo_iterations2',
  'moe_dapo',
];

describe("TRL's recorded runs", () => {
  it.each(variants)('%s: the same losses, gradient norms, metrics and weights', async (variant) => {
    expect(await replay(variant, false)).toBe(3);
  });

  it.each(variants)('%s: the same when rows without an advantage are left out', async (variant) => {
    expect(await replay(variant, true)).toBe(3);
  });
});
