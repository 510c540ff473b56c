import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { evaluate, GRPOTrainer, loadModel, SFTTrainer } from '../../lib/index.ts';
import type { GRPOConfig, Logger, LoraOptions, Reward } from '../../lib/index.ts';
import { tempDir } from '../helpers/temp.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';
import { bits, dataset, mean, toyConfig, vowels } from '../helpers/toy.ts';

async function run(
  overrides: GRPOConfig,
  extra: { lora?: LoraOptions; loggers?: Logger[]; resumeFrom?: boolean; signal?: AbortSignal } = {},
) {
  const model = await loadModel(tinyCheckpoint());
  if (extra.lora !== undefined) model.applyLora(extra.lora);
  const trainer = new GRPOTrainer({
    model,
    dataset,
    rewards: vowels,
    config: { ...toyConfig, maxSteps: 6, ...overrides },
    loggers: extra.loggers ?? [],
  });
  const { resumeFrom = false, signal } = extra;
  const result = await trainer.train(signal === undefined ? { resumeFrom } : { resumeFrom, signal });
  return { model, result };
}

describe('GRPO on a real model', () => {
  it('learns the toy task, and the trained weights are those that generate and those that are saved', async () => {
    const outputDir = tempDir();
    const rewards: number[] = [];
    const { model, result } = await run(
      { maxSteps: 40, outputDir },
      { loggers: [{ metrics: (_, record) => void rewards.push(record['reward']!) }] },
    );
    expect(mean(rewards.slice(0, 5))).toBeLessThan(0.3);
    expect(mean(rewards.slice(-5))).toBeGreaterThan(0.9);
    const greedy = await evaluate(model, { dataset, rewards: [vowels], maxCompletionLength: 8 });
    expect(greedy.metrics['rewards/vowels/mean']).toBeGreaterThan(0.9);
    const saved = await loadModel(result.checkpoint!);
    expect(bits(saved)).toEqual(bits(model));
    expect((await saved.generate('a', { maxTokens: 8 })).tokens).toEqual(
      (await model.generate('a', { maxTokens: 8 })).tokens,
    );
  });

  const variants: [string, GRPOConfig, LoraOptions?][] = [
    ['full', {}],
    ['with KL and old log-probs', { beta: 0.05, numIterations: 2 }],
    ['in the middle of a round', { stepsPerGeneration: 4, gradientAccumulationSteps: 1 }],
    ['LoRA', {}, { rank: 4, alpha: 8 }],
    ['LoRA with KL', { beta: 0.05 }, { rank: 4, alpha: 8 }],
  ];

  it.each(variants)('resumes to bit-identical weights: %s', async (_, overrides, lora) => {
    const extra = lora === undefined ? {} : { lora };
    const straight = await run(overrides, extra);
    const outputDir = tempDir();
    const stop = new AbortController();
    const loggers = [{ metrics: (step: number) => void (step === 3 && stop.abort('stop')) }];
    await expect(run({ ...overrides, outputDir }, { ...extra, loggers, signal: stop.signal })).rejects.toBe('stop');
    const resumed = await run({ ...overrides, outputDir }, { ...extra, resumeFrom: true });
    expect(resumed.result.steps).toBe(6);
    expect(bits(resumed.model)).toEqual(bits(straight.model));
  });

  it('gives the same run for the same seed and another for another', async () => {
    const [first, second, other] = [await run({}), await run({}), await run({ seed: 1 })];
    expect(bits(second.model)).toEqual(bits(first.model));
    expect(bits(other.model)).not.toEqual(bits(first.model));
  });

  it('rolls out completions in a format, and evaluates in it', async () => {
    const seen: string[] = [];
    const watch: Reward = ({ completions }) => {
      seen.push(...completions);
      return completions.map((text) => text.length);
    };
    const model = await loadModel(tinyCheckpoint());
    const given = { ...toyConfig, maxSteps: 1, evalSteps: 1, structuredOutputsRegex: '[x-z]{2,4}' };
    const trainer = new GRPOTrainer({
      model,
      dataset,
      evalDataset: dataset,
      rewards: watch,
      config: given,
      loggers: [],
    });
    await trainer.train();
    expect(seen).toHaveLength(32 + dataset.length);
    for (const text of seen) expect(text).toMatch(/^[x-z]{2,4}$/);
    expect(new Set(seen).size).toBeGreaterThan(4);
    const responseFormat = { type: 'regex', regex: 'ab|ba' } as const;
    const { samples } = await evaluate(model, { dataset, rewards: [watch], responseFormat, maxCompletionLength: 8 });
    for (const { completion } of samples) expect(['ab', 'ba']).toContain(completion);
  });

  it('saves an adapter that gives the same answers on the base model', async () => {
    const outputDir = tempDir();
    const { model, result } = await run({ outputDir, maxSteps: 3 }, { lora: { rank: 4, alpha: 8 } });
    expect(readdirSync(result.checkpoint!)).toEqual(
      expect.arrayContaining([
        'adapter_config.json',
        'adapter_model.safetensors',
        'optimizer.safetensors',
        'trainer_state.json',
      ]),
    );
    const again = await loadModel(model.path, { adapter: result.checkpoint! });
    const options = { maxTokens: 10, ignoreEos: true };
    expect((await again.generate('abc', options)).logprobs).toEqual((await model.generate('abc', options)).logprobs);
  });

  it('logs every documented metric of a KL run as a finite number', async () => {
    const outputDir = tempDir();
    const model = await loadModel(tinyCheckpoint());
    await new GRPOTrainer({
      model,
      dataset,
      rewards: vowels,
      config: { ...toyConfig, outputDir, maxSteps: 2, beta: 0.1 },
    }).train();
    const line = JSON.parse(readFileSync(join(outputDir, 'metrics.jsonl'), 'utf8').split('\n')[1]!) as Record<
      string,
      unknown
    >;
    for (const name of [
      'kl',
      'entropy',
      'clip_ratio/low_mean',
      'clip_ratio/high_max',
      'reward',
      'grad_norm',
      'tokens_per_second',
      'peak_memory_gb',
    ]) {
      expect(line[name], name).toBeTypeOf('number');
    }
    expect(line['peak_memory_gb']).toBeGreaterThan(0);
    const documented = readFileSync(join(import.meta.dirname, '../../docs/training.md'), 'utf8');
    for (const name of Object.keys(line).filter((key) => key !== 'time')) {
      expect(documented).toContain(`\`${name.replace('/vowels/', '/<name>/')}\``);
    }
  });
});

describe('SFT on a real model', () => {
  it('learns the answers by heart, and only the answers', async () => {
    const model = await loadModel(tinyCheckpoint());
    const rows = [...'abcd'].map((letter) => ({ prompt: `${letter}=`, completion: `${letter}${letter}.` }));
    const losses: number[] = [];
    const trainer = new SFTTrainer({
      model,
      dataset: rows,
      config: {
        learningRate: 1e-2,
        maxSteps: 60,
        perDeviceTrainBatchSize: 2,
        gradientAccumulationSteps: 2,
        lrSchedulerType: 'constant',
      },
      loggers: [{ metrics: (_, record) => void losses.push(record['loss']!) }],
    });
    const { loss } = await trainer.train();
    expect(losses[0]).toBeGreaterThan(1);
    expect(loss).toBeLessThan(0.05);
    expect((await model.generate('b=', { raw: true, maxTokens: 6 })).text).toBe('bb.');
  });
});
