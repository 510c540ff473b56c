import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createModel } from '../../lib/index.ts';
import { tempDir } from './temp.ts';
import { tinyCheckpoint } from './tiny.ts';

const dense = {
  model_type: 'qwen3',
  hidden_size: 128,
  intermediate_size: 256,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 64,
  vocab_size: 64,
  max_position_embeddings: 256,
  tie_word_embeddings: true,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  eos_token_id: 1,
  initializer_range: 0.08,
};

const experts = {
  num_experts: 4,
  num_experts_per_tok: 2,
  decoder_sparse_step: 1,
  mlp_only_layers: [],
  moe_intermediate_size: 128,
  shared_expert_intermediate_size: 128,
  norm_topk_prob: true,
  tie_word_embeddings: false,
};

/** Configurations whose widths every group size divides. */
export const configs = {
  qwen3: dense,
  qwen3Blocks: { ...dense, num_hidden_layers: 8, tie_word_embeddings: false },
  qwen3Moe: { ...dense, ...experts, model_type: 'qwen3_moe' },
  qwen2Moe: { ...dense, ...experts, model_type: 'qwen2_moe', norm_topk_prob: false },
};

/** A checkpoint of random weights with a tokenizer. */
export async function randomCheckpoint(
  config: object,
  dtype: 'float32' | 'bfloat16' = 'float32',
  seed = 5,
): Promise<string> {
  const dir = tempDir();
  const base = join(dir, 'base');
  mkdirSync(base);
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(join(tinyCheckpoint(), name), join(base, name));
  writeFileSync(join(base, 'config.json'), JSON.stringify(config));
  const model = await createModel(base, { seed, dtype });
  await model.save(join(dir, 'model'));
  model.dispose();
  return join(dir, 'model');
}

/** Dtype, shape and bytes of every tensor of a checkpoint's safetensors files, as texts that can be compared. */
export function tensorsOf(dir: string): Map<string, string> {
  const tensors = new Map<string, string>();
  for (const file of readdirSync(dir).filter((name) => name.endsWith('.safetensors'))) {
    const bytes = readFileSync(join(dir, file));
    const end = 8 + Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, end)) as Record<
      string,
      { dtype: string; shape: number[]; data_offsets: [number, number] }
    >;
    for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
      if (name === '__metadata__') continue;
      const data = bytes.subarray(end + data_offsets[0], end + data_offsets[1]);
      tensors.set(name, `${dtype} [${shape.join(', ')}] ${data.toString('base64')}`);
    }
  }
  return new Map([...tensors].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}
