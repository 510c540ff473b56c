/**
 * A Qwen3 of 150 thousand random weights and a tokenizer of single characters, in the Hugging Face layout: small enough to train
 * from nothing on a laptop's CPU in a minute.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const special = ['<pad>', '<eos>'];
const characters = [...'0123456789+-*=?'];

const config = {
  architectures: ['Qwen3ForCausalLM'],
  model_type: 'qwen3',
  vocab_size: special.length + characters.length,
  hidden_size: 96,
  intermediate_size: 192,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 24,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  tie_word_embeddings: true,
  eos_token_id: 1,
  pad_token_id: 0,
};

/** Names and shapes of the weights. */
function shapes(): [name: string, shape: number[]][] {
  const { hidden_size: hidden, intermediate_size: inner, head_dim: head } = config;
  const queries = config.num_attention_heads * head;
  const keys = config.num_key_value_heads * head;
  const layers = Array.from({ length: config.num_hidden_layers }, (_, i): [string, number[]][] => [
    [`model.layers.${i}.input_layernorm.weight`, [hidden]],
    [`model.layers.${i}.post_attention_layernorm.weight`, [hidden]],
    [`model.layers.${i}.self_attn.q_proj.weight`, [queries, hidden]],
    [`model.layers.${i}.self_attn.k_proj.weight`, [keys, hidden]],
    [`model.layers.${i}.self_attn.v_proj.weight`, [keys, hidden]],
    [`model.layers.${i}.self_attn.o_proj.weight`, [hidden, queries]],
    [`model.layers.${i}.self_attn.q_norm.weight`, [head]],
    [`model.layers.${i}.self_attn.k_norm.weight`, [head]],
    [`model.layers.${i}.mlp.gate_proj.weight`, [inner, hidden]],
    [`model.layers.${i}.mlp.up_proj.weight`, [inner, hidden]],
    [`model.layers.${i}.mlp.down_proj.weight`, [hidden, inner]],
  ]);
  return [
    ['model.embed_tokens.weight', [config.vocab_size, hidden]],
    ...layers.flat(),
    ['model.norm.weight', [hidden]],
  ];
}

/** Numbers in [0, 1) from a seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Matrices uniform with a deviation of 1 / sqrt(inputs), norms 1. */
function weights(seed: number): Buffer {
  const random = randomNumbers(seed);
  const header: Record<string, object> = {};
  const parts: Buffer[] = [];
  let offset = 0;
  for (const [name, shape] of shapes()) {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1);
    const scale = Math.sqrt(3 / shape.at(-1)!);
    if (shape.length === 2) data.forEach((_, i) => (data[i] = (2 * random() - 1) * scale));
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
    parts.push(Buffer.from(data.buffer));
  }
  const json = Buffer.from(JSON.stringify(header).padEnd(8 * Math.ceil(JSON.stringify(header).length / 8)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...parts]);
}

const tokenizer = {
  version: '1.0',
  added_tokens: special.map((content, id) => ({
    id,
    content,
    special: true,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  })),
  pre_tokenizer: { type: 'Split', pattern: { Regex: '' }, behavior: 'Isolated', invert: false },
  decoder: { type: 'Fuse' },
  model: {
    type: 'WordLevel',
    vocab: Object.fromEntries([...special, ...characters].map((text, id) => [text, id])),
    unk_token: '<pad>',
  },
};

/** Writes the checkpoint folder. */
export function writeTinyModel(dir: string, seed = 0): void {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config, null, 2));
  writeFileSync(join(dir, 'model.safetensors'), weights(seed));
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(tokenizer));
  writeFileSync(join(dir, 'tokenizer_config.json'), JSON.stringify({ eos_token: '<eos>', pad_token: '<pad>' }));
}
