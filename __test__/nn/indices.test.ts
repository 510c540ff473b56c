import { describe, expect, test } from 'vitest';
import { mx, nn } from '../../lib/index.js';
import type { MxArray } from '../../lib/index.js';

/** What each layer or loss makes of one index into a table of 4 (experts), 5 (classes) or 10 rows. */
const readers: Record<string, (index: MxArray) => MxArray> = {
  embedding: (() => {
    const layer = new nn.Embedding(10, 64);
    return (index) => layer.forward(index);
  })(),
  'packed embedding': (() => {
    const layer = nn.QuantizedEmbedding.fromEmbedding(new nn.Embedding(10, 64));
    return (index) => layer.forward(index);
  })(),
  experts: (() => {
    const layer = new nn.SwitchLinear(8, 8, 4);
    return (index) => layer.forward(mx.ones([1, 1, 8]), index);
  })(),
  'cross entropy': (index) => nn.losses.crossEntropy(mx.arange(5).reshape([1, 5]).astype('float32'), index),
  'negative log-likelihood': (index) => nn.losses.nllLoss(mx.arange(5).reshape([1, 5]).astype('float32'), index),
};

describe('an index outside reads the nearest row, and nothing beyond the table', () => {
  test.each(Object.entries(readers))('%s', (_, read) => {
    const numbers = (index: number): number[] => [...read(mx.array([index], 'int32')).toFloat32()];
    const [first, last] = [numbers(0), numbers(-1)];
    expect(first).not.toEqual(last);
    for (const index of [1e8, 2 ** 31 - 1]) expect(numbers(index)).toEqual(last);
    for (const index of [-2e8, -(2 ** 31)]) expect(numbers(index)).toEqual(first);
  });
});
