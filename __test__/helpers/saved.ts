import { join } from 'node:path';
import { expect } from 'vitest';
import { createModel, loadModel, MxArray, SFTTrainer } from '../../lib/index.ts';
import type { LanguageModel } from '../../lib/index.ts';
import { goldenPath } from './golden.ts';
import { tempDir } from './temp.ts';
import type { Reading, Request } from './peers.ts';

const tiny = join(import.meta.dirname, '..', '..', 'examples', 'tiny-qwen3');
const steps = 16;

/** A model in the state in which it is saved. */
export interface Subject {
  name: string;
  make: () => Promise<LanguageModel>;
}

const sums = Array.from({ length: 16 }, (_, i) => ({ prompt: `${10 + i}+${20 + i}=`, completion: String(30 + 2 * i) }));

/** Some steps with a large learning rate, so that every weight is far from where it was. */
async function trained(model: LanguageModel): Promise<LanguageModel> {
  const config = { maxSteps: 4, perDeviceTrainBatchSize: 16, learningRate: 3e-3 };
  await new SFTTrainer({ model, dataset: sums, config, loggers: [] }).train();
  return model;
}

export const loraModel = async (): Promise<LanguageModel> => {
  const model = await loadModel(tiny, { dtype: 'float32' });
  model.applyLora({ rank: 4, alpha: 16, seed: 1 });
  return trained(model);
};

export const subjects: Subject[] = [
  { name: 'a Qwen3', make: () => loadModel(goldenPath('models', 'qwen3'), { dtype: 'float32' }) },
  {
    name: 'a Qwen3 with a head of its own, read from shards',
    make: () => loadModel(goldenPath('models', 'qwen3_untied_sharded'), { dtype: 'float32' }),
  },
  { name: 'a Qwen2, with biases', make: () => loadModel(goldenPath('models', 'qwen2'), { dtype: 'float32' }) },
  {
    name: 'a Qwen3 with YaRN',
    make: () => loadModel(goldenPath('models', 'qwen3_yarn_default'), { dtype: 'float32' }),
  },
  ...['qwen3_moe', 'qwen3_moe_all', 'qwen2_moe'].map((name) => ({
    name: `experts: ${name}`,
    make: () => loadModel(goldenPath('models', name), { dtype: 'float32' }),
  })),
  { name: 'a Qwen3 of random weights', make: () => createModel(tiny, { seed: 3 }) },
  { name: 'a Qwen3 after training', make: async () => trained(await loadModel(tiny, { dtype: 'float32' })) },
  { name: 'a Qwen3 with a trained adapter merged into it', make: loraModel },
];

/** What is asked of us and of a peer: prompts of arbitrary tokens. */
export function requestFor(model: LanguageModel, folder: string): Request {
  const prompts = [0, 1, 2].map((row) =>
    Array.from({ length: 9 }, (_, column) => 2 + ((17 + 31 * row + 7 * column + row * column) % (model.vocabSize - 2))),
  );
  return { folder, prompts, steps };
}

/** Our own answer. */
export async function ours(
  model: LanguageModel,
  { prompts }: Request,
): Promise<{ logits: Float32Array; tokens: number[][] }> {
  const [height, width] = [prompts.length, prompts[0]!.length];
  const logits = model.forward(MxArray.fromInt32(Int32Array.from(prompts.flat()), [height, width])).toFloat32();
  const options = { maxTokens: steps, temperature: 0, ignoreEos: true };
  const { tokens } = await model.handle.generateBatch(prompts, options);
  return { logits, tokens };
}

/** Saves a model, and asks it. */
export async function saved({ make }: Subject) {
  const model = await make();
  const folder = tempDir();
  await model.save(join(folder, 'saved'));
  const request = requestFor(model, join(folder, 'saved'));
  const answer = await ours(model, request);
  model.dispose();
  return { request, answer };
}

/**
 * The same model: equal greedy tokens, and logits as close as float32 sums in another order are. Each logit ends a chain of some ten
 * sums of up to 384 terms, each within 2^-24 times the square root of its length of the exact one, relative to the logits' size.
 */
export function expectSame(reading: Reading, answer: { logits: Float32Array; tokens: number[][] }): void {
  expect(reading.dtype).toContain('float32');
  const flat = reading.logits.flat(2);
  expect(flat.length).toBe(answer.logits.length);
  const size = flat.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const worst = flat.reduce((most, value, i) => Math.max(most, Math.abs(value - answer.logits[i]!)), 0);
  expect(worst / size).toBeLessThan(10 * Math.sqrt(384) * 2 ** -24);
  expect(reading.tokens).toEqual(answer.tokens);
}
