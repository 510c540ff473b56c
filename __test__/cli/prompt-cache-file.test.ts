/** `mlx-node generate --prompt-cache-file` goes on from what `cache-prompt` has read; a chat and an answer keep to the bounds they are given. */
import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { run } from '../../lib/cli/run.ts';
import { loadModel } from '../../lib/index.ts';
import type { GenerateResult } from '../../lib/index.ts';
import { tempDir } from '../helpers/temp.ts';
import { tinyCheckpoint, tinyWideModel } from '../helpers/tiny.ts';

async function cli(args: string[], input?: string) {
  let [stdout, stderr] = ['', ''];
  const io = {
    stdout: { write: (t: string) => (stdout += t) },
    stderr: { write: (t: string) => (stderr += t) },
    ...(input === undefined ? {} : { stdin: Readable.from([Buffer.from(input)]) }),
  };
  return { code: await run(args, io as Parameters<typeof run>[1]), stdout, stderr };
}

const answer = ['--temp', '0', '--ignore-eos', '-n', '8', '--json'];

describe('mlx-node generate --prompt-cache-file', () => {
  it.each([
    ['in a conversation', ['-s', 'be kind'], 'hello, you', ' are late'],
    ['after a text', ['--raw'], 'abc', 'def'],
  ])('answers %s as if it had read the whole', async (_, flags, beginning, rest) => {
    const dir = tinyCheckpoint();
    const file = `${tempDir()}/cache.safetensors`;
    const raw = flags.includes('--raw');
    expect((await cli(['cache-prompt', '-m', dir, '--prompt-cache-file', file, ...flags, beginning])).code).toBe(0);
    const args = ['generate', '-m', dir, '--prompt-cache-file', file, ...(raw ? flags : []), ...answer, rest];
    const { code, stdout, stderr } = await cli(args);
    expect([code, stderr]).toEqual([0, '']);
    const got = JSON.parse(stdout) as GenerateResult;
    const whole = await cli(['generate', '-m', dir, ...flags, ...answer, beginning + rest]);
    const wanted = JSON.parse(whole.stdout) as GenerateResult;
    expect(got.tokens).toEqual(wanted.tokens);
    got.logprobs.forEach((logprob, i) => expect(logprob).toBeCloseTo(wanted.logprobs[i]!, 4));
    expect(got.usage.promptTokens).toBe(raw ? rest.length : `${rest}\nassistant: `.length);
    // The file is read, not written.
    expect((JSON.parse((await cli(args)).stdout) as GenerateResult).tokens).toEqual(got.tokens);
  });

  it("refuses another model's, and what a beginning that was read leaves no place for", async () => {
    const dir = tinyCheckpoint();
    const file = `${tempDir()}/cache.safetensors`;
    await cli(['cache-prompt', '-m', dir, '--prompt-cache-file', file, 'hello']);
    const generate = (model: string, ...flags: string[]) =>
      cli(['generate', '-m', model, '--prompt-cache-file', file, ...answer, ...flags, ' you']);
    const other = await generate(tinyCheckpoint());
    expect([other.code, other.stdout]).toEqual([2, '']);
    expect(other.stderr).toContain(`is what '${dir}' has read`);
    expect((await generate(dir, '-s', 'be kind')).stderr).toContain(
      '--system cannot be combined with --prompt-cache-file',
    );
    expect((await generate(dir, '--prefill-response', 'a')).stderr).toContain('--prefill-response cannot be combined');
    expect((await generate(dir, '--prompt-lookup')).code, 'guesses go with it').toBe(0);
    const missing = await cli(['generate', '-m', dir, '--prompt-cache-file', `${file}.no`, 'x']);
    expect([missing.code, missing.stdout]).toEqual([1, '']);
    expect(missing.stderr).toContain(`${file}.no`);
    const spelled = await generate(`${dir}/../${dir.split('/').at(-1)!}`);
    expect(spelled.code, 'the same folder').toBe(0);
  });
});

describe('mlx-node chat --prompt-cache-file', () => {
  it('goes on from it, turn after turn, as if it had read the whole', async () => {
    const dir = tinyCheckpoint();
    const file = `${tempDir()}/cache.safetensors`;
    await cli(['cache-prompt', '-m', dir, '--prompt-cache-file', file, '-s', 'be kind', 'hello, you']);
    const flags = ['chat', '-m', dir, '--temp', '0', '--ignore-eos', '-n', '6'];
    const rest = ' are late\nwhy?\n/regenerate\n/undo\nand now?\n/clear\n were here\n';
    const whole = rest.replaceAll(/^ /gm, 'hello, you ');
    for (const more of [[], ['--prompt-lookup'], ['--kv-bits', '8', '--kv-group-size', '32']]) {
      const wanted = more.includes('--kv-bits') ? undefined : await cli([...flags, ...more, '-s', 'be kind'], whole);
      const got = await cli([...flags, ...more, '--prompt-cache-file', file, '--verbose'], rest);
      if (wanted === undefined) {
        // Heads of this model are too small to be quantised: a typed error for each message.
        expect(got.code).toBe(1);
        expect(got.stderr).toContain('does not divide');
        continue;
      }
      expect([got.code, got.stdout]).toEqual([0, wanted.stdout]);
      // The second message reads what is new: its own text, and of the answer before what text does not say.
      const counts = [...got.stderr.matchAll(/prompt (\d+) tokens(?: \((\d+) known\))?/g)];
      const known = counts.map(([, all, before = '0']) => [Number(all), Number(before)]);
      const first = ' are late\nassistant: '.length;
      const added = '\nuser: why?\nassistant: '.length;
      expect(known[0]).toEqual([first, 0]);
      expect(known[1]![0]).toBeGreaterThan(first + added);
      expect(known[1]![1]).toBeGreaterThanOrEqual(first);
      expect(known[2], 'only the last token is read again').toEqual([known[1]![0], known[1]![0]! - 1]);
      expect(known.at(-1)![1], 'behind the beginning nothing is known of another message').toBeLessThanOrEqual(1);
    }
  });

  it("refuses another model's, a system message and another beginning", async () => {
    const dir = tinyCheckpoint();
    const file = `${tempDir()}/cache.safetensors`;
    await cli(['cache-prompt', '-m', dir, '--prompt-cache-file', file, 'hello']);
    const chat = (model: string, input: string, ...flags: string[]) =>
      cli(['chat', '-m', model, '--prompt-cache-file', file, '-n', '2', ...flags], input);
    const other = await chat(tinyCheckpoint(), 'x\n');
    expect([other.code, other.stdout]).toEqual([2, '']);
    expect(other.stderr).toContain(`is what '${dir}' has read`);
    for (const flag of ['--system', '--load', '--max-kv-size'])
      expect((await chat(dir, 'x\n', flag, '9')).stderr).toMatch(/--prompt-cache-file/);
    const late = await chat(dir, '/system be kind\nx\n');
    expect([late.code, late.stdout.trim()]).toEqual([1, '']);
    expect(late.stderr).toContain('a system message cannot be combined with --prompt-cache-file');
  });
});

describe('bounds', () => {
  it('hold in generate and in chat', async () => {
    const model = await tinyWideModel();
    const dir = `${tempDir()}/wide`;
    await model.save(dir);
    model.dispose();
    const prompt = 'a prompt of some length, to be forgotten';
    const ask = async (...flags: string[]) => {
      const { code, stdout, stderr } = await cli(['generate', '-m', dir, ...answer, ...flags, prompt]);
      expect([code, stderr]).toEqual([0, '']);
      return JSON.parse(stdout) as GenerateResult;
    };
    const flags = {
      bounded: ['--max-kv-size', '16'],
      quantised: ['--kv-bits', '8', '--kv-group-size', '32', '--quantized-kv-start', '0'],
    };
    const plain = await ask();
    for (const [name, options] of [
      ['bounded', { maxKvSize: 16 }],
      ['quantised', { kvBits: 8, kvGroupSize: 32 }],
    ] as const) {
      const got = await ask(...flags[name]);
      expect(got.logprobs, name).not.toEqual(plain.logprobs);
      const loaded = await loadModel(dir);
      const wanted = await loaded.generate(prompt, { ...options, maxTokens: 8, temperature: 0, ignoreEos: true });
      expect(got.logprobs).toEqual(wanted.logprobs);
      loaded.dispose();
      const talk = ['chat', '-m', dir, '--temp', '0', '-n', '6', '--ignore-eos', ...flags[name]];
      const chat = await cli(talk, 'one\ntwo\n');
      expect([chat.code, chat.stderr]).toEqual([0, '']);
    }
  });
});
