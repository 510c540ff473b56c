import { describe, expect, it } from 'vitest';
import { resolveGRPOConfig } from '../../trainers/grpo/config.ts';
import { RoundSampler } from '../../trainers/grpo/sampler.ts';
import { learningRateAt, schedulerTypes } from '../../trainers/schedule.ts';
import type { SchedulerType } from '../../trainers/schedule.ts';
import { goldenCases } from '../helpers/golden.ts';

const sorted = (values: number[]): number[] => values.toSorted((a, b) => a - b);

const promptsOfEpoch = (e: number, s: RoundSampler): number[] =>
  [2 * e, 2 * e + 1].flatMap((round) => s.promptsOf(round));

describe('RoundSampler', () => {
  const config = resolveGRPOConfig({
    perDeviceTrainBatchSize: 4,
    numGenerations: 2,
    stepsPerGeneration: 2,
    numIterations: 3,
    gradientAccumulationSteps: 4,
    numTrainEpochs: 2,
  });
  const sampler = new RoundSampler(config, 11);

  it('cuts an epoch into rounds of different prompts and drops the rest', () => {
    expect(sampler.promptsPerRound).toBe(4);
    expect(sampler.roundsPerEpoch).toBe(2);
    const epoch = [0, 1].flatMap((round) => sampler.promptsOf(round));
    expect(new Set(epoch).size).toBe(8);
    expect(epoch.every((i) => i >= 0 && i < 11)).toBe(true);
  });

  it('permutes each epoch anew, the same way for the same seed', () => {
    expect(promptsOfEpoch(1, sampler)).not.toEqual(promptsOfEpoch(0, sampler));
    expect(promptsOfEpoch(1, new RoundSampler(config, 11))).toEqual(promptsOfEpoch(1, sampler));
    expect(promptsOfEpoch(0, new RoundSampler({ ...config, seed: 7 }, 11))).not.toEqual(promptsOfEpoch(0, sampler));
  });

  it('keeps the order of the data set when asked to', () => {
    const plain = new RoundSampler({ ...config, shuffleDataset: false }, 11);
    expect([plain.promptsOf(0), plain.promptsOf(1), plain.promptsOf(2)]).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
      [0, 1, 2, 3],
    ]);
  });

  it('serves each round for stepsPerGeneration x numIterations micro-steps, slices in the same order', () => {
    const steps = Array.from({ length: 13 }, (_, i) => i);
    expect(steps.map((i) => sampler.roundOf(i))).toEqual([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2]);
    expect(steps.map((i) => sampler.sliceOf(i))).toEqual([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]);
  });

  it('shuffles the rows of a round across groups', () => {
    expect(sorted(sampler.rowOrder(0))).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(sampler.rowOrder(0)).not.toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(sampler.rowOrder(1)).not.toEqual(sampler.rowOrder(0));
  });

  it('counts steps as transformers does, with a shorter last window of an epoch', () => {
    // floor(11 / 4) * 3 * 2 = 12 micro-steps an epoch, 4 to a step
    expect([sampler.microStepsPerEpoch, sampler.stepsPerEpoch, sampler.totalSteps]).toEqual([12, 3, 6]);
    const odd = new RoundSampler(
      resolveGRPOConfig({ ...plainConfig, gradientAccumulationSteps: 3, numTrainEpochs: 1.5 }),
      8,
    );
    expect([odd.microStepsPerEpoch, odd.stepsPerEpoch, odd.totalSteps]).toEqual([4, 2, 3]);
    expect([odd.windowSize(0), odd.windowSize(3), odd.windowSize(4)]).toEqual([3, 1, 3]);
    expect(new RoundSampler({ ...config, maxSteps: 5 }, 11).totalSteps).toBe(5);
  });

  it('refuses a data set that cannot fill one round', () => {
    expect(() => new RoundSampler(config, 3)).toThrow(/3 prompts.*takes 4 different ones/);
  });
});

const plainConfig = { perDeviceTrainBatchSize: 4, numGenerations: 2, stepsPerGeneration: 1 };

describe('learningRateAt', () => {
  const base = { learningRate: 2, warmupSteps: 0, totalSteps: 4 };

  it('falls in a straight line to 0', () => {
    expect([0, 1, 2, 3, 4].map((s) => learningRateAt(s, { ...base, lrSchedulerType: 'linear' }))).toEqual([
      2, 1.5, 1, 0.5, 0,
    ]);
  });

  it('follows half a cosine after the warm-up', () => {
    const options = { ...base, lrSchedulerType: 'cosine', warmupSteps: 2, totalSteps: 6 } as const;
    [0, 1, 2, 2 * 0.5 * (1 + Math.SQRT1_2), 1].forEach((rate, s) =>
      expect(learningRateAt(s, options)).toBeCloseTo(rate, 12),
    );
  });

  it('stays constant, with a warm-up only where the name says so; a share is a part of all steps', () => {
    expect(learningRateAt(0, { ...base, lrSchedulerType: 'constant', warmupSteps: 3 })).toBe(2);
    const warm = { ...base, lrSchedulerType: 'constant_with_warmup', warmupSteps: 0.5 } as const;
    expect([0, 1, 2, 3].map((s) => learningRateAt(s, warm))).toEqual([0, 1, 2, 2]);
  });

  it('agrees with transformers on the recorded schedules', () => {
    const cases = goldenCases('optim').filter(
      ({ kind, options }) =>
        kind === 'schedule' &&
        schedulerTypes.some((type) => type === options['lr_scheduler_type']) &&
        JSON.stringify(options['lr_scheduler_kwargs']) === '{}',
    );
    expect(cases.length).toBe(8);
    for (const { options, expected } of cases) {
      const schedule = {
        learningRate: options['learning_rate'] as number,
        lrSchedulerType: options['lr_scheduler_type'] as SchedulerType,
        warmupSteps: options['warmup_steps'] as number,
        totalSteps: options['max_steps'] as number,
      };
      (expected['lr'] as number[]).forEach((rate, step) =>
        expect(learningRateAt(step, schedule)).toBeCloseTo(rate, 12),
      );
    }
  });
});
