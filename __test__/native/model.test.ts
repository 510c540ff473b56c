import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createModel, loadModel, MlxError, MxArray, Qwen3Model } from '../../lib/index.ts';
import type { LanguageModel } from '../../lib/index.ts';
import { goldenPath, readSafetensors } from '../helpers/golden.ts';
import { tempDir } from '../helpers/temp.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';

const code = (wanted: string) => (error: unknown) => MlxError.isInstance(error, wanted);

const embedding = (model: LanguageModel): Float32Array =>
  model.parameters().get('model.embed_tokens.weight')!.toFloat32();

describe('a loaded model', () => {
  it('says what it is', async () => {
    const progress: number[] = [];
    const model = await loadModel(tinyCheckpoint(), {
      onProgress: ({ loaded, total }) => void progress.push(loaded / total),
    });
    expect(model).toBeInstanceOf(Qwen3Model);
    expect([model.modelType, model.vocabSize, model.contextLength, model.eosTokenIds]).toEqual(['qwen3', 64, 128, [1]]);
    expect(model.numTrainable).toBe(model.numParameters);
    expect(progress.at(-1)).toBe(1);
    expect([...model.parameters().keys()]).toContain('model.layers.1.mlp.down_proj.weight');
    model.dispose();
  });

  it("gives transformers' logits", async () => {
    const io = readSafetensors(goldenPath('models', 'qwen3', 'io.safetensors'));
    const model = await loadModel(goldenPath('models', 'qwen3'), { dtype: 'float32' });
    const ids = io.get('single_ids')!;
    const logits = model.forward(MxArray.fromInt32(Int32Array.from(ids.data), ids.shape));
    const want = io.get('single_logits')!;
    expect(logits.shape).toEqual(want.shape);
    const got = logits.toFloat32();
    const worst = want.data.reduce((most, value, i) => Math.max(most, Math.abs(value - got[i]!)), 0);
    expect(worst).toBeLessThan(1e-4);
    model.dispose();
  });

  it('encodes strings as user messages and conversations through the template', async () => {
    const model = await loadModel(tinyCheckpoint());
    const text = (ids: number[]) => model.tokenizer.decode(ids, { skipSpecialTokens: false });
    expect(text(model.encodePrompt('hi'))).toBe('user: hi\nassistant: ');
    expect(text(model.encodePrompt('hi', { raw: true }))).toBe('hi');
    expect(text(model.encodePrompt([{ role: 'system', content: 'be' }]))).toBe('system: be\nassistant: ');
    model.dispose();
  });
});

describe('createModel', () => {
  it('makes random weights from a config, the same for the same seed, and saves them as a checkpoint', async () => {
    const path = tinyCheckpoint();
    rmSync(join(path, 'model.safetensors'));
    const [one, two, other] = [
      await createModel(path, { seed: 1 }),
      await createModel(path, { seed: 1 }),
      await createModel(path),
    ];
    expect(embedding(two)).toEqual(embedding(one));
    expect(embedding(other)).not.toEqual(embedding(one));
    const dir = join(tempDir(), 'saved');
    await one.save(dir);
    const loaded = await loadModel(dir, { dtype: 'float32' });
    expect(embedding(loaded)).toEqual(embedding(one));
    expect(loaded.encodePrompt('ab', { raw: true })).toHaveLength(2);
    await expect(createModel(tempDir())).rejects.toSatisfy(code('ERR_MLX_LOAD'));
  });
});

describe('generation', () => {
  it('is greedy and repeatable without a generation config that samples', async () => {
    const model = await loadModel(tinyCheckpoint());
    const first = await model.generate('abc', { maxTokens: 12, ignoreEos: true });
    const second = await model.generate('abc', { maxTokens: 12, ignoreEos: true });
    expect(second.tokens).toEqual(first.tokens);
    expect(first.tokens).toHaveLength(12);
    expect(first.logprobs.every((p) => p <= 0)).toBe(true);
    expect(first).toMatchObject({
      finishReason: 'length',
      usage: { promptTokens: 'user: abc\nassistant: '.length, cachedTokens: 0, completionTokens: 12 },
    });
    model.dispose();
  });

  it('streams what generate returns', async () => {
    const model = await loadModel(tinyCheckpoint());
    const options = { maxTokens: 20, temperature: 1, seed: 5, ignoreEos: true };
    const whole = await model.generate('abc', options);
    let text = '';
    const tokens: number[] = [];
    const stream = model.stream('abc', options);
    for await (const chunk of stream) {
      text += chunk.text;
      tokens.push(...chunk.tokens);
    }
    expect([text, tokens]).toEqual([whole.text, whole.tokens]);
    expect(stream.result!.text).toBe(text);
    model.dispose();
  });

  it('samples anew without a seed', async () => {
    const model = await loadModel(tinyCheckpoint());
    const options = { maxTokens: 30, temperature: 2, ignoreEos: true };
    const [a, b] = [await model.generate('abc', options), await model.generate('abc', options)];
    expect(a.tokens).not.toEqual(b.tokens);
    model.dispose();
  });

  it('ends on break and on abort, and the model goes on working', async () => {
    const model = await loadModel(tinyCheckpoint());
    const options = { maxTokens: 100, ignoreEos: true };
    for await (const { tokens } of model.stream('abc', options)) if (tokens.length > 0) break;
    const stop = new AbortController();
    const run = async (): Promise<void> => {
      for await (const { tokens } of model.stream('abc', { ...options, signal: stop.signal }))
        if (tokens.length > 0) stop.abort('enough');
    };
    await expect(run()).rejects.toBe('enough');
    expect((await model.generate('abc', { maxTokens: 2, ignoreEos: true })).tokens).toHaveLength(2);
    model.dispose();
  });

  it('decodes groups of answers in one batch, the same for the same seed', async () => {
    const model = await loadModel(tinyCheckpoint());
    const options = { numGenerations: 3, maxTokens: 8, temperature: 1, seed: 1 };
    const first = await model.generateBatch(['a', 'bcd'], options);
    expect(first.completions.map((group) => group.length)).toEqual([3, 3]);
    expect(first.usage.completionTokens).toBe(
      first.completions.flat().reduce((sum, { tokens }) => sum + tokens.length, 0),
    );
    expect((await model.generateBatch(['a', 'bcd'], options)).completions).toEqual(first.completions);
    const stopped = model.generateBatch(['a'], { ...options, signal: AbortSignal.abort('no') });
    await expect(stopped).rejects.toBe('no');
    model.dispose();
  });

  it('ends with a typed error when the model is disposed meanwhile', async () => {
    const model = await loadModel(tinyCheckpoint());
    const run = async (): Promise<void> => {
      for await (const { tokens } of model.stream('abc', { maxTokens: 100, ignoreEos: true }))
        if (tokens.length > 0) model.dispose();
    };
    await expect(run()).rejects.toSatisfy(code('ERR_MLX_DISPOSED'));
  });
});

describe('saving', () => {
  it('writes what loads again with the same weights and tokenizer', async () => {
    const model = await loadModel(tinyCheckpoint());
    const dir = join(tempDir(), 'saved');
    await model.save(dir);
    expect(readdirSync(dir).toSorted()).toEqual(
      [
        'config.json',
        'generation_config.json',
        'model.safetensors',
        'tokenizer.json',
        'tokenizer_config.json',
      ].toSorted(),
    );
    const again = await loadModel(dir);
    for (const [name, array] of model.parameters())
      expect(again.parameters().get(name)!.toFloat32(), name).toEqual(array.toFloat32());
    expect(again.encodePrompt('x')).toEqual(model.encodePrompt('x'));
    model.dispose();
    again.dispose();
  });

  it('writes an adapter that loads on the base model', async () => {
    const path = tinyCheckpoint();
    const model = await loadModel(path);
    model.applyLora({ rank: 2, alpha: 4 });
    expect(model.hasAdapter).toBe(true);
    expect(model.numTrainable).toBeLessThan(model.numParameters / 5);
    const dir = join(tempDir(), 'adapter');
    await model.saveAdapter(dir);
    expect(readdirSync(dir)).toContain('adapter_model.safetensors');
    const again = await loadModel(path, { adapter: dir });
    expect(again.numTrainable).toBe(model.numTrainable);
    model.dispose();
    again.dispose();
  });
});
