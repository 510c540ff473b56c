import { spawn } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { expect, test } from 'vitest';
import { tempDir } from '../helpers/temp.ts';

interface Summary {
  functions: number;
  calls: number;
  returned: number;
  evaluated: number;
  codes: Record<string, number>;
  problems: string[];
  slowest: { ms: number; call: string };
  peakMegabytes: number;
}

/** A call that takes longer hangs. */
const patience = 20_000;

/** Runs the calls in a process of their own; says which call ended it. */
async function hostileCalls(seed: number): Promise<Summary> {
  const note = join(tempDir(), 'call.txt');
  const script = join(import.meta.dirname, 'hostile-child.mjs');
  const child = spawn(process.execPath, ['--expose-gc', script, note, String(seed)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  let errors = '';
  child.stdout.on('data', (chunk) => (output += String(chunk)));
  child.stderr.on('data', (chunk) => (errors += String(chunk)));
  const running = (): string => readFileSync(note, 'utf8').split('\n', 1)[0]!;
  let hung: string | undefined;
  const watch = setInterval(() => {
    if (Date.now() - statSync(note).mtimeMs < patience) return;
    hung = running();
    child.kill('SIGKILL');
  }, 1000);
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    child.on('close', (...ended) => resolve(ended));
  });
  clearInterval(watch);
  if (hung !== undefined) throw new Error(`this call did not return: ${hung}`);
  if (code !== 0)
    throw new Error(`this call ended the process (${signal ?? code}): ${running()}\n${errors.slice(-2000)}`);
  return JSON.parse(output) as Summary;
}

test('every operation returns or throws a typed error, whatever it is given', async () => {
  const summary = await hostileCalls(20_261_124);
  expect(summary.problems.slice(0, 20)).toEqual([]);
  // Fewer would mean that the search for functions no longer finds them.
  expect(summary.functions).toBeGreaterThan(300);
  expect(summary.calls).toBeGreaterThan(50_000);
  expect(summary.evaluated).toBeGreaterThan(5000);
  expect(summary.codes['ERR_MLX_ARGUMENT']).toBeGreaterThan(10_000);
  expect(summary.codes['ERR_MLX_DISPOSED']).toBeGreaterThan(100);
  expect(summary.slowest.ms, summary.slowest.call).toBeLessThan(5000);
  expect(summary.peakMegabytes).toBeLessThan(2048);
}, 600_000);
