import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { GRPOTrainer, loadModel, SFTTrainer } from '../../lib/index.ts';
import type { LanguageModel, LoraOptions } from '../../lib/index.ts';
import { run } from '../../lib/cli/run.ts';
import { golden, trainAdapter } from '../helpers/adapters.ts';
import { goldenPath } from '../helpers/golden.ts';
import { tempDir } from '../helpers/temp.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';

const ids = [[5, 17, 42, 99, 3, 120, 64]];
const logits = (model: LanguageModel): Float32Array => model.forward(ids).toFloat32();
const furthest = (a: Float32Array, b: Float32Array): number =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

describe('several adapters', () => {
  it('are switched by name while the base stays', async () => {
    const model = await golden('qwen3_moe_all');
    const base = logits(model);
    expect([model.adapters, model.activeAdapter, model.hasAdapter]).toEqual([[], null, false]);
    model.applyLora({ name: 'one', rank: 2, targetModules: 'all-linear' });
    await trainAdapter(model);
    const one = logits(model);
    model.applyLora({ name: 'two', rank: 4, targetModules: ['*_proj', 'lm_head'], useDora: true, numLayers: 1 });
    await trainAdapter(model);
    const two = logits(model);
    expect([model.adapters, model.activeAdapter]).toEqual([['one', 'two'], 'two']);
    expect(Math.min(furthest(one, base), furthest(two, base), furthest(one, two))).toBeGreaterThan(1e-2);
    model.setAdapter('one');
    expect(logits(model)).toEqual(one);
    model.setAdapterEnabled(false);
    expect(logits(model)).toEqual(base);
    model.setAdapterEnabled(true);
    model.setAdapter(null);
    expect([logits(model), model.hasAdapter]).toEqual([base, false]);
    model.setAdapter('two');
    expect(logits(model)).toEqual(two);
    model.deleteAdapter('two');
    expect([logits(model), model.adapters, model.activeAdapter]).toEqual([base, ['one'], null]);
    expect(() => model.setAdapter('two')).toThrow(/no adapter 'two'; it has 'one'/);
    expect(() => model.applyLora({ name: 'one' })).toThrow(/already has an adapter 'one'/);
    model.dispose();
  });

  it('go to files of both formats and come back under other names', async () => {
    const model = await golden('qwen2');
    model.applyLora({ targetModules: ['q_proj', 'embed_tokens'], rankPattern: { q_proj: 3 } });
    await trainAdapter(model);
    const want = logits(model);
    for (const format of ['peft', 'mlx-lm'] as const) {
      const dir = join(tempDir(), 'adapter');
      await model.saveAdapter(dir, { format });
      const weights = format === 'peft' ? 'adapter_model.safetensors' : 'adapters.safetensors';
      expect(readdirSync(dir)).toEqual(expect.arrayContaining(['adapter_config.json', weights]));
      await model.loadAdapter(dir, { name: format });
      expect(model.activeAdapter).toBe(format);
      expect(furthest(logits(model), want)).toBeLessThan(1e-5);
      model.setAdapter('default');
    }
    expect(model.adapters).toEqual(['default', 'peft', 'mlx-lm']);
    await expect(model.saveAdapter(join(tempDir(), 'x'), { format: 'gguf' as 'peft' })).rejects.toThrow(
      /'peft' or 'mlx-lm'/,
    );
    await expect(model.loadAdapter(tempDir())).rejects.toThrow(/no adapter folder of PEFT or mlx-lm/);
    model.dispose();
  });
});

describe('options of adapters', () => {
  const wrong: [LoraOptions | Record<string, unknown>, RegExp][] = [
    [{ r: 8 }, /unknown option 'r' of applyLora\(\): here it is 'rank'/],
    [{ targetModule: ['q_proj'] }, /did you mean 'targetModules'/],
    [{ rank: 0 }, /rank must be at least 1/],
    [{ rank: 1.5 }, /whole number/],
    [{ alpha: -1 }, /alpha must be a number above 0/],
    [{ dropout: 1 }, /dropout must be 0 or more and below 1/],
    [{ targetModules: ['proj'] }, /'proj' is no layer of this model; there are embed_tokens, q_proj/],
    [{ targetModules: 'q_proj' }, /fits no layer.*a list holds ends of names/],
    [{ targetModules: [] }, /target_modules is empty/],
    [{ layersToTransform: [7] }, /names block 7; this model has 0 to/],
    [{ numLayers: 99 }, /numLayers must be from 1 to/],
    [{ rankPattern: { q_proj: 0 } }, /rank must be from 1/],
    [{ rankPattern: { '(': 2 } }, /no regular expression/],
    [{ name: 'a.b' }, /without dots/],
  ];

  it('that are wrong say what is right, and change nothing', async () => {
    const model = await golden('qwen3');
    for (const [options, message] of wrong) expect(() => model.applyLora(options)).toThrow(message);
    expect(model.adapters).toEqual([]);
    model.applyLora();
    expect(model.numTrainable).toBeGreaterThan(0);
    model.dispose();
  });
});

describe('training', () => {
  it('takes peftConfig as TRL does, and drops inputs by the seed of the run', async () => {
    const rows = [...'abcd'].map((letter) => ({ prompt: `${letter}=`, completion: `${letter}${letter}.` }));
    const train = async (peftConfig: LoraOptions, seed = 3) => {
      const model = await loadModel(tinyCheckpoint());
      const trainer = new SFTTrainer({
        model,
        dataset: rows,
        peftConfig,
        config: { learningRate: 3e-2, maxSteps: 30, perDeviceTrainBatchSize: 4, lrSchedulerType: 'constant', seed },
        loggers: [],
      });
      const { loss } = await trainer.train();
      const factors = [...model.parameters()]
        .filter(([name]) => name.includes('lora_'))
        .map(([, array]) => array.toFloat32());
      model.dispose();
      return { loss, factors };
    };
    const lora = { rank: 8, alpha: 16, targetModules: 'all-linear', dropout: 0.1 } as const;
    const first = await train(lora);
    expect(first.loss).toBeLessThan(1.5);
    expect((await train(lora)).factors).toEqual(first.factors);
    expect((await train({ ...lora, dropout: 0 })).factors).not.toEqual(first.factors);
    const model = await loadModel(tinyCheckpoint());
    model.applyLora({ name: 'there' });
    const options = { model, dataset: [{ prompt: 'a' }], rewards: () => [0], peftConfig: {}, loggers: [] };
    expect(() => new GRPOTrainer(options)).toThrow(/peftConfig would put an adapter on a model that has one, 'there'/);
    model.dispose();
  });
});

describe('merging', () => {
  it('makes a model that computes the same without an adapter', async () => {
    const model = await golden('qwen3_moe_all');
    model.applyLora({ targetModules: ['**'], rank: 2 });
    await trainAdapter(model);
    const want = logits(model);
    await model.fuse();
    expect([model.adapters, model.hasAdapter]).toEqual([[], false]);
    expect([...model.parameters().keys()].filter((name) => name.includes('lora'))).toEqual([]);
    expect(furthest(logits(model), want)).toBeLessThan(1e-4);
    await expect(model.fuse()).rejects.toThrow(/needs an active adapter/);
    model.dispose();
  });

  it('is a command with the options of mlx-lm', async () => {
    const model = await golden('qwen3');
    model.applyLora({ useDora: true });
    await trainAdapter(model);
    const want = logits(model);
    const folder = tempDir();
    await model.saveAdapter(join(folder, 'adapter'), { format: 'mlx-lm' });
    model.dispose();
    const output = { stdout: '', stderr: '' };
    const io = {
      stdout: { write: (text: string) => (output.stdout += text) },
      stderr: { write: (text: string) => (output.stderr += text) },
    } as unknown as Parameters<typeof run>[1];
    const flags = ['fuse', '--model', goldenPath('models', 'qwen3'), '--dtype', 'float32'];
    const save = join(folder, 'fused');
    expect(
      await run([...flags, '--adapter-path', join(folder, 'adapter'), '--save-path', save], io),
      output.stderr,
    ).toBe(0);
    expect(output.stdout).toBe(`${save}\n`);
    const fused = await loadModel(save, { dtype: 'float32' });
    expect(furthest(logits(fused), want)).toBeLessThan(1e-4);
    expect(JSON.parse(readFileSync(join(save, 'config.json'), 'utf8'))).toMatchObject({ model_type: 'qwen3' });
    fused.dispose();
    expect(await run([...flags, '--adapter-path', folder, '--save-path', join(folder, 'no')], io)).toBe(1);
    expect(output.stderr).toContain('no adapter folder');
    expect(await run(['fuse', '--help'], io)).toBe(0);
    expect(output.stdout).toContain('--dequantize');
  });
});
