/**
 * Qwen2.5-Coder-1.5B-Instruct itself: MLX_NODE_REAL_MODEL names its folder, and without it vitest does not collect this file. The
 * expected ids are those of transformers 5.23 in float32 (greedy, 20 new tokens) with the weights of the official Q4_K_M file,
 * dequantised to bf16.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadModel } from '../../lib/index.ts';
import type { LanguageModel } from '../../lib/index.ts';

const folder = process.env['MLX_NODE_REAL_MODEL']!;
const main = join(import.meta.dirname, '..', '..', 'dist/lib/cli/main.js');

/** What the chat template puts before and after the words of the user. */
const before = [
  151644, 8948, 198, 2610, 525, 1207, 16948, 11, 3465, 553, 54364, 14817, 13, 1446, 525, 264, 10950, 17847, 13, 151645,
  198, 151644, 872,
];
const after = [151645, 198, 151644, 77091, 198];

const expected = [
  {
    prompt: 'What is the capital of France? One word.',
    ids: [198, 3838, 374, 279, 6722, 315, 9625, 30, 3776, 3409, 13],
    greedy: [59604, 151645],
  },
  {
    prompt: 'Write a haiku about the sea.',
    ids: [198, 7985, 264, 6386, 38242, 911, 279, 9396, 13],
    greedy: [1639, 68835, 304, 279, 9956, 345, 96183, 594, 12767, 26732, 345, 84643, 304, 279, 9396, 13, 151645],
  },
  {
    prompt: 'def fibonacci(n): explain what this Python function should do.',
    ids: [198, 750, 75698, 1445, 1648, 10339, 1128, 419, 13027, 729, 1265, 653, 13],
    greedy: [
      785, 13027, 729, 1565, 75326, 39345, 1445, 46186, 374, 6188, 311, 11047, 279, 55129, 79683, 1372, 13, 576, 79683,
      8500,
    ],
  },
  {
    prompt: 'Translate to German: The weather is nice today.',
    ids: [198, 27473, 311, 5938, 25, 576, 9104, 374, 6419, 3351, 13],
    greedy: [18175, 467, 21405, 5999, 48614, 74764, 13, 151645],
  },
  {
    prompt: 'Natalia sold 48 clips in April and half as many in May. How many clips in total?',
    ids: [
      198, 45, 4212, 685, 6088, 220, 19, 23, 26111, 304, 5813, 323, 4279, 438, 1657, 304, 3217, 13, 2585, 1657, 26111,
      304, 2790, 30,
    ],
    greedy: [
      1249, 8253, 279, 2790, 1372, 315, 26111, 41601, 685, 6088, 304, 5813, 323, 3217, 11, 582, 1184, 311, 1795, 1493,
    ],
  },
];

const minutes = 60_000;

describe('Qwen2.5-Coder-1.5B-Instruct', () => {
  let model: LanguageModel;

  beforeAll(async () => {
    model = await loadModel(folder, { dtype: 'float32' });
  }, 10 * minutes);

  afterAll(() => model?.dispose());

  it.each(expected)('reads $prompt as transformers does', ({ prompt, ids }) => {
    expect(model.encodePrompt(prompt)).toEqual([...before, ...ids, ...after]);
  });

  it.each(expected)(
    'answers $prompt as transformers does',
    async ({ prompt, greedy }) => {
      const options = { temperature: 0, repetitionPenalty: 1, maxTokens: 20 };
      const { tokens, finishReason } = await model.generate(prompt, options);
      expect(tokens).toEqual(greedy);
      expect(finishReason).toBe(greedy.length < 20 ? 'stop' : 'length');
    },
    20 * minutes,
  );

  it(
    'gives all of them the same tokens in one batch',
    async () => {
      const options = { temperature: 0, repetitionPenalty: 1, maxTokens: 20 };
      const { completions } = await model.generateBatch(
        expected.map(({ prompt }) => prompt),
        options,
      );
      expect(completions.map(([answer]) => answer!.tokens)).toEqual(expected.map(({ greedy }) => greedy));
    },
    20 * minutes,
  );
});

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs `mlx-node generate`; `stopAt` sends Ctrl-C as soon as that much text has come. */
function generate(args: string[], stopAt = Infinity): Promise<Ended> {
  const child = spawn(process.execPath, [main, 'generate', '--model', folder, '--temperature', '0', ...args]);
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    if (stdout.length >= stopAt) child.kill('SIGINT');
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.end();
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

describe('mlx-node generate', () => {
  it(
    'answers Paris',
    async () => {
      const { code, stdout, stderr } = await generate([expected[0]!.prompt]);
      expect([code, stdout, stderr]).toEqual([0, 'Paris\n', '']);
    },
    10 * minutes,
  );

  it(
    'keeps the text that Ctrl-C leaves and ends with 130',
    async () => {
      const { code, stdout, stderr } = await generate(['-n', '200', expected[2]!.prompt], 20);
      expect([code, stderr]).toEqual([130, 'mlx-node: stopped by SIGINT\n']);
      expect(stdout).toMatch(/^The Python function `fib[^]*\n$/);
    },
    10 * minutes,
  );
});
