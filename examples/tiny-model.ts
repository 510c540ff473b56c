/**
 * The shape of a Qwen3 with 170 thousand weights and a tokenizer of single characters, in the Hugging Face layout: small enough to
 * train from nothing on a laptop's CPU in a minute.
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

/** Writes config.json and the tokenizer; `createModel(dir)` adds random weights. */
export function writeTinyModel(dir: string): void {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config, null, 2));
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(tokenizer));
  writeFileSync(join(dir, 'tokenizer_config.json'), JSON.stringify({ eos_token: '<eos>', pad_token: '<pad>' }));
}
