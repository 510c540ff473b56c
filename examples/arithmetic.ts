/** The task of the demo: sums of two two-digit numbers, and a tokenizer and model shape that fit them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Sum {
  /** For example "47+35=". */
  prompt: string;
  /** "82". */
  answer: string;
  /** What somebody answers who forgets to carry: "72". */
  careless: string;
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

/** All 8100 sums in a fixed random order, 300 of them set aside: neither lessons nor GRPO ever show those to the model. */
export function sums(): { train: Sum[]; heldOut: Sum[] } {
  const random = randomNumbers(1);
  const all = Array.from({ length: 8100 }, (_, i) => ({ a: 10 + (i % 90), b: 10 + Math.floor(i / 90), key: random() }))
    .toSorted((x, y) => x.key - y.key)
    .map(({ a, b }) => ({ prompt: `${a}+${b}=`, answer: String(a + b), careless: withoutCarry(a, b) }));
  return { heldOut: all.slice(0, 300), train: all.slice(300) };
}

function withoutCarry(a: number, b: number): string {
  const tens = (Math.floor(a / 10) + Math.floor(b / 10)) % 10;
  const ones = (a + b) % 10;
  return String(tens * 10 + ones);
}

const special = ['<pad>', '<eos>', '<unk>'];
const characters = [...'0123456789+-*=?'];

const config = {
  architectures: ['Qwen3ForCausalLM'],
  model_type: 'qwen3',
  vocab_size: special.length + characters.length,
  hidden_size: 128,
  intermediate_size: 384,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  tie_word_embeddings: true,
  hidden_act: 'silu',
  eos_token_id: 1,
  pad_token_id: 0,
  torch_dtype: 'float32',
};

/** One token per character. */
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
    unk_token: '<unk>',
  },
};

/** Writes configuration and tokenizer in the Hugging Face layout; `createModel(dir)` adds random weights. */
export function writeTinyModel(dir: string): void {
  mkdirSync(dir, { recursive: true });
  const write = (name: string, value: object): void =>
    writeFileSync(join(dir, name), `${JSON.stringify(value, null, 2)}\n`);
  write('config.json', config);
  write('generation_config.json', { eos_token_id: 1, pad_token_id: 0 });
  write('tokenizer.json', tokenizer);
  write('tokenizer_config.json', {
    tokenizer_class: 'PreTrainedTokenizerFast',
    eos_token: '<eos>',
    pad_token: '<pad>',
    unk_token: '<unk>',
  });
}
