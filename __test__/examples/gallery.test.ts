import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { tempDir } from '../helpers/temp.ts';

const root = join(import.meta.dirname, '..', '..');
const examples = ['linear-regression', 'mlp', 'char-transformer'];

/** What takes longer than a minute (five to ten seconds are usual) is stopped, and ends without a status. */
function run(name: string, args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'dist/examples', `${name}.js`), ...args], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  return { status, stdout, stderr };
}

/** Runs an example and gives what it printed and the page that it wrote. */
function learn(name: string, args: string[]) {
  const page = join(tempDir(), 'charts', 'page.html');
  return { ...run(name, [...args, '--output', page]), page: () => readFileSync(page, 'utf8') };
}

const verdict = (text: string): string | undefined => /learned: .*/.exec(text)?.[0];

describe('the gallery', () => {
  it.each(examples)('%s explains its options and refuses wrong ones', (name) => {
    const help = run(name, ['--help']);
    expect(help).toMatchObject({ status: 0, stderr: '' });
    expect(help.stdout).toMatch(/--steps +[^\n]+\(\d+\)/);
    expect(run(name, ['--steps', 'many'])).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("--steps must be a whole number of at least 1, not 'many'") as string,
    });
    expect(run(name, ['--stepz', '3']).status).toBe(2);
  });

  it('linear regression finds the slopes; a seed fixes what it finds', () => {
    const first = learn('linear-regression', []);
    expect(first.status, first.stdout + first.stderr).toBe(0);
    expect(first.stdout).toContain('learned: ');
    expect(first.page()).toContain('slope 3: 0.5');
    expect(verdict(learn('linear-regression', []).stdout)).toBe(verdict(first.stdout));
    expect(verdict(learn('linear-regression', ['--seed', '1']).stdout)).not.toBe(verdict(first.stdout));
  });

  it('what has not learned ends with code 1', () => {
    const stopped = learn('linear-regression', ['--steps', '2']);
    expect(stopped).toMatchObject({ status: 1, stdout: expect.stringContaining('NOT learned') as string });
  });

  it('two adapters of one model each do what they were taught', () => {
    const { status, stdout, stderr } = run('adapters', []);
    expect(status, stdout + stderr).toBe(0);
    expect(stdout).toMatch(/^first: (\d+)\+\d+=\1$/m);
    expect(stdout).toMatch(/^second: \d+\+(\d+)=\1$/m);
    expect(run('adapters', ['--steps', '1'])).toMatchObject({
      status: 1,
      stdout: expect.stringContaining('NOT learned') as string,
    });
  });

  it('the network of digits reads new pictures', () => {
    const { status, stdout, stderr, page } = learn('mlp', []);
    expect(status, stdout + stderr).toBe(0);
    expect(Number(/([\d.]+) % of 1000 new pictures/.exec(stdout)?.[1])).toBeGreaterThan(95);
    expect(page().match(/data:image\/bmp/g)).toHaveLength(24);
    expect(page().match(/<figure class="chart"/g)).toHaveLength(2);
  });

  it('the transformer of letters comes near the entropy of its text, and writes right sentences', () => {
    const { status, stdout, stderr, page } = learn('char-transformer', []);
    expect(status, stdout + stderr).toBe(0);
    const [, times, right] = /([\d.]+) times the entropy; (\d+) % of its \d+ sentences/.exec(stdout) ?? [];
    expect(Number(times)).toBeLessThan(1.5);
    // The text averages less than the entropy only by chance of its 20 last steps.
    expect(Number(times)).toBeGreaterThan(0.9);
    expect(Number(right)).toBeGreaterThan(80);
    expect(page()).toContain('entropy of the text');
  });
});
