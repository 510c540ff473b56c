import { loadModel } from '../../lib/index.ts';
import type { AdapterFormat, LanguageModel, LoraOptions } from '../../lib/index.ts';
import { native } from '../../lib/native.ts';
import { goldenPath } from './golden.ts';

/** A model and an adapter on it, and which peers' layouts can say it. */
export interface AdapterCase {
  name: string;
  model: string;
  lora: LoraOptions;
  formats: readonly AdapterFormat[];
}

const both = ['peft', 'mlx-lm'] as const;
const attention = ['q_proj', 'k_proj', 'v_proj', 'o_proj'];

export const adapterCases: readonly AdapterCase[] = [
  { name: 'LoRA', model: 'qwen3', lora: {}, formats: both },
  {
    name: 'rsLoRA on every linear layer',
    model: 'qwen2',
    lora: { targetModules: 'all-linear', useRslora: true },
    formats: both,
  },
  { name: 'DoRA', model: 'qwen2', lora: { useDora: true }, formats: both },
  {
    name: 'DoRA of a head',
    model: 'qwen3_untied_sharded',
    lora: { useDora: true, targetModules: ['lm_head', 'q_proj'] },
    formats: both,
  },
  {
    name: 'an embedding and a head',
    model: 'qwen3_untied_sharded',
    lora: { targetModules: ['embed_tokens', 'lm_head'] },
    formats: both,
  },
  {
    name: 'an embedding that is the head',
    model: 'qwen3',
    lora: { targetModules: ['embed_tokens', 'v_proj'] },
    formats: both,
  },
  {
    name: 'DoRA of an embedding',
    model: 'qwen3_untied_sharded',
    lora: { useDora: true, targetModules: ['embed_tokens'] },
    formats: ['peft'],
  },
  {
    name: 'the last block',
    model: 'qwen3',
    lora: { numLayers: 1, targetModules: ['q_proj', 'down_proj'] },
    formats: both,
  },
  {
    name: 'the first block',
    model: 'qwen3',
    lora: { layersToTransform: [0], targetModules: ['q_proj', 'down_proj'] },
    formats: both,
  },
  {
    name: 'ranks and alphas by patterns',
    model: 'qwen3',
    lora: { rankPattern: { 'layers.0.*_proj': 2, down_proj: 6 }, alphaPattern: { q_proj: 30 } },
    formats: both,
  },
  {
    name: 'experts, routers and attention',
    model: 'qwen3_moe_all',
    lora: { targetModules: [...attention, 'mlp.gate', 'switch_mlp.*'] },
    formats: both,
  },
  { name: 'experts alone', model: 'qwen3_moe_all', lora: { targetModules: ['switch_mlp.*'] }, formats: both },
  {
    name: 'experts, a shared one and its gate',
    model: 'qwen2_moe',
    lora: { targetModules: ['switch_mlp.*', 'shared_expert.*', 'shared_expert_gate', 'mlp.gate'] },
    // PEFT for transformers 5 takes names of shared experts' projections for those of the others.
    formats: ['mlx-lm'],
  },
];

const rows = [
  [5, 17, 42, 99, 3, 120, 64],
  [8, 11, 70, 2, 9],
  [33, 21, 90, 14, 6, 77],
].map((ids) => ({ ids, mask: ids.map(() => 1) }));

/** Some steps with a large learning rate, so that the adapter changes much. */
export async function trainAdapter(model: LanguageModel, steps = 4, learningRate = 3e-2): Promise<number[]> {
  const trainer = new (native().NativeTrainer)(model.handle, { maxGradNorm: 1, seed: 1 });
  const losses = [];
  try {
    for (let step = 0; step < steps; step++) {
      losses.push((await trainer.sftMicroStep(rows, { numItemsInBatch: 15 })).loss);
      await trainer.optimizerStep({ learningRate });
    }
  } finally {
    trainer.dispose();
  }
  return losses;
}

/** A golden model in float32. */
export const golden = async (name: string): Promise<LanguageModel> =>
  await loadModel(goldenPath('models', name), { dtype: 'float32' });

export async function adaptedModel({ model: name, lora }: AdapterCase): Promise<LanguageModel> {
  const model = await golden(name);
  model.applyLora({ rank: 4, alpha: 8, seed: 1, ...lora });
  await trainAdapter(model);
  return model;
}
