import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { createModel } from '../../lib/index.ts';
import type { AnyModel } from '../../lib/index.ts';
import { goldenPath } from './golden.ts';
import { tempDir } from './temp.ts';

const letters = [...'abcdefghijklmnopqrstuvwxyz0123456789+-=?.,:!()<>/# \n'];

/** One token a character; 0 is padding, 1 ends a text. */
const tokenizer = {
  version: '1.0',
  added_tokens: ['<pad>', '<eos>'].map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: null,
  pre_tokenizer: { type: 'Split', pattern: { Regex: '' }, behavior: 'Isolated', invert: false },
  post_processor: null,
  decoder: { type: 'Fuse' },
  model: {
    type: 'WordLevel',
    vocab: Object.fromEntries(['<pad>', '<eos>', ...letters].map((text, id) => [text, id])),
    unk_token: '<pad>',
  },
};

const chatTemplate =
  '{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}';

/** A checkpoint of a random two-layer Qwen3, or of one with experts, with 64 tokens, and a tokenizer for it. */
export function tinyCheckpoint(kind: 'qwen3' | 'qwen3_moe' = 'qwen3'): string {
  const dir = tempDir();
  cpSync(goldenPath('grpo_e2e', kind === 'qwen3' ? 'dapo' : 'moe_dapo', 'start'), dir, { recursive: true });
  writeFileSync(`${dir}/tokenizer.json`, JSON.stringify(tokenizer));
  writeFileSync(
    `${dir}/tokenizer_config.json`,
    JSON.stringify({ eos_token: '<eos>', pad_token: '<pad>', chat_template: chatTemplate }),
  );
  return dir;
}

/**
 * A random model like that of {@link tinyCheckpoint}, but with heads of 32 features, so that keys and values can be quantised, and weights
 * so large that attention tells tokens apart.
 */
export async function tinyWideModel(): Promise<AnyModel> {
  const dir = tinyCheckpoint();
  const config = JSON.parse(readFileSync(`${dir}/config.json`, 'utf8')) as object;
  writeFileSync(`${dir}/config.json`, JSON.stringify({ ...config, head_dim: 32, initializer_range: 0.2 }));
  return await createModel(dir, { seed: 5 });
}
