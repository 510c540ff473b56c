/** What requests remember: bounded, quantised, shared by prompts that begin alike, or brought by the caller. */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  ChatSession,
  Engine,
  KVCache,
  loadPromptCache,
  makePromptCache,
  MlxError,
  PrefixCache,
  QuantizedKVCache,
  RotatingKVCache,
  savePromptCache,
} from '../../lib/index.ts';
import type { Completion, GenerateResult, KvCacheOptions, LanguageModel } from '../../lib/index.ts';
import { tempDir } from '../helpers/temp.ts';
import { tinyWideModel } from '../helpers/tiny.ts';

const code = (wanted: string) => (error: unknown) => MlxError.isInstance(error, wanted);

let model: LanguageModel;

beforeEach(async () => {
  model = await tinyWideModel();
});

afterEach(() => model.dispose());

const prompt = (length: number, seed = 0): number[] =>
  Array.from({ length }, (_, i) => 2 + ((seed * 11 + i * i * 7 + i * 13) % 60));

/** Codes may differ by one where rounding differs: a 255th of a group's range. */
const kinds: [string, KvCacheOptions, number][] = [
  ['plain', {}, 1e-4],
  ['bounded', { maxKvSize: 20 }, 1e-4],
  ['bounded, with first tokens', { maxKvSize: 20, keep: 5 }, 1e-4],
  ['quantised', { kvBits: 8, kvGroupSize: 32 }, 1e-2],
  ['bounded and quantised', { maxKvSize: 20, kvBits: 8, kvGroupSize: 32 }, 1e-2],
];

function expectNear(got: Completion, wanted: Completion, tolerance: number, what?: string): void {
  expect(got.tokens, what).toEqual(wanted.tokens);
  const off = got.logprobs.map((logprob, i) => Math.abs(logprob - wanted.logprobs[i]!));
  expect(Math.max(...off), what).toBeLessThan(tolerance);
}

describe('kinds of caches', () => {
  it.each(kinds)('%s ones answer alike alone, in an engine and in a batch', async (_, kind, tolerance) => {
    const prompts = [prompt(30), prompt(3, 1), prompt(17, 2), prompt(45, 3)];
    const options = { maxTokens: 12, temperature: 0, ignoreEos: true };
    const keep = kind.maxKvSize === undefined ? {} : { keep: kind.keep ?? 0 };
    const alone: GenerateResult[] = [];
    for (const ids of prompts) alone.push(await model.generate(ids, { ...options, ...kind, ...keep }));
    using engine = new Engine(model, { ...kind, maxBatchSize: 3, prefillStepSize: 8 });
    const together = await Promise.all(prompts.map((ids) => engine.submit(ids, options)));
    const { completions } = await model.generateBatch(prompts, { ...options, ...kind });
    for (const [i, wanted] of alone.entries()) {
      expectNear(together[i]!, wanted, tolerance, `prompt ${i} in the engine`);
      expectNear(completions[i]![0]!, wanted, tolerance, `prompt ${i} in the batch`);
    }
    const plain = await model.generate(prompts[0]!, options);
    const off = plain.logprobs.map((logprob, i) => Math.abs(logprob - alone[0]!.logprobs[i]!));
    expect(Math.max(...off) > 1e-5, String(off)).toBe(Object.keys(kind).length > 0);
  });

  it('keep first tokens where answers are alone, and in batches when told', async () => {
    const options = { maxTokens: 20, temperature: 0, ignoreEos: true, maxKvSize: 12 };
    const four = await model.generate(prompt(8), options);
    expectNear(await model.generate(prompt(8), { ...options, keep: 4 }), four, 1e-6);
    const none = await model.generate(prompt(8), { ...options, keep: 0 });
    expect(none.logprobs).not.toEqual(four.logprobs);
    using engine = new Engine(model, { maxKvSize: 12, keep: 4 });
    const { maxKvSize: _, ...request } = options;
    for (const answer of await Promise.all([engine.submit(prompt(8), request), engine.submit(prompt(8), request)]))
      expectNear(answer, four, 1e-6);
    expect(engine.stats().steps, 'they share the batch').toBeLessThan(30);
  });

  it.each([
    [{ maxKvSize: 0 }, 'maxKvSize of X must be a whole number from 1, got 0'],
    [{ keep: 2 }, 'keep of X belongs to a bounded cache'],
    [{ maxKvSize: 4, keep: 4 }, 'keep of X must be a whole number from 0, below maxKvSize (4), got 4'],
    [{ kvBits: 7 }, 'kvBits of X must be one of 2, 3, 4, 5, 6, 8, got 7'],
    [{ kvBits: 8, kvGroupSize: 48 }, 'kvGroupSize of X must be one of 32, 64, 128, got 48'],
    [{ kvBits: 8, quantizedKvStart: -1 }, 'quantizedKvStart of X must be a whole number from 0, got -1'],
  ] as [KvCacheOptions, string][])('%j is refused', async (kind, message) => {
    const refused = (where: string) => (error: unknown) =>
      MlxError.isInstance(error, 'ERR_MLX_CONFIG') && error.message.includes(message.replace('X', where));
    expect(() => new Engine(model, kind)).toThrow(message.replace('X', 'Engine'));
    await expect(model.generate([5], kind)).rejects.toSatisfy(refused('generate()'));
    expect(() => model.stream([5], kind)).toThrow(message.replace('X', 'stream()'));
    await expect(model.generateBatch([[5]], kind)).rejects.toSatisfy(refused('generateBatch()'));
  });

  it('does not fit heads, guesses or requests of an engine', async () => {
    await expect(model.generate([5], { kvBits: 8, kvGroupSize: 64 })).rejects.toThrow(
      /kvGroupSize 64 does not divide the 32 features/,
    );
    const quantised = { kvBits: 8, kvGroupSize: 32, maxTokens: 20, temperature: 0, ignoreEos: true };
    const guessed = await model.generate(prompt(12), { ...quantised, promptLookup: true });
    expectNear(guessed, await model.generate(prompt(12), quantised), 1e-2);
    using engine = new Engine(model);
    expect(() => engine.submit([5], { maxKvSize: 8 } as object)).toThrow('maxKvSize is an option of the engine');
    expect(() => new Engine(model, { prefixCache: { maxByte: 3 } as object })).toThrow("did you mean 'maxBytes'?");
    expect(() => new Engine(model, { prefixCache: 3 as unknown as boolean })).toThrow(/prefixCache of Engine must be/);
  });
});

describe('guesses', () => {
  const options = { maxTokens: 30, temperature: 0, ignoreEos: true };
  const quoting = Array.from({ length: 40 }, (_, i) => 2 + (i % 7));

  it('stop where a bounded cache is full, and the answer is that without them', async () => {
    for (const maxKvSize of [48, 400]) {
      const plain = await model.generate(quoting, { ...options, maxKvSize });
      const guessed = await model.generate(quoting, { ...options, maxKvSize, promptLookup: true });
      expectNear(guessed, plain, 1e-4);
      const { draftTokens, plainTokens } = guessed.speculation!;
      expect(draftTokens).toBeGreaterThan(0);
      // The last token has no guess beside it in any case.
      if (maxKvSize === 48) expect(plainTokens).toBeGreaterThan(15);
      else expect(plainTokens).toBe(0);
    }
  });

  it('go with prefixes, own caches and other requests', async () => {
    const plain = await model.generate(quoting, options);
    const prefixCache = new PrefixCache();
    for (const known of [0, quoting.length - 1]) {
      const got = await model.generate(quoting, { ...options, prefixCache, promptLookup: true });
      expectNear(got, plain, 1e-4);
      expect(got.usage.cachedTokens).toBe(known);
    }
    const promptCache = makePromptCache(model);
    const [first, rest] = [quoting.slice(0, 25), quoting.slice(25)];
    const begun = await model.generate(first, { ...options, promptCache, draftModel: model });
    promptCache.forEach((layer) => layer.trim(layer.offset - first.length));
    expect(begun.tokens).toHaveLength(30);
    expectNear(await model.generate(rest, { ...options, promptCache, promptLookup: true }), plain, 1e-4);
    using engine = new Engine(model, { promptLookup: true, prefixCache: true });
    const order: string[] = [];
    const ask = async (name: string, maxTokens: number) => {
      const answer = await engine.submit(quoting, { ...options, maxTokens });
      order.push(name);
      return answer;
    };
    const [long, short] = await Promise.all([ask('long', 60), ask('short', 2)]);
    expect(order).toEqual(['short', 'long']);
    expect(long.tokens.slice(0, 30)).toEqual(plain.tokens);
    expect(short.tokens).toEqual(plain.tokens.slice(0, 2));
  });
});

describe('generateBatch()', () => {
  it('looks beginnings up, and says how long prompts took', async () => {
    const options = { maxTokens: 6, temperature: 0, ignoreEos: true, numGenerations: 2 };
    const prompts = [prompt(40), prompt(25, 1)];
    const plain = await model.generateBatch(prompts, options);
    expect(plain.usage.cachedTokens).toBe(0);
    expect(plain.timings.promptMs).toBeGreaterThan(0);
    expect(plain.timings.decodeMs).toBeGreaterThan(0);
    const prefixCache = new PrefixCache();
    for (const known of [0, 63]) {
      const got = await model.generateBatch(prompts, { ...options, prefixCache });
      expect(got.usage.cachedTokens).toBe(known);
      got.completions.flat().forEach((completion, i) => expectNear(completion, plain.completions.flat()[i]!, 1e-4));
    }
    await expect(model.generateBatch(prompts, { prefixCache: true as never })).rejects.toThrow(
      /prefixCache of generateBatch\(\) must be a PrefixCache/,
    );
    await expect(model.generateBatch(prompts, { promptCache: [] } as object)).rejects.toThrow(/promptCache/);
  });

  it('counts the time until first tokens as that of prompts', async () => {
    const prompts = [prompt(60), prompt(50, 1), prompt(55, 2)];
    const { timings } = await model.generateBatch(prompts, {
      maxTokens: 1,
      completionBatchSize: 2,
      prefillStepSize: 8,
    });
    expect(timings.promptMs).toBeGreaterThan(0);
    expect(timings.decodeMs, 'nothing comes after the first tokens').toBe(0);
  });
});

describe('a prefix cache', () => {
  it.each(kinds)('of %s caches changes nothing but what is read', async (_, kind, tolerance) => {
    const options = { maxTokens: 9, temperature: 0, ignoreEos: true };
    using plain = new Engine(model, kind);
    using engine = new Engine(model, { ...kind, prefixCache: true });
    let [first, second] = [prompt(30), prompt(25, 1)];
    for (let turn = 0; turn < 3; turn++) {
      const [wanted, got] = await Promise.all(
        [plain, engine].map((one) => Promise.all([one.submit(first, options), one.submit(second, options)])),
      );
      got!.forEach((answer, i) => {
        expectNear(answer, wanted![i]!, tolerance, `turn ${turn}`);
        const { promptTokens, cachedTokens } = answer.usage;
        // The last token of an answer is not read, and three are new.
        expect(cachedTokens).toBe(turn === 0 ? 0 : promptTokens - 4);
        expect(wanted![i]!.usage.cachedTokens).toBe(0);
      });
      first = [...first, ...got![0]!.tokens, ...prompt(3, turn)];
      second = [...second, ...got![1]!.tokens, ...prompt(3, turn + 1)];
    }
    expect(engine.stats().cachedTokens).toBeGreaterThan(100);
    expect(engine.stats().prefixEntries).toBe(engine.prefixCache!.size);
    expect(engine.stats().prefixBytes).toBe(engine.prefixCache!.nbytes);
  });

  it('is shared by engines and answers of their own, and is not mistaken for that of other weights or caches', async () => {
    const prefixCache = new PrefixCache({ maxEntries: 20 });
    const options = { maxTokens: 5, temperature: 0, ignoreEos: true, prefixCache };
    const { prefixCache: _, ...plain } = options;
    const cached = async (kind: KvCacheOptions = {}): Promise<number> => {
      const answer = await model.generate(prompt(20), { ...options, ...kind });
      expectNear(answer, await model.generate(prompt(20), { ...plain, ...kind }), 1e-4);
      return answer.usage.cachedTokens;
    };
    expect([await cached(), await cached()]).toEqual([0, 19]);
    using engine = new Engine(model, { prefixCache });
    expect((await engine.submit([...prompt(20), 7], { maxTokens: 2 })).usage.cachedTokens).toBeGreaterThanOrEqual(20);
    // Another kind, another model, other weights: each begins anew.
    expect([await cached({ kvBits: 8, kvGroupSize: 32 }), await cached({ maxKvSize: 100 })]).toEqual([0, 0]);
    const before = prefixCache.size;
    const other = await tinyWideModel();
    expect((await other.generate(prompt(20), options)).usage.cachedTokens).toBe(0);
    other.dispose();
    model.applyLora({ rank: 2, alpha: 4, seed: 1 });
    expect([await cached(), await cached()]).toEqual([0, 19]);
    expect(prefixCache.size).toBeLessThan(before + 3);
    // What changes nothing: saving, and the adapter that is there.
    await model.saveAdapter(join(tempDir(), 'adapter'));
    model.setAdapterEnabled(true);
    expect(await cached()).toBe(19);
    model.setAdapterEnabled(false);
    expect([await cached(), await cached()]).toEqual([0, 19]);
    await expect(model.generate([5], { prefixCache: true as unknown as PrefixCache })).rejects.toThrow(
      /prefixCache of generate\(\) must be a PrefixCache/,
    );
  });

  it('keeps nothing of an answer that was left, aborted or failed', async () => {
    const prefixCache = new PrefixCache();
    const options = { maxTokens: 30, ignoreEos: true, prefixCache };
    for await (const chunk of model.stream(prompt(20), options)) if (chunk.tokens.length > 0) break;
    const signal = AbortSignal.timeout(1);
    await model.generate(prompt(20), { ...options, maxTokens: 5000, signal }).catch(() => undefined);
    const throws = (): never => {
      throw new RangeError('mine');
    };
    await expect(model.generate(prompt(20), { ...options, logitsProcessors: [throws] })).rejects.toThrow('mine');
    expect(prefixCache.size).toBe(0);
    expect((await model.generate(prompt(20), options)).usage.cachedTokens).toBe(0);
    expect(prefixCache.size).toBe(1);
  });
});

describe('a prompt cache', () => {
  it.each([...kinds, ['with first tokens', { maxKvSize: 20, keep: 4 }, 1e-4] as (typeof kinds)[number]])(
    '%s is gone on from',
    async (_, kind, tolerance) => {
      const options = { maxTokens: 6, temperature: 0, ignoreEos: true };
      const promptCache = makePromptCache(model, kind);
      const first = await model.generate(prompt(25), { ...options, promptCache });
      expect(promptCache.map(({ offset }) => offset)).toEqual([30, 30]);
      const rest = [first.tokens.at(-1)!, ...prompt(5, 4)];
      const path = `${tempDir()}/cache.safetensors`;
      await savePromptCache(path, promptCache);
      const second = await model.generate(rest, { ...options, promptCache });
      expect(second.usage).toEqual({ promptTokens: 6, cachedTokens: 0, completionTokens: 6 });
      const whole = [...prompt(25), ...first.tokens, ...prompt(5, 4)];
      expectNear(second, await model.generate(whole, { ...options, ...kind }), tolerance);
      expect(promptCache.map(({ offset }) => offset)).toEqual([41, 41]);
      const { cache } = await loadPromptCache(path);
      expectNear(await model.generate(rest, { ...options, promptCache: cache }), second, tolerance);
      const class_ = kind.maxKvSize !== undefined ? RotatingKVCache : kind.kvBits ? QuantizedKVCache : KVCache;
      expect(promptCache.every((layer) => layer instanceof class_)).toBe(true);
    },
  );

  it('is as before after an answer that did not end, and serves one answer at a time', async () => {
    const promptCache = makePromptCache(model);
    const options = { maxTokens: 8, temperature: 0, ignoreEos: true, promptCache };
    for await (const chunk of model.stream(prompt(9), options)) if (chunk.tokens.length > 0) break;
    expect(promptCache.map(({ offset }) => offset)).toEqual([0, 0]);
    const [one, two] = [model.generate(prompt(9), options), model.generate(prompt(9), options)];
    await expect(two).rejects.toThrow(/another answer goes on from this promptCache/);
    const { tokens } = await one;
    expect(promptCache[0]!.offset).toBe(16);
    await expect(model.generate([], options)).rejects.toThrow(/must not be empty/);
    await expect(model.generate([999], options)).rejects.toSatisfy(code('ERR_MLX_ARGUMENT'));
    expect(promptCache[0]!.offset).toBe(16);
    expect((await model.generate([tokens.at(-1)!], options)).tokens).toHaveLength(8);
  });

  it('is refused where it does not belong', async () => {
    const promptCache = makePromptCache(model);
    await expect(model.generate([5], { promptCache, n: 2 })).rejects.toThrow(/one answer, not with n = 2/);
    await expect(model.generate([5], { promptCache, maxKvSize: 9 })).rejects.toThrow(
      /maxKvSize of generate\(\) cannot be given beside promptCache/,
    );
    await expect(model.generate([5], { promptCache: promptCache.slice(1) })).rejects.toThrow(
      /the model has 2 layers and needs as many caches, not 1/,
    );
    const batch = makePromptCache(model, { leftPadding: [0] });
    await expect(model.generate([5], { promptCache: batch })).rejects.toThrow(/extract its row/);
    const coded = makePromptCache(model, { kvBits: 4, kvGroupSize: 32 });
    await expect(model.generate([5], { promptCache: coded, kvBits: 8, kvGroupSize: 32 })).rejects.toThrow(
      /quantised to 4 bits in groups of 32; kvBits 8/,
    );
    using engine = new Engine(model);
    expect(() => engine.submit([5], { promptCache } as object)).toThrow(/promptCache is an option of generate\(\)/);
    // Whatever went wrong, the caches are free again.
    expect((await model.generate([5], { promptCache, maxTokens: 1 })).tokens).toHaveLength(1);
  });

  it('is quantised on the way when told', async () => {
    const promptCache = makePromptCache(model);
    await model.generate(prompt(9), { promptCache, maxTokens: 3 });
    await model.generate(prompt(9), { promptCache, maxTokens: 3, kvBits: 8, kvGroupSize: 32 });
    expect(promptCache.map(({ bits }) => bits)).toEqual([8, 8]);
  });
});

describe('a chat', () => {
  it('reads only what is new, also after an answer anew, in a fork, and when the context shifts', async () => {
    const talk = async (prefixCache: boolean): Promise<[string[], number[], number[]]> => {
      const session = new ChatSession(model, {
        systemPrompt: 'be kind and brief',
        temperature: 0,
        maxTokens: 10,
        ignoreEos: true,
        maxContext: 128,
        contextShift: 'truncate-oldest',
        prefixCache,
      });
      const answers = [await session.send('hello'), await session.send('why')];
      const fork = session.fork();
      answers.push(await session.regenerate({ temperature: 1, seed: 3 }), await fork.send('how'));
      answers.push(await session.send('hm'), await session.send('and one more'));
      return [
        answers.map(({ text }) => text),
        answers.map(({ usage }) => usage.cachedTokens),
        answers.map(({ droppedMessages }) => droppedMessages),
      ];
    };
    const [wanted, none, dropped] = await talk(false);
    const [texts, cached, alsoDropped] = await talk(true);
    expect(texts).toEqual(wanted);
    expect(alsoDropped).toEqual(dropped);
    expect(dropped.at(-1)).toBeGreaterThan(0);
    expect(none).toEqual([0, 0, 0, 0, 0, 0]);
    const system = 'system: be kind and brief\nuser: '.length;
    expect(cached[0]).toBe(0);
    expect(Math.min(...cached.slice(1, 5))).toBeGreaterThan(system);
    // After the shift the system message is still known.
    expect(cached[5]).toBeGreaterThanOrEqual(system - 'user: '.length);
  });

  it('forgets when told, and shares what it is told to share', async () => {
    const prefixCache = new PrefixCache();
    const options = { temperature: 0, maxTokens: 4, ignoreEos: true };
    using session = new ChatSession(model, { ...options, prefixCache });
    await session.send('hello');
    expect(prefixCache.size).toBe(1);
    session.reset();
    expect(prefixCache.size, 'it is not its own').toBe(1);
    expect(
      (await new ChatSession(model, { ...options, prefixCache }).send('hello')).usage.cachedTokens,
    ).toBeGreaterThan(5);
    expect(JSON.parse(JSON.stringify(session))).toMatchObject({ options });
    const own = new ChatSession(model, options);
    await own.send('hello');
    own.dispose();
    expect((await own.regenerate()).usage.cachedTokens).toBe(0);
    expect((await own.regenerate()).usage.cachedTokens).toBeGreaterThan(5);
    expect((await own.send('a', { promptLookup: true })).usage.cachedTokens).toBeGreaterThan(5);
    expect(() => new ChatSession(model, { prefixCache: 3 as unknown as boolean })).toThrow(/prefixCache must be/);
  });
});
