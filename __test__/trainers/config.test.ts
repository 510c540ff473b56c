import { describe, expect, it } from 'vitest';
import { MlxError } from '../../lib/errors.ts';
import { configWarnings, needsOldLogprobs, resolveGRPOConfig } from '../../trainers/grpo/config.ts';
import type { GRPOConfig } from '../../trainers/grpo/config.ts';
import { thrown } from '../helpers/thrown.ts';

const message = (config: object, rewards?: number): string => {
  const error = thrown(() => resolveGRPOConfig(config as GRPOConfig, rewards));
  expect(MlxError.isInstance(error, 'ERR_MLX_CONFIG')).toBe(true);
  return error.message;
};

describe('GRPOConfig', () => {
  it('has the defaults of TRL 1.16', () => {
    expect(resolveGRPOConfig({})).toMatchObject({
      learningRate: 1e-6,
      numGenerations: 8,
      perDeviceTrainBatchSize: 8,
      gradientAccumulationSteps: 1,
      stepsPerGeneration: 1,
      generationBatchSize: 8,
      numIterations: 1,
      beta: 0,
      epsilon: 0.2,
      lossType: 'dapo',
      scaleRewards: 'group',
      temperature: 1,
      topP: 1,
      topK: 0,
      maxCompletionLength: 512,
      useBiasCorrectionKl: true,
      maxGradNorm: 1,
      numTrainEpochs: 3,
      lrSchedulerType: 'linear',
    });
  });

  it('derives the round from either of its two names', () => {
    expect(resolveGRPOConfig({ generationBatchSize: 32 }).stepsPerGeneration).toBe(4);
    expect(resolveGRPOConfig({ stepsPerGeneration: 4 }).generationBatchSize).toBe(32);
    expect(resolveGRPOConfig({ gradientAccumulationSteps: 2 }).generationBatchSize).toBe(16);
  });

  it('names the nearest option for an unknown one, also in Python spelling', () => {
    expect(message({ numGeneration: 4 })).toContain("did you mean 'numGenerations'?");
    expect(message({ max_completion_length: 4 })).toContain("did you mean 'maxCompletionLength'?");
    expect(message({ quux: 4 })).toContain('known names are');
  });

  it('lists every problem at once, with the value', () => {
    const text = message({ beta: -1, lossType: 'ppo', topP: 0 });
    expect(text).toMatch(/3 problems/);
    expect(text).toContain('got -1');
    expect(text).toContain('"ppo"');
  });

  it.each([
    [{ numGenerations: 1 }, 'at least 2'],
    [{ responseFormat: { type: 'xml' } }, 'responseFormat.type'],
    [{ responseFormat: { type: 'regex', regexp: 'a' } }, "responseFormat has no key 'regexp' here"],
    [{ responseFormat: { type: 'json_schema', json_schema: { schema: [] } } }, 'must be a JSON schema'],
    [{ responseFormat: { type: 'regex', regex: 'a' }, structuredOutputsRegex: 'a' }, 'give only one'],
    [{ formatAfterThinking: true }, 'formatAfterThinking needs a format'],
    [{ perDeviceTrainBatchSize: 6, numGenerations: 4 }, 'it could be 2, 3, 6'],
    [{ generationBatchSize: 12, numGenerations: 4 }, 'multiple of perDeviceTrainBatchSize (8)'],
    [{ generationBatchSize: 16, stepsPerGeneration: 2 }, 'give only one'],
    [{ adamBeta2: 1 }, 'below 1'],
  ])('refuses %j', (config, text) => {
    expect(message(config)).toContain(text);
  });

  it('wants one weight for each reward', () => {
    expect(message({ rewardWeights: [1, 2] }, 1)).toContain('2 entries for 1 rewards');
    expect(resolveGRPOConfig({ rewardWeights: [1, 2] }, 2).rewardWeights).toEqual([1, 2]);
  });

  it('warns about combinations that are rarely meant', () => {
    expect(configWarnings(resolveGRPOConfig({}))).toEqual([]);
    expect(configWarnings(resolveGRPOConfig({ lossType: 'cispo' }))[0]).toContain('epsilonHigh');
    expect(configWarnings(resolveGRPOConfig({ importanceSamplingLevel: 'sequence' }))[0]).toContain('GSPO');
  });

  it.each([
    [{}, false],
    [{ numIterations: 2 }, true],
    [{ gradientAccumulationSteps: 2, stepsPerGeneration: 4 }, true],
    [{ gradientAccumulationSteps: 4, stepsPerGeneration: 2 }, false],
    [{ gradientAccumulationSteps: 4, stepsPerGeneration: 2, numIterations: 2 }, false],
  ])('needs old log-probs for %j: %s', (config, expected) => {
    expect(needsOldLogprobs(resolveGRPOConfig(config))).toBe(expected);
  });
});
