/** What is drawn: its distribution, its independence of the batch, and what arguments may be. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  applyBadWords,
  applyDry,
  applyFrequencyPenalty,
  applyLogitBias,
  applyMinP,
  applyNoRepeatNgram,
  applyPresencePenalty,
  applyRepetitionPenalty,
  applyTemperature,
  applyTopK,
  applyTopNSigma,
  applyTopP,
  applyTypicalP,
  applyXtc,
  mx,
  sample,
} from '../../lib/index.ts';
import type { MxArray, SampleOptions } from '../../lib/index.ts';
import { expectNumbers, numbers } from '../helpers/arrays.ts';
import { thrown } from '../helpers/thrown.ts';

const row = [1, 0.2, -0.5, 2, 0, -3];
const all = [0, 1, 2, 3, 4, 5];

const softmax = (logits: readonly number[], keep: readonly number[]): number[] => {
  const weights = logits.map((value, i) => (keep.includes(i) ? Math.exp(value) : 0));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
};
const divided = (by: number): number[] => row.map((value) => value / by);

const count = 20_000;
const many = (logits: readonly number[]): MxArray => mx.broadcastTo(mx.array([[...logits]]), [count, logits.length]);

/** Fails where the counts are further from the expected ones than chance makes them once in 10^5 times. */
function expectDistribution(tokens: MxArray, expected: readonly number[]): void {
  const counts = expected.map(() => 0);
  for (const token of numbers(tokens)) counts[token]! += 1;
  let statistic = 0;
  let freedom = -1;
  expected.forEach((probability, token) => {
    if (probability === 0) expect(counts[token]).toBe(0);
    else {
      statistic += (counts[token]! - count * probability) ** 2 / (count * probability);
      freedom += 1;
    }
  });
  // Mean `freedom`, variance `2 freedom`; six deviations above the mean, and room for the tail of few degrees.
  expect(statistic).toBeLessThan(freedom + 6 * Math.sqrt(2 * freedom) + 10);
}

describe('draws follow the distribution of', () => {
  // At temperature 1 the masses in order are .57 (token 3), .21 (0), .09 (1), .08 (4), .05 (2), .004 (5).
  const xtcMixture = softmax(row, all).map((p, i) => 0.5 * p + 0.5 * softmax(row, [0, 1, 2, 4, 5])[i]!);
  it.each<[string, SampleOptions, readonly number[]]>([
    ['plain logits', {}, softmax(row, all)],
    ['a temperature', { temperature: 0.7 }, softmax(divided(0.7), all)],
    ['top-k', { topK: 3 }, softmax(row, [0, 1, 3])],
    ['temperature, then top-p', { temperature: 2, topP: 0.6 }, softmax(divided(2), [0, 1, 3])],
    ['top-p, then temperature', { temperature: 2, topP: 0.6, filterOrder: 'mlx' }, softmax(divided(2), [0, 3])],
    ['min-p', { minP: 0.2 }, softmax(row, [0, 3])],
    ['min-p with tokens that stay', { minP: 0.2, minTokensToKeep: 4 }, softmax(row, [0, 1, 3, 4])],
    ['typical-p', { typicalP: 0.2 }, softmax(row, [0])],
    ['top-n-sigma', { topNSigma: 1.2 }, softmax(row, [0, 1, 3])],
    ['XTC half of the time', { xtcProbability: 0.5, xtcThreshold: 0.2 }, xtcMixture],
    ['a bias', { logitBias: { 5: 4, 3: -1 } }, softmax([1, 0.2, -0.5, 1, 0, 1], all)],
    [
      'penalties',
      { history: Array.from({ length: count }, () => [3, 3, 2]), repetitionPenalty: 2, frequencyPenalty: 0.25 },
      softmax([1, 0.2, -1.25, 0.5, 0, -3], all),
    ],
    [
      'no repeated pairs and bad words',
      { history: Array.from({ length: count }, () => [0, 3, 0]), noRepeatNgramSize: 2, badWordsIds: [[0, 1], [5]] },
      softmax(row, [0, 2, 4]),
    ],
  ])('%s', (_, options, expected) => {
    expectDistribution(sample(many(row), { ...options, seed: 3 }).tokens, expected);
  });

  it('a large vocabulary, searched in blocks', () => {
    // 6 groups of 500 neighbours (3000 is searched in blocks; 2999 must be padded for that).
    for (const size of [3000, 2999]) {
      const logits = Float32Array.from({ length: size }, (_, i) => row[Math.floor(i / 500)]!);
      const weights = Array.from(logits, Math.exp);
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      const expected = row.map(
        (_, group) => weights.slice(group * 500, group * 500 + 500).reduce((a, b) => a + b, 0) / total,
      );
      const { tokens } = sample(mx.broadcastTo(mx.array(logits).reshape([1, size]), [count, size]), { seed: 5 });
      expectDistribution(mx.floorDivide(tokens, mx.array(500, 'int32')), expected);
    }
  });
});

describe('a row', () => {
  const vocabulary = 3000;
  const logits = mx.random.normal([8, vocabulary], { key: mx.random.key(1) }).multiply(2);
  const seeds = [0, 1, 2, 3, 4, 5, 6, 7];

  it('draws from its own seed, in whatever batch', () => {
    const together = numbers(sample(logits, { seed: seeds, temperature: 1.5 }).tokens);
    const alone = seeds.map((seed) => {
      const own = logits.index(`${seed}:${seed + 1}`);
      return numbers(sample(own, { seed: [seed], temperature: 1.5 }).tokens)[0];
    });
    expect(together).toEqual(alone);
    expect(new Set(together).size).toBeGreaterThan(4);
    const turned = sample(logits.index(mx.array(seeds.toReversed(), 'int32')), {
      seed: seeds.toReversed(),
      temperature: 1.5,
    });
    expect(numbers(turned.tokens).toReversed()).toEqual(together);
  });

  it('draws other numbers at another step and from another seed', () => {
    const first = numbers(sample(logits, { seed: 1 }).tokens);
    expect(numbers(sample(logits, { seed: 1 }).tokens)).toEqual(first);
    expect(numbers(sample(logits, { seed: 1, step: 1 }).tokens)).not.toEqual(first);
    expect(numbers(sample(logits, { seed: 2 }).tokens)).not.toEqual(first);
  });

  it('has the log-prob of the unfiltered distribution, and the likeliest tokens with theirs', () => {
    const options = { temperature: 0.5, topK: 3, repetitionPenalty: 3, history: seeds.map(() => [1]), seed: 1 };
    const { tokens, logprobs, topTokens, topLogprobs } = sample(logits, { ...options, topLogprobs: 4 });
    const everything = logits.divide(0.5).subtract(mx.logsumexp(logits.divide(0.5), -1, true));
    const wanted = mx.takeAlongAxis(everything, tokens.reshape([8, 1]), -1);
    expectNumbers(logprobs, numbers(wanted), 1e-5);
    const order = mx.argsort(everything.negative(), -1).index('...', ':4');
    expect(numbers(topTokens!)).toEqual(numbers(order));
    expectNumbers(topLogprobs!, numbers(mx.takeAlongAxis(everything, order, -1)), 1e-5);
  });

  it('that is greedy takes the best token beside rows that draw', () => {
    const { tokens, logprobs } = sample(logits, { temperature: [0, 1, 0, 1, 0, 1, 0, 1], seed: seeds });
    const best = numbers(mx.argmax(logits, -1));
    const drawn = numbers(sample(logits, { temperature: 1, seed: seeds }).tokens);
    expect(numbers(tokens)).toEqual(best.map((token, i) => (i % 2 === 0 ? token : drawn[i])));
    const plain = logits.subtract(mx.logsumexp(logits, -1, true));
    expectNumbers(logprobs, numbers(mx.takeAlongAxis(plain, tokens.reshape([8, 1]), -1)), 1e-5);
  });
});

const history = [[5, 6, 7, 5, 6], [], [1, 1, 1], [9, 2, 9, 2, 9]];
/** Every function with one value per row, the second of which is the neutral one. */
const perRow: [string, readonly unknown[], (logits: MxArray, rows: readonly number[], value: never) => MxArray][] = [
  ['top-k', [3, 0, 1, 12], (logits, _, k) => applyTopK(logits, k)],
  ['top-p', [0.5, 1, 0.1, 0.99], (logits, _, p) => applyTopP(logits, p)],
  ['min-p', [0.5, 0, 1, 0.01], (logits, _, p) => applyMinP(logits, p)],
  ['min-p least', [4, 1, 2, 12], (logits, _, minTokensToKeep) => applyMinP(logits, 0.9, { minTokensToKeep })],
  ['typical-p', [0.5, 1, 0.1, 0.99], (logits, _, p) => applyTypicalP(logits, p)],
  ['top-n-sigma', [0.5, 0, 1, 2], (logits, _, n) => applyTopNSigma(logits, n)],
  ['XTC', [0.1, 0.5, 0, 0.3], (logits, _, threshold) => applyXtc(logits, { threshold, seed: 1 })],
  [
    'XTC special',
    [[1, 2], [], [3], [4, 5, 6]],
    (logits, _, specialTokens) => applyXtc(logits, { threshold: 0.01, specialTokens }),
  ],
  ['temperature', [0.5, 1, 3, 0.1], (logits, _, temperature) => applyTemperature(logits, temperature)],
  ['dynamic temperature', [0.5, 0, 3, 0.1], (logits, _, range) => applyTemperature(logits, 1, { range })],
  ['bias', [{ 1: 5 }, {}, { 0: -1, 11: 2.5 }, { 3: 1 }], (logits, _, bias) => applyLogitBias(logits, bias)],
  [
    'repetition',
    [2, 1, 0.5, 1.1],
    (logits, rows, p) =>
      applyRepetitionPenalty(
        logits,
        rows.map((i) => history[i]!),
        p,
      ),
  ],
  [
    'repetition window',
    [1, 2, 3, 0],
    (logits, rows, contextSize) =>
      applyRepetitionPenalty(
        logits,
        rows.map((i) => history[i]!),
        2,
        { contextSize },
      ),
  ],
  [
    'presence',
    [2, 0, -0.5, 1.1],
    (logits, rows, p) =>
      applyPresencePenalty(
        logits,
        rows.map((i) => history[i]!),
        p,
      ),
  ],
  [
    'frequency',
    [2, 0, -0.5, 1.1],
    (logits, rows, p) =>
      applyFrequencyPenalty(
        logits,
        rows.map((i) => history[i]!),
        p,
        { contextSize: 3 },
      ),
  ],
  [
    'DRY',
    [2, 0, 0.5, 1],
    (logits, rows, multiplier) =>
      applyDry(
        logits,
        rows.map((i) => history[i]!),
        { multiplier, allowedLength: 1 },
      ),
  ],
  [
    'DRY breakers',
    [[7], [1], [2, 3], [9]],
    (logits, rows, sequenceBreakers) =>
      applyDry(
        logits,
        rows.map((i) => history[i]!),
        { multiplier: 1, allowedLength: 1, sequenceBreakers },
      ),
  ],
  [
    'n-grams',
    [2, 0, 1, 3],
    (logits, rows, size) =>
      applyNoRepeatNgram(
        logits,
        rows.map((i) => history[i]!),
        size,
      ),
  ],
  [
    'bad words',
    [
      [[7], [6, 3]],
      [],
      [[1, 1, 1, 4]],
      [
        [1, 9],
        [2, 9, 0],
      ],
    ],
    (logits, rows, words) =>
      applyBadWords(
        logits,
        rows.map((i) => history[i]!),
        words,
      ),
  ],
];

describe('one value per row is as one value alone:', () => {
  it.each(perRow)('%s', (_, values, apply) => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: 12, maxLength: 12 }), {
          minLength: 4,
          maxLength: 4,
        }),
        (data) => {
          const rows = [0, 1, 2, 3];
          const logits = mx.array(data, 'float32');
          const together = numbers(apply(logits, rows, values as never));
          const alone = rows.flatMap((i) => numbers(apply(mx.array([data[i]!], 'float32'), [i], values[i] as never)));
          // Adding 0 makes a positive zero of a negative one.
          expect(together.map((value) => value + 0)).toEqual(alone.map((value) => value + 0));
        },
      ),
      { numRuns: 15, seed: 1 },
    );
  });

  it('neutral values change nothing, bit for bit', () => {
    const logits = mx.random.normal([4, 12], { key: mx.random.key(2) });
    const own = numbers(logits).slice(12, 24);
    const neutral = perRow.filter(([name]) => !['min-p least', 'XTC', 'XTC special'].includes(name));
    const changed = neutral.filter(([, values, apply]) => {
      const second = numbers(apply(logits, [0, 1, 2, 3], values as never)).slice(12, 24);
      return second.some((value, i) => value !== own[i]);
    });
    expect(changed.map(([name]) => name)).toEqual([]);
    expect(neutral.length).toBe(16);
  });

  it('dtypes stay', () => {
    for (const dtype of ['float16', 'bfloat16', 'float32'] as const) {
      const logits = mx.random.normal([2, 12]).astype(dtype);
      expect(applyTopP(logits, 0.5).dtype).toBe(dtype);
      expect(applyRepetitionPenalty(logits, [[1], [2]], 2).dtype).toBe(dtype);
    }
  });
});

describe('bad arguments are refused with a typed error:', () => {
  const logits = mx.zeros([2, 12]);
  it.each<[string, () => unknown, string]>([
    ['top-k of a half', () => applyTopK(logits, 0.5), 'ERR_MLX_CONFIG'],
    ['a negative top-k', () => applyTopK(logits, -1), 'ERR_MLX_CONFIG'],
    ['top-p of 0', () => applyTopP(logits, 0), 'ERR_MLX_CONFIG'],
    ['NaN', () => applyTopP(logits, Number.NaN), 'ERR_MLX_CONFIG'],
    ['min-p above 1', () => applyMinP(logits, [0.1, 2]), 'ERR_MLX_CONFIG'],
    ['three values for two rows', () => applyTopP(logits, [0.1, 0.2, 0.3]), 'ERR_MLX_ARGUMENT'],
    ['lists of different lengths', () => sample(logits, { topK: [1, 2], topP: [0.5] }), 'ERR_MLX_ARGUMENT'],
    ['no rows', () => applyTopP(mx.zeros([0, 12]), 0.5), 'ERR_MLX_SHAPE'],
    ['no vocabulary', () => applyTopP(mx.zeros([2, 0]), 0.5), 'ERR_MLX_SHAPE'],
    ['whole numbers for logits', () => applyTopP(mx.zeros([2, 12], 'int32'), 0.5), 'ERR_MLX_DTYPE'],
    ['a bias beyond the vocabulary', () => applyLogitBias(logits, { 12: 1 }), 'ERR_MLX_ARGUMENT'],
    ['a bias for no token', () => applyLogitBias(logits, { x: 1 } as never), 'ERR_MLX_CONFIG'],
    ['a history of other rows', () => applyPresencePenalty(logits, [[1]], 1), 'ERR_MLX_SHAPE'],
    ['an unknown option', () => applyXtc(logits, { treshold: 0.1 } as never), 'ERR_MLX_CONFIG'],
    ['a token outside in a history', () => sample(logits, { history: [[1], [12]] }), 'ERR_MLX_ARGUMENT'],
    ['an order that is none', () => sample(logits, { filterOrder: 'vllm' as never }), 'ERR_MLX_CONFIG'],
    ['text for a number', () => sample(logits, { topK: '3' as never }), 'ERR_MLX_CONFIG'],
    ['an empty bad word', () => applyBadWords(logits, [[1], [2]], [[]]), 'ERR_MLX_CONFIG'],
    ['a seed below 0', () => sample(logits, { seed: -1 }), 'ERR_MLX_CONFIG'],
  ])('%s', (_, action, code) => {
    expect(thrown(action)).toMatchObject({ code });
  });

  it('logits that are no numbers crash nothing', () => {
    for (const value of [Number.NaN, Infinity, -Infinity]) {
      const hostile = mx.full([2, 12], value);
      const options = {
        topK: 3,
        topP: 0.5,
        typicalP: 0.5,
        topNSigma: 1,
        xtcProbability: 1,
        dynatempRange: 0.5,
        seed: 1,
      };
      for (const token of numbers(sample(hostile, options).tokens)) expect(token >= 0 && token < 12).toBe(true);
    }
    const one = mx.array([[-Infinity, 3, -Infinity]]);
    expect(numbers(sample(one, { seed: 1 }).tokens)).toEqual([1]);
    expect(
      numbers(sample(one, { seed: 1, topP: 0.5, typicalP: 0.3, topNSigma: 1, minP: 0.5, topK: 2 }).tokens),
    ).toEqual([1]);
  });
});
