/** Requests that share a batch, through the real addon. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Engine, loadModel, memoryStats, MlxError, mx } from '../../lib/index.ts';
import type {
  EngineOptions,
  EngineRequest,
  GenerateOptions,
  GenerateResult,
  LanguageModel,
  PromptProgress,
} from '../../lib/index.ts';
import { tinyCheckpoint, tinyWideModel } from '../helpers/tiny.ts';

const code = (wanted: string) => (error: unknown) => MlxError.isInstance(error, wanted);

/** Numbers in [0, 1) that come again with the same seed (mulberry32). */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

let model: LanguageModel;

beforeEach(async () => {
  model = await loadModel(tinyCheckpoint(), { dtype: 'float32' });
});

afterEach(() => model.dispose());

function expectSame(got: GenerateResult, wanted: GenerateResult, what: string): void {
  expect(got.completions.length, what).toBe(wanted.completions.length);
  for (const [i, { logprobs, ...rest }] of got.completions.entries()) {
    const { logprobs: others, ...other } = wanted.completions[i]!;
    expect(rest, what).toEqual(other);
    expect(Math.max(...logprobs.map((logprob, at) => Math.abs(logprob - others[at]!))), what).toBeLessThan(1e-4);
  }
}

describe('an engine', () => {
  it('gives requests that arrive while others run what generate() gives them alone', async () => {
    const random = numbers(1);
    const pick = (limit: number): number => Math.floor(random() * limit);
    const requests = Array.from({ length: 24 }, (_, i) => {
      const prompt = Array.from({ length: 1 + pick(40) }, () => 2 + pick(60));
      const options: GenerateOptions = {
        maxTokens: 1 + pick(30),
        temperature: [0, 1][i % 2]!,
        seed: i,
        n: 1 + pick(3),
        ignoreEos: pick(2) === 0,
      };
      return { prompt, options };
    });
    const engine = new Engine(model, { maxBatchSize: 6, prefillBatchSize: 2, prefillStepSize: 8 });
    const running: EngineRequest[] = [];
    for (const { prompt, options } of requests) {
      running.push(engine.submit(prompt, options));
      if (pick(2) === 0) await new Promise((resolve) => setTimeout(resolve, pick(4)));
    }
    const together = await Promise.all(running);
    for (const [i, { prompt, options }] of requests.entries())
      expectSame(together[i]!, await model.generate(prompt, options), `request ${i}`);
    const { waiting, running: left, generatedTokens } = engine.stats();
    expect([waiting, left]).toEqual([0, 0]);
    expect(generatedTokens).toBe(together.reduce((sum, { usage }) => sum + usage.completionTokens, 0));
    engine.close();
  });

  it('streams chunks of each request', async () => {
    using engine = new Engine(model);
    const options = { maxTokens: 12, ignoreEos: true, n: 2, temperature: 1, seed: 3, topLogprobs: 3 };
    const request = engine.submit('abc', options);
    const texts = ['', ''];
    for await (const { index, text, tokens, logprobs, topLogprobs } of request) {
      texts[index] += text;
      expect([tokens.length, logprobs.length, topLogprobs!.length]).toEqual([1, 1, 1]);
      const likeliest = topLogprobs![0]!;
      expect(likeliest).toHaveLength(3);
      expect(likeliest[0]!.logprob).toBeGreaterThanOrEqual(logprobs[0]! - 1e-6);
      for (const { token, logprob } of likeliest) if (token === tokens[0]) expect(logprob).toBeCloseTo(logprobs[0]!, 5);
    }
    const result = request.result!;
    expect(result.completions.map(({ text }) => text)).toEqual(texts);
    expect(result.usage).toEqual({
      promptTokens: model.encodePrompt('abc').length,
      cachedTokens: 0,
      completionTokens: 24,
    });
    expect(await request, 'it may be awaited after the loop').toBe(result);
    expect(result.tokens).toEqual(result.completions[0]!.tokens);
    expect(result.completions[0]!.tokens).not.toEqual(result.completions[1]!.tokens);
  });

  it('ends one request without harm to the others', async () => {
    using engine = new Engine(model, { maxBatchSize: 4 });
    const options = { maxTokens: 60, ignoreEos: true };
    const alone = await model.generate('abc', options);
    const aborted = new AbortController();
    const requests = [
      engine.submit('abc', options),
      engine.submit('abcd', { ...options, signal: aborted.signal }),
      engine.submit('abcde', options),
      engine.submit('ab', {
        ...options,
        logitsProcessors: [
          () => {
            throw new RangeError('mine');
          },
        ],
      }),
      engine.submit('a', { ...options, logitsProcessors: [(_, logits) => logits.sum()] }),
      engine.submit('abc', options),
    ];
    expect(() => engine.submit([1, 6000], options)).toThrow(/token 6000; the vocabulary has 64/);
    expect(() => engine.submit('a', { ...options, n: 9 })).toThrow(/at most 4 rows together \(maxBatchSize\)/);
    setTimeout(() => aborted.abort('enough'), 5);
    const read = (async () => {
      for await (const { tokens } of requests[2]!) if (tokens.length > 0) break;
    })();
    const outcomes = await Promise.allSettled([requests[0], requests[1], read, requests[3], requests[4], requests[5]]);
    expectSame((outcomes[0] as PromiseFulfilledResult<GenerateResult>).value, alone, 'first');
    expect(outcomes[1]).toEqual({ status: 'rejected', reason: 'enough' });
    expect(outcomes[2]!.status).toBe('fulfilled');
    expect((outcomes[3] as PromiseRejectedResult).reason).toBeInstanceOf(RangeError);
    expect((outcomes[4] as PromiseRejectedResult).reason).toSatisfy(code('ERR_MLX_SHAPE'));
    expectSame((outcomes[5] as PromiseFulfilledResult<GenerateResult>).value, alone, 'last');
    const cancelled = engine.submit('abc', options);
    cancelled.cancel();
    await expect(Promise.resolve(cancelled)).rejects.toSatisfy(code('ERR_MLX_CANCELLED'));
    expectSame(await engine.submit('abc', options), alone, 'afterwards');
  });

  it('ends all with a typed error when it is closed', async () => {
    const engine = new Engine(model);
    const request = engine.submit('abc', { maxTokens: 100, ignoreEos: true });
    engine.close();
    engine.close();
    await expect(Promise.resolve(request)).rejects.toSatisfy(code('ERR_MLX_CANCELLED'));
    expect(() => engine.submit('abc')).toThrow(/has been closed/);
    expect(() => new Engine(model, { maxBatch: 3 } as object)).toThrow("did you mean 'maxBatchSize'?");
    expect(() => new Engine(model, { prefillStepSize: 0 })).toThrow(/whole number from 1/);
  });

  const soaks: [string, EngineOptions, number][] = [
    ['500 requests', {}, 5],
    ['500 requests with a prefix cache', { prefixCache: { maxEntries: 6, maxBytes: 2e6 } }, 5],
    ['300 requests with bounded caches', { maxKvSize: 24, prefixCache: { maxEntries: 6 } }, 3],
    ['300 requests with quantised caches', { kvBits: 8, kvGroupSize: 32, prefixCache: true }, 3],
    [
      '300 requests with caches that are bounded, and quantised later',
      { maxKvSize: 24, kvBits: 4, kvGroupSize: 32, quantizedKvStart: 9 },
      3,
    ],
  ];

  it.each(soaks)(
    'keeps memory flat over %s that join, leave, abort and fail',
    async (_, caches, waves) => {
      const random = numbers(7);
      const pick = (limit: number): number => Math.floor(random() * limit);
      using wide = await tinyWideModel();
      const engine = new Engine(wide, { maxBatchSize: 12, prefillBatchSize: 4, prefillStepSize: 16, ...caches });
      // Prompts that begin alike, as far as they go.
      const beginnings = Array.from({ length: 4 }, () => Array.from({ length: 30 }, () => 2 + pick(60)));
      const counts: Record<string, number> = {};
      const one = async (i: number): Promise<void> => {
        const abort = new AbortController();
        const kind = pick(10);
        const options: GenerateOptions = {
          maxTokens: 1 + pick(20),
          temperature: pick(2),
          seed: i,
          n: 1 + pick(3),
          topLogprobs: pick(3),
          signal: abort.signal,
          ...(pick(4) === 0 ? { stop: ['a', 'xy'] } : {}),
          ...(kind === 2
            ? {
                logitsProcessors: [
                  (tokens, logits) => {
                    if (tokens.length % 7 === 0) throw new RangeError('mine');
                    return logits.multiply(2);
                  },
                ],
              }
            : {}),
        };
        const prompt = [
          ...beginnings[pick(4)]!.slice(0, pick(31)),
          ...Array.from({ length: 1 + pick(20) }, () => 2 + pick(60)),
        ];
        if (kind === 0) setTimeout(() => abort.abort('aborted'), pick(20));
        if (kind === 1) prompt[0] = 9999;
        let how = 'finished';
        try {
          const request = engine.submit(prompt, options);
          if (kind === 3) {
            for await (const chunk of request) if (chunk.tokens.length > 0) break;
            how = 'left';
          } else await request;
        } catch (error) {
          how = error === 'aborted' ? 'aborted' : (error as Error).name;
        }
        counts[how] = (counts[how] ?? 0) + 1;
      };
      const wave = async (from: number): Promise<number> => {
        const running: Promise<void>[] = [];
        for (let i = from; i < from + 100; i++) {
          running.push(one(i));
          if (pick(3) === 0) await new Promise((resolve) => setTimeout(resolve, pick(3)));
        }
        await Promise.all(running);
        await engine.submit([5], { maxTokens: 1 });
        const { prefixEntries, prefixBytes } = engine.stats();
        expect(prefixEntries).toBeLessThanOrEqual(10);
        expect(prefixBytes).toBeLessThanOrEqual(2e6);
        engine.prefixCache?.clear();
        (globalThis as { gc?: () => void }).gc?.();
        return memoryStats().active;
      };
      const memory: number[] = [];
      for (let i = 0; i < waves; i++) memory.push(await wave(100 * i));
      expect(Object.keys(counts).toSorted()).toEqual(['MlxError', 'RangeError', 'aborted', 'finished', 'left']);
      const { cachedTokens, ...stats } = engine.stats();
      expect(stats).toMatchObject({ waiting: 0, running: 0, prefilling: 0 });
      expect(cachedTokens > 100, `${cachedTokens} tokens were known`).toBe(engine.prefixCache !== undefined);
      // Buffers of plain caches hold 256 tokens, 256 KB a row, and bounded ones 24 KB: one row left behind would show.
      expect(Math.max(...memory) - Math.min(...memory), String(memory)).toBeLessThan(20_000);
      engine.close();
    },
    120_000,
  );
});

describe('generate() and stream()', () => {
  it('end at stop strings, wherever tokens begin and end', async () => {
    const options = { maxTokens: 40, ignoreEos: true, temperature: 1, seed: 4, raw: true };
    const free = await model.generate('abc', options);
    // Every token is a character here, so that three of them are three tokens.
    const stop = free.text.slice(10, 13);
    const at = free.text.indexOf(stop);
    const stopped = await model.generate('abc', { ...options, stop: ['never comes', stop] });
    expect(stopped.text).toBe(free.text.slice(0, at));
    expect(stopped.finishReason).toBe('stop');
    expect(stopped.tokens).toEqual(free.tokens.slice(0, stopped.tokens.length));
    let streamed = '';
    for await (const { text } of model.stream('abc', { ...options, stop })) {
      streamed += text;
      expect(free.text.slice(0, at).startsWith(streamed), 'nothing of the stop string gets out').toBe(true);
    }
    expect(streamed).toBe(stopped.text);
    const batch = await model.generateBatch(['abc'], { ...options, stop });
    expect(batch.completions[0]![0]).toMatchObject({ text: stopped.text, finishReason: 'stop' });
    // The beginning of a stop string at the end of the answer is text.
    const last = free.text.at(-1)!;
    expect((await model.generate('abc', { ...options, stop: `${last}\u0000` })).text).toBe(free.text);
    await expect(model.generate('abc', { stop: [''] })).rejects.toThrow(/stop of generate\(\) must be/);
  });

  it('give n answers of which each is its own', async () => {
    const options = { maxTokens: 10, ignoreEos: true, temperature: 1, seed: 9, n: 4 };
    const { completions, text, usage } = await model.generate('abc', options);
    expect(completions.map(({ tokens }) => tokens.length)).toEqual([10, 10, 10, 10]);
    expect(new Set(completions.map((completion) => completion.text)).size).toBeGreaterThan(1);
    expect(text).toBe(completions[0]!.text);
    expect(usage.completionTokens).toBe(40);
    const { completions: alone } = await model.generate('abc', { ...options, n: 1 });
    expect(alone[0]!.tokens, 'the first draws as alone').toEqual(completions[0]!.tokens);
  });

  it('read long prompts in chunks and say how far they are', async () => {
    const prompt = Array.from({ length: 50 }, (_, i) => 2 + (i % 60));
    const seen: PromptProgress[] = [];
    const options = { maxTokens: 8, ignoreEos: true };
    const chunked = await model.generate(prompt, {
      ...options,
      prefillStepSize: 20,
      onProgress: (p) => void seen.push(p),
    });
    expect(seen).toEqual([20, 40, 50].map((processed) => ({ processed, total: 50 })));
    expectSame(chunked, await model.generate(prompt, options), 'in one go');
  });

  it('let processors of the caller change the logits', async () => {
    const seen: number[][] = [];
    const forced = await model.generate([5, 6], {
      maxTokens: 4,
      ignoreEos: true,
      logitsProcessors: [
        (tokens, logits) => {
          seen.push(tokens);
          return mx.zerosLike(logits);
        },
        (tokens, logits) => logits.add(mx.where(mx.arange(64).equal(10 + tokens.length), 1, 0)),
      ],
    });
    expect(forced.tokens).toEqual([12, 13, 14, 15]);
    expect(seen).toEqual([
      [5, 6],
      [5, 6, 12],
      [5, 6, 12, 13],
      [5, 6, 12, 13, 14],
    ]);
    const wrong = model.generate([5], { logitsProcessors: [(async () => mx.zeros([64])) as never] });
    await expect(wrong).rejects.toThrow(/must return an array of logits, not a promise/);
  });

  it('guess ahead, with a draft model or from the prompt, and say the same', async () => {
    const draft = await loadModel(tinyCheckpoint(), { dtype: 'float32' });
    const prompt = Array.from({ length: 30 }, (_, i) => 2 + (i % 7));
    const options = { maxTokens: 40, ignoreEos: true };
    const plain = await model.generate(prompt, options);
    expect(plain.speculation).toBeUndefined();
    const drafted = await model.generate(prompt, { ...options, draftModel: draft, numDraftTokens: 3 });
    expectSame(drafted, plain, 'a copy of the model');
    expect(drafted.speculation!.acceptanceRate).toBe(1);
    const itself = await model.generate(prompt, { ...options, draftModel: model, n: 2 });
    expectSame({ ...itself, completions: [itself.completions[1]!] }, plain, 'the model itself, second answer');
    const looked = await model.generate(prompt, { ...options, promptLookup: true });
    expectSame(looked, plain, 'prompt lookup');
    const { draftTokens, acceptedTokens, acceptanceRate } = looked.speculation!;
    expect(draftTokens).toBeGreaterThan(0);
    expect(acceptanceRate).toBeCloseTo(acceptedTokens / draftTokens, 10);
    using engine = new Engine(model, { promptLookup: { maxNgramSize: 2 } });
    const several = await Promise.all([
      engine.submit(prompt, options),
      engine.submit(prompt, { ...options, stop: plain.text.slice(5, 8) }),
    ]);
    expectSame(several[0]!, plain, 'an engine');
    expect(several[1]!.text).toBe(plain.text.slice(0, plain.text.indexOf(plain.text.slice(5, 8))));
    expect(() => engine.submit(prompt, { logitsProcessors: [(_, logits) => logits] })).toThrow(/cannot be combined/);
    expect(() => model.stream(prompt, { draftModel: draft, promptLookup: true })).toThrow(/not from both/);
    expect(() => model.stream(prompt, { promptLookup: { maxNgram: 3 } as object })).toThrow(
      "did you mean 'maxNgramSize'?",
    );
    await expect(model.generate(prompt, { promptLookup: { minNgramSize: 4 } })).rejects.toThrow(
      /no more than maxNgramSize/,
    );
    draft.dispose();
  });
});
