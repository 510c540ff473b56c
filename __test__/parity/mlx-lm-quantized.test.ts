/** Quantised models: what mlx-lm packs is what we pack, bit for bit, and each reads what the other writes. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { convert, loadModel } from '../../lib/index.ts';
import type { ModelQuantization } from '../../lib/index.ts';
import { mlxLm, read } from '../helpers/peers.ts';
import type { Peer } from '../helpers/peers.ts';
import { configs, randomCheckpoint, tensorsOf } from '../helpers/quantized.ts';
import { expectSame, ours, requestFor } from '../helpers/saved.ts';
import { tempDir } from '../helpers/temp.ts';

interface Case {
  source: string;
  ours: ModelQuantization;
  /** Arguments of mlx_lm.convert. */
  theirs: Record<string, unknown>;
}

const affine = [32, 64, 128].flatMap((groupSize) =>
  [2, 3, 4, 5, 6, 8].map(
    (bits) =>
      [
        { groupSize, bits },
        { q_group_size: groupSize, q_bits: bits },
      ] as const,
  ),
);
const floats = (['mxfp4', 'mxfp8', 'nvfp4'] as const).map((mode) => [{ mode }, { q_mode: mode }] as const);
const recipes = (['mixed_2_6', 'mixed_3_4', 'mixed_3_6', 'mixed_4_6'] as const).map(
  (recipe) => [{ recipe }, { quant_predicate: recipe, q_group_size: 64 }] as const,
);

/** Converts by mlx-lm, all in one process. */
function converted(peer: Peer, cases: Case[]): string[] {
  const outs = cases.map(() => join(tempDir(), 'theirs'));
  const lines = cases.map(({ source, theirs }, i) =>
    JSON.stringify({ source, out: outs[i], quantize: true, ...theirs }),
  );
  execFileSync(peer.python, [join(import.meta.dirname, 'peers/convert_with_mlx_lm.py')], {
    input: `${lines.join('\n')}\n`,
    env: { ...peer.env, HF_HUB_OFFLINE: '1', TOKENIZERS_PARALLELISM: 'false', TRANSFORMERS_VERBOSITY: 'error' },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  return outs;
}

const quantizationOf = (dir: string): Record<string, unknown> =>
  (JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as { quantization: Record<string, unknown> })
    .quantization;

/** The number of different answers: all differ, so that one of another model would be seen. */
async function compare(peer: Peer, cases: Case[]): Promise<number> {
  const theirs = converted(peer, cases);
  const mine: string[] = [];
  const answers = [];
  const requests = [];
  for (const [i, { source, ours: options }] of cases.entries()) {
    const model = await loadModel(source, { dtype: 'float32' });
    await model.quantize(options);
    const folder = join(tempDir(), 'ours');
    await model.save(folder);
    mine.push(folder);
    const what = JSON.stringify(cases[i]!.theirs);
    const [left, right] = [tensorsOf(folder), tensorsOf(theirs[i]!)];
    expect([...left.keys()], what).toEqual([...right.keys()]);
    const differing = [...left].filter(([name, text]) => right.get(name) !== text).map(([name]) => name);
    expect(differing, what).toEqual([]);
    expect([...left.values()].some((text) => text.startsWith('U32'))).toBe(true);
    const request = requestFor(model, folder);
    requests.push(request);
    answers.push(await ours(model, request));
    model.dispose();
    // What mlx-lm wrote computes the same here.
    const other = await loadModel(theirs[i]!, { dtype: 'float32' });
    expect(other.quantization, what).toEqual((await info(folder))!);
    expect((await ours(other, request)).tokens, what).toEqual(answers[i]!.tokens);
    other.dispose();
  }
  const readings = read(peer, requests);
  for (const [i, reading] of readings.entries()) expectSame(reading, answers[i]!);
  return new Set(readings.map(({ logits }) => JSON.stringify(logits))).size;
}

async function info(folder: string) {
  using model = await loadModel(folder, { dtype: 'float32' });
  return model.quantization;
}

/** Saves each model, lets mlx-lm read all of them, and compares its answers with ours; gives the requests. */
async function savedAndRead(peer: Peer, models: readonly (() => Promise<Awaited<ReturnType<typeof loadModel>>>)[]) {
  const [requests, answers]: [ReturnType<typeof requestFor>[], Awaited<ReturnType<typeof ours>>[]] = [[], []];
  for (const make of models) {
    const model = await make();
    const folder = join(tempDir(), 'ours');
    await model.save(folder);
    requests.push(requestFor(model, folder));
    answers.push(await ours(model, requests.at(-1)!));
    model.dispose();
  }
  for (const [i, reading] of read(peer, requests).entries()) expectSame(reading, answers[i]!);
  return requests;
}

describe('quantised models and mlx-lm', () => {
  let peer: Peer;

  beforeAll(() => {
    peer = mlxLm();
  }, 600_000);

  it('packs every mode as mlx-lm does, and each reads the other', async () => {
    const source = await randomCheckpoint(configs.qwen3);
    const cases = [...affine, ...floats].map(([options, theirs]) => ({ source, ours: options, theirs }));
    expect(await compare(peer, cases)).toBe(21);
  }, 600_000);

  it("takes mlx-lm's recipes layer by layer", async () => {
    const source = await randomCheckpoint(configs.qwen3Blocks);
    const cases = recipes.map(([options, theirs]) => ({ source, ours: options, theirs }));
    expect(await compare(peer, cases)).toBe(4);
  }, 600_000);

  it('packs experts in one tensor and their router in 8 bits', async () => {
    const [qwen3Moe, qwen2Moe] = [await randomCheckpoint(configs.qwen3Moe), await randomCheckpoint(configs.qwen2Moe)];
    // mlx-lm has no rule of its own for the routers of Qwen2-MoE.
    const gate = { rules: { 'mlp.gate': {} } };
    const different = await compare(peer, [
      { source: qwen3Moe, ours: { bits: 4 }, theirs: { q_bits: 4 } },
      { source: qwen3Moe, ours: { mode: 'mxfp4' }, theirs: { q_mode: 'mxfp4' } },
      { source: qwen3Moe, ours: { recipe: 'mixed_3_6' }, theirs: { quant_predicate: 'mixed_3_6', q_group_size: 64 } },
      { source: qwen2Moe, ours: { bits: 4, ...gate }, theirs: { q_bits: 4 } },
      { source: qwen2Moe, ours: { mode: 'nvfp4', ...gate }, theirs: { q_mode: 'nvfp4' } },
    ]);
    expect(different).toBe(5);
    const [folder] = converted(peer, [{ source: qwen3Moe, ours: {}, theirs: {} }]);
    expect(quantizationOf(folder!)).toMatchObject({ 'model.layers.0.mlp.gate': { group_size: 64, bits: 8 } });
  }, 600_000);

  it('reads what rules have made: several modes in one model, layers that stay numbers', async () => {
    const rules = {
      v_proj: { mode: 'mxfp4' as const },
      down_proj: { bits: 8, groupSize: 32 },
      o_proj: { mode: 'nvfp4' as const },
      'model.layers.1.self_attn.q_proj': false as const,
    };
    const models = [
      { config: configs.qwen3, options: { rules } },
      { config: configs.qwen3Moe, options: { rules, mode: 'mxfp8' as const } },
      // Routers in 8 bits, of which mlx-lm learns from the configuration.
      { config: configs.qwen2Moe, options: { bits: 3 } },
      // Widths that the groups do not divide.
      { config: { ...configs.qwen3, intermediate_size: 192 }, options: { groupSize: 128 } },
    ];
    const requests = await savedAndRead(
      peer,
      models.map(
        ({ config, options }) =>
          async () =>
            loadModel(await randomCheckpoint(config), { dtype: 'float32', quantize: options }),
      ),
    );
    expect(quantizationOf(requests[2]!.folder)).toHaveProperty(['model.layers.0.mlp.gate', 'bits'], 8);
  }, 600_000);

  it('reads what GPTQ and AWQ have made', async () => {
    const data = [Array.from({ length: 2048 }, (_, i) => 2 + ((i * i + 7 * i) % 60))];
    const cases = [
      [configs.qwen3, 'gptq', 4],
      [configs.qwen3, 'awq', 3],
      [configs.qwen3Moe, 'gptq', 3],
      [configs.qwen3Moe, 'awq', 4],
    ] as const;
    const requests = await savedAndRead(
      peer,
      cases.map(([config, method, bits]) => async () => {
        const model = await loadModel(await randomCheckpoint(config), { dtype: 'float32' });
        await model.quantize({ method, bits, calibration: { data, sequenceLength: 128 } });
        return model;
      }),
    );
    expect(requests.map(({ folder }) => quantizationOf(folder).bits)).toEqual(cases.map(([, , bits]) => bits));
  }, 600_000);

  it('converts bfloat16 checkpoints file to file as mlx-lm does, and takes its own back to numbers', async () => {
    const cases: Case[] = [
      { source: await randomCheckpoint(configs.qwen3, 'bfloat16'), ours: {}, theirs: {} },
      {
        source: await randomCheckpoint(configs.qwen3Moe, 'bfloat16'),
        ours: { bits: 6, groupSize: 32 },
        theirs: { q_bits: 6, q_group_size: 32 },
      },
      {
        source: await randomCheckpoint(configs.qwen3, 'bfloat16'),
        ours: { mode: 'mxfp8' },
        theirs: { q_mode: 'mxfp8' },
      },
    ];
    const theirs = converted(peer, cases);
    for (const [i, { source, ours: quantize }] of cases.entries()) {
      const out = join(tempDir(), 'ours');
      await convert(source, out, { quantize });
      expect(tensorsOf(out)).toEqual(tensorsOf(theirs[i]!));
      expect([...tensorsOf(out).values()].some((text) => text.startsWith('BF16'))).toBe(true);
    }
    const back = join(tempDir(), 'back');
    await convert(theirs[0]!, back, { dequantize: true });
    const [again] = converted(peer, [{ source: theirs[0]!, ours: {}, theirs: { quantize: false, dequantize: true } }]);
    expect(tensorsOf(back)).toEqual(tensorsOf(again!));
  }, 600_000);
});
