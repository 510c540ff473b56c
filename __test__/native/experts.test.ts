/** Models with experts through everything that a dense model goes through: caches, batches, training. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import {
  createModel,
  Engine,
  evaluate,
  expertLoad,
  GRPOTrainer,
  loadBalancingLoss,
  loadModel,
  loadPromptCache,
  makePromptCache,
  mx,
  MxArray,
  PrefixCache,
  savePromptCache,
  SFTTrainer,
} from '../../lib/index.ts';
import type { GRPOConfig, LanguageModel, PromptCacheOptions } from '../../lib/index.ts';
import { goldenCases, goldenPath, readSafetensors } from '../helpers/golden.ts';
import { tempDir } from '../helpers/temp.ts';
import { thrown } from '../helpers/thrown.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';
import { bits, dataset, mean, toyConfig, vowels } from '../helpers/toy.ts';

function expectClose(got: MxArray, want: MxArray, tolerance: number): void {
  expect(got.shape).toEqual(want.shape);
  expect(got.subtract(want).abs().max().item()).toBeLessThanOrEqual(tolerance);
}

describe('router logits', () => {
  interface Recorded {
    expected: { aux_loss_single: number; aux_loss_batch: number };
  }
  const load = (name: string): Promise<LanguageModel> => loadModel(goldenPath('models', name), { dtype: 'float32' });

  test.each(['qwen3_moe', 'qwen3_moe_all', 'qwen2_moe'])("%s: transformers' load-balancing loss", async (name) => {
    using model = await load(name);
    const io = readSafetensors(goldenPath('models', name, 'io.safetensors'));
    const ids = (tensor: string): MxArray => {
      const { data, shape } = io.get(tensor)!;
      return MxArray.fromInt32(Int32Array.from(data), shape);
    };
    const { expected } = goldenCases<Recorded>(`models/${name}`)[0]!;
    const numExpertsPerTok = model.numExpertsPerTok!;
    const single = model.forward(ids('single_ids'), { outputRouterLogits: true });
    expectClose(single.logits, model.forward(ids('single_ids')), 0);
    const loss = loadBalancingLoss(single.routerLogits, { numExpertsPerTok });
    // Float32 sums of some hundred probabilities.
    expect(Math.abs((loss.item() as number) - expected.aux_loss_single)).toBeLessThan(1e-5 * expected.aux_loss_single);
    const attentionMask = ids('attention_mask');
    const { routerLogits } = model.forward(ids('input_ids'), { attentionMask, outputRouterLogits: true });
    const batch = loadBalancingLoss(routerLogits, { numExpertsPerTok, attentionMask });
    expect(Math.abs((batch.item() as number) - expected.aux_loss_batch)).toBeLessThan(1e-5 * expected.aux_loss_batch);
    const shares = expertLoad(routerLogits, { numExpertsPerTok, attentionMask });
    expect(shares.shape).toEqual([routerLogits.length, routerLogits[0]!.shape[2]]);
    expectClose(shares.sum(-1), mx.ones([routerLogits.length]), 1e-6);
  });

  test('the loss has the gradient of its probabilities', () => {
    const logits = mx.random.normal([2, 5, 4], { key: mx.random.key(3) });
    const loss = (x: MxArray): MxArray => loadBalancingLoss([x, x.multiply(0.5)], { numExpertsPerTok: 2 });
    const direction = mx.random.normal([2, 5, 4], { key: mx.random.key(4) });
    const slope = mx.grad(loss)(logits).multiply(direction).sum().item() as number;
    const at = (step: number): number => loss(logits.add(direction.multiply(step))).item() as number;
    // A central difference of float32 numbers of about 2, over 2e-2: 1e-5 of rounding and as much of curvature.
    expect(Math.abs((at(1e-2) - at(-1e-2)) / 2e-2 - slope)).toBeLessThan(5e-4);
    expect(Math.abs(slope)).toBeGreaterThan(5e-3);
  });

  test('what is refused', async () => {
    using dense = await load('qwen3');
    expect(dense.numExpertsPerTok).toBe(null);
    const asked = thrown(() => dense.forward([[1]], { outputRouterLogits: true }));
    expect(asked).toMatchObject({ code: 'ERR_MLX_ARGUMENT', message: expect.stringContaining('no experts') });
    const logits = mx.zeros([1, 3, 4]);
    const codes = [
      () => loadBalancingLoss([], { numExpertsPerTok: 2 }),
      () => loadBalancingLoss([logits], { numExpertsPerTok: 5 }),
      () => loadBalancingLoss([logits], { numExpertsPerTok: 1.5 }),
      () => loadBalancingLoss([logits, mx.zeros([1, 3, 5])], { numExpertsPerTok: 2 }),
      () => expertLoad([logits], { numExpertsPerTok: 2, attentionMask: [[1, 1]] }),
      () => expertLoad([logits], { numExpertsPerTok: 2, mask: [[1, 1, 1]] } as never),
    ].map((call) => (thrown(call) as { code: string }).code);
    const [argument, shape] = ['ERR_MLX_ARGUMENT', 'ERR_MLX_SHAPE'];
    expect(codes).toEqual([argument, argument, argument, shape, shape, 'ERR_MLX_CONFIG']);
  });
});

describe('caches and batches', () => {
  let model: LanguageModel;
  const random = (n: number, seed: number): number[] => {
    const drawn = mx.random.randint(2, 96, [n], { key: mx.random.key(seed) });
    return [...drawn.toInt32()];
  };
  const prompt = random(40, 1);

  beforeAll(async () => {
    // A hook has no test that could clear up after it.
    const dir = mkdtempSync(join(tmpdir(), 'mlx-node-test-'));
    const config = {
      model_type: 'qwen3_moe',
      vocab_size: 96,
      hidden_size: 64,
      intermediate_size: 64,
      moe_intermediate_size: 32,
      num_hidden_layers: 3,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      head_dim: 32,
      num_experts: 8,
      num_experts_per_tok: 2,
      mlp_only_layers: [1],
      // Well apart, so that greedy tokens do not hang on the last bit.
      initializer_range: 0.2,
    };
    writeFileSync(`${dir}/config.json`, JSON.stringify(config));
    model = await createModel(dir, { seed: 5 });
    rmSync(dir, { recursive: true });
  });
  afterAll(() => model.dispose());

  const pieces = [1, 20, 5, 1, 13];

  const joined = (parts: readonly MxArray[]): MxArray => mx.concatenate([...parts], 1);
  /** Logits and router logits of the prompt, in pieces of these lengths. */
  function inPieces(lengths: readonly number[], options: PromptCacheOptions): MxArray[] {
    const cache = makePromptCache(model, options);
    let start = 0;
    const parts = lengths.map((length) =>
      model.forward([prompt.slice(start, (start += length))], { cache, outputRouterLogits: true }),
    );
    const routers = [0, 1].map((layer) => joined(parts.map(({ routerLogits }) => routerLogits[layer]!)));
    return [joined(parts.map(({ logits }) => logits)), ...routers];
  }
  function whole(): MxArray[] {
    const { logits, routerLogits } = model.forward([prompt], { outputRouterLogits: true });
    expect(routerLogits.map(({ shape }) => shape)).toEqual([
      [1, 40, 8],
      [1, 40, 8],
    ]);
    return [logits, ...routerLogits];
  }

  test.each([
    ['plain', {}],
    ['bounded', { maxKvSize: 64, keep: 2 }],
  ] as const)('a %s cache: logits and router logits of pieces are those of the whole', (_, options) => {
    const wanted = whole();
    for (const [i, got] of inPieces(pieces, options).entries()) expectClose(got, wanted[i]!, 1e-3);
  });

  // What a code rounds away may send a token to another expert, so numbers are not near those without codes; they hang on no cut.
  test.each([
    ['after the first piece', {}, [1, 39]],
    ['once it holds 10 tokens', { quantizedKvStart: 10 }, [21, 19]],
  ])('a cache of 8 bits, %s, gives the same for every cut', (_, options, lengths) => {
    const quantised = { kvBits: 8, kvGroupSize: 32, ...options };
    const [wanted, plain] = [inPieces(lengths, quantised), whole()];
    for (const [i, got] of inPieces(pieces, quantised).entries()) {
      expectClose(got, wanted[i]!, 1e-3);
      expect(got.subtract(plain[i]!).abs().max().item()).toBeGreaterThan(1e-3);
    }
  });

  test('a batch cache with padding, whose rows come and go', () => {
    const short = random(25, 2);
    const rows = [prompt, [...Array.from({ length: 15 }, () => 0), ...short]];
    const cache = makePromptCache(model, { leftPadding: [0, 15] });
    const both = model.forward(rows, { cache });
    expectClose(both.index('0:1'), model.forward([prompt]), 1e-3);
    expectClose(both.index('1:2', '15:'), model.forward([short]), 1e-3);
  });

  test('files of caches, and a cache of prefixes', async () => {
    const cache = makePromptCache(model);
    model.forward([prompt.slice(0, 30)], { cache });
    const path = `${tempDir()}/prompt.safetensors`;
    await savePromptCache(path, cache);
    const wanted = model.forward([prompt]).index('0:', '30:');
    const { cache: again } = await loadPromptCache(path);
    expectClose(model.forward([prompt.slice(30)], { cache: again }), wanted, 1e-3);
    const prefixes = new PrefixCache({ maxEntries: 2 });
    prefixes.insert(prompt.slice(0, 30), cache);
    const hit = prefixes.fetch(prompt)!;
    expect(hit.cached).toBe(30);
    expectClose(model.forward([prompt.slice(30)], { cache: hit.cache }), wanted, 1e-3);
  });

  test('greedy tokens are the same alone and in a batch', async () => {
    // Of 40 rows of one token the pairs of token and expert are sorted; alone they are not.
    const prompts = Array.from({ length: 40 }, (__, i) => random(1 + (i % 23), 10 + i));
    const greedy = { temperature: 0, maxTokens: 12, ignoreEos: true };
    const engine = new Engine(model, { maxBatchSize: 40 });
    const together = await Promise.all(prompts.map((ids) => engine.submit(ids, greedy)));
    engine.close();
    for (const i of [0, 7, 22, 39]) {
      const alone = await model.generate(prompts[i]!, greedy);
      expect(together[i]!.tokens, `prompt ${i}`).toEqual(alone.tokens);
    }
  });

  test('a prompt prefilled once for a group gives what each row gives', async () => {
    const greedy = { temperature: 0, maxTokens: 8, ignoreEos: true };
    const { completions } = await model.generateBatch([prompt, random(9, 3)], { ...greedy, numGenerations: 3 });
    const alone = await model.generate(prompt, greedy);
    expect(completions[0]!.map(({ tokens }) => tokens)).toEqual([alone.tokens, alone.tokens, alone.tokens]);
  });
});

async function run(overrides: GRPOConfig) {
  const model = await loadModel(tinyCheckpoint('qwen3_moe'));
  const records: Record<string, number>[] = [];
  const loggers = [{ metrics: (_: number, record: Record<string, number>) => void records.push(record) }];
  const trainer = new GRPOTrainer({
    model,
    dataset,
    rewards: vowels,
    config: { ...toyConfig, maxSteps: 4, ...overrides },
    loggers,
  });
  return { model, records, trainer, result: await trainer.train() };
}

describe('GRPO with experts', () => {
  it('learns the toy task with routers and experts, and saves what it trained', async () => {
    const start = await loadModel(tinyCheckpoint('qwen3_moe'));
    const before = new Map(bits(start));
    const { model, records, result } = await run({ maxSteps: 60, outputDir: tempDir() });
    const rewards = records.map((record) => record['reward']!);
    expect(mean(rewards.slice(0, 5))).toBeLessThan(0.3);
    expect(mean(rewards.slice(-5))).toBeGreaterThan(0.9);
    const greedy = await evaluate(model, { dataset, rewards: [vowels], maxCompletionLength: 8 });
    expect(greedy.metrics['rewards/vowels/mean']).toBeGreaterThan(0.9);

    const changed = bits(model).filter(([name, values]) => before.get(name)!.some((value, i) => value !== values[i]));
    const names = changed.map(([name]) => name);
    for (const layer of [0, 1]) {
      const mlp = `model.layers.${layer}.mlp`;
      expect(names).toContain(`${mlp}.gate.weight`);
      for (const part of ['gate', 'up', 'down']) expect(names).toContain(`${mlp}.switch_mlp.${part}_proj.weight`);
    }
    const saved = await loadModel(result.checkpoint!);
    expect(bits(saved)).toEqual(bits(model));
    expect((await saved.generate('a', { maxTokens: 8 })).tokens).toEqual(
      (await model.generate('a', { maxTokens: 8 })).tokens,
    );
  });

  const load = ['expert_load/max', 'expert_load/min', 'expert_load/cv', 'expert_load/entropy', 'expert_load/unused'];

  it("takes the coefficient of the model's configuration, and logs how even the use of experts is", async () => {
    const { trainer, records } = await run({});
    expect(trainer.config.routerAuxLossCoef).toBe(0.001);
    for (const record of records) {
      for (const name of ['aux_loss', ...load]) expect(Number.isFinite(record[name]), name).toBe(true);
      // At least 1 and at most the number of experts over those of a token.
      expect(record['expert_load/max']).toBeGreaterThanOrEqual(1);
      expect(record['expert_load/max']).toBeLessThanOrEqual(2);
      expect(record['expert_load/min']).toBeLessThanOrEqual(1);
      expect(record['expert_load/entropy']).toBeLessThanOrEqual(1);
    }
    const off = await run({ routerAuxLossCoef: 0 });
    expect(Number.isFinite(off.records[0]!['aux_loss'])).toBe(true);
    expect(off.records[0]!['aux_loss']).toBe(records[0]!['aux_loss']);
    expect(bits(off.model)).not.toEqual(bits((await run({ routerAuxLossCoef: 1 })).model));
  });

  it('uses experts more evenly with the loss than without it', async () => {
    const evenness = async (routerAuxLossCoef: number): Promise<number> => {
      const { records } = await run({ maxSteps: 30, routerAuxLossCoef });
      return mean(records.slice(-5).map((record) => record['expert_load/entropy']!));
    };
    expect(await evenness(1)).toBeGreaterThan(await evenness(0));
  });

  it('gives the same with recomputed layers', async () => {
    const steps = { maxSteps: 3, routerAuxLossCoef: 0.1 };
    const [plain, recomputed] = [await run(steps), await run({ ...steps, gradientCheckpointing: true })];
    for (const name of ['loss', 'grad_norm', 'aux_loss', 'expert_load/cv']) {
      const [a, b] = [plain.records[0]![name]!, recomputed.records[0]![name]!];
      expect(Math.abs(a - b), name).toBeLessThan(1e-4 * Math.max(1, Math.abs(a)));
    }
  });

  it('refuses the loss where there are no experts', async () => {
    const model = await loadModel(tinyCheckpoint());
    const make = (routerAuxLossCoef: number) => () =>
      new GRPOTrainer({ model, dataset, rewards: vowels, config: { ...toyConfig, routerAuxLossCoef } });
    expect(thrown(make(0.1))).toMatchObject({
      code: 'ERR_MLX_CONFIG',
      message: expect.stringContaining('routerAuxLossCoef'),
    });
    expect(make(0)().config.routerAuxLossCoef ?? 0).toBe(0);
  });
});

test('supervised fine-tuning adds the loss, averaged over the micro-batches of a step', async () => {
  const rows = [...'abcd'].map((prompt) => ({ prompt, completion: 'hello' }));
  const step = async (routerAuxLossCoef: number, perDeviceTrainBatchSize: number) => {
    const model = await loadModel(tinyCheckpoint('qwen3_moe'));
    const records: Record<string, number>[] = [];
    const loggers = [{ metrics: (_: number, record: Record<string, number>) => void records.push(record) }];
    const trainer = new SFTTrainer({
      model,
      dataset: rows,
      loggers,
      config: {
        maxSteps: 1,
        loggingSteps: 1,
        perDeviceTrainBatchSize,
        gradientAccumulationSteps: 4 / perDeviceTrainBatchSize,
        routerAuxLossCoef,
      },
    });
    await trainer.train();
    return records[0]!;
  };
  for (const batch of [4, 1]) {
    const [off, on] = [await step(0, batch), await step(0.5, batch)];
    expect(on['aux_loss']).toBe(off['aux_loss']);
    expect(Math.abs(on['loss']! - off['loss']! - 0.5 * off['aux_loss']!)).toBeLessThan(1e-5);
    expect(on['expert_load/max']).toBeGreaterThanOrEqual(1);
    expect(on['grad_norm']).not.toBe(off['grad_norm']);
  }
});

/** The load-balancing loss of transformers' `load_balancing_loss_func`, from its definition, of tokens' router logits by layer. */
function balanceOf(layers: number[][][], k: number): number {
  const experts = layers[0]![0]!.length;
  const zeros = () => Array.from({ length: experts }, () => 0);
  const [chosen, probability] = [zeros(), zeros()];
  let rows = 0;
  for (const logits of layers.flat()) {
    const exps = logits.map((logit) => Math.exp(logit - Math.max(...logits)));
    const total = exps.reduce((a, b) => a + b, 0);
    const order = logits.map((_, expert) => expert).toSorted((a, b) => logits[b]! - logits[a]!);
    for (const expert of order.slice(0, k)) chosen[expert]! += 1;
    exps.forEach((value, expert) => (probability[expert]! += value / total));
    rows += 1;
  }
  return experts * chosen.reduce((sum, count, expert) => sum + (count / rows) * (probability[expert]! / rows), 0);
}

test("supervised fine-tuning's loss is transformers' over the tokens of a micro-batch, and their mean over a step", async () => {
  // Rows of different lengths, so that there is padding, which does not count.
  const rows = ['hello', 'ab', 'the cat sat', 'z'].map((completion, i) => ({ prompt: 'abcd'[i]!, completion }));
  const model = await loadModel(tinyCheckpoint('qwen3_moe'));
  const k = model.numExpertsPerTok!;
  const logitsOf = ({ prompt, completion }: (typeof rows)[number]): number[][][] => {
    const answer = [...model.tokenizer.encode(completion, { addSpecialTokens: false }), model.eosTokenIds[0]!];
    const ids = [...model.encodePrompt(prompt, { raw: true }), ...answer];
    const { routerLogits } = model.forward([ids], { outputRouterLogits: true });
    return routerLogits.map((logits) => logits.squeeze(0).toArray() as number[][]);
  };
  const each = rows.map(logitsOf);
  const together = (parts: number[][][][]): number[][][] =>
    each[0]!.map((_, layer) => parts.flatMap((part) => part[layer]!));
  const whole = balanceOf(together(each), k);
  const accumulated = mean(each.map((one) => balanceOf(one, k)));
  expect(Math.abs(whole - accumulated)).toBeGreaterThan(1e-3);
  model.dispose();
  for (const [perDeviceTrainBatchSize, want] of [
    [4, whole],
    [1, accumulated],
  ] as const) {
    const fresh = await loadModel(tinyCheckpoint('qwen3_moe'));
    const records: Record<string, number>[] = [];
    const loggers = [{ metrics: (_: number, record: Record<string, number>) => void records.push(record) }];
    const config = { maxSteps: 1, loggingSteps: 1, perDeviceTrainBatchSize, routerAuxLossCoef: 0.5 };
    const gradientAccumulationSteps = 4 / perDeviceTrainBatchSize;
    const options = { model: fresh, dataset: rows, loggers, config: { ...config, gradientAccumulationSteps } };
    await new SFTTrainer(options).train();
    fresh.dispose();
    // Sums of some hundred float32 probabilities.
    expect(Math.abs(records[0]!['aux_loss']! - want)).toBeLessThan(1e-5 * want);
  }
});
