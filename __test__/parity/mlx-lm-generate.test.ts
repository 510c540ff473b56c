/** Bounded and quantised caches, chunks of the prompt, and batches: what generate() chooses is what mlx-lm, as PyPI has it, chooses. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Engine, loadModel } from '../../lib/index.ts';
import type { Completion, KvCacheOptions, LanguageModel } from '../../lib/index.ts';
import { mlxLm } from '../helpers/peers.ts';
import type { Peer } from '../helpers/peers.ts';
import { saved, subjects } from '../helpers/saved.ts';

const steps = 32;
const lengths = [1, 2, 17, 40, 5, 31, 8, 23];
const prompts = lengths.map((length, row) =>
  Array.from({ length }, (_, i) => 2 + ((13 * row + 29 * i + row * i + i * i) % 16)),
);

interface Case {
  name: string;
  ours: KvCacheOptions & { prefillStepSize?: number };
  theirs: Record<string, unknown>;
  /**
   * Codes of 8 bits: float32 sums in another order put a few of the finer codes on the other side of a rounding boundary, a 255th of a
   * group's range away. So a few log-probs may be off by that much; a cache that begins to be quantised elsewhere puts most of them off.
   */
  flips?: boolean;
  /** Prompts of at most so many tokens. */
  longest?: number;
}

const coded = (kvBits: number, start: number): [KvCacheOptions, Record<string, unknown>] => [
  { kvBits, kvGroupSize: 32, quantizedKvStart: start },
  // Our 0 is theirs with a cache that is quantised from the first token on; their 0 is our 1.
  {
    kv_bits: kvBits,
    kv_group_size: 32,
    ...(start === 0 ? { coded: true } : { quantized_kv_start: start === 1 ? 0 : start }),
  },
];

const cases: Case[] = [
  { name: 'plain', ours: {}, theirs: {} },
  { name: 'in chunks of 7', ours: { prefillStepSize: 7 }, theirs: { prefill_step_size: 7 } },
  // Four first tokens stay. mlx-lm hides them from the later tokens of a chunk, so that prompts must fit.
  { name: 'bounded', ours: { maxKvSize: 24 }, theirs: { max_kv_size: 24 }, longest: 23 },
  {
    name: 'bounded without kept tokens, prompts of any length in chunks',
    ours: { maxKvSize: 16, keep: 0, prefillStepSize: 6 },
    theirs: { max_kv_size: 16, keep: 0, prefill_step_size: 6 },
  },
  ...[4, 8].flatMap((bits) =>
    [0, 1, 20].map((start) => {
      const [ours, theirs] = coded(bits, start);
      return { name: `${bits} bits from ${start}`, ours, theirs, flips: bits === 8 };
    }),
  ),
  {
    name: '8 bits from 10, in chunks of 6',
    ours: { ...coded(8, 10)[0], prefillStepSize: 6 },
    theirs: { ...coded(8, 10)[1], prefill_step_size: 6 },
    flips: true,
  },
];

interface Reading {
  tokens: number[][];
  logprobs: number[][];
}

function expectSame(got: readonly Completion[], { tokens, logprobs }: Reading, flips = false): void {
  expect(got.map((answer) => answer.tokens)).toEqual(tokens);
  const off = got.flatMap((answer, row) => answer.logprobs.map((logprob, i) => Math.abs(logprob - logprobs[row]![i]!)));
  expect(Math.max(...off)).toBeLessThan(flips ? 5e-3 : 1e-4);
  expect(off.filter((one) => one > 1e-4).length).toBeLessThan(0.1 * off.length);
}

describe('mlx-lm generates', () => {
  let peer: Peer;
  let model: LanguageModel;
  let read: (requests: object[]) => Reading[];

  beforeAll(() => {
    peer = mlxLm();
  }, 600_000);

  beforeEach(async () => {
    const subject = subjects.find(({ name }) => name === 'a Qwen3 after training')!;
    const { request } = await saved(subject);
    model = await loadModel(request.folder, { dtype: 'float32' });
    read = (requests) => {
      const input = requests.map((one) => JSON.stringify({ folder: request.folder, steps, ...one })).join('\n');
      const script = join(import.meta.dirname, 'peers', 'generate_with_mlx_lm.py');
      const output = execFileSync(peer.python, [script], { input, env: peer.env, encoding: 'utf8', maxBuffer: 1e9 });
      return output
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Reading);
    };
  });

  afterEach(() => model.dispose());

  it('what we generate with every kind of cache', async () => {
    const asked = cases.map(({ longest = Infinity }) => prompts.filter(({ length }) => length <= longest));
    const readings = read(cases.map(({ theirs }, i) => ({ how: 'step', prompts: asked[i], ...theirs })));
    for (const [i, { name, ours, flips }] of cases.entries()) {
      const options = { ...ours, maxTokens: steps, temperature: 0, ignoreEos: true };
      try {
        const answers = [];
        for (const prompt of asked[i]!) answers.push(await model.generate(prompt, options));
        expectSame(answers, readings[i]!, flips);
        // The rows of one batch, where they do not depend on each other.
        if ((ours.quantizedKvStart ?? 0) === 0 && (ours.maxKvSize === undefined || ours.keep === 0)) {
          const { completions } = await model.generateBatch(asked[i]!, options);
          expectSame(completions.flat(), readings[i]!, flips);
        }
      } catch (error) {
        throw new Error(`${name}: ${(error as Error).message}`, { cause: error });
      }
    }
    // The kinds differ, so that an answer of another one would be seen.
    expect(new Set(readings.map(({ logprobs }) => JSON.stringify(logprobs.at(-1)))).size).toBeGreaterThan(6);
  }, 300_000);

  it('the same in batches, bounded ones too, as our engine', async () => {
    const fitting = prompts.filter(({ length }) => length < 16);
    const [plain, bounded] = read([
      { how: 'batch', prompts, prefill_step_size: 7 },
      // Merged, mlx-lm's bounded caches keep no first tokens.
      { how: 'batch', prompts: fitting, max_kv_size: 16 },
    ]);
    const options = { maxTokens: steps, temperature: 0, ignoreEos: true };
    for (const [asked, kind, reading] of [
      [prompts, { prefillStepSize: 7 }, plain!],
      [fitting, { maxKvSize: 16 }, bounded!],
    ] as const) {
      using engine = new Engine(model, { ...kind, maxBatchSize: 3, prefillBatchSize: 2, prefixCache: true });
      for (let time = 0; time < 2; time++)
        expectSame(await Promise.all(asked.map((prompt) => engine.submit(prompt, options))), reading);
      expect(engine.stats().cachedTokens).toBeGreaterThan(0);
    }
  }, 300_000);
});
