import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { MlxError } from '../../lib/errors.ts';
import { LanguageModel } from '../../lib/model.ts';
import type { NativeModel, NativeTokenizer } from '../../lib/native-types.ts';
import { Tokenizer } from '../../lib/tokenizer.ts';
import { GRPOTrainer } from '../../trainers/grpo/trainer.ts';
import type { GRPOConfig } from '../../trainers/grpo/config.ts';
import type { Reward } from '../../trainers/grpo/types.ts';
import type { Logger } from '../../trainers/loggers/logger.ts';
import { calls, FakeModel, faults, native, resetFake } from '../helpers/fake-native.ts';
import { tempDir } from '../helpers/temp.ts';

vi.mock('../../lib/native.ts', () => import('../helpers/fake-native.ts'));

interface Row {
  prompt: string;
  answer: string;
}

const dataset: Row[] = Array.from({ length: 12 }, (_, i) => ({
  prompt: String.fromCharCode(65 + i),
  answer: 'abc'[i % 3]!,
}));
const firstLetter: Reward<Row> = ({ completions, answer }) =>
  completions.map((text, i) => (text[0]! < answer[i]! ? 0 : 1 + text.length / 10));

const half: Reward<Row> = ({ completions }) => completions.map((_, i) => (i % 4 === 0 ? 4 : i % 4 === 1 ? 0 : 2));
const slow: Reward<Row> = () => new Promise(() => {});

const small: GRPOConfig = {
  perDeviceTrainBatchSize: 4,
  numGenerations: 4,
  gradientAccumulationSteps: 2,
  maxCompletionLength: 6,
  learningRate: 1e-3,
  maxSteps: 8,
};

async function newModel(): Promise<LanguageModel> {
  const tokenizer = new Tokenizer((await native().NativeTokenizer.load('')) as NativeTokenizer);
  return new LanguageModel(new FakeModel([1, 2, 3, 4]) as unknown as NativeModel, tokenizer, 'start');
}

const weightsOf = (model: LanguageModel): number[] => (model.handle as unknown as FakeModel).weights;

async function trained(config: GRPOConfig, options: { rewards?: Reward<Row>; loggers?: Logger[] } = {}) {
  const model = await newModel();
  const trainer = new GRPOTrainer({
    model,
    dataset,
    rewards: options.rewards ?? firstLetter,
    config: { ...small, ...config },
    loggers: options.loggers ?? [],
  });
  return { model, trainer };
}

/** One step whose rewards leave half of the rows without an advantage. */
async function stepWithIdleRows(config: GRPOConfig) {
  resetFake();
  const { model, trainer } = await trained({ ...config, maxSteps: 1 }, { rewards: half });
  await trainer.train();
  const batches = calls.microSteps.map(({ batch }) => batch);
  return { weights: weightsOf(model), batches, rows: batches.flatMap(({ rows }) => rows).length };
}

const tokens = (rows: { completionIds: number[] }[]): number =>
  rows.reduce((sum, { completionIds }) => sum + completionIds.length, 0);

beforeEach(resetFake);

describe('GRPOTrainer', () => {
  it('takes the steps it should and logs the documented metrics', async () => {
    const records: Record<string, number>[] = [];
    const { trainer } = await trained(
      {},
      { loggers: [{ metrics: (step, record) => void records.push({ step, ...record }) }] },
    );
    const result = await trainer.train();
    expect(result.steps).toBe(8);
    expect(records.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(Object.keys(records[0]!).toSorted()).toEqual(
      [
        'step',
        'epoch',
        'loss',
        'grad_norm',
        'learning_rate',
        'entropy',
        'reward',
        'reward_std',
        'reward_group_std',
        'frac_reward_zero_std',
        'rewards/firstLetter/mean',
        'rewards/firstLetter/std',
        'completions/mean_length',
        'completions/min_length',
        'completions/max_length',
        'completions/clipped_ratio',
        'completions/mean_terminated_length',
        'completions/min_terminated_length',
        'completions/max_terminated_length',
        'num_tokens',
        'rows_computed',
        'step_time',
        'time/generate',
        'time/reward',
        'time/logprob',
        'time/forward_backward',
        'time/optimizer',
        'tokens_per_second',
        'generation/tokens_per_second',
        'peak_memory_gb',
        'skipped_steps',
      ].toSorted(),
    );
    expect(records[0]!['learning_rate']).toBe(1e-3);
    expect(records[7]!['learning_rate']).toBeCloseTo(1e-3 / 8, 12);
    expect(records[0]!['peak_memory_gb']).toBe(2);
  });

  it('hands the columns of the data set to the reward, completions of a prompt side by side', async () => {
    const seen: { prompts: unknown[]; answer: string[]; ids: number }[] = [];
    const reward: Reward<Row> = ({ prompts, answer, completionIds, completions }) => {
      seen.push({ prompts, answer, ids: completionIds.length });
      return completions.map(() => 1);
    };
    const { trainer } = await trained({ maxSteps: 1, shuffleDataset: false }, { rewards: reward });
    await trainer.train();
    expect(seen[0]!.prompts).toEqual([...'AAAABBBB']);
    expect(seen[0]!.answer).toEqual([...'aaaabbbb']);
    expect(seen[0]!.ids).toBe(8);
  });

  it('computes no old log-probs on-policy, and takes them once a round when rounds outlive a step', async () => {
    await (await trained({ maxSteps: 2 })).trainer.train();
    expect(calls.logprobs).toEqual([]);
    expect(calls.microSteps.every(({ batch }) => batch.oldLogprobs === undefined)).toBe(true);
    resetFake();
    await (await trained({ maxSteps: 4, numIterations: 2, beta: 0.1 })).trainer.train();
    expect(calls.logprobs).toEqual([false, true, false, true]);
    expect(calls.microSteps[0]!.batch.oldLogprobs).toHaveLength(4);
    expect(calls.microSteps[0]!.batch.refLogprobs).toHaveLength(4);
  });

  it('leaves rows without advantage out and restores what the denominators lose by it', async () => {
    const dapo = await stepWithIdleRows({});
    const all = await stepWithIdleRows({ skipZeroAdvantageRows: false });
    expect([dapo.rows, all.rows]).toEqual([4, 8]);
    dapo.weights.forEach((w, i) => expect(w).toBeCloseTo(all.weights[i]!, 12));
    // Rows divide the loss of 'grpo' and 'dr_grpo': 4 in a micro-batch, so the rows left count in proportion.
    for (const lossType of ['grpo', 'dr_grpo'] as const) {
      const { batches } = await stepWithIdleRows({ lossType });
      for (const { rows, advantages } of batches) {
        advantages.forEach((a) => expect(Math.abs(a)).toBeCloseTo((2 * rows.length) / 4, 12));
      }
    }
    // Tokens divide that of 'bnpo'.
    const bnpo = await stepWithIdleRows({ lossType: 'bnpo' });
    const full = await stepWithIdleRows({ lossType: 'bnpo', skipZeroAdvantageRows: false });
    bnpo.batches.forEach(({ rows, advantages }, k) => {
      const share = tokens(rows) / tokens(full.batches[k]!.rows);
      advantages.forEach((a) => expect(Math.abs(a)).toBeCloseTo(2 * share, 12));
    });
  });

  it('still takes the optimizer step when no row has an advantage', async () => {
    const { trainer } = await trained({ maxSteps: 1 }, { rewards: ({ completions }) => completions.map(() => 1) });
    await trainer.train();
    expect(calls.microSteps.map(({ batch }) => [batch.rows.length, ...batch.advantages])).toEqual([
      [1, 0],
      [1, 0],
    ]);
  });

  it('counts steps whose gradient was not finite', async () => {
    faults.gradNorm = NaN;
    const { model, trainer } = await trained({ maxSteps: 3 });
    const { metrics } = await trainer.train();
    expect(metrics['skipped_steps']).toBe(3);
    expect(metrics['grad_norm']).toBeUndefined();
    expect(weightsOf(model)).toEqual([1, 2, 3, 4]);
  });

  it.each([
    ['wrong length', () => [1], /'wrong' must return one number or null for each of the 8 completions, got 1 values/],
    ['not a number', (n: number) => Array.from({ length: n }, () => NaN), /'wrong' returned NaN for completion 0/],
    ['nothing', () => undefined as unknown as number[], /got undefined/],
  ])('names the reward that returns %s', async (_, make, pattern) => {
    const wrong: Reward<Row> = ({ completions }) => make(completions.length);
    Object.defineProperty(wrong, 'name', { value: 'wrong' });
    const { trainer } = await trained({}, { rewards: wrong });
    await expect(trainer.train()).rejects.toSatisfy(
      (error) => MlxError.isInstance(error, 'ERR_MLX_REWARD') && pattern.test(error.message),
    );
  });

  it('resumes to the same weights as a run that was not interrupted, for every kind of round', async () => {
    const variants: GRPOConfig[] = [
      {},
      { numIterations: 2 },
      { stepsPerGeneration: 4, beta: 0.1 },
      { stepsPerGeneration: 1 },
      { gradientAccumulationSteps: 3, stepsPerGeneration: 4, maxSteps: 9 },
    ];
    for (const variant of variants) {
      const straight = await trained(variant);
      await straight.trainer.train();
      const outputDir = tempDir();
      const stop = new AbortController();
      const first = await trained(
        { ...variant, outputDir },
        { loggers: [{ metrics: (step) => void (step === 3 && stop.abort()) }] },
      );
      await expect(first.trainer.train({ signal: stop.signal })).rejects.toThrow('aborted');
      expect(existsSync(join(outputDir, 'checkpoints', 'step-3', 'trainer_state.json'))).toBe(true);
      const second = await trained({ ...variant, outputDir });
      const { steps } = await second.trainer.train({ resumeFrom: true });
      expect(steps).toBe(variant.maxSteps ?? 8);
      expect(weightsOf(second.model), JSON.stringify(variant)).toEqual(weightsOf(straight.model));
    }
  });

  it('saves the last whole step when an error comes in the middle of one, and drops the half', async () => {
    const outputDir = tempDir();
    let rounds = 0;
    const breaks: Reward<Row> = (args) => {
      rounds += 1;
      if (rounds === 5) throw new TypeError('no such column');
      return firstLetter(args);
    };
    const config = { outputDir, stepsPerGeneration: 1 };
    const first = await trained(config, { rewards: breaks });
    await expect(first.trainer.train()).rejects.toThrow("reward 'breaks' threw: no such column");
    expect(readdirSync(join(outputDir, 'checkpoints'))).toEqual(['step-2']);
    const second = await trained(config);
    await second.trainer.train({ resumeFrom: true });
    const straight = await trained({ stepsPerGeneration: 1 });
    await straight.trainer.train();
    expect(weightsOf(second.model)).toEqual(weightsOf(straight.model));
  });

  it('keeps the last checkpoint when the disk is full', async () => {
    const outputDir = tempDir();
    const full = Object.assign(new Error('No space left on device (os error 28)'), { code: 'ERR_MLX_SAVE' });
    const { trainer } = await trained(
      { outputDir, saveSteps: 2 },
      { loggers: [{ metrics: (step) => void (step === 3 && (faults.save = full)) }] },
    );
    await expect(trainer.train()).rejects.toSatisfy((error) => MlxError.isInstance(error, 'ERR_MLX_SAVE'));
    expect(readdirSync(join(outputDir, 'checkpoints'))).toEqual(['step-2']);
  });

  it('refuses another order of rows and an old folder, and warns about another learning rate', async () => {
    const outputDir = tempDir();
    await (await trained({ outputDir, maxSteps: 2 })).trainer.train();
    await expect((await trained({ outputDir })).trainer.train()).rejects.toThrow(/has a checkpoint of step 2/);
    await expect((await trained({ outputDir, seed: 1 })).trainer.train({ resumeFrom: true })).rejects.toThrow(
      /seed was 42 and is 1/,
    );
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    await (await trained({ outputDir, learningRate: 1, maxSteps: 3 })).trainer.train({ resumeFrom: true });
    expect(warned.mock.calls[0]![0]).toContain('learningRate, maxSteps');
    warned.mockRestore();
  });

  it('rejects at once with the reason of an aborted signal, also while a reward waits', async () => {
    const { trainer } = await trained({});
    await expect(trainer.train({ signal: AbortSignal.abort('early') })).rejects.toBe('early');
    const stop = new AbortController();
    const waiting = (await trained({}, { rewards: slow })).trainer.train({ signal: stop.signal });
    setTimeout(() => stop.abort('late'), 30);
    await expect(waiting).rejects.toBe('late');
  });

  it('writes the record, the completions and the report of a run', async () => {
    const outputDir = tempDir();
    const model = await newModel();
    const options = { model, dataset, rewards: firstLetter, evalDataset: dataset.slice(0, 3) };
    const config = { ...small, outputDir, saveSteps: 2, evalSteps: 4, evalOnStart: true };
    const trainer = new GRPOTrainer({ ...options, config: { ...config, maxSteps: 3 } });
    await trainer.train();
    expect(readdirSync(outputDir).toSorted()).toEqual(['checkpoints', 'completions', 'metrics.jsonl', 'report.html']);
    const lines = readFileSync(join(outputDir, 'metrics.jsonl'), 'utf8').trim().split('\n');
    expect(lines.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual([0, 1, 2, 3, 3]);
    for (const line of [lines[0]!, lines[4]!])
      expect(JSON.parse(line)).toHaveProperty(['eval_rewards/firstLetter/mean']);
    const report = readFileSync(join(outputDir, 'report.html'), 'utf8');
    expect(report).toContain('class="status completed"');
    expect(report).not.toMatch(/https?:\/\//);
    const sample = JSON.parse(
      readFileSync(join(outputDir, 'completions', 'step-00001.jsonl'), 'utf8').split('\n')[0]!,
    ) as object;
    expect(Object.keys(sample)).toEqual([
      'step',
      'prompt',
      'completion',
      'rewards',
      'advantage',
      'tokens',
      'truncated',
    ]);
  });

  it('refuses a data set it cannot use, naming the row', async () => {
    const model = await newModel();
    const make = (rows: object[], config: GRPOConfig = {}) =>
      new GRPOTrainer({
        model,
        dataset: rows as Row[],
        rewards: firstLetter,
        config: { ...small, ...config },
        loggers: [],
      });
    expect(() => make([...dataset, { prompt: '' }])).toThrow(/dataset\[12\]\.prompt/);
    expect(() => make(dataset.map((row) => ({ ...row, completions: 1 })))).toThrow(
      /dataset\[0\] has a column 'completions'/,
    );
    expect(() => make(dataset.slice(0, 1))).toThrow(/takes 2 different ones/);
    await expect(make(dataset.map((row) => ({ ...row, prompt: 'x'.repeat(60) }))).train()).rejects.toThrow(
      /dataset\[0\]\.prompt has 60 tokens/,
    );
    expect(() => make(dataset, { evalSteps: 1 })).toThrow(/no evalDataset/);
  });
});
