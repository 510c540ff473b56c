import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sums } from '../../examples/arithmetic.ts';
import { loadModel, perplexity, readCalibrationData, SFTTrainer } from '../../lib/index.ts';
import type { AnyModel, QuantizationMethod } from '../../lib/index.ts';
import { holdOut } from '../../lib/calibration.ts';
import { run } from '../../lib/cli/run.ts';
import { configs, randomCheckpoint, tensorsOf } from '../helpers/quantized.ts';
import { tempDir } from '../helpers/temp.ts';

/** The demo's model, which knows how sums go on, and has learnt here how they begin: a text has a perplexity. */
let trained: string;

/** Sums as the demo's model has learnt them, those with 9 tokens, so that pieces of 9 are whole sums. */
const texts = (of: { prompt: string; answer: string }[]): string[] =>
  of.map(({ prompt, answer }) => `${prompt}${answer}<eos>`).filter((text) => text.length === 8 + '<eos>'.length);

const { train, heldOut } = sums();
const [lessons, unseen] = [texts(train), texts(heldOut)];
const sequenceLength = 9;

const rejection = (promise: Promise<unknown>): Promise<Error & { code?: string }> =>
  promise.then(
    () => {
      throw new Error('nothing was thrown');
    },
    (error: unknown) => error as Error,
  );

const measure = async (model: AnyModel): Promise<number> =>
  (await perplexity(model, unseen.join(''), { sequenceLength, batchSize: 64 })).perplexity;

const sum = (errors: number[]): number => errors.reduce((whole, error) => whole + error, 0);

beforeAll(async () => {
  using model = await loadModel(join(import.meta.dirname, '../../examples/tiny-qwen3'), { dtype: 'float32' });
  const dataset = lessons.slice(0, 3000).map((text) => ({ prompt: '', completion: text.replace('<eos>', '') }));
  const config = { maxSteps: 60, perDeviceTrainBatchSize: 64, learningRate: 2e-3 };
  await new SFTTrainer({ model, dataset, config, loggers: [] }).train();
  trained = mkdtempSync(join(tmpdir(), 'mlx-node-test-'));
  await model.save(trained);
}, 60_000);

afterAll(() => rmSync(trained, { recursive: true, force: true }));

describe('quantising with calibration', () => {
  it('costs a trained model less than rounding', async () => {
    using plain = await loadModel(trained, { dtype: 'float32' });
    const before = await measure(plain);
    for (const [bits, groupSize] of [
      [2, 32],
      [3, 64],
    ] as const) {
      const found: Record<string, number> = {};
      for (const method of ['rtn', 'gptq', 'awq'] satisfies QuantizationMethod[]) {
        using model = await loadModel(trained, { dtype: 'float32' });
        const calibration = { data: lessons, sequenceLength, numSamples: 128, batchSize: 64 };
        const { packed, layers } = await model.quantize({
          bits,
          groupSize,
          // Rounded by every method, and the head too: what it costs would hide the rest.
          rules: { embed_tokens: { bits: 8 } },
          ...(method === 'rtn' ? {} : { method, calibration }),
        });
        expect(packed).toHaveLength(15);
        expect(layers === undefined).toBe(method === 'rtn');
        found[method] = await measure(model);
        if (layers === undefined) continue;
        const errors = [sum(layers.map(({ error }) => error)), sum(layers.map(({ rtnError }) => rtnError))];
        // Seen: 0.09 for GPTQ, and 0.65 for AWQ, which has less to gain where no input is far larger than others.
        expect(errors[0]! / errors[1]!).toBeLessThan(method === 'gptq' ? 0.3 : 0.85);
      }
      // Seen: 2.678 before; with 2 bits 2.783 rounded and 2.699 by GPTQ, with 3 bits 2.683 and 2.679.
      const what = JSON.stringify({ bits, before, ...found });
      expect(found['gptq'], what).toBeGreaterThan(before * 0.99);
      expect(found['gptq']! - before, what).toBeLessThan((found['rtn']! - before) * 0.8);
      expect(found['awq'], what).toBeLessThan(before * 1.1);
    }
  }, 60_000);

  it('reports layer by layer, is the same for the same seed, and is saved like any other', async () => {
    const dir = await randomCheckpoint(configs.qwen3Moe);
    const data = [Array.from({ length: 4000 }, (_, i) => 2 + ((i * i + 7 * i) % 60))];
    const folders: string[] = [];
    for (const seed of [0, 0, 1]) {
      using model = await loadModel(dir, { dtype: 'float32' });
      const progress: [number, number][] = [];
      const report = await model.quantize({
        bits: 3,
        method: 'gptq',
        calibration: { data, sequenceLength: 64, numSamples: 16, seed },
        onProgress: ({ done, total }) => progress.push([done, total]),
      });
      expect(progress.at(-1)).toEqual([report.packed.length, report.packed.length]);
      const layers = report.layers!;
      expect(layers.map(({ name }) => name)).toContain('model.layers.1.mlp.switch_mlp.down_proj');
      expect(layers.at(-1)!.name).toBe('lm_head');
      for (const layer of layers) expect(layer.error).toBeLessThanOrEqual(layer.rtnError * 1.001);
      const folder = join(tempDir(), 'saved');
      await model.save(folder, { dtype: 'bfloat16' });
      expect([...tensorsOf(folder).values()].every((text) => /^(BF16|U32)/.test(text))).toBe(true);
      folders.push(folder);
      using again = await loadModel(folder, { dtype: 'float32' });
      expect(again.quantization).toEqual(model.quantization);
    }
    const [first, same, other] = folders.map((folder) => tensorsOf(folder));
    expect(same).toEqual(first);
    expect(other).not.toEqual(first);
  });

  it('takes texts, files and conversations', async () => {
    using model = await loadModel(trained, { dtype: 'float32' });
    const file = join(tempDir(), 'data.jsonl');
    const rows = [{ text: '1+2=3<eos>' }, { prompt: '4+', completion: '5=9' }];
    writeFileSync(file, rows.map((row) => JSON.stringify(row)).join('\n'));
    const encode = (text: string): number[] => model.tokenizer.encode(text);
    expect(await readCalibrationData(file, model.tokenizer)).toEqual([encode('1+2=3<eos>'), encode('4+5=9')]);
    writeFileSync(file, '{"text": 3}');
    expect(await rejection(readCalibrationData(file, model.tokenizer))).toMatchObject({ code: 'ERR_MLX_LOAD' });
    const missing = join(tempDir(), 'none.txt');
    expect(await rejection(readCalibrationData(missing, model.tokenizer))).toMatchObject({ code: 'ERR_MLX_LOAD' });
    const one = [Array.from({ length: 50 }, (_, i) => i)];
    expect(holdOut(one)).toEqual({ data: [one[0]!.slice(0, 45)], heldOut: [45, 46, 47, 48, 49] });
    const many = Array.from({ length: 20 }, (_, i) => [i]);
    expect(holdOut(many)).toEqual({ data: many.slice(0, 18), heldOut: [18, 19] });
  });

  it('refuses what does not fit, and stops', async () => {
    using model = await loadModel(trained, { dtype: 'float32' });
    const calibration = { data: lessons, sequenceLength };
    for (const [options, code, text] of [
      [{ method: 'gtpq' }, 'ERR_MLX_CONFIG', "did you mean 'gptq'"],
      [{ method: 'gptq' }, 'ERR_MLX_CONFIG', 'calibration'],
      [{ calibration }, 'ERR_MLX_CONFIG', "method 'rtn'"],
      [{ method: 'awq', calibration, damping: 0.1 }, 'ERR_MLX_CONFIG', 'damping'],
      [{ method: 'gptq', calibration, damping: 0 }, 'ERR_MLX_CONFIG', 'damping'],
      [{ method: 'gptq', calibration, mode: 'nvfp4' }, 'ERR_MLX_ARGUMENT', 'nvfp4'],
      [{ method: 'gptq', calibration: { ...calibration, sample: 3 } }, 'ERR_MLX_CONFIG', 'numSamples'],
      [{ method: 'gptq', calibration: { ...calibration, numSamples: 0 } }, 'ERR_MLX_CONFIG', 'numSamples'],
      [{ method: 'gptq', calibration: { data: '1+1=2' } }, 'ERR_MLX_ARGUMENT', '5 tokens'],
      [{ method: 'gptq', calibration: { data: [] } }, 'ERR_MLX_ARGUMENT', 'data'],
      [{ method: 'gptq', calibration: { data: [[1, 'a']] } }, 'ERR_MLX_ARGUMENT', 'data[0]'],
      [{ method: 'gptq', calibration: { data: [[1, 18]], sequenceLength: 2 } }, 'ERR_MLX_ARGUMENT', '18'],
    ] as const) {
      const error = await rejection(model.quantize(options as never));
      expect(error, JSON.stringify(options)).toMatchObject({ code });
      expect(error.message).toContain(text);
    }
    expect(model.quantization).toBeNull();
    const stop = new AbortController();
    const options = { method: 'gptq' as const, calibration, groupSize: 32 };
    const stopped = model.quantize({ ...options, signal: stop.signal, onProgress: () => stop.abort('enough') });
    expect(await rejection(stopped)).toBe('enough');
    expect(Number.isFinite(await measure(model))).toBe(true);
    // Some are packed now: the inputs of the others are no longer those of a whole model.
    expect(await rejection(model.quantize(options))).toMatchObject({ code: 'ERR_MLX_ARGUMENT' });
    await model.quantize({ groupSize: 32 });
    model.applyLora();
    expect(await rejection(model.quantize(options))).toMatchObject({ code: 'ERR_MLX_ARGUMENT' });
  });

  it('is a command that reports perplexities', async () => {
    let [stdout, stderr] = ['', ''];
    const io = { stdout: { write: (t: string) => (stdout += t) }, stderr: { write: (t: string) => (stderr += t) } };
    const command = async (...args: string[]): Promise<number> => {
      [stdout, stderr] = ['', ''];
      return await run(['quantize', ...args], io);
    };
    const data = join(tempDir(), 'sums.jsonl');
    writeFileSync(
      data,
      lessons
        .slice(0, 600)
        .map((text) => JSON.stringify({ text }))
        .join('\n'),
    );
    const settings = ['--q-bits', '2', '--q-group-size', '32', '--q-rule', 'embed_tokens=8', '--sequence-length', '9'];
    const out = join(tempDir(), 'gptq');
    const calibrate = ['--method', 'gptq', '--data', data, '--num-samples', '400'];
    expect([await command(trained, out, ...settings, ...calibrate, '--compare-rtn', '--json'), stderr]).toEqual([
      0,
      '',
    ]);
    const result = JSON.parse(stdout) as {
      method: string;
      layers: { name: string; error: number; rtnError: number }[];
      perplexity: Record<'before' | 'rtn' | 'after', { perplexity: number; tokens: number }>;
    };
    expect(result.method).toBe('gptq');
    expect(result.layers).toHaveLength(14);
    const { before, rtn, after } = result.perplexity;
    // The last 60 of 600 texts, of 9 tokens each.
    expect(after.tokens).toBe(60 * 8);
    expect(after.perplexity).toBeLessThan(rtn.perplexity);
    expect(before.perplexity).toBeLessThan(after.perplexity);
    using model = await loadModel(out, { dtype: 'float32' });
    expect(model.quantization).toMatchObject({ bits: 2, groupSize: 32 });
    const rest = lessons.slice(540, 600).join('');
    expect((await perplexity(model, rest, { sequenceLength })).perplexity).toBe(after.perplexity);
    expect(readFileSync(join(out, 'tokenizer.json'), 'utf8')).toContain('<eos>');
    // In words, and rounding measured on texts of its own.
    expect(await command(trained, join(tempDir(), 'awq'), ...settings, '--method', 'awq', '--data', data, '-v')).toBe(
      0,
    );
    expect(stdout).toMatch(/model\.layers\.0\.mlp\.down_proj: (awq|rtn), error \S+, rounded \S+\n/);
    expect(stdout).toMatch(/\nPerplexity: before \S+ ± \S+, after awq \S+ ± \S+ \(480 tokens\)\n$/);
    expect(await command(trained, join(tempDir(), 'rtn'), ...settings, '--eval-data', data)).toBe(0);
    expect(stdout).toMatch(/Perplexity: before \S+ ± \S+, after rtn \S+ ± \S+ \(4800 tokens\)\n$/);
    for (const [args, code, text] of [
      [[out, ...calibrate], 1, 'exists already'],
      [['x', '--method', 'gtpq'], 2, "did you mean 'gptq'"],
      [['x', '--method', 'gptq'], 2, '--data'],
      [['x', '--data', data], 2, '--method'],
      [['x', '--num-samples', '3'], 2, '--num-samples needs --method'],
      [['x', '--method', 'awq', '--data', data, '--damping', '1'], 2, '--damping'],
      [['x', ...calibrate, '--q-mode', 'mxfp4'], 1, 'mxfp4'],
      [['x', ...calibrate, '--shard-size', '1MB'], 2, '--shard-size'],
    ] as const) {
      const target = args[0] === 'x' ? [join(tempDir(), 'x'), ...args.slice(1)] : args;
      expect(await command(trained, ...target, '--sequence-length', '9'), stderr).toBe(code);
      expect(stderr).toContain(text);
    }
  }, 60_000);
});
