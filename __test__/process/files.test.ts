import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { mx } from '../../lib/index.ts';
import { tempDir } from '../helpers/temp.ts';

const child = join(import.meta.dirname, 'files-child.mjs');
const MB = 1 << 20;

/** Fifteen tensors of 20 MB. */
const names = Array.from({ length: 15 }, (_, i) => `w${i}`);
const tensor = 20 * MB;

describe('reading a file of 300 MB', () => {
  const arrays = Object.fromEntries(names.map((name, i) => [name, mx.full([tensor / 4], i + 0.5)]));

  it.each([
    ['safetensors', (path: string) => mx.saveSafetensors(path, arrays)],
    ['npz', (path: string) => mx.savez(path, arrays)],
    ['gguf', (path: string) => mx.saveGguf(path, arrays)],
  ] as const)('takes the memory of the arrays and one tensor: %s', async (extension, write) => {
    const path = join(tempDir(), `big.${extension}`);
    await write(path);
    const output = execFileSync(process.execPath, [child, path], { encoding: 'utf8' });
    const { bytes, arrays: count, grew } = JSON.parse(output) as { bytes: number; arrays: number; grew: number };
    expect(count).toBe(names.length);
    expect(bytes).toBe(names.length * tensor);
    // One tensor as it is read; what else the process takes is far from another one.
    expect(grew).toBeLessThan(bytes + 1.5 * tensor);
    // The arrays must be there for the limit to mean anything.
    expect(grew).toBeGreaterThan(bytes / 2);
  });
});
