import { existsSync, readdirSync } from 'node:fs';
import type * as promises from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { convert } from '../../lib/index.ts';
import { configs, randomCheckpoint } from '../helpers/quantized.ts';
import { tempDir } from '../helpers/temp.ts';

/** Bytes that the disk seems to have left. */
let free = 0;

vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof promises>();
  return { ...real, statfs: async () => ({ bavail: free, bsize: 1 }) };
});

describe('convert() on a disk without room', () => {
  it('says what is needed before it writes weights, and goes on when there is room', async () => {
    const source = await randomCheckpoint(configs.qwen3);
    const out = join(tempDir(), 'out');
    free = 1000;
    await expect(convert(source, out, { dtype: 'float16' })).rejects.toMatchObject({
      code: 'ERR_MLX_SAVE',
      message: expect.stringMatching(/the disk has 0\.00 GB left, and the weights need 0\.00 GB/),
    });
    expect(existsSync(out)).toBe(false);
    const folder = join(dirname(out), '.tmp-convert-out');
    expect(readdirSync(folder)).toEqual(['conversion.json']);
    free = 1e9;
    await convert(source, out, { dtype: 'float16' });
    expect(existsSync(join(out, 'model.safetensors'))).toBe(true);
    expect(existsSync(folder)).toBe(false);
  });
});
