import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { MlxError } from '../../lib/errors.ts';
import { loadModel, Qwen3Model } from '../../lib/model.ts';
import type { LanguageModel } from '../../lib/model.ts';
import { calls, native, resetFake } from '../helpers/fake-native.ts';
import { tempDir } from '../helpers/temp.ts';
import { thrown } from '../helpers/thrown.ts';

vi.mock('../../lib/native.ts', () => import('../helpers/fake-native.ts'));

function checkpoint(): string {
  const dir = tempDir();
  writeFileSync(join(dir, 'config.json'), '{"model_type":"qwen3"}');
  writeFileSync(join(dir, 'tokenizer.json'), '{}');
  return dir;
}

const code = (wanted: string) => (error: unknown) => MlxError.isInstance(error, wanted);

async function load(): Promise<LanguageModel> {
  return await loadModel(checkpoint());
}

beforeEach(resetFake);

describe('loadModel', () => {
  it('gives the class of the model type', async () => {
    expect(await load()).toBeInstanceOf(Qwen3Model);
  });

  it('says what is wrong with a folder', async () => {
    await expect(loadModel('/nowhere/model')).rejects.toSatisfy(code('ERR_MLX_LOAD'));
    await expect(loadModel(tempDir())).rejects.toThrow(/no config\.json/);
    const adapter = tempDir();
    writeFileSync(join(adapter, 'adapter_config.json'), '{}');
    await expect(loadModel(adapter)).rejects.toThrow(/this is an adapter; load its base model/);
    const read = vi.spyOn(native().NativeModel, 'load');
    onTestFinished(() => read.mockRestore());
    const nowhere = { adapter: join(adapter, 'nowhere') };
    await expect(loadModel(checkpoint(), nowhere)).rejects.toThrow(/nowhere: there is no adapter_config\.json/);
    expect(read, 'gigabytes are not read for an adapter that is not there').not.toHaveBeenCalled();
    await expect(loadModel('x', { dype: 'float32' } as object)).rejects.toThrow("did you mean 'dtype'?");
    await expect(loadModel('x', { signal: AbortSignal.abort('no') })).rejects.toBe('no');
  });
});

describe('generate', () => {
  it('returns text, tokens, usage and timings', async () => {
    const model = await load();
    const result = await model.generate('hi', { maxTokens: 3 });
    const answer = { text: 'abc', tokens: [97, 98, 99], logprobs: [-1, -1, -1], finishReason: 'length' };
    expect(result).toEqual({
      ...answer,
      completions: [answer],
      usage: { promptTokens: '<user>hi<assistant>'.length, cachedTokens: 0, completionTokens: 3 },
      timings: { promptMs: 10, decodeMs: 20, promptTokensPerSecond: 1900, decodeTokensPerSecond: 150 },
    });
    expect(calls.closed).toBe(1);
  });

  it('takes a string as a user message unless raw is set, and token ids as they are', async () => {
    const model = await load();
    expect(model.encodePrompt('a')).toHaveLength('<user>a<assistant>'.length);
    expect(model.encodePrompt('a', { raw: true })).toEqual([97]);
    expect(model.encodePrompt([5, 6])).toEqual([5, 6]);
    expect(() => model.encodePrompt([])).toThrow(/must not be empty/);
  });

  it('refuses options that are unknown or out of range before any work', async () => {
    const model = await load();
    await expect(model.generate('a', { max_tokens: 3 } as object)).rejects.toThrow("did you mean 'maxTokens'?");
    await expect(model.generate('a', { topP: 0 })).rejects.toThrow(
      /topP of generate\(\) must be a number in \(0, 1\], got 0/,
    );
    expect(() => model.stream('a', { maxTokens: 1.5 })).toThrow(/whole number/);
    expect(calls.closed).toBe(0);
  });
});

describe('stream', () => {
  it('frees the generation when the loop is left early', async () => {
    const model = await load();
    const stream = model.stream('a', { maxTokens: 100 });
    let pieces = 0;
    for await (const { text } of stream) {
      expect(text).toHaveLength(1);
      pieces += 1;
      if (pieces === 2) break;
    }
    expect(calls.closed).toBe(1);
    expect(stream.result).toBeNull();
  });

  it('rejects with the reason of the signal and frees the generation', async () => {
    const model = await load();
    const stop = new AbortController();
    const run = async (): Promise<void> => {
      for await (const { tokens } of model.stream('a', { maxTokens: 100, signal: stop.signal }))
        if (tokens[0] === 98) stop.abort('enough');
    };
    await expect(run()).rejects.toBe('enough');
    expect(calls.closed).toBe(1);
    await expect(model.generate('a', { signal: AbortSignal.abort('never') })).rejects.toBe('never');
    expect(calls.closed).toBe(1);
  });

  it('cannot be iterated twice', async () => {
    const stream = (await load()).stream('a', { maxTokens: 1 });
    const result = await stream.collect();
    expect(await stream.collect()).toBe(result);
    const again = async (): Promise<void> => {
      for await (const chunk of stream) void chunk;
    };
    await expect(again()).rejects.toThrow(/iterated once/);
  });
});

describe('generateBatch', () => {
  it('groups the answers by prompt', async () => {
    const { completions, usage } = await (
      await load()
    ).generateBatch(['a', 'b'], { numGenerations: 3, maxTokens: 5, seed: 1 });
    expect(completions.map((group) => group.length)).toEqual([3, 3]);
    expect(usage.completionTokens).toBe(completions.flat().reduce((sum, { tokens }) => sum + tokens.length, 0));
  });
});

describe('save and dispose', () => {
  it('writes weights and tokenizer files, whole or not at all', async () => {
    const model = await load();
    const dir = join(tempDir(), 'deep', 'out');
    await model.save(dir);
    expect(readdirSync(dir).toSorted()).toEqual(['config.json', 'model.safetensors', 'tokenizer.json']);
    expect(JSON.parse(readFileSync(join(dir, 'model.safetensors'), 'utf8'))).toEqual([1, 2, 3, 4]);
    expect(existsSync(join(dir, '..', `.tmp-out-${process.pid}`))).toBe(false);
  });

  it('refuses use after dispose with a typed error; dispose twice is fine', async () => {
    const model = await load();
    model.dispose();
    model[Symbol.dispose]();
    expect(model.disposed).toBe(true);
    expect(() => model.dtype).toThrow(/has been disposed/);
    await expect(model.generate('a')).rejects.toSatisfy(code('ERR_MLX_DISPOSED'));
  });

  it('keeps the code of native errors', async () => {
    const model = await load();
    const error = thrown(() => model.forward([[1]]));
    expect(code('ERR_MLX_SHAPE')(error)).toBe(true);
    expect(error.cause).toBeInstanceOf(Error);
  });
});
