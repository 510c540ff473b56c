import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { tempDir } from '../helpers/temp.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';

const root = join(import.meta.dirname, '..', '..');

function node(args: string[], input = '') {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, input, encoding: 'utf8' });
  return { status, signal, stdout, stderr };
}

const cli = (args: string[], input?: string) => node(['dist/lib/cli/main.js', ...args], input);

const tokens = (text: string): number[] => (JSON.parse(text) as { tokens: number[] }).tokens;

const positive: unknown = expect.toSatisfy((value: number) => value > 0);

/** The tiny model with a context in which an answer takes its time. */
function longCheckpoint(): string {
  const dir = tinyCheckpoint();
  const path = join(dir, 'config.json');
  const config = JSON.parse(readFileSync(path, 'utf8')) as object;
  writeFileSync(path, JSON.stringify({ ...config, max_position_embeddings: 30_000 }));
  return dir;
}

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

  it('speculates with the same answer, and answers in a format', () => {
    const args = ['generate', '--model', 'examples/tiny-qwen3', '12+34=', '--json', '-n', '20', '--ignore-eos'];
    const plain = cli([...args]);
    const [drafted, looked] = [['--draft-model', 'examples/tiny-qwen3'], ['--prompt-lookup']].map((flags) => {
      const { status, stdout, stderr } = cli([...args, ...flags]);
      expect([status, stderr]).toEqual([0, '']);
      expect(tokens(stdout)).toEqual(tokens(plain.stdout));
      return JSON.parse(stdout) as { speculation: object };
    });
    expect(drafted!.speculation).toMatchObject({ acceptanceRate: 1 });
    expect(looked!.speculation).toMatchObject({ acceptanceRate: expect.any(Number) });
    const formed = cli(['generate', '--model', 'examples/tiny-qwen3', '12+34=', '--regex', '[0-9]{3}']);
    expect([formed.status, formed.stderr]).toEqual([0, '']);
    expect(formed.stdout).toMatch(/^[0-9]{3}\n$/);
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

  it('stops at Ctrl-C, keeps what is written, and ends with 130', async () => {
    const args = ['dist/lib/cli/main.js', 'generate', '-m', longCheckpoint(), '-n', '20000', '--ignore-eos', 'abc'];
    const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (stdout === '') child.kill('SIGINT');
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const [code] = (await once(child, 'close')) as [number | null];
    expect([code, stderr]).toEqual([130, 'mlx-node: stopped by SIGINT\n']);
    expect(stdout).toMatch(/[^\n]\n$/);
    expect(stdout.length).toBeLessThan(20000);
  });

  it("measures with mlx-lm's columns, or as JSON alone", () => {
    const args = ['bench', '-m', tinyCheckpoint(), '-p', '8', '-g', '4', '-n', '2'];
    const { status, stdout, stderr } = cli(args);
    expect([status, stderr]).toEqual([0, '']);
    const columns = String.raw`prompt_tps=\d+\.\d{3}, generation_tps=\d+\.\d{3}, peak_memory=\d+\.\d{3}`;
    expect(stdout).toMatch(
      new RegExp(
        String.raw`^Running warmup\.\.\nTiming with prompt_tokens=8, generation_tokens=4, batch_size=1\.\n` +
          String.raw`Trial 1:  ${columns}, total_time=\d+\.\d{3}\nTrial 2:  ${columns}, total_time=\d+\.\d{3}\nAverages: ${columns}\n$`,
      ),
    );
    const report = JSON.parse(cli([...args, '-b', '3', '--json']).stdout) as { averages: object; trials: object[] };
    expect(report).toMatchObject({
      promptTokens: 8,
      generationTokens: 4,
      batchSize: 3,
      averages: { promptTps: positive },
    });
    expect(report.trials).toHaveLength(2);
    expect(report.trials[0]).toMatchObject({ generationTps: positive, peakMemory: positive, totalTime: positive });
  });

  it('talks over a pipe', () => {
    const { status, stdout, stderr } = cli(['chat', '-m', tinyCheckpoint(), '-n', '4', '--temp', '0'], 'one\ntwo\n');
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/.\n$/s);
    expect(stdout).not.toContain('\x1b');
  });

  it('talks at a terminal: Ctrl-C stops the answer, not the program; Tab completes', () => {
    const state = tempDir();
    const model = longCheckpoint();
    // What to wait for, and what to type then.
    const steps = [
      ['>>> ', 'hello\r'],
      ['hello\\s+\\S{5}', '\x03'],
      ['Stopped.*>>> ', '/stats\r'],
      ['2 messages.*>>> ', '/exi\t'],
      ['/exit', '\r'],
    ];
    const script = join(import.meta.dirname, 'terminal.py');
    const { status, stdout, stderr } = spawnSync(
      'python3',
      [script, process.execPath, 'dist/lib/cli/main.js', 'chat', '-m', model, '--ignore-eos'],
      {
        cwd: root,
        input: JSON.stringify(steps),
        encoding: 'utf8',
        env: { ...process.env, XDG_STATE_HOME: state, TERM: 'xterm', NO_COLOR: '' },
      },
    );
    expect([status, stderr], stdout.slice(-500)).toEqual([0, '']);
    expect(stdout).toContain('\x1b[2m');
    expect(readFileSync(join(state, 'mlx-node', 'chat-history'), 'utf8')).toBe('"hello"\n"/stats"\n"/exit"\n');
  });

  it('reports what it runs on', () => {
    const { status, stdout } = cli(['doctor', '--json']);
    expect(status, stdout).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ addon: 'loaded', mlx: expect.stringMatching(/^\d+\.\d+/) as string });
  });
});
