import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadModel, perplexity } from '../../lib/index.ts';
import type { LanguageModel } from '../../lib/index.ts';
import { run } from '../../lib/cli/run.ts';
import { configs, randomCheckpoint } from '../helpers/quantized.ts';
import { tempDir } from '../helpers/temp.ts';

const ids = Array.from({ length: 50 }, (_, i) => 2 + ((i * i + 7 * i) % 60));

/** Negative log-probs of all tokens of a piece but the first, from the logits of `forward`, in double precision. */
function losses(model: LanguageModel, piece: number[]): number[] {
  const [rows] = model.forward([piece]).toArray() as number[][][];
  return piece.slice(1).map((id, i) => {
    const logits = rows![i]!;
    const most = Math.max(...logits);
    return most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0)) - logits[id]!;
  });
}

describe('perplexity', () => {
  it('is what the logits say, plain and packed, in batches of any size', async () => {
    using model = await loadModel(await randomCheckpoint(configs.qwen3), { dtype: 'float32' });
    const seen: number[] = [];
    for (const packed of [false, true]) {
      if (packed) await model.quantize({ bits: 3 });
      const all = [0, 16, 32, 48].flatMap((at) => losses(model, ids.slice(at, at + 16)));
      expect(all).toHaveLength(46);
      const mean = all.reduce((sum, loss) => sum + loss, 0) / all.length;
      const deviation = Math.sqrt(all.reduce((sum, loss) => sum + (loss - mean) ** 2, 0) / (all.length - 1));
      for (const batchSize of [1, 2, 8]) {
        const result = await perplexity(model, ids, { sequenceLength: 16, batchSize });
        expect(result.tokens).toBe(46);
        // float32 sums of 128 terms in another order.
        expect(result.loss).toBeCloseTo(mean, 4);
        expect(result.perplexity / Math.exp(mean)).toBeCloseTo(1, 4);
        expect(result.standardError / ((Math.exp(mean) * deviation) / Math.sqrt(46))).toBeCloseTo(1, 3);
      }
      seen.push(mean);
    }
    expect(Math.abs(seen[0]! - seen[1]!)).toBeGreaterThan(1e-3);
    const few = await perplexity(model, ids, { sequenceLength: 16, numSamples: 2 });
    expect(few.tokens).toBe(30);
  });

  it('refuses what it cannot measure, and stops', async () => {
    using model = await loadModel(await randomCheckpoint(configs.qwen3), { dtype: 'float32' });
    await expect(perplexity(model, [5])).rejects.toMatchObject({ code: 'ERR_MLX_ARGUMENT' });
    await expect(perplexity(model, [5, 64])).rejects.toMatchObject({ code: 'ERR_MLX_ARGUMENT' });
    await expect(perplexity(model, ids, { sequenceLength: 1 })).rejects.toMatchObject({ code: 'ERR_MLX_CONFIG' });
    await expect(perplexity(model, ids, { length: 8 } as never)).rejects.toMatchObject({ code: 'ERR_MLX_CONFIG' });
    const stop = new AbortController();
    const options = { sequenceLength: 2, signal: stop.signal, onProgress: () => stop.abort('enough') };
    await expect(perplexity(model, ids, options)).rejects.toBe('enough');
  });

  it('is printed by the command', async () => {
    const dir = await randomCheckpoint(configs.qwen3);
    const file = join(tempDir(), 'text.txt');
    writeFileSync(file, 'abc def ghi jkl mno');
    let [stdout, stderr] = ['', ''];
    const io = { stdout: { write: (t: string) => (stdout += t) }, stderr: { write: (t: string) => (stderr += t) } };
    const args = ['perplexity', '-m', dir, '--dtype', 'float32', '--sequence-length', '8'];
    expect([await run([...args, file], io), stderr]).toEqual([0, '']);
    // 19 tokens in pieces of 8, 8 and 3.
    expect(stdout).toMatch(/^Perplexity: \d+\.\d{3} ± \d+\.\d{3} \(16 tokens\)\n$/);
    stdout = '';
    expect(await run([...args, file, '--json'], io)).toBe(0);
    using model = await loadModel(dir, { dtype: 'float32' });
    expect(JSON.parse(stdout)).toEqual(await perplexity(model, 'abc def ghi jkl mno', { sequenceLength: 8 }));
    expect(await run([...args, join(tempDir(), 'none')], io)).toBe(2);
  });
});
