/** Models in GGUF files as llama.cpp's own library writes them: the same numbers, the same tokens, and saved as a checkpoint folder. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadModel, mx, Tokenizer } from '../../lib/index.ts';
import type { AnyModel } from '../../lib/index.ts';
import { mlxLm } from '../helpers/peers.ts';
import type { Peer } from '../helpers/peers.ts';
import { configs, randomCheckpoint } from '../helpers/quantized.ts';
import { qwen3Tokenizer } from '../helpers/scripted.ts';

const golden = join(import.meta.dirname, '../fixtures/golden/models');
const folder = mkdtempSync(join(tmpdir(), 'mlx-node-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let peer: Peer;

/** The paths of a checkpoint, recorded or in a folder, as GGUF, and of the folder with the numbers that its blocks stand for. */
function write(checkpoint: string, kind: string, tokenizer?: string): { file: string; plain: string } {
  const name = `${basename(dirname(checkpoint))}-${basename(checkpoint)}-${kind}${tokenizer === undefined ? '' : '-with-tokenizer'}`;
  const [file, plain] = [join(folder, `${name}.gguf`), join(folder, name)];
  if (!existsSync(plain)) {
    const script = join(import.meta.dirname, 'peers/write_gguf.py');
    const args = [
      script,
      resolve(golden, checkpoint),
      kind,
      file,
      plain,
      ...(tokenizer === undefined ? [] : [tokenizer]),
    ];
    execFileSync(peer.python, args, { env: peer.env, stdio: 'pipe' });
  }
  return { file, plain };
}

const ids = mx.array([[5, 17, 42, 99, 3, 120, 64, 8]], 'int32');

function logits(model: AnyModel): number[] {
  return [...(model.forward(ids).toTypedArray() as Float32Array)];
}

/** A checkpoint of random weights with rows of 256 and 512, or the name of a recorded one. */
async function wide(name: string): Promise<string> {
  if (!name.startsWith('wide')) return name;
  const config = name === 'wide' ? configs.qwen3 : { ...configs.qwen3Moe, moe_intermediate_size: 256 };
  return await randomCheckpoint({ ...config, vocab_size: 128, hidden_size: 256, intermediate_size: 512 });
}

beforeAll(() => {
  peer = mlxLm();
}, 600_000);

describe('logits are those of the numbers in the blocks', () => {
  test.each([
    ['qwen3', 'F32'],
    ['qwen3', 'F16'],
    ['qwen3_untied_sharded', 'Q8_0'],
    ['qwen2', 'Q8_0'],
    ['qwen3_yarn_default', 'Q4_0'],
    ['qwen3_moe_all', 'Q4_1'],
    ['qwen2_moe', 'Q8_0'],
    ['qwen3', 'Q5_0'],
    ['qwen3_moe_all', 'Q5_1'],
    // Whose blocks have 256 elements.
    ['wide', 'Q4_K'],
    ['wide', 'Q5_K'],
    ['wide with experts', 'Q4_K'],
  ])('%s in %s', async (name, kind) => {
    const checkpoint = await wide(name);
    const { file, plain } = write(checkpoint, kind);
    const [model, numbers] = [await loadModel(file), await loadModel(plain)];
    try {
      expect(model.modelType).toBe(numbers.modelType);
      const bits = /^Q(\d)/.exec(kind)?.[1];
      expect(model.quantization?.bits).toBe(bits === undefined ? undefined : Number(bits));
      const [found, want] = [logits(model), logits(numbers)];
      // Equal numbers, multiplied by another kernel where they are packed: sums in float32 in another order.
      const scale = Math.max(...want.map(Math.abs));
      const worst = Math.max(...found.map((value, i) => Math.abs(value - want[i]!)));
      expect(worst / scale).toBeLessThan(kind.startsWith('Q') ? 1e-4 : 1e-6);
      if (!kind.startsWith('Q')) return;
      // The blocks do round: a model that was not packed would be seen.
      const original = await loadModel(write(checkpoint, 'F32').file);
      expect(logits(original).some((value, i) => Math.abs(value - want[i]!) > 1e-3 * scale)).toBe(true);
      original.dispose();
    } finally {
      model.dispose();
      numbers.dispose();
    }
  });
});

test('the tokenizer and the chat template are the real ones, and go into a saved folder', async () => {
  const { file } = write('qwen3', 'F32', qwen3Tokenizer);
  const [found, want] = [await Tokenizer.load(file), await Tokenizer.load(qwen3Tokenizer)];
  const texts = [
    'Hello, world!',
    "I'LL say: it's 12345 times\n\n  indented\ttabs \r\n done  ",
    'Ünïcödé é — 你好，世界 🤖👩‍👩‍👧 مرحبا',
    '<|im_start|>user\nHi<|im_end|>\n<think>\n\n</think> <tool_call>{"a": 1}</tool_call>',
    readFileSync(import.meta.filename, 'utf8'),
  ];
  for (const text of texts) {
    const tokens = want.encode(text);
    expect(found.encode(text)).toEqual(tokens);
    for (const skipSpecialTokens of [true, false]) {
      expect(found.decode(tokens, { skipSpecialTokens })).toBe(want.decode(tokens, { skipSpecialTokens }));
    }
  }
  const messages = [{ role: 'user', content: 'Hi' }];
  expect(found.applyChatTemplate(messages)).toBe(want.applyChatTemplate(messages));
  expect(found.eosTokenIds[0]).toBe(want.eosTokenIds[0]);
  expect(found.padTokenId).toBe(want.padTokenId);

  const model = await loadModel(file);
  const saved = join(folder, 'saved');
  await model.save(saved);
  const again = await loadModel(saved);
  expect(logits(again)).toEqual(logits(model));
  expect(again.tokenizer.encode(texts[1]!)).toEqual(want.encode(texts[1]!));
  expect(again.tokenizer.applyChatTemplate(messages)).toBe(want.applyChatTemplate(messages));
  expect(again.eosTokenIds).toEqual(model.eosTokenIds);
  model.dispose();
  again.dispose();
});

describe('what is no model is refused', () => {
  test('another architecture', async () => {
    const other = join(import.meta.dirname, '../fixtures/files/mixed.gguf');
    await expect(loadModel(other)).rejects.toMatchObject({ code: 'ERR_MLX_UNSUPPORTED_MODEL' });
  });

  test('a file that was cut', async () => {
    const { file } = write('qwen3', 'F32');
    for (const length of [3, 400, 30_000]) {
      const cut = join(folder, `cut-${length}.gguf`);
      copyFileSync(file, cut);
      truncateSync(cut, length);
      await expect(loadModel(cut)).rejects.toMatchObject({ code: 'ERR_MLX_LOAD' });
    }
  });

  test('a model without a tokenizer', async () => {
    const { file } = write('qwen2', 'Q8_0');
    const error = await Tokenizer.load(file).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'ERR_MLX_LOAD' });
    expect(String(error)).toContain("only 'gpt2'");
    const model = await loadModel(file);
    expect(() => model.tokenizer).toThrow('only token ids can go in and out');
    model.dispose();
  });

  test('a file that is not there', async () => {
    await expect(loadModel(join(folder, 'nothing.gguf'))).rejects.toMatchObject({ code: 'ERR_MLX_LOAD' });
  });
});
