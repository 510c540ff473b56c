/** The classes of caches in TypeScript: with layers, with models, and what they refuse. */
import { describe, expect, test } from 'vitest';
import {
  BatchKVCache,
  BatchRotatingKVCache,
  canTrimPromptCache,
  KVCache,
  loadModel,
  loadPromptCache,
  makePromptCache,
  MlxError,
  mx,
  MxArray,
  nn,
  PrefixCache,
  QuantizedKVCache,
  RotatingKVCache,
  savePromptCache,
  trimPromptCache,
} from '../../lib/index.ts';
import type { LanguageModel, LayerCache } from '../../lib/index.ts';
import { tempDir } from '../helpers/temp.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';

let draws = 0;
const normal = (...shape: number[]): MxArray => mx.random.normal(shape, { key: mx.random.key(draws++) });

function expectClose(got: MxArray, want: MxArray, tolerance = 1e-4): void {
  expect(got.shape).toEqual(want.shape);
  expect(got.subtract(want).abs().max().item()).toBeLessThanOrEqual(tolerance);
}

function codeOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(MlxError);
    return (error as MlxError).code;
  }
  return 'nothing thrown';
}

describe('the classes', () => {
  test('KVCache appends, trims, and shares its buffers with copies', () => {
    const cache = new KVCache();
    expect([cache.empty, cache.offset, cache.nbytes, cache.bits]).toEqual([true, 0, 0, undefined]);
    const [keys, values] = [normal(1, 2, 5, 32), normal(1, 2, 5, 16)];
    const [gotKeys, gotValues] = cache.updateAndFetch(keys, values);
    expectClose(gotKeys, keys, 0);
    expectClose(gotValues, values, 0);
    expect(cache.makeMask(1)).toBe(null);
    expect(cache.makeMask(3)).toBe('causal');
    expect((cache.makeMask(2, { returnArray: true }) as MxArray).toArray()).toEqual([
      [true, true, true, true, true, true, false],
      [true, true, true, true, true, true, true],
    ]);
    expect((cache.makeMask(1, { windowSize: 2 }) as MxArray).toArray()).toEqual([
      [false, false, false, false, true, true],
    ]);
    const copy = cache.copy();
    expect(copy).toBeInstanceOf(KVCache);
    copy.updateAndFetch(normal(1, 2, 1, 32), normal(1, 2, 1, 16));
    expect(cache.trim(2)).toBe(2);
    expect([cache.offset, copy.offset]).toEqual([3, 6]);
    expectClose(copy.state[0]!.index('...', '0:5', '0:'), keys, 0);
    cache.state = copy.state;
    expect(cache.offset).toBe(6);
    cache.reset();
    expect(cache.state).toEqual([]);
  });

  test('QuantizedKVCache returns codes, and toQuantized makes it', () => {
    const cache = new QuantizedKVCache({ groupSize: 32 });
    const keys = normal(1, 2, 5, 64);
    const [codes] = cache.updateAndFetch(keys, keys);
    expect(codes.map(({ shape, dtype }) => [shape, dtype])).toEqual([
      [[1, 2, 5, 16], 'uint32'],
      [[1, 2, 5, 2], 'float32'],
      [[1, 2, 5, 2], 'float32'],
    ]);
    // Half a step, and up to a whole one at the end of a group that the scale, made to hit zero, leaves outside.
    const step = codes[1].abs().max().item() as number;
    expectClose(mx.dequantize(...codes, { groupSize: 32, bits: 8 }), keys, 1.01 * step);
    const plain = new KVCache();
    plain.updateAndFetch(keys, keys);
    const four = plain.toQuantized({ groupSize: 32, bits: 4 });
    expect(four).toBeInstanceOf(QuantizedKVCache);
    expect([four.offset, four.bits, four.groupSize]).toEqual([5, 4, 32]);
    expect(four.nbytes).toBeLessThan(cache.nbytes);
    const batch = BatchKVCache.merge([four, new QuantizedKVCache({ groupSize: 32, bits: 4 })]);
    expect([batch.bits, batch.getLeftPadding()]).toEqual([4, [0, 5]]);
    expect(codeOf(() => batch.updateAndFetch(normal(2, 2, 1, 64), normal(2, 2, 1, 64)))).toBe('ERR_MLX_ARGUMENT');
    expect(batch.attend(normal(2, 4, 1, 64), normal(2, 2, 1, 64), normal(2, 2, 1, 64)).shape).toEqual([2, 4, 1, 64]);
  });

  test('BatchKVCache moves rows about', () => {
    const cache = new BatchKVCache([2, 0]);
    expect([cache.getIdx(), cache.getOffsets(), cache.getLeftPadding()]).toEqual([0, [-2, 0], [2, 0]]);
    const keys = normal(2, 1, 4, 8);
    cache.updateAndFetch(keys, keys);
    expect([cache.getIdx(), cache.getOffsets(), cache.size]).toEqual([4, [2, 4], 4]);
    expect((cache.makeMask(1) as MxArray).toArray()).toEqual([
      [[[false, false, true, true, true]]],
      [[[true, true, true, true, true]]],
    ]);
    const row = cache.extract(0);
    expect(row).toBeInstanceOf(KVCache);
    expectClose(row.state[0]!, keys.index('0:1', '...', '2:', '0:'), 0);
    const other = new BatchKVCache([0]);
    other.updateAndFetch(normal(1, 1, 7, 8), normal(1, 1, 7, 8));
    cache.extend(other);
    expect([cache.getIdx(), cache.getLeftPadding()]).toEqual([7, [5, 3, 0]]);
    cache.filter([1, 0]);
    expect([cache.getIdx(), cache.getLeftPadding(), cache.getOffsets()]).toEqual([4, [0, 2], [4, 2]]);
    cache.putRow(1, other.extract(0) as KVCache);
    expect([cache.getIdx(), cache.getLeftPadding()]).toEqual([7, [3, 0]]);
    cache.repeatRows(2);
    expect(cache.getLeftPadding()).toEqual([3, 3, 0, 0]);
    expect(cache.trim(1)).toBe(1);
    expect(cache.getOffsets()).toEqual([3, 3, 6, 6]);
    cache.reset();
    expect([cache.getIdx(), cache.getLeftPadding()]).toEqual([0, [0, 0, 0, 0]]);
    cache.prepare({ rightPadding: [1, 0, 0, 2], lengths: [2, 3, 3, 1] });
    cache.updateAndFetch(normal(4, 1, 3, 8), normal(4, 1, 3, 8));
    cache.finalize();
    expect(cache.getOffsets()).toEqual([2, 3, 3, 1]);
  });

  test('a batch of rotating caches', () => {
    const rows = [3, 12].map((tokens) => {
      const cache = new RotatingKVCache(8);
      cache.updateAndFetch(normal(1, 1, tokens, 8), normal(1, 1, tokens, 8));
      return cache;
    });
    const batch = RotatingKVCache.merge(rows);
    expect(batch).toBeInstanceOf(BatchRotatingKVCache);
    expect([batch.maxSize, batch.getOffsets(), batch.getLeftPadding(), batch.isTrimmable]).toEqual([
      8,
      [3, 12],
      [5, 0],
      false,
    ]);
    const [four, three] = [4, 3].map((keep) => new RotatingKVCache(8, { keep }));
    expect(codeOf(() => BatchRotatingKVCache.merge([four!, three!]))).toBe('ERR_MLX_ARGUMENT');
    expect(BatchRotatingKVCache.merge([four!, four!.copy()]).keep).toBe(4);
    expect(codeOf(() => new BatchRotatingKVCache(8, [0], { keep: 8 }))).toBe('ERR_MLX_ARGUMENT');
  });

  test('a batch of rotating caches that keep their first tokens', () => {
    // Keys that say which row and position they are of; the second row begins with two slots of padding.
    const at = (row: number, position: number) => 100 * row + position;
    const keys = (from: number, to: number) =>
      mx.array(
        [1, 2].map((row) => [
          Array.from({ length: to - from }, (_, i) => Array<number>(8).fill(at(row, from + i - (row === 2 ? 2 : 0)))),
        ]),
      );
    const batch = new BatchRotatingKVCache(6, [0, 2], { keep: 2 });
    for (const [from, to] of [
      [0, 5],
      [5, 6],
      [6, 7],
      [7, 10],
      [10, 11],
    ] as const)
      batch.updateAndFetch(keys(from, to), keys(from, to));
    expect(batch.getOffsets()).toEqual([11, 9]);
    for (const [row, positions] of [
      [1, [0, 1, 7, 8, 9, 10]],
      [2, [0, 1, 5, 6, 7, 8]],
    ] as const) {
      const own = batch.extract(row - 1);
      expect([own.keep, own.offset]).toEqual([2, row === 1 ? 11 : 9]);
      const held = own.state[0]!.toArray() as number[][][][];
      expect(held[0]![0]!.map((features) => features[0])).toEqual(positions.map((position) => at(row, position)));
    }
  });

  test('what they refuse', () => {
    const cache = new KVCache();
    const keys = normal(1, 1, 3, 8);
    cache.updateAndFetch(keys, keys);
    expect(codeOf(() => cache.updateAndFetch(keys, normal(1, 1, 2, 8)))).toBe('ERR_MLX_SHAPE');
    expect(codeOf(() => cache.updateAndFetch(normal(2, 1, 1, 8), normal(2, 1, 1, 8)))).toBe('ERR_MLX_SHAPE');
    expect(codeOf(() => cache.attend(normal(1, 3, 1, 16), keys, keys))).toBe('ERR_MLX_SHAPE');
    expect(codeOf(() => cache.trim(-1))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => cache.trim(0.5))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => cache.makeMask(0))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => cache.filter([1]))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => (cache.state = [keys]))).toBe('ERR_MLX_SHAPE');
    expect(cache.offset).toBe(3);
    expect(codeOf(() => new RotatingKVCache(0))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => new RotatingKVCache(4, { keep: 4 }))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => new RotatingKVCache(4, { kep: 1 } as object))).toBe('ERR_MLX_CONFIG');
    expect(codeOf(() => new BatchKVCache([]))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => new BatchKVCache([-1]))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => new BatchRotatingKVCache(4))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => new QuantizedKVCache({ bits: 7 }))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => new QuantizedKVCache({ bits: 4, groupSize: 64 }).updateAndFetch(keys, keys))).toBe(
      'ERR_MLX_SHAPE',
    );
    expect(codeOf(() => KVCache.merge([]))).toBe('ERR_MLX_ARGUMENT');
  });
});

describe('with layers', () => {
  const layer = new nn.Attention(32, 4, { numKeyValueHeads: 2, headDim: 32 });
  const x = normal(2, 9, 32);
  const kinds: [string, () => LayerCache, number][] = [
    ['KVCache', () => new KVCache(), 1e-5],
    ['RotatingKVCache', () => new RotatingKVCache(16, { keep: 2 }), 1e-5],
    ['BatchKVCache', () => new BatchKVCache([0, 0]), 1e-5],
    ['BatchRotatingKVCache', () => new BatchRotatingKVCache(16, [0, 0]), 1e-5],
    // Half a 255th of a group's range, twice.
    ['QuantizedKVCache', () => new QuantizedKVCache({ groupSize: 32, bits: 8 }), 0.02],
  ];
  test.each(kinds)('%s: pieces give what the whole gives', (_, make, tolerance) => {
    const whole = layer.forward(x, 'causal');
    const cache = make();
    const pieces = [
      [0, 4],
      [4, 5],
      [5, 9],
    ].map(([from, to]) => layer.forward(x.index('0:', `${from}:${to}`), cache.makeMask(to! - from!), cache));
    expectClose(mx.concatenate(pieces, 1), whole, tolerance);
  });
});

describe.each(['qwen3', 'qwen3_moe'] as const)('with a model, %s', (kind) => {
  const load = (): Promise<LanguageModel> => loadModel(tinyCheckpoint(kind), { dtype: 'float32' });
  const prompt = [5, 9, 12, 33, 20, 41, 8];

  test('forward goes on after what the cache holds', async () => {
    const model = await load();
    const whole = model.forward([prompt]);
    const cache = makePromptCache(model);
    const pieces = [prompt.slice(0, 4), prompt.slice(4, 5), prompt.slice(5)].map((ids) =>
      model.forward([ids], { cache }),
    );
    expectClose(mx.concatenate(pieces, 1), whole);
    expect(canTrimPromptCache(cache)).toBe(true);
    expect(trimPromptCache(cache, 3)).toBe(3);
    expectClose(model.forward([prompt.slice(4)], { cache }), whole.index('0:', '4:'));
    const before = cache.map(({ offset }) => offset);
    expect(codeOf(() => model.forward([[999]], { cache }))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => model.forward([[1], [2]], { cache }))).toBe('ERR_MLX_SHAPE');
    expect(codeOf(() => model.forward([[1]], { cache: [cache[0]!] }))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => model.forward([[1]], { cache: cache.map(() => cache[0]!) }))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => model.forward([[1]], { cach: cache } as object))).toBe('ERR_MLX_CONFIG');
    expect(cache.map(({ offset }) => offset)).toEqual(before);
  });

  test('rows of unequal length: a mask without a cache, padding in a cache', async () => {
    const model = await load();
    const short = prompt.slice(0, 3);
    const padded = [prompt, [0, 0, 0, 0, ...short]];
    const attentionMask = [prompt.map(() => 1), [0, 0, 0, 0, 1, 1, 1]];
    const alone = model.forward([short]);
    expectClose(model.forward(padded, { attentionMask }).index('1:2', '4:'), alone);
    const cache = makePromptCache(model, { leftPadding: [0, 4] });
    expectClose(model.forward(padded, { cache }).index('1:2', '4:'), alone);
    expect(codeOf(() => model.forward(padded, { cache, attentionMask }))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => model.forward(padded, { attentionMask: [[1], [1]] }))).toBe('ERR_MLX_SHAPE');
    const holes = [prompt.map(() => 1), [1, 0, 0, 0, 1, 1, 1]];
    expect(codeOf(() => model.forward(padded, { attentionMask: holes }))).toBe('ERR_MLX_ARGUMENT');
  });

  test('bounded caches, and files of them', async () => {
    const model = await load();
    const cache = makePromptCache(model, { maxKvSize: 4, keep: 1 });
    expect(cache.every((layer) => layer instanceof RotatingKVCache && layer.keep === 1)).toBe(true);
    for (const token of prompt) model.forward([[token]], { cache });
    expect(canTrimPromptCache(cache)).toBe(false);
    expect(trimPromptCache(cache, 1)).toBe(0);
    const path = `${tempDir()}/prompt.safetensors`;
    await savePromptCache(path, cache, { metadata: { prompt: 'x' } });
    const { cache: again, metadata } = await loadPromptCache(path);
    expect(metadata).toEqual({ prompt: 'x' });
    expectClose(model.forward([[3]], { cache: again }), model.forward([[3]], { cache }));
    await expect(loadPromptCache(`${path}.none`)).rejects.toMatchObject({ code: 'ERR_MLX_LOAD' });
    await expect(savePromptCache(path, [])).rejects.toMatchObject({ code: 'ERR_MLX_ARGUMENT' });
    const signal = AbortSignal.abort();
    await expect(savePromptCache(path, cache, { signal })).rejects.toBe(signal.reason);
  });

  test('what options refuse', async () => {
    const model = await load();
    expect(codeOf(() => makePromptCache(model, { keep: 1 }))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => makePromptCache(model, { maxKvSize: 0 }))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => makePromptCache(model, { kvBits: 4, kvGroupSize: 48 }))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => makePromptCache(model, { kvBit: 4 } as object))).toBe('ERR_MLX_CONFIG');
  });

  test('a cache of prefixes gives the same answers', async () => {
    const model = await load();
    const prefixes = new PrefixCache({ maxEntries: 2 });
    expect(prefixes.fetch(prompt)).toBe(null);
    const cache = makePromptCache(model);
    model.forward([prompt], { cache });
    expect(prefixes.insert(prompt, cache, { segment: 'user' })).toBe(true);
    expect([prefixes.size, prefixes.nbytes]).toEqual([1, cache.reduce((sum, { nbytes }) => sum + nbytes, 0)]);
    const other = [...prompt.slice(0, 5), 50, 51];
    const hit = prefixes.fetch(other)!;
    expect(hit.cached).toBe(5);
    const wanted = model.forward([other]).index('0:', '5:');
    expectClose(model.forward([other.slice(5)], { cache: hit.cache }), wanted);
    // The entry is as it was.
    expectClose(model.forward([other.slice(5)], { cache: prefixes.fetch(other)!.cache }), wanted);
    expect(codeOf(() => prefixes.insert([1], cache))).toBe('ERR_MLX_ARGUMENT');
    expect(codeOf(() => new PrefixCache({ maxEntries: -1 }))).toBe('ERR_MLX_ARGUMENT');
    prefixes.trimTo({ maxEntries: 0 });
    expect(prefixes.size).toBe(0);
    prefixes.clear();
  });
});
