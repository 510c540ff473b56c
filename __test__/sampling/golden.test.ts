/** The functions of sampling against mlx-lm's recorded numbers, transformers' and the definitions of what neither has. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
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
import type { MxArray, SampleOptions, SamplerSettings } from '../../lib/index.ts';
import { native } from '../../lib/native.ts';
import { handleOf, wrap } from '../../lib/array/core.ts';
import { expectNumbers, numbers } from '../helpers/arrays.ts';
import { goldenCases, goldenPath, readSafetensors } from '../helpers/golden.ts';

const tensors = readSafetensors(goldenPath('sampling', 'tensors.safetensors'));

function tensor(reference: unknown): MxArray {
  const { shape, data, dtype } = tensors.get((reference as { tensor: string }).tensor)!;
  return mx.array(data, dtype === 'F32' ? 'float32' : 'int32').reshape(shape);
}

interface Options {
  filter?: string;
  processor?: string;
  penalty: number;
  context_size: number;
  logit_bias: Record<number, number> | null;
  top_k: number;
  top_p: number;
  min_p: number;
  min_tokens_to_keep: number;
  xtc_probability: number;
  xtc_threshold: number;
  xtc_special_tokens: number[];
  temp: number;
  repetition_penalty: number | null;
  presence_penalty: number | null;
  frequency_penalty: number | null;
  repetition_context_size: number;
  presence_context_size: number;
  frequency_context_size: number;
}

const cases = goldenCases('sampling');
const of = (kind: string, what: string | null) =>
  cases.filter(
    ({ kind: own, options }) => own === kind && (options['filter'] ?? options['processor'] ?? null) === what,
  );

/** mlx-lm: -1 is no context, here all of it. */
const contextSize = (size: number): number => (size === -1 ? 0 : size);

/** The same history for every row of logits. */
const history = (logits: MxArray, tokens: MxArray): number[][] =>
  Array.from({ length: logits.shape[0]! }, () => numbers(tokens));

/** What the addon makes of all settings at once. */
const processed = (logits: MxArray, tokens: number[][], settings: object): MxArray =>
  wrap(native().sampling.processLogits(handleOf(logits), handleOf(mx.array(tokens, 'int32')), [settings]));
const filtered = (logits: MxArray, settings: object): MxArray =>
  wrap(native().sampling.filterLogits(handleOf(logits), [settings]));

describe("mlx-lm's processors", () => {
  const penalties = {
    repetition: applyRepetitionPenalty,
    presence: applyPresencePenalty,
    frequency: applyFrequencyPenalty,
  };
  it.each(Object.keys(penalties) as (keyof typeof penalties)[])('%s', (kind) => {
    const chosen = of('processor', kind);
    expect(chosen.length).toBeGreaterThanOrEqual(16);
    for (const { inputs, options, expected, tolerance } of chosen) {
      const { penalty, context_size } = options as unknown as Options;
      const logits = tensor(inputs['logits']);
      const tokens = history(logits, tensor(inputs['tokens']));
      const got = penalties[kind](logits, tokens, penalty, { contextSize: contextSize(context_size) });
      expectNumbers(got, numbers(tensor(expected['logits'])), tolerance.atol, tolerance.rtol);
    }
  });

  it('logit bias', () => {
    const [{ inputs, options, expected }] = of('processor', 'bias') as [(typeof cases)[0]];
    const got = applyLogitBias(tensor(inputs['logits']), (options as unknown as Options).logit_bias!);
    expectNumbers(got, numbers(tensor(expected['logits'])), 1e-5, 1e-5);
  });

  it('all of them in order', () => {
    const chosen = of('chain_processors', null);
    expect(chosen.length).toBe(6);
    for (const { inputs, options, expected, tolerance } of chosen) {
      const given = options as unknown as Options;
      const logits = tensor(inputs['logits']);
      const settings = {
        logitBias: given.logit_bias ?? undefined,
        repetitionPenalty: given.repetition_penalty ?? undefined,
        repetitionContextSize: given.repetition_context_size,
        presencePenalty: given.presence_penalty ?? undefined,
        presenceContextSize: given.presence_context_size,
        frequencyPenalty: given.frequency_penalty ?? undefined,
        frequencyContextSize: given.frequency_context_size,
      };
      const got = processed(logits, history(logits, tensor(inputs['tokens'])), settings);
      expectNumbers(got, numbers(tensor(expected['logits'])), tolerance.atol, tolerance.rtol);
    }
  });
});

describe("mlx-lm's filters", () => {
  const kept = (array: MxArray): boolean[] => numbers(array).map(Number.isFinite);

  it('top-k, equals of the last one kept', () => {
    for (const { inputs, options, expected } of of('filter', 'top_k')) {
      const { top_k } = options as unknown as Options;
      const got = applyTopK(tensor(inputs['logprobs']), top_k);
      if (expected['logprobs'] !== undefined && expected['logprobs'] !== null) {
        expect(kept(got)).toEqual(kept(tensor(expected['logprobs'])));
      } else {
        // mlx-lm keeps some of the equals, so only the values of the best are the same.
        const best = mx.sort(got, -1).index('...', `${-top_k}:`);
        expectNumbers(best, numbers(mx.sort(tensor(expected['kept_values_sorted']), -1)));
      }
    }
    expect(of('filter', 'top_k').length).toBe(13);
  });

  it('top-p', () => {
    // Outside (0, 1) mlx-lm takes it for "off"; here it is refused.
    const chosen = of('filter', 'top_p').filter(({ options }) => {
      const { top_p } = options as unknown as Options;
      return top_p > 0 && top_p < 1;
    });
    expect(chosen.length).toBeGreaterThanOrEqual(18);
    for (const { inputs, options, expected } of chosen) {
      const got = applyTopP(tensor(inputs['logprobs']), (options as unknown as Options).top_p);
      expect(kept(got)).toEqual(kept(tensor(expected['logprobs'])));
    }
  });

  it('min-p with tokens that stay', () => {
    for (const { name, inputs, options, expected } of of('filter', 'min_p')) {
      const { min_p, min_tokens_to_keep } = options as unknown as Options;
      const logprobs = tensor(inputs['logprobs']);
      const got = kept(applyMinP(logprobs, min_p, { minTokensToKeep: min_tokens_to_keep }));
      const wanted = kept(tensor(expected['logprobs']));
      const values = numbers(logprobs);
      const width = logprobs.shape.at(-1)!;
      // Where equals compete for the last places, mlx-lm keeps some of them and this package all.
      const wrong = got.flatMap((keeps, i) => {
        if (keeps === wanted[i]) return [];
        const row = Math.floor(i / width) * width;
        const twin = wanted.some(
          (other, j) => other && Math.floor(j / width) * width === row && values[j] === values[i],
        );
        return keeps && twin ? [] : [`${name} ${i}`];
      });
      expect(wrong).toEqual([]);
    }
    expect(of('filter', 'min_p').length).toBe(36);
  });

  it('XTC with special tokens', () => {
    for (const { inputs, options, expected } of of('filter', 'xtc')) {
      const { xtc_threshold, xtc_special_tokens } = options as unknown as Options;
      const settings = { threshold: xtc_threshold, specialTokens: xtc_special_tokens };
      expect(kept(applyXtc(tensor(inputs['logprobs']), settings))).toEqual(kept(tensor(expected['logprobs'])));
    }
    expect(of('filter', 'xtc').length).toBe(22);
  });

  it('the chain in the order of mlx-lm', () => {
    for (const { inputs, options, expected, tolerance } of of('chain', null)) {
      const given = options as unknown as Options;
      const settings = {
        filterOrder: 'mlx',
        temperature: given.temp,
        topP: given.top_p > 0 && given.top_p < 1 ? given.top_p : undefined,
        minP: given.min_p,
        minTokensToKeep: given.min_tokens_to_keep,
        xtcProbability: given.xtc_probability,
        xtcThreshold: given.xtc_threshold,
        topK: given.top_k,
      };
      const logprobs = tensor(inputs['logprobs']);
      if (given.temp === 0) {
        // All mass is on the best token, whatever the filters say.
        const { tokens } = sample(logprobs, settings as SampleOptions);
        expectNumbers(tokens, expected['token'] as number[]);
        continue;
      }
      const got = filtered(logprobs, settings);
      expectNumbers(mx.softmax(got, -1), numbers(tensor(expected['probs'])), tolerance.atol, tolerance.rtol);
    }
    expect(of('chain', null).length).toBe(15);
  });
});

interface Recorded {
  name: string;
  settings: SamplerSettings & { badWordsIds?: number[][]; drySequenceBreakers?: number[] };
  history: number[][] | null;
  logits: number[][];
  expected: (number | null)[][];
}

describe('processors recorded by fixtures/processors/record.py', () => {
  const file = join(import.meta.dirname, '..', 'fixtures', 'processors', 'cases.json');
  const recorded = (JSON.parse(readFileSync(file, 'utf8')) as { cases: Recorded[] }).cases;
  const run = (settings: Recorded['settings'], logits: MxArray, tokens: number[][]): MxArray => {
    const s = settings;
    if (s.typicalP !== undefined && s.topK === undefined) return applyTypicalP(logits, s.typicalP);
    if (s.topK !== undefined && s.topP === undefined) return applyTopK(logits, s.topK);
    if (s.topP !== undefined && s.topK === undefined) return applyTopP(logits, s.topP);
    if (s.minP !== undefined && s.topK === undefined) return applyMinP(logits, s.minP);
    if (s.topNSigma !== undefined) return applyTopNSigma(logits, s.topNSigma);
    if (s.noRepeatNgramSize !== undefined) return applyNoRepeatNgram(logits, tokens, s.noRepeatNgramSize);
    if (s.badWordsIds !== undefined) return applyBadWords(logits, tokens, s.badWordsIds);
    if (s.repetitionPenalty !== undefined) return applyRepetitionPenalty(logits, tokens, s.repetitionPenalty);
    if (s.dryMultiplier !== undefined) {
      return applyDry(logits, tokens, {
        multiplier: s.dryMultiplier,
        base: s.dryBase,
        allowedLength: s.dryAllowedLength,
        contextSize: s.dryContextSize,
        sequenceBreakers: s.drySequenceBreakers,
      });
    }
    if (s.dynatempRange !== undefined)
      return applyTemperature(logits, s.temperature!, { range: s.dynatempRange, exponent: s.dynatempExponent });
    return filtered(logits, settings);
  };

  it.each(recorded.map((one) => [one.name, one] as const))(
    '%s',
    (_, { settings, history: tokens, logits, expected }) => {
      const got = run(settings, mx.array(logits, 'float32'), tokens ?? []);
      // Kept or removed exactly; what is kept differs by float32 rounding only.
      expectNumbers(
        got,
        expected.flat().map((value) => value ?? -Infinity),
        1e-5,
        1e-5,
      );
    },
  );

  it('covers what mlx-lm lacks', () => {
    expect(recorded.length).toBe(29);
  });
});

/** What top-p keeps, by its definition in float64: how many, and the least of them. */
function keptByDefinition(row: readonly number[], p: number): [count: number, least: number] {
  const order = row.toSorted((a, b) => b - a);
  const weights = order.map((logit) => Math.exp(logit - order[0]!));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let [above, count] = [0, 0];
  while (count < order.length && above < p * total) {
    const value = order[count]!;
    for (; order[count] === value; count++) above += weights[count]!;
  }
  return [count, order[count - 1]! + 0];
}

describe('top-p', () => {
  it.each([5, 1000, 30_000])(
    'keeps what sorting keeps of %i tokens, with equals and with tokens ruled out',
    (width) => {
      const plain = mx.random.normal([4, width], { key: mx.random.key(width) }).multiply(3);
      const masked = mx.where(plain.less(0), mx.array(-Infinity), plain);
      for (const [name, logits] of Object.entries({ plain, tied: mx.round(plain), masked })) {
        const rows = logits.toArray() as number[][];
        const shares = [0.05, 0.5, 0.9, 0.999].map(Math.fround);
        const together = applyTopP(logits, shares).toArray() as number[][];
        for (const [i, p] of shares.entries()) {
          const alone = applyTopP(logits, p).toArray() as number[][];
          for (const [r, row] of rows.entries()) {
            if (row.every((logit) => logit === -Infinity)) continue;
            const kept = alone[r]!.filter((logit) => logit > -Infinity);
            // -0 is 0.
            expect([kept.length, Math.min(...kept) + 0], `${name}, row ${r}, ${p}`).toEqual(keptByDefinition(row, p));
          }
          expect(together[i]).toEqual(alone[i]);
        }
      }
    },
  );
});
