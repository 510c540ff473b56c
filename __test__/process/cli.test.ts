import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { tinyCheckpoint } from '../helpers/tiny.ts';

const root = join(import.meta.dirname, '..', '..');

function node(args: string[], input = '') {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, input, encoding: 'utf8' });
  return { status, signal, stdout, stderr };
}

const cli = (args: string[], input?: string) => node(['dist/lib/cli/main.js', ...args], input);

const tokens = (text: string): number[] => (JSON.parse(text) as { tokens: number[] }).tokens;

describe('the package in a process of its own', () => {
  it('is silent when it is imported, and lets the process end', () => {
    expect(node(['--input-type=module', '-e', "await import('mlx-node')"])).toEqual({
      status: 0,
      signal: null,
      stdout: '',
      stderr: '',
    });
  });

  it('generates to standard output and nothing else, from an argument or from standard input', () => {
    const model = tinyCheckpoint();
    const args = ['generate', '--model', model, '-n', '5', '--temperature', '0', '--json'];
    const given = cli([...args, 'abc']);
    expect([given.status, given.stderr]).toEqual([0, '']);
    const piped = cli(args, 'abc\n');
    expect(tokens(piped.stdout)).toEqual(tokens(given.stdout));
  });

  it('ends quietly when nobody reads on', async () => {
    const args = ['dist/lib/cli/main.js', 'generate', '--model', tinyCheckpoint(), 'abc'];
    const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.destroy();
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const [code] = (await once(child, 'close')) as [number | null];
    expect([code, stderr]).toEqual([141, '']);
  });

  it('reports what it runs on', () => {
    const { status, stdout } = cli(['doctor', '--json']);
    expect(status, stdout).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ addon: 'loaded', mlx: expect.stringMatching(/^\d+\.\d+/) as string });
  });
});
