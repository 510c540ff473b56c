import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { run } from '../../lib/cli/run.ts';
import { MlxError } from '../../lib/errors.ts';
import { native } from '../helpers/fake-native.ts';
import { tempDir } from '../helpers/temp.ts';

vi.mock('../../lib/native.ts', () => import('../helpers/fake-native.ts'));

async function cli(args: string[], load = native) {
  let stdout = '';
  let stderr = '';
  const code = await run(
    args,
    { stdout: { write: (text) => (stdout += text) }, stderr: { write: (text) => (stderr += text) } },
    load,
  );
  return { code, stdout, stderr };
}

function broken(): never {
  throw new MlxError('ERR_MLX_ADDON', "the addon is missing\n  Run 'npm run build'");
}

function slow(): ReturnType<typeof native> {
  const info = { ...native().buildInfo(), flavour: 'cuda', blas: 'reference', compileAvailable: false };
  return { ...native(), buildInfo: () => info };
}

function checkpoint(): string {
  const dir = tempDir();
  writeFileSync(join(dir, 'config.json'), '{}');
  writeFileSync(join(dir, 'tokenizer.json'), '{}');
  return dir;
}

describe('mlx-node', () => {
  it('prints help and version on standard output with code 0, and examples in every help', async () => {
    expect((await cli(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
    for (const args of [['--help'], ['generate', '--help'], ['train', 'grpo', '--help'], ['doctor', '--help']]) {
      const { code, stdout, stderr } = await cli(args);
      expect([code, stderr], args.join(' ')).toEqual([0, '']);
      expect(stdout).toMatch(/Example/);
    }
  });

  it.each([
    [['generat'], /unknown command 'generat'.*generate/s],
    [['generate'], /missing required argument 'model'/],
    [['generate', 'm', '--max-token', '3'], /unknown option '--max-token'.*--max-tokens/s],
    [['generate', 'm', '-p', 'x', '-t', 'hot'], /--temperature must be a number from 0, got 'hot'/],
    [['train', 'grpo', 'missing.yaml'], /missing\.yaml: cannot be read/],
  ])('%j is a mistake in the arguments: code 2, clean standard output', async (args, text) => {
    const { code, stdout, stderr } = await cli(args);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(text);
  });

  it('fails with code 1 and the error code when a model is missing', async () => {
    const { code, stderr } = await cli(['generate', '/nowhere', '-p', 'x']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/no such folder.*\[ERR_MLX_LOAD\]/);
  });

  it('streams the answer, or prints one JSON object', async () => {
    const dir = checkpoint();
    expect((await cli(['generate', dir, '-p', 'x', '-n', '3'])).stdout).toBe('abc\n');
    const { stdout, stderr } = await cli(['generate', dir, '-p', 'x', '-n', '3', '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ text: 'abc', finishReason: 'length', usage: { completionTokens: 3 } });
    expect(stderr).toBe('');
  });

  it('shows what is installed', async () => {
    const { code, stdout } = await cli(['doctor', '--json']);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      addon: 'loaded',
      device: 'cpu',
      blas: 'fake',
      compile: true,
      problems: [],
    });
    expect((await cli(['doctor'])).stdout).toContain('Nothing is wrong.');
  });

  it('says what is wrong and the cure', async () => {
    const { code, stdout } = await cli(['doctor'], broken);
    expect(code).toBe(1);
    expect(stdout).toContain("! the addon is missing\n  -> Run 'npm run build'");
    expect(JSON.parse((await cli(['doctor', '--json'], slow)).stdout)).toHaveProperty('problems.length', 3);
  });

  it('checks a training file without training, and trains', async () => {
    const dir = tempDir();
    const file = join(dir, 'run.yaml');
    writeFileSync(join(dir, 'data.jsonl'), '{"prompt":"a","x":1}\n{"prompt":"b","x":2}\n');
    writeFileSync(
      join(dir, 'rewards.mjs'),
      'export const long = ({ completions }) => completions.map((text) => text.length);',
    );
    const write = (grpo: string): void =>
      writeFileSync(file, `model: ${checkpoint()}\ndataset: data.jsonl\nrewards: rewards.mjs\ngrpo: ${grpo}\n`);
    write('{ numGeneration: 4 }');
    expect((await cli(['train', 'grpo', file])).stderr).toContain("did you mean 'numGenerations'?");
    write('{ maxSteps: 2, maxCompletionLength: 4 }');
    expect((await cli(['train', 'grpo', file, '--check'])).stdout).toContain('2 prompts, 1 rewards, config is valid');
    const { code, stdout, stderr } = await cli(['train', 'grpo', file]);
    expect([code, stdout]).toEqual([0, '']);
    expect(stderr).toMatch(/GRPO 2 steps.*2\/2 {2}reward.*completed/s);
    writeFileSync(join(dir, 'data.jsonl'), '{"prompt":"a"}\n{oops\n');
    expect((await cli(['train', 'grpo', file])).stderr).toContain('data.jsonl:2');
  });
});
