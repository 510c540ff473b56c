/** A task that a tiny model learns in a few steps: answers in vowels. */
import type { GRPOConfig, LanguageModel, Reward } from '../../lib/index.ts';

export const dataset = [...'abcdefgh'].map((prompt) => ({ prompt }));

/** Share of vowels in the answer. */
export const vowels: Reward = ({ completions }) =>
  completions.map((text) =>
    text.length === 0 ? 0 : [...text].filter((c) => 'aeiou'.includes(c)).length / text.length,
  );

export const toyConfig: GRPOConfig = {
  perDeviceTrainBatchSize: 16,
  numGenerations: 8,
  gradientAccumulationSteps: 2,
  maxCompletionLength: 8,
  learningRate: 3e-3,
};

export const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** All weights, to be compared bit for bit. */
export const bits = (model: LanguageModel): [string, Float32Array][] =>
  [...model.parameters()].map(([name, array]) => [name, array.toFloat32()]);
