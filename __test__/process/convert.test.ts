import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { configs, randomCheckpoint, tensorsOf } from '../helpers/quantized.ts';
import { tempDir } from '../helpers/temp.ts';

const root = join(import.meta.dirname, '..', '..');

const start = (args: string[]) =>
  spawn(process.execPath, ['dist/lib/cli/main.js', ...args], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });

async function finished(args: string[], child = start(args)) {
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout, stderr };
}

describe('mlx-node convert in a process of its own', () => {
  it.each(['SIGKILL', 'SIGINT'] as const)(
    'goes on after %s, and what it wrote before is not written again',
    async (signal) => {
      // Large enough, in small files, that a signal comes in between.
      const source = await randomCheckpoint({ ...configs.qwen3Moe, num_experts: 64, num_hidden_layers: 6 });
      const out = join(tempDir(), 'out');
      const args = ['convert', source, out, '--dtype', 'bfloat16', '--shard-size', '200KB'];
      const folder = join(dirname(out), '.tmp-convert-out');
      const shards = (): string[] =>
        existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.safetensors')) : [];
      const child = start(args);
      let stderr = '';
      child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
      const closed = once(child, 'close') as Promise<[number | null, string | null]>;
      while (shards().length < 3 && child.exitCode === null) await sleep(1);
      child.kill(signal);
      const [code, ended] = await closed;
      if (signal === 'SIGKILL') expect(ended).toBe('SIGKILL');
      else expect([code, stderr]).toEqual([130, 'mlx-node: stopped by SIGINT\n']);
      expect(existsSync(out)).toBe(false);
      const times = new Map(shards().map((name) => [name, statSync(join(folder, name)).mtimeMs]));
      expect(times.size).toBeGreaterThan(2);
      const { code: again, stderr: errors } = await finished(args);
      expect([again, errors]).toEqual([0, '']);
      for (const [name, time] of times) expect(statSync(join(out, name)).mtimeMs).toBe(time);
      const whole = join(tempDir(), 'whole');
      expect((await finished(['convert', source, whole, '--dtype', 'bfloat16', '--shard-size', '200KB'])).code).toBe(0);
      expect(tensorsOf(out)).toEqual(tensorsOf(whole));
      expect(readdirSync(out).toSorted()).toEqual(readdirSync(whole).toSorted());
      expect(existsSync(folder)).toBe(false);
    },
  );

  it.skipIf(process.platform === 'win32')('goes on after a write that failed in the middle of a file', async () => {
    // The stacked experts are in files of their own, larger than the process may write; those before them are not.
    const source = await randomCheckpoint({ ...configs.qwen3Moe, num_experts: 32 });
    const out = join(tempDir(), 'out');
    const args = ['convert', source, out, '--quantize', '--q-bits', '8', '--shard-size', '100KB'];
    const folder = join(dirname(out), '.tmp-convert-out');
    const command = `ulimit -f 256 && exec '${process.execPath}' dist/lib/cli/main.js "$@"`;
    const limited = spawn('bash', ['-c', command, 'bash', ...args], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    const { code, stderr } = await finished(args, limited);
    expect(code).toBe(1);
    expect(stderr).toContain('[ERR_MLX_SAVE]');
    expect(stderr).toMatch(/model-\d+-of-\d+\.safetensors: cannot write: .*a file of this size is not allowed/);
    expect(existsSync(out)).toBe(false);
    // No half file, under its name or another one.
    const left = readdirSync(folder).filter((name) => name !== 'conversion.json');
    expect(left.length).toBeGreaterThan(0);
    expect(left.filter((name) => !name.endsWith('.safetensors'))).toEqual([]);
    const times = new Map(left.map((name) => [name, statSync(join(folder, name)).mtimeMs]));
    const whole = join(tempDir(), 'whole');
    expect((await finished(['convert', source, whole, ...args.slice(3)])).code).toBe(0);
    expect((await finished(args)).code).toBe(0);
    for (const [name, time] of times) expect(statSync(join(out, name)).mtimeMs).toBe(time);
    expect(tensorsOf(out)).toEqual(tensorsOf(whole));
    expect(readdirSync(out).toSorted()).toEqual(readdirSync(whole).toSorted());
  });
});
