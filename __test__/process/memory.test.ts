import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';

interface Growth {
  /** Highest resident size of the process, megabytes. */
  peak: number;
  /** That, less what it was before the loop. */
  growth: number;
}

async function run(loop: string): Promise<Growth> {
  const child = join(import.meta.dirname, 'memory-child.mjs');
  const { stdout } = await promisify(execFile)(process.execPath, [child, loop]);
  return JSON.parse(stdout) as Growth;
}

// Ten gigabytes and more pass through each of the first three loops. The limit of tidy is for what the loop adds: Node and MLX
// themselves are 75 MB. It leaves room for JavaScript's own garbage, of which each round makes some.
describe('memory stays bounded', () => {
  test('arrays of a megabyte in a loop that yields: under 300 MB', async () => {
    expect((await run('yielding')).peak).toBeLessThan(300);
  });

  test.each(['tidy', 'asyncTidy'])('arrays of a megabyte in a loop with tidy: under 50 MB more (%s)', async (loop) => {
    expect((await run(loop)).growth).toBeLessThan(50);
  });

  test('a million lazy operations in a loop that yields', async () => {
    // All of them together are 1.2 GB.
    expect((await run('lazy')).growth).toBeLessThan(300);
  });

  test('a million lazy operations with tidy: under 50 MB more', async () => {
    expect((await run('lazyTidy')).growth).toBeLessThan(50);
  });
});
