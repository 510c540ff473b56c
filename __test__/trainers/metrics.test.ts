import { describe, expect, it } from 'vitest';
import type { ResolvedGRPOConfig } from '../../trainers/grpo/config.ts';
import { completionMetrics, MetricStore, nanMean, nanStd, rewardMetrics } from '../../trainers/grpo/metrics.ts';
import { goldenCases, goldenPath, readSafetensors } from '../helpers/golden.ts';

const same = (got: number, want: unknown, what: string): void => {
  if (want === 'NaN') expect(got, what).toBeNaN();
  else
    expect(Math.abs(got - (want as number)), `${what}: ${got} against ${String(want)}`).toBeLessThan(
      1e-5 * (1 + Math.abs(want as number)),
    );
};

describe('rewardMetrics', () => {
  it("gives TRL's numbers for all recorded rounds", () => {
    const tensors = readSafetensors(goldenPath('advantages', 'tensors.safetensors'));
    const cases = goldenCases('advantages');
    expect(cases.length).toBe(52);
    for (const { name, options, inputs, expected } of cases) {
      const { shape, data } = tensors.get((inputs['rewards'] as { tensor: string }).tensor)!;
      const [rows, functions] = shape as [number, number];
      const rewards = Array.from({ length: rows }, (_, i) => data.slice(i * functions, (i + 1) * functions));
      const names = Array.from({ length: functions }, (_, f) => `f${f}`);
      const got = rewardMetrics(names, rewards, {
        numGenerations: options['num_generations'] as number,
        rewardWeights: (options['reward_weights'] as number[] | null) ?? undefined,
        scaleRewards: options['scale_rewards'] as ResolvedGRPOConfig['scaleRewards'],
        multiObjectiveAggregation: options[
          'multi_objective_aggregation'
        ] as ResolvedGRPOConfig['multiObjectiveAggregation'],
      });
      for (const key of ['reward', 'reward_std', 'frac_reward_zero_std'])
        same(got[key]!, expected[key], `${name} ${key}`);
      (expected['per_function'] as { mean: unknown; std: unknown }[]).forEach(({ mean, std }, f) => {
        same(got[`rewards/f${f}/mean`]!, mean, `${name} mean ${f}`);
        same(got[`rewards/f${f}/std`]!, std, `${name} std ${f}`);
      });
    }
  });

  it('leaves NaN out of means and deviations', () => {
    expect(nanMean([1, NaN, 3])).toBe(2);
    expect(nanMean([NaN])).toBeNaN();
    expect(nanStd([1, NaN, 3])).toBeCloseTo(Math.SQRT2, 12);
    expect(nanStd([1, NaN])).toBeNaN();
  });
});

describe('completionMetrics', () => {
  it("gives TRL's numbers for the recorded rounds", () => {
    const round = goldenCases<{
      inputs: { generation_rounds: { completion_ids: number[][]; metrics: Record<string, number> }[] };
    }>('grpo_e2e/dapo')[0]!.inputs.generation_rounds[0]!;
    const got = completionMetrics(
      round.completion_ids.map((ids) => ids.length),
      round.completion_ids.map((ids) => ids.at(-1) !== 1),
    );
    for (const [key, value] of Object.entries(got)) expect(value, key).toBeCloseTo(round.metrics[key]!, 5);
  });

  it('gives 0 for lengths of terminated completions when there is none', () => {
    expect(completionMetrics([3, 5], [true, true])).toMatchObject({
      'completions/clipped_ratio': 1,
      'completions/max_terminated_length': 0,
    });
  });
});

describe('MetricStore', () => {
  it('averages without NaN, gives sums for one step, and starts anew after a flush', () => {
    const store = new MetricStore();
    store.addAll({ a: 1, b: NaN });
    store.add('a', 3);
    store.addToSum('time/x', 4);
    store.endStep();
    store.endStep();
    expect(new MetricStore(JSON.parse(JSON.stringify(store))).flush()).toEqual({ a: 2, 'time/x': 2 });
    expect(store.flush()).toEqual({ a: 2, 'time/x': 2 });
    expect(store.flush()).toEqual({});
  });
});
