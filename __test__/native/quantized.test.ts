import { describe, expect, it } from 'vitest';
import { loadModel, SFTTrainer } from '../../lib/index.ts';
import type { QuantizableLayer } from '../../lib/index.ts';
import { configs, randomCheckpoint, tensorsOf } from '../helpers/quantized.ts';
import { tempDir } from '../helpers/temp.ts';

const prompt = [5, 9, 23, 41, 7, 11];
/** What a promise is rejected with. */
const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => {
      throw new Error('nothing was thrown');
    },
    (error: unknown) => error,
  );

const greedy = { maxTokens: 12, temperature: 0, ignoreEos: true };

describe('quantised models', () => {
  it('are packed, saved, read and unpacked, and say how they are', async () => {
    const source = await randomCheckpoint(configs.qwen3);
    using model = await loadModel(source, { dtype: 'float32' });
    expect(model.quantization).toBeNull();
    const parameters = model.numParameters;
    const progress: [number, number][] = [];
    const report = await model.quantize({
      bits: 8,
      groupSize: 32,
      rules: { v_proj: { mode: 'mxfp4' }, '*.1.mlp.*': false },
      onProgress: ({ done, total }) => progress.push([done, total]),
    });
    // Two blocks of seven layers, and the embedding; three are left out.
    expect(report.packed).toHaveLength(12);
    expect(report.left.map(({ name }) => name)).toEqual(
      ['gate_proj', 'up_proj', 'down_proj'].map((name) => `model.layers.1.mlp.${name}`),
    );
    expect(progress.at(-1)).toEqual([12, 12]);
    expect(model.numParameters).toBe(parameters);
    // Between codes of 8 bits with scales, and float32.
    expect(report.bitsPerWeight).toBeGreaterThan(9);
    expect(report.bitsPerWeight).toBeLessThan(32);
    const mxfp4 = { bits: 4, groupSize: 32, mode: 'mxfp4' };
    expect(model.quantization).toMatchObject({
      bits: 8,
      groupSize: 32,
      mode: 'affine',
      layers: { 'model.layers.0.self_attn.v_proj': mxfp4, 'model.layers.1.mlp.up_proj': false },
    });
    const { tokens } = await model.generate(prompt, greedy);
    const folder = `${tempDir()}/saved`;
    await model.save(folder);
    using again = await loadModel(folder, { dtype: 'float32' });
    expect(again.quantization).toEqual(model.quantization);
    expect((await again.generate(prompt, greedy)).tokens).toEqual(tokens);
    const batch = await again.generateBatch([prompt, prompt.slice(2)], greedy);
    expect(batch.completions[0]![0]!.tokens).toEqual(tokens);
    await again.dequantize();
    expect(again.quantization).toBeNull();
    expect(again.parameters().get('model.embed_tokens.weight')!.dtype).toBe('float32');
    expect(await rejection(again.dequantize({ onDone: 1 } as never))).toMatchObject({ code: 'ERR_MLX_CONFIG' });
  });

  it('are the same when they are packed while they are read', async () => {
    const source = await randomCheckpoint(configs.qwen3Moe);
    const seen: QuantizableLayer[] = [];
    const options = {
      mode: 'nvfp4' as const,
      predicate: (layer: QuantizableLayer) => {
        seen.push(layer);
        return layer.name === 'lm_head' ? { mode: 'affine' as const, bits: 6 } : !layer.name.endsWith('o_proj');
      },
    };
    using read = await loadModel(source, { dtype: 'float32', quantize: options });
    const layers = seen.splice(0);
    expect(layers.find(({ name }) => name.endsWith('0.mlp.switch_mlp.up_proj'))).toEqual({
      name: 'model.layers.0.mlp.switch_mlp.up_proj',
      shape: [4, 128, 128],
    });
    using after = await loadModel(source, { dtype: 'float32' });
    await after.quantize(options);
    expect(seen).toEqual(layers);
    expect(read.quantization).toEqual(after.quantization);
    expect(read.quantization).toMatchObject({
      mode: 'nvfp4',
      layers: {
        lm_head: { mode: 'affine', bits: 6, groupSize: 64 },
        'model.layers.0.mlp.gate': { mode: 'affine', bits: 8, groupSize: 64 },
        'model.layers.0.self_attn.o_proj': false,
      },
    });
    const folders = [`${tempDir()}/a`, `${tempDir()}/b`];
    await read.save(folders[0]!);
    await after.save(folders[1]!);
    expect(tensorsOf(folders[0]!)).toEqual(tensorsOf(folders[1]!));
  });

  it('train an adapter only', async () => {
    using model = await loadModel(await randomCheckpoint(configs.qwen3), { dtype: 'float32', quantize: { bits: 4 } });
    expect(model.numTrainable).toBe(0);
    const dataset = [{ prompt: 'ab', completion: 'cdef' }];
    const config = { maxSteps: 6, perDeviceTrainBatchSize: 1, learningRate: 1e-2, gradientCheckpointing: true };
    const train = () => new SFTTrainer({ model, dataset, config, loggers: [] }).train();
    const error = await rejection(train());
    expect(error).toMatchObject({ code: 'ERR_MLX_ARGUMENT' });
    expect((error as Error).message).toContain('applyLora');
    model.applyLora({ rank: 4, alpha: 16 });
    expect(model.numTrainable).toBeGreaterThan(0);
    const codes = (): string[] =>
      [...model.parameters()]
        .filter(([name]) => !name.includes('.lora_'))
        .map(([name, array]) => `${name} ${JSON.stringify(array.toArray())}`);
    const before = codes();
    await train();
    const { text } = await model.generate('ab', { maxTokens: 4, temperature: 0, raw: true });
    expect(text).toBe('cdef');
    expect(codes()).toEqual(before);
    expect(before.some((line) => line.includes('.scales'))).toBe(true);
  });

  it('refuse what cannot be, and stop when they are told to', async () => {
    const source = await randomCheckpoint(configs.qwen3);
    using model = await loadModel(source, { dtype: 'float32' });
    for (const [options, code, text] of [
      [{ bits: 7 }, 'ERR_MLX_ARGUMENT', '7'],
      [{ bits: 4.5 }, 'ERR_MLX_CONFIG', '4.5'],
      [{ bits: 8, mode: 'mxfp4' }, 'ERR_MLX_ARGUMENT', '8'],
      [{ mode: 'int4' }, 'ERR_MLX_ARGUMENT', 'int4'],
      [{ recipe: 'mixed_5_6' }, 'ERR_MLX_ARGUMENT', 'mixed_'],
      [{ recipe: 'mixed_4_6', bits: 4 }, 'ERR_MLX_CONFIG', 'recipe'],
      [{ recipe: 'mixed_4_6', mode: 'nvfp4' }, 'ERR_MLX_ARGUMENT', 'affine'],
      [{ group_size: 64 }, 'ERR_MLX_CONFIG', 'groupSize'],
      [{ rules: { q_porj: false } }, 'ERR_MLX_ARGUMENT', 'q_porj'],
      [{ rules: { q_proj: { bit: 4 } } }, 'ERR_MLX_CONFIG', 'bits'],
      [{ rules: { q_proj: 4 } }, 'ERR_MLX_CONFIG', 'q_proj'],
      [{ predicate: () => 3 }, 'ERR_MLX_CONFIG', 'embed_tokens'],
      [{ predicate: () => false }, 'ERR_MLX_ARGUMENT', 'no layer'],
    ] as const) {
      for (const attempt of [
        () => model.quantize(options as never),
        () => loadModel(source, { dtype: 'float32', quantize: options as never }),
      ]) {
        const error = (await rejection(attempt())) as Error;
        expect(error, JSON.stringify(options)).toMatchObject({ code });
        expect(error.message).toContain(text);
      }
    }
    expect(model.quantization).toBeNull();
    expect(await rejection(model.quantize({ signal: AbortSignal.abort('no') }))).toBe('no');
    const stop = new AbortController();
    const stopped = model.quantize({ signal: stop.signal, onProgress: () => stop.abort('enough') });
    expect(await rejection(stopped)).toBe('enough');
    // Another call does the rest.
    await model.quantize();
    expect(model.quantization).toEqual({ bits: 4, groupSize: 64, mode: 'affine', layers: {} });
    expect(await rejection(model.quantize())).toMatchObject({ code: 'ERR_MLX_ARGUMENT' });
  });
});
