import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadModel, loadPromptCache } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { run } from '../../lib/cli/run.ts';
import { tempDir } from '../helpers/temp.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';

async function cli(...args: string[]) {
  let [stdout, stderr] = ['', ''];
  const io = { stdout: { write: (t: string) => (stdout += t) }, stderr: { write: (t: string) => (stderr += t) } };
  return { code: await run(['cache-prompt', ...args], io), stdout, stderr };
}

const lastLogits = (logits: MxArray): number[] => ((logits.toArray() as number[][][])[0] ?? []).at(-1)!;

describe('mlx-node cache-prompt', () => {
  it.each(['2048', '5'])(
    'writes what the model goes on from as if it had read the whole, %s tokens at a time',
    async (step) => {
      const dir = tinyCheckpoint();
      const file = join(tempDir(), 'cache.safetensors');
      const args = ['-m', dir, '--prompt-cache-file', file, '--prefill-step-size', step, '-s', 'be kind', 'hello, you'];
      const { code, stdout, stderr } = await cli(...args, '--json');
      expect([code, stderr]).toEqual([0, '']);
      // The message is open: what follows is the rest of it.
      const beginning = 'system: be kind\nuser: hello, you';
      expect(JSON.parse(stdout)).toMatchObject({ promptCacheFile: file, promptTokens: beginning.length });
      const { cache, metadata } = await loadPromptCache(file);
      expect(metadata).toEqual({ model: dir, tokenizer_config: '{}' });
      expect(cache.map(({ offset }) => offset)).toEqual([beginning.length, beginning.length]);

      const model = await loadModel(dir);
      try {
        const rest = ' are late\nassistant: ';
        const [whole, part] = [`${beginning}${rest}`, rest].map((text) => model.tokenizer.encode(text));
        const wanted = lastLogits(model.forward([whole!]));
        // The same sums in other groups: float32 rounding of logits near 1.
        lastLogits(model.forward([part!], { cache })).forEach((logit, i) => expect(logit).toBeCloseTo(wanted[i]!, 4));
      } finally {
        model.dispose();
      }
    },
  );

  it('says what it did, and refuses names that are no safetensors before it loads anything', async () => {
    const file = join(tempDir(), 'cache.safetensors');
    const { code, stdout } = await cli('-m', tinyCheckpoint(), '--prompt-cache-file', file, '--raw', 'abc');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Processed 3 tokens \(\d+\.\d\d tok\/s\)\nPeak memory: \d\.\d{3} GB\nSaved .*\n$/);
    expect(existsSync(file)).toBe(true);
    const wrong = await cli('-m', 'nowhere', '--prompt-cache-file', 'cache.bin', 'abc');
    expect([wrong.code, wrong.stdout]).toEqual([2, '']);
    expect(wrong.stderr).toContain('--prompt-cache-file must end in .safetensors');
    expect((await cli('-m', 'nowhere', '--prompt-cache-file', file)).stderr).toContain('there is no prompt');
  });
});
