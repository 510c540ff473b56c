import { describe, expect, it } from 'vitest';
import { native } from '../../lib/native.ts';
import { resolveGRPOConfig } from '../../trainers/grpo/config.ts';
import type { GRPOConfig } from '../../trainers/grpo/config.ts';
import { GRPOStep, trainerOptions } from '../../trainers/grpo/step.ts';
import { Random } from '../../lib/seeded.ts';
import { goldenPath } from '../helpers/golden.ts';
import { MxArray } from '../../lib/index.ts';

const base: GRPOConfig = {
  perDeviceTrainBatchSize: 4,
  gradientAccumulationSteps: 2,
  numGenerations: 4,
  numIterations: 2,
  maxCompletionLength: 9,
  learningRate: 1e-3,
  scaleRewards: 'none',
};

/** Three steps on random rows, half of them without an advantage and some cut off; all weights afterwards. */
async function train(config: GRPOConfig): Promise<{ weights: Float32Array; rows: number }> {
  const resolved = resolveGRPOConfig({ ...base, ...config });
  const model = await native().NativeModel.load(goldenPath('models', 'qwen3'), { dtype: 'float32' });
  const trainer = new (native().NativeTrainer)(model, trainerOptions(resolved));
  const step = new GRPOStep(trainer, resolved);
  const random = new Random(3);
  const ids = (n: number): number[] => Array.from({ length: n }, () => 2 + random.below(40));
  let rows = 0;
  for (let index = 0; index < 2; index++) {
    const prompts = [ids(3), ids(5)];
    const round = await step.prepare({
      index,
      rows: Array.from({ length: 8 }, (_, i) => ({
        promptIds: prompts[i >> 2]!,
        completionIds: ids(2 + random.below(7)),
      })),
      rewards: [[1], [-1], [0], [0], [0], [2], [0], [-2]],
      truncated: [false, false, false, true, false, true, false, false],
      order: random.permutation(8),
    });
    for (let pass = 0; pass < 2; pass++) {
      for (let slice = 0; slice < 2; slice++) rows += (await step.microStep(round, slice, 2)).rowsComputed;
      await step.optimizerStep(1e-3);
    }
  }
  const weights = new MxArray(model.parameter('model.layers.0.self_attn.q_proj.weight')).toFloat32();
  trainer.dispose();
  model.dispose();
  return { weights, rows };
}

describe('rows without an advantage', () => {
  const losses = ['dapo', 'grpo', 'dr_grpo', 'bnpo', 'cispo', 'sapo', 'luspo', 'vespo'] as const;

  it.each(
    losses.flatMap((lossType) =>
      [false, true].map((maskTruncatedCompletions) => ({ lossType, maskTruncatedCompletions })),
    ),
  )('can be left out of $lossType (cut-off rows masked: $maskTruncatedCompletions)', async (config) => {
    const all = await train({ ...config, skipZeroAdvantageRows: false });
    const fewer = await train({ ...config, skipZeroAdvantageRows: true });
    expect(all.rows).toBe(32);
    expect(fewer.rows).toBeLessThan(24);
    const different = all.weights.filter((weight, i) => Math.abs(weight - fewer.weights[i]!) > 2e-5).length;
    // AdamW turns rounding noise of a gradient near 0 into a step of up to the learning rate.
    expect(different / all.weights.length).toBeLessThan(0.005);
  });

  it('are computed where they matter', async () => {
    for (const config of [{ beta: 0.1 }, { entropyCoef: 0.01 }, { topEntropyQuantile: 0.5 }])
      expect((await train(config)).rows).toBe(32);
  });
});
