import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

interface Report {
  /** Rounds of each kind of worker that ran to its end. */
  rounds: Record<string, number>;
  problems: string[];
  terminated: number;
  exited: number;
  /** An array sent from a worker to the main thread: whether it is one there, and the code of its use. */
  foreign: { isArray: boolean; code: string };
  /** How many megabytes higher the process was at most in the second half than in the first. */
  growth: number;
}

const root = join(import.meta.dirname, '..', '..');
const seconds = 60;

test('four workers use the addon for a minute while others are terminated in the middle of work', async () => {
  const child = join(import.meta.dirname, 'workers-child.mjs');
  const model = join(root, 'examples/tiny-qwen3');
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [child, String(seconds), model]);
  const report = JSON.parse(stdout) as Report;
  expect(stderr).toBe('');
  expect(report.problems).toEqual([]);
  expect(Object.keys(report.rounds).toSorted()).toEqual(['garbage', 'generation', 'operations', 'random']);
  for (const [kind, rounds] of Object.entries(report.rounds)) expect(rounds, kind).toBeGreaterThan(10);
  expect(report.terminated).toBeGreaterThan(10);
  expect(report.exited).toBe(report.terminated);
  expect(report.foreign).toEqual({ isArray: false, code: 'ERR_MLX_ARGUMENT' });
  // A leak of every terminated worker, or of a hundredth of the arrays, would be more.
  expect(report.growth).toBeLessThan(60);
}, 240_000);
