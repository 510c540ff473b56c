/** Prompt caches that we write are read by mlx-lm, as PyPI has it, and the other way round. */
import { execFileSync } from 'node:child_process';
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  BatchCache,
  BatchKVCache,
  BatchRotatingKVCache,
  KVCache,
  loadPromptCache,
  mx,
  QuantizedKVCache,
  RotatingKVCache,
  savePromptCache,
} from '../../lib/index.ts';
import type { LayerCache, MxArray } from '../../lib/index.ts';
import { mlxLm } from '../helpers/peers.ts';
import type { Peer } from '../helpers/peers.ts';
import { tempDir } from '../helpers/temp.ts';

interface Subject {
  name: string;
  make: () => LayerCache;
  /** Tokens of the updates before the file is written, and of those after. */
  before: number[];
  after: number[];
}

const subjects: Subject[] = [
  { name: 'plain', make: () => new KVCache(), before: [5, 1, 300], after: [1, 4, 1] },
  { name: 'empty', make: () => new KVCache(), before: [], after: [3, 1] },
  { name: 'rotating', make: () => new RotatingKVCache(8), before: [5], after: [1, 1, 1, 1, 4, 1] },
  { name: 'rotated', make: () => new RotatingKVCache(8), before: [5, 1, 1, 1, 1, 1], after: [1, 1, 3, 1] },
  { name: 'long', make: () => new RotatingKVCache(8), before: [20], after: [1, 1, 3] },
  {
    name: 'kept',
    make: () => new RotatingKVCache(8, { keep: 4 }),
    before: [6, 1, 1, 1, 1],
    after: [1, 1, 1, 1, 1, 3, 1],
  },
  { name: 'eight', make: () => new QuantizedKVCache({ groupSize: 32, bits: 8 }), before: [5, 1], after: [1, 4] },
  { name: 'four', make: () => new QuantizedKVCache({ groupSize: 64, bits: 4 }), before: [300], after: [1, 4] },
  { name: 'batch', make: () => new BatchKVCache([2, 0, 1]), before: [6, 1], after: [1, 3, 1] },
  {
    name: 'batch-rotating',
    make: () => new BatchRotatingKVCache(8, [2, 0, 1]),
    before: [6, 1],
    after: [1, 1, 1, 3, 1],
  },
  {
    name: 'batch-rotated',
    make: () => new BatchRotatingKVCache(8, [2, 0, 1]),
    before: [6, 1, 1, 1, 1],
    after: [1, 1, 3],
  },
];

/** Keys and values for `tokens` tokens. */
function fresh(cache: LayerCache, tokens: number): [MxArray, MxArray] {
  const rows = cache instanceof BatchCache ? 3 : 1;
  return [mx.random.normal([rows, 2, tokens, 64]), mx.random.normal([rows, 2, tokens, 64])];
}

/** What attention reads, as numbers. */
function fetch(cache: LayerCache, keys: MxArray, values: MxArray): [MxArray, MxArray] {
  if (!(cache instanceof QuantizedKVCache)) return (cache as KVCache).updateAndFetch(keys, values);
  const { groupSize, bits } = cache;
  return cache
    .updateAndFetch(keys, values)
    .map(([weight, scales, biases]) =>
      mx.dequantize(weight, scales, biases, { groupSize: groupSize!, bits: bits! }),
    ) as [MxArray, MxArray];
}

const bytes = (array: MxArray): Buffer => Buffer.from(array.toBytes());

describe('prompt caches and mlx-lm', () => {
  let peer: Peer;

  beforeAll(() => {
    peer = mlxLm();
  }, 600_000);

  it('reads our files and appends the same; we read its files', async () => {
    const folder = tempDir();
    mx.random.seed(11);
    const updates: Record<string, MxArray> = {};
    const requests = [];
    for (const { name, make, before, after } of subjects) {
      const layers = [make(), make()];
      for (const cache of layers) for (const tokens of before) fetch(cache, ...fresh(cache, tokens));
      const path = join(folder, `${name}.safetensors`);
      await savePromptCache(path, layers, { metadata: { model: `tiny/${name}`, note: 'naïve' } });
      const used = layers.flatMap(({ state }) => state).reduce((sum, { nbytes }) => sum + nbytes, 0);
      expect(statSync(path).size, `${name}: only what is used`).toBeLessThan(used + 4096);
      after.forEach((tokens, step) => {
        [updates[`${name}.${step}.keys`], updates[`${name}.${step}.values`]] = fresh(layers[0]!, tokens);
      });
      requests.push({ name, layers: 2, steps: after });
    }
    await mx.saveSafetensors(join(folder, 'updates.safetensors'), updates);
    writeFileSync(join(folder, 'requests.json'), JSON.stringify(requests));
    const script = join(import.meta.dirname, 'peers', 'prompt_caches.py');
    execFileSync(peer.python, [script, folder], { env: peer.env, stdio: 'pipe' });
    const fetched = (await mx.load(join(folder, 'fetched.safetensors'))) as Record<string, MxArray>;

    let compared = 0;
    for (const { name, after } of subjects) {
      const { cache, metadata } = await loadPromptCache(join(folder, `${name}.safetensors`));
      expect(metadata).toEqual({ model: `tiny/${name}`, note: 'naïve' });
      cache.forEach((layer, index) => {
        after.forEach((_, step) => {
          const ours = fetch(layer, updates[`${name}.${step}.keys`]!, updates[`${name}.${step}.values`]!);
          ours.forEach((array, half) => {
            const theirs = fetched[`${name}.${index}.${step}.${half === 0 ? 'keys' : 'values'}`]!;
            expect(array.shape, `${name} step ${step}`).toEqual(theirs.shape);
            // Nothing is computed, but for codes: bits must agree.
            expect(bytes(array).equals(bytes(theirs)), `${name} step ${step}`).toBe(true);
            compared += 1;
          });
        });
      });
      const theirs = await loadPromptCache(join(folder, `theirs.${name}.safetensors`));
      expect(theirs.metadata).toEqual({ model: `tiny/${name}`, note: 'naïve', by: 'mlx-lm' });
      theirs.cache.forEach((layer, index) => {
        const wanted = cache[index]!;
        expect(layer.constructor).toBe(wanted.constructor);
        expect([layer.offset, layer.size, layer.isTrimmable]).toEqual([wanted.offset, wanted.size, wanted.isTrimmable]);
        expect(layer.state.length).toBe(wanted.state.length);
        layer.state.forEach((array, part) => {
          expect(array.shape, name).toEqual(wanted.state[part]!.shape);
          expect(bytes(array).equals(bytes(wanted.state[part]!)), `${name}: state`).toBe(true);
        });
        if (layer instanceof BatchCache && wanted instanceof BatchCache) {
          expect([layer.getOffsets(), layer.getLeftPadding()]).toEqual([wanted.getOffsets(), wanted.getLeftPadding()]);
        }
        // And it goes on.
        const next = fresh(layer, 1);
        const masks = [layer, wanted].map((cache_) => cache_.makeMask(1, { returnArray: true }) as MxArray);
        const pairs = [layer, wanted].map((cache_) => cache_.attend(mx.ones(next[0].shape), ...next));
        expect(masks[0]!.sum().item()).toBe(masks[1]!.sum().item());
        expect(mx.allclose(pairs[0]!, pairs[1]!, 1e-5, 1e-5).all().item(), name).toBeTruthy();
      });
    }
    expect(compared).toBe(2 * 2 * subjects.reduce((sum, { after }) => sum + after.length, 0));
  }, 300_000);
});
