import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { run } from '../../lib/cli/run.ts';
import { settingNames } from '../../lib/cli/sampling.ts';
import { MlxError } from '../../lib/errors.ts';
import { generateKeys } from '../../lib/sampling.ts';
import { calls, FakeModel, native } from '../helpers/fake-native.ts';
import { tempDir } from '../helpers/temp.ts';

vi.mock('../../lib/native.ts', () => import('../helpers/fake-native.ts'));

async function cli(args: string[], load = native, input?: string) {
  let stdout = '';
  let stderr = '';
  const code = await run(
    args,
    {
      ...(input === undefined ? {} : { stdin: Readable.from([Buffer.from(input)]) }),
      stdout: { write: (text) => (stdout += text) },
      stderr: { write: (text) => (stderr += text) },
    },
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

/** The options of every request, and a look at every step. */
function watchEngine(onStep = (): void => undefined): object[] {
  const seen: object[] = [];
  const create = Reflect.get(FakeModel.prototype, 'createEngine');
  const spy = vi.spyOn(FakeModel.prototype, 'createEngine').mockImplementation(function (this: FakeModel, ...args) {
    const engine = create.apply(this, args);
    return {
      ...engine,
      submit: (ids, options) => {
        seen.push(options);
        return engine.submit(ids, options);
      },
      next: () => {
        onStep();
        return engine.next();
      },
    };
  });
  onTestFinished(() => spy.mockRestore());
  return seen;
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
    for (const args of [
      ['--help'],
      ['generate', '--help'],
      ['chat', '--help'],
      ['bench', '--help'],
      ['cache-prompt', '--help'],
      ['help', '--help'],
      ['help', 'cache', 'ls'],
      ['train', 'grpo', '--help'],
      ['quantize', '--help'],
      ['dequantize', '--help'],
      ['convert', '--help'],
      ['inspect', '--help'],
      ['perplexity', '--help'],
      ['download', '--help'],
      ['cache', 'list', '--help'],
      ['cache', 'remove', '--help'],
      ['doctor', '--help'],
    ]) {
      const { code, stdout, stderr } = await cli(args);
      expect([code, stderr], args.join(' ')).toEqual([0, '']);
      expect(stdout).toMatch(/Example/);
    }
  });

  it.each([
    [['generat'], /unknown command 'generat'.*generate/s],
    [['generate', 'x'], /required option '-m, --model <model>' not specified/],
    [['generate', '-m', 'm', '--max-token', '3'], /unknown option '--max-token'.*--max-tokens/s],
    [['generate', '-m', 'm', 'x', '-t', 'hot'], /--temperature must be a number from 0.*, got "hot"/],
    [['generate', '-m', 'm', 'x', '--temp', '-1'], /--temp must be a number from 0.*, got -1/],
    [['generate', '-m', 'm', 'x', '--stop', ''], /--stop must be a text or a list of texts, none of them empty/],
    [
      ['generate', '-m', 'm', 'x', '--prefill-step-size', '0'],
      /--prefill-step-size must be a whole number from 1, got 0/,
    ],
    [
      ['generate', '-m', 'm', 'x', '--stop-token-ids', '1,x'],
      /--stop-token-ids must be token ids, such as 1,2,3, got '1,x'/,
    ],
    [['generate', '-m', 'm', 'x', '-p', 'y'], /the prompt is given twice/],
    [['generate', '-m', 'm', 'x', '--chat-template-config', '{'], /--chat-template-config must be JSON/],
    [['generate', '-m', 'm', 'x', '--chat-template-config', '[1]'], /--chat-template-config must be an object/],
    [
      ['generate', '-m', 'm', 'x', '--draft-model', 'd', '--prompt-lookup'],
      /--draft-model or from --prompt-lookup, not/,
    ],
    [
      ['generate', '-m', 'm', 'x', '--num-draft-tokens', '3'],
      /--num-draft-tokens needs --draft-model or --prompt-lookup/,
    ],
    [
      ['generate', '-m', 'm', 'x', '--prompt-lookup', '--num-draft-tokens', '0'],
      /--num-draft-tokens must be a whole number from 1, got '0'/,
    ],
    [['generate', '-m', 'm', 'x', '--prompt-lookup-min-ngram', '2'], /--prompt-lookup-min-ngram needs --prompt-lookup/],
    [
      ['generate', '-m', 'm', 'x', '--prompt-lookup', '--prompt-lookup-min-ngram', '4'],
      /--prompt-lookup-min-ngram \(4\) is above --prompt-lookup-max-ngram \(3\)/,
    ],
    [['chat', '-m', 'm', '--json-object', '--regex', 'a'], /--json-object and --regex cannot go together/],
    [['chat', '-m', 'm', '--fast-forward'], /--fast-forward needs a format of the answer/],
    [['generate', '-m', 'm', 'x', '--format-after-thinking'], /--format-after-thinking needs a format/],
    [['generate', '-m', 'm', 'x', '--json-schema', '{'], /takes JSON or a file with it; it cannot be parsed/],
    [['generate', '-m', 'm', 'x', '--json-schema', 'no.json'], /--json-schema: no\.json cannot be read/],
    [['bench', '-m', 'm', '-b', '0'], /--batch-size must be a whole number from 1, got '0'/],
    [['generate', '-m', 'm', 'x', '--max-kv-size', '0'], /--max-kv-size.*1/],
    [['generate', '-m', 'm', 'x', '--kv-bits', '7'], /--kv-bits must be one of 2, 3, 4, 5, 6, 8, got 7/],
    [['generate', '-m', 'm', 'x', '--kv-group-size', '64'], /--kv-group-size needs --kv-bits/],
    [['chat', '-m', 'm', '--quantized-kv-start', '9'], /--quantized-kv-start needs --kv-bits/],
    [['chat', '-m', 'm', '--keep', '2'], /--keep belongs to a bounded cache/],
    [
      ['generate', '-m', 'm', 'x', '--max-kv-size', '9', '--prompt-cache-file', 'f'],
      /--max-kv-size belongs to the command/,
    ],
    [['chat', '-m', 'm', '--context-shift', 'none'], /'none' is invalid.*truncate-oldest/],
    [['chat', '-m', 'm'], /standard input is closed/],
    [['help', 'generat'], /unknown command 'generat'.*'generate'/],
    [['help', 'train', 'ppo'], /unknown command 'ppo' of train/],
    [['generate', '-m', 'm', 'x', '--dtype', 'int4'], /'int4' is invalid.*float32, bfloat16/],
    [['generate', '-m', 'm', ''], /there is no prompt/],
    [['train', 'grpo', 'missing.yaml'], /missing\.yaml: cannot be read/],
  ])('%j is a mistake in the arguments: code 2, clean standard output', async (args, text) => {
    const { code, stdout, stderr } = await cli(args);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(text);
  });

  it('fails with code 1 and the error code when a model is missing', async () => {
    const { code, stderr } = await cli(['generate', '--model', '/nowhere', 'x']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/no such folder.*\[ERR_MLX_LOAD\]/);
  });

  it('streams the answer, or prints one JSON object', async () => {
    const dir = checkpoint();
    expect((await cli(['generate', '--model', dir, 'x', '-n', '3'])).stdout).toBe('abc\n');
    const { stdout, stderr } = await cli(['generate', '--model', dir, 'x', '-n', '3', '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ text: 'abc', finishReason: 'length', usage: { completionTokens: 3 } });
    expect(stderr).toBe('');
  });

  it('takes the prompt from the argument, --prompt, - and standard input', async () => {
    const generate = ['generate', '-m', checkpoint(), '-n', '3', '--json'];
    const promptTokens = async (args: string[], input?: string): Promise<number> => {
      const { stdout } = await cli([...generate, ...args], native, input);
      return (JSON.parse(stdout) as { usage: { promptTokens: number } }).usage.promptTokens;
    };
    const chat = '<user>abcd<assistant>'.length;
    expect(await promptTokens(['abcd'])).toBe(chat);
    expect(await promptTokens(['--prompt', 'abcd'])).toBe(chat);
    expect(await promptTokens(['-'], 'abcd\n')).toBe(chat);
    expect(await promptTokens([], 'abcd')).toBe(chat);
    expect(await promptTokens(['abcd', '--raw'])).toBe(4);
    expect(await promptTokens(['abcd', '--ignore-chat-template'])).toBe(4);
    expect(await promptTokens(['abcd', '--system-prompt', 'no'])).toBe('<system>no'.length + chat);
    // The answer is open where it begins.
    expect(await promptTokens(['abcd', '--prefill-response', 'yes, '])).toBe('<user>abcd<assistant>yes, '.length);
  });

  it('passes what is given of sampling to the model, and nothing else', async () => {
    const seen = watchEngine();
    const generate = ['generate', '-m', checkpoint(), 'x', '--json'];
    expect((await cli([...generate, '--temp', '0.5', '--top-k', '7', '--seed', '3', '--ignore-eos'])).code).toBe(0);
    expect(seen.at(-1)).toMatchObject({
      temperature: 0.5,
      topK: 7,
      seed: 3,
      ignoreEos: true,
      maxTokens: 256,
    });
    await cli([...generate, '-n', '4', '--stop', 'x', '--stop', 'yz', '--top-logprobs', '2']);
    expect(seen.at(-1)).toMatchObject({ stop: ['x', 'yz'], topLogprobs: 2 });
    await cli([...generate, '-n', '4', '--extra-eos-token', 'x', 'y']);
    expect(seen.at(-1)).toMatchObject({ temperature: 0, stopTokenIds: [0, 120, 121] });
    expect((await cli([...generate, '--extra-eos-token', 'two'])).stderr).toContain(
      "'two' is not one token of this model",
    );
    expect((await cli([...generate, '--raw', '-s', 'x'])).stderr).toContain('--system needs the chat template');
  });

  it('has a flag for every option of a request', async () => {
    // Nothing that a shell can give; --json has one answer.
    const others = ['tools', 'signal', 'onProgress', 'logitsProcessors', 'n', 'prefixCache'];
    const flags: Record<string, string[]> = {
      draftModel: ['--draft-model <model>'],
      fastForward: ['--fast-forward'],
      numDraftTokens: ['--num-draft-tokens <n>'],
      promptLookup: ['--prompt-lookup ', '--prompt-lookup-max-ngram <n>', '--prompt-lookup-min-ngram <n>'],
      responseFormat: ['--json-schema <schema>', '--json-object', '--regex <pattern>', '--grammar <file>'],
      formatAfterThinking: ['--format-after-thinking'],
      chatTemplateOptions: ['--chat-template-config <json>'],
      maxKvSize: ['--max-kv-size <n>'],
      keep: ['--keep <n>'],
      kvBits: ['--kv-bits <n>'],
      kvGroupSize: ['--kv-group-size <n>'],
      quantizedKvStart: ['--quantized-kv-start <n>'],
      raw: ['--raw'],
      promptCache: ['--prompt-cache-file <file>'],
    };
    const alone = new Set(['--raw', '--prompt-cache-file <file>']);
    expect([...settingNames, ...Object.keys(flags), ...others].toSorted()).toEqual(generateKeys.toSorted());
    const { stdout: generate } = await cli(['generate', '--help']);
    for (const flag of Object.values(flags).flat()) expect(generate).toContain(flag);
    const { stdout: chat } = await cli(['chat', '--help']);
    for (const flag of Object.values(flags).flat()) if (!alone.has(flag)) expect(chat).toContain(flag);
  });

  it('says what the model is to remember', async () => {
    const cache = { maxKvSize: 64, keep: 2, kvBits: 4, kvGroupSize: 64, quantizedKvStart: 5000 };
    const flags = ['--max-kv-size', '64', '--keep', '2', '--kv-bits', '4'];
    await cli(['generate', '-m', checkpoint(), 'x', '-n', '2', ...flags], native);
    expect(calls.engines.at(-1)?.limits).toEqual({ maxBatchSize: 1, alone: true, cache });
    const start = ['--kv-group-size', '32', '--quantized-kv-start', '0'];
    await cli(['chat', '-m', checkpoint(), '-n', '2', ...flags, ...start], native, 'x\n');
    expect(calls.engines.at(-1)?.limits).toMatchObject({ cache: { ...cache, kvGroupSize: 32, quantizedKvStart: 0 } });
  });

  it('speculates with a draft model or with the prompt, and says how many guesses were right', async () => {
    const dispose = vi.spyOn(FakeModel.prototype, 'dispose');
    onTestFinished(() => dispose.mockRestore());
    const generate = ['generate', '-m', checkpoint(), 'x', '-n', '4'];
    const drafted = await cli([...generate, '--draft-model', checkpoint(), '--num-draft-tokens', '3', '--json']);
    expect(JSON.parse(drafted.stdout)).toMatchObject({
      speculation: { draftTokens: 8, acceptedTokens: 6, acceptanceRate: 0.75, plainTokens: 0 },
    });
    expect(calls.engines.at(-1)).toMatchObject({ limits: { numDraftTokens: 3 }, draft: expect.any(FakeModel) });
    expect(dispose).toHaveBeenCalledTimes(2);
    const looked = await cli([...generate, '--prompt-lookup', '--prompt-lookup-max-ngram', '5', '-v']);
    expect(looked.stderr).toContain('Speculation: 6 of 8 guesses accepted (75.0 %)\n');
    expect(calls.engines.at(-1)).toEqual({
      limits: { maxBatchSize: 1, alone: true, promptLookup: { maxNgramSize: 5 } },
      draft: undefined,
    });
    const chat = ['chat', '-m', checkpoint(), '--prompt-lookup', '--prompt-lookup-min-ngram', '2', '-v', '-n', '4'];
    expect((await cli(chat, native, 'x\n')).stderr).toContain('6 of 8 guesses accepted (75.0 %)');
    expect(calls.engines.at(-1)?.limits).toMatchObject({ promptLookup: { minNgramSize: 2 } });
    expect((await cli([...generate, '-v'])).stderr).not.toContain('Speculation');
  });

  it('asks for a format: a schema or a file with it, an expression, a grammar', async () => {
    const seen = watchEngine();
    const generate = ['generate', '-m', checkpoint(), 'x', '-n', '4'];
    const file = join(tempDir(), 'schema.json');
    writeFileSync(file, '{ "type": "integer" }');
    const lark = join(tempDir(), 'start.lark');
    writeFileSync(lark, 'start: "a"');
    const schema = { type: 'json_schema', json_schema: { schema: { type: 'integer' } } };
    for (const [flags, format] of [
      [['--json-schema', file], schema],
      [['--json-schema', ' {"type":"integer"}'], schema],
      [['--json-object'], { type: 'json_object' }],
      [['--regex', '[0-9]+'], { type: 'regex', regex: '[0-9]+' }],
      [['--grammar', lark], { type: 'grammar', grammar: { syntax: 'lark', definition: 'start: "a"' } }],
    ] as const) {
      expect((await cli([...generate, ...flags])).stderr).toBe('');
      expect(JSON.parse((seen.at(-1) as { responseFormat: string }).responseFormat)).toEqual(format);
    }
    await cli(['chat', '-m', checkpoint(), '--regex', 'a+', '-n', '4'], native, 'x\n');
    expect(seen.at(-1)).toMatchObject({ responseFormat: '{"type":"regex","regex":"a+"}' });
    await cli([...generate, '--json-object', '--format-after-thinking']);
    expect(seen.at(-1)).toMatchObject({ responseFormat: '{"type":"json_object"}', formatAfterThinking: true });
    await cli(generate);
    expect(seen.at(-1)).not.toHaveProperty('responseFormat');
  });

  it("prints mlx-lm's lines with --verbose, on standard error", async () => {
    const { stdout, stderr } = await cli(['generate', '-m', checkpoint(), 'abcd', '-n', '4', '-v', '--raw']);
    expect(stdout).toBe('abcd\n');
    expect(stderr).toBe(
      '==========\nPrompt: 4 tokens, 400.000 tokens-per-sec\nGeneration: 4 tokens, 200.000 tokens-per-sec\nPeak memory: 2.000 GB\n',
    );
  });

  it('prints JSON alone also when Ctrl-C stops the answer', async () => {
    let stdout = '';
    let steps = 0;
    watchEngine(() => void ((steps += 1) === 3 && process.emit('SIGINT', 'SIGINT')));
    const io = { stdout: { write: (text: string) => (stdout += text) }, stderr: { write: () => true } };
    expect(await run(['generate', '--model', checkpoint(), 'x', '--json'], io)).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({ text: 'a', tokens: [97], finishReason: 'interrupted' });
  });

  it('keeps what is written when Ctrl-C stops the answer, and ends with 130', async () => {
    let stdout = '';
    let stderr = '';
    const write = (text: string): void => {
      stdout += text;
      if (stdout === 'abc') process.emit('SIGINT', 'SIGINT');
    };
    const io = { stdout: { write }, stderr: { write: (text: string) => (stderr += text) } };
    const code = await run(['generate', '--model', checkpoint(), 'x', '-n', '20'], io);
    expect([code, stdout, stderr]).toEqual([130, 'abc\n', 'mlx-node: stopped by SIGINT\n']);
    expect(process.listenerCount('SIGINT')).toBe(0);
  });

  it('shows on a terminal how far loading is, and wipes it away', async () => {
    vi.useFakeTimers({ toFake: ['Date'] });
    onTestFinished(() => void vi.useRealTimers());
    const { NativeModel } = native();
    const load: typeof NativeModel.load = async (dir, options, cancel, onProgress) => {
      for (const loaded of [0, 5e8, 2e9]) {
        vi.advanceTimersByTime(150);
        onProgress!(loaded, 2e9);
      }
      const model = await real(dir, options, cancel, onProgress);
      // Reports come from another thread and may be late.
      setImmediate(() => onProgress!(2e9, 2e9));
      return model;
    };
    const real = NativeModel.load.bind(NativeModel);
    const spy = vi.spyOn(NativeModel, 'load').mockImplementation(load);
    onTestFinished(() => spy.mockRestore());
    let stderr = '';
    const io = { stdout: { write: () => {} }, stderr: { write: (text: string) => (stderr += text), isTTY: true } };
    const dir = checkpoint();
    expect(await run(['generate', '--model', dir, 'x', '-n', '3'], io)).toBe(0);
    const shown = (percent: number): string => `\r\x1b[2KLoading ${dir}: ${percent} % of 2.0 GB`;
    expect(stderr).toBe(`${shown(0)}${shown(25)}${shown(100)}\r\x1b[2K`);
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
