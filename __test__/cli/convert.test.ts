import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { convert, loadModel } from '../../lib/index.ts';
import type { ConvertProgress } from '../../lib/index.ts';
import { run } from '../../lib/cli/run.ts';
import { configs, randomCheckpoint, tensorsOf } from '../helpers/quantized.ts';
import { tempDir } from '../helpers/temp.ts';

async function cli(...args: string[]) {
  let [stdout, stderr] = ['', ''];
  const io = { stdout: { write: (t: string) => (stdout += t) }, stderr: { write: (t: string) => (stderr += t) } };
  return { code: await run(args, io), stdout, stderr };
}

const out = (): string => join(tempDir(), 'out');

const config = (dir: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>;

describe('mlx-node quantize, dequantize and convert', () => {
  it('write what the library packs, with the tokenizer', async () => {
    const source = await randomCheckpoint(configs.qwen3Moe);
    const [packed, wanted] = [out(), out()];
    const rules = ['v_proj=mxfp4', 'model.layers.1.*=off', 'lm_head=6:64'];
    const flags = ['--q-bits', '8', '--q-group-size', '32', '--q-rule', ...rules, '--json'];
    const { code, stdout, stderr } = await cli('quantize', source, packed, ...flags);
    expect([code, stderr]).toEqual([0, '']);
    const report = JSON.parse(stdout) as { packed: string[]; left: { name: string }[]; bitsPerWeight: number };
    expect(report.left.every(({ name }) => name.includes('.1.'))).toBe(true);
    using model = await loadModel(source, { dtype: 'float32' });
    const affine = (bits: number, groupSize: number) => ({ mode: 'affine' as const, bits, groupSize });
    const same = { v_proj: { mode: 'mxfp4' as const }, 'model.layers.1.*': false as const, lm_head: affine(6, 64) };
    const memory = await model.quantize({ bits: 8, groupSize: 32, rules: same });
    expect(report).toMatchObject({ packed: memory.packed, left: memory.left, bitsPerWeight: memory.bitsPerWeight });
    await model.save(wanted);
    expect(tensorsOf(packed)).toEqual(tensorsOf(wanted));
    expect(readdirSync(packed).toSorted()).toEqual(readdirSync(wanted).toSorted());
    expect(config(packed)).toEqual(config(wanted));

    const plain = out();
    expect((await cli('dequantize', packed, plain)).code).toBe(0);
    expect(config(plain)).not.toHaveProperty('quantization');
    using numbers = await loadModel(plain, { dtype: 'float32' });
    const options = { maxTokens: 8, temperature: 0, raw: true, ignoreEos: true };
    expect((await numbers.generate('abc', options)).tokens).toEqual((await model.generate('abc', options)).tokens);
  });

  it('convert to another dtype, in shards, and says what it did', async () => {
    const source = await randomCheckpoint(configs.qwen3);
    const half = out();
    const { code, stdout, stderr } = await cli('convert', source, half, '--dtype', 'float16', '--shard-size', '100KB');
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/out: \d+ kB of weights in float16, 16\.000 bits per weight, in [\d.]+ s\n$/);
    const shards = readdirSync(half).filter((name) => name.endsWith('.safetensors'));
    expect(shards.length).toBeGreaterThan(3);
    expect(existsSync(join(half, 'model.safetensors.index.json'))).toBe(true);
    const texts = [...tensorsOf(half).values()];
    expect(texts.length).toBeGreaterThan(20);
    expect(texts.every((text) => text.startsWith('F16 '))).toBe(true);
    const packed = await cli('convert', half, out(), '-q', '--quant-predicate', 'mixed_2_6');
    expect([packed.code, packed.stderr]).toEqual([0, '']);
    expect(packed.stdout).toContain('15 layers are packed');
  });

  it('goes on where it was stopped, with the same source and options only', async () => {
    const source = await randomCheckpoint(configs.qwen3);
    const [target, whole] = [out(), out()];
    const options = { quantize: { bits: 4 }, shardBytes: 20_000 };
    await convert(source, whole, options);
    const stop = new AbortController();
    const stopped = convert(source, target, {
      ...options,
      signal: stop.signal,
      onProgress: ({ done, total }) => {
        if (3 * done > total) stop.abort('enough');
      },
    });
    await expect(stopped).rejects.toBe('enough');
    expect(existsSync(target)).toBe(false);
    const folder = join(dirname(target), '.tmp-convert-out');
    const finished = readdirSync(folder).filter((name) => name.endsWith('.safetensors'));
    expect(finished.length).toBeGreaterThan(0);
    // A mark in a finished file shows whether it is kept; a half-written one does not count.
    const marked = join(folder, finished[0]!);
    const bytes = readFileSync(marked);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(marked, bytes);
    writeFileSync(join(folder, '.model-00009-of-00009.safetensors.1-1.tmp'), 'half');
    const seen: ConvertProgress[] = [];
    await convert(source, target, { ...options, onProgress: (progress) => seen.push(progress) });
    expect(readFileSync(join(target, finished[0]!))).toEqual(bytes);
    expect(readdirSync(target).toSorted()).toEqual(readdirSync(whole).toSorted());
    expect(existsSync(folder)).toBe(false);
    expect(seen.at(-1)).toMatchObject({ phase: 'convert', done: seen.at(-1)!.total });
    const [found, wanted] = [tensorsOf(target), tensorsOf(whole)];
    expect([...found].filter(([name, text]) => wanted.get(name) !== text)).toHaveLength(1);

    // Of a conversion with other options nothing is kept.
    const other = out();
    const otherFolder = join(dirname(other), '.tmp-convert-out');
    mkdirSync(otherFolder);
    for (const name of readdirSync(whole)) writeFileSync(join(otherFolder, name), readFileSync(join(whole, name)));
    writeFileSync(join(otherFolder, finished[0]!), bytes);
    writeFileSync(join(otherFolder, 'conversion.json'), '{}');
    await convert(source, other, options);
    expect(tensorsOf(other)).toEqual(wanted);
  });

  it('refuses what cannot be, with a hint, and leaves nothing', async () => {
    const source = await randomCheckpoint(configs.qwen3);
    const full = tempDir();
    writeFileSync(join(full, 'file'), '');
    for (const [args, code, text] of [
      [['quantize', source, full], 1, 'exists already'],
      [['quantize', source, join(full, 'file')], 1, 'exists already'],
      [['quantize', join(full, 'no-model'), out()], 1, 'no such folder'],
      [['quantize', source, out(), '--q-bits', '7'], 1, '7'],
      [['quantize', source, out(), '--q-bits', 'four'], 2, 'four'],
      [['quantize', source, out(), '--q-mode', 'int4'], 2, 'int4'],
      [['quantize', source, out(), '--quant-predicate', 'mixed_4_6', '--q-bits', '4'], 2, '--q-bits'],
      [['quantize', source, out(), '--q-rule', 'lm_head'], 2, '--q-rule'],
      [['quantize', source, out(), '--q-rule', 'lm_head=8'], 1, 'lm_head'],
      [['dequantize', source, out()], 1, 'not quantised'],
      [['convert', source, out(), '--q-bits', '4'], 2, '-q'],
      [['convert', source, out(), '-q', '-d'], 2, 'together'],
      [['convert', source, out(), '--shard-size', 'big'], 2, 'big'],
    ] as const) {
      const { code: found, stderr, stdout } = await cli(...args);
      expect([found, stdout], args.join(' ')).toEqual([code, '']);
      expect(stderr).toContain(text);
      if (text !== 'exists already') expect(readdirSync(dirname(args[2]))).toEqual([]);
    }
    const damaged = await randomCheckpoint(configs.qwen3);
    writeFileSync(join(damaged, 'model.safetensors'), 'nothing');
    const { code, stderr } = await cli('quantize', damaged, out());
    expect([code, stderr.includes('ERR_MLX_LOAD')]).toEqual([1, true]);
  });
});

describe('mlx-node inspect', () => {
  it('shows what a checkpoint is', async () => {
    const source = await randomCheckpoint(configs.qwen3Moe, 'bfloat16');
    const packed = out();
    await convert(source, packed, { quantize: { bits: 4 } });
    const { code, stdout, stderr } = await cli('inspect', packed, '--json');
    expect([code, stderr]).toEqual([0, '']);
    const info = JSON.parse(stdout) as { parameters: { total: number; active: number }; tensors: object[] };
    using model = await loadModel(source);
    expect(info.parameters.total).toBe(model.numParameters);
    // Two of four experts, of three projections in two blocks.
    expect(info.parameters.total - info.parameters.active).toBe(2 * 3 * 2 * 128 * 128);
    expect(info).toMatchObject({
      model_type: 'qwen3_moe',
      config: { experts: 4, layers: 2 },
      quantization: { bits: 4, group_size: 64, 'model.layers.0.mlp.gate': { bits: 8 } },
    });
    expect(info.tensors).toHaveLength(tensorsOf(packed).size);
    const shown = (await cli('inspect', packed, '--tensors')).stdout;
    expect(shown).toMatch(/^Architecture +qwen3_moe$/m);
    expect(shown).toMatch(/^Quantisation +affine, 4 bits, groups of 64; 18 layers packed, 2 of them otherwise/m);
    expect(shown).toMatch(/^ {2}lm_head\.weight {2}uint32 \[64, 16\]$/m);
    expect((await cli('inspect', source)).stdout).toMatch(/^Quantisation +none$/m);
    const missing = await cli('inspect', tempDir());
    expect([missing.code, missing.stdout]).toEqual([1, '']);
    expect(missing.stderr).toContain('config.json');
  });
});
