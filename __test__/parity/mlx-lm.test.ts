/** mlx-lm, as PyPI has it, reads what we save and computes the same. It is installed once, into target/setup. */
import { beforeAll, describe, expect, it } from 'vitest';
import { mlxLm, read } from '../helpers/peers.ts';
import type { Peer, Reading } from '../helpers/peers.ts';
import { Engine, loadModel } from '../../lib/index.ts';
import { expectSame, saved, subjects } from '../helpers/saved.ts';

describe('mlx-lm', () => {
  let peer: Peer;

  beforeAll(() => {
    peer = mlxLm();
  }, 600_000);

  it('reads the models that we save: the same logits, the same greedy tokens', async () => {
    const models = [];
    for (const subject of subjects) models.push(await saved(subject));
    const readings: Reading[] = read(
      peer,
      models.map(({ request }) => request),
    );
    for (const [i, { answer }] of models.entries()) {
      try {
        expectSame(readings[i]!, answer);
      } catch (error) {
        throw new Error(`${subjects[i]!.name}: ${(error as Error).message}`, { cause: error });
      }
    }
    // The models differ, so that an answer of another one would be seen.
    expect(new Set(readings.map(({ logits }) => JSON.stringify(logits))).size).toBe(subjects.length);
  });

  it('chooses the tokens that our engine chooses: one by one, in batches that change, in chunks of the prompt', async () => {
    const { request } = await saved(subjects[0]!);
    const lengths = [1, 2, 17, 40, 5, 31, 8, 23];
    const prompts = lengths.map((length, row) =>
      Array.from({ length }, (_, i) => 2 + ((13 * row + 29 * i + row * i) % 150)),
    );
    const steps = 24;
    const wanted = read(
      peer,
      prompts.map((prompt) => ({ folder: request.folder, prompts: [prompt], steps })),
    ).map(({ tokens }) => tokens[0]!);
    const model = await loadModel(request.folder, { dtype: 'float32' });
    const options = { maxTokens: steps, temperature: 0, ignoreEos: true };
    const single = [];
    for (const prompt of prompts) single.push((await model.generate(prompt, options)).tokens);
    expect(single).toEqual(wanted);
    const { completions } = await model.generateBatch(prompts, options);
    expect(completions.map(([completion]) => completion!.tokens)).toEqual(wanted);
    for (const prefillStepSize of [1, 7, 512]) {
      using engine = new Engine(model, { maxBatchSize: 3, prefillBatchSize: 2, prefillStepSize });
      // Fewer places than requests, which end at different steps.
      const answers = await Promise.all(
        prompts.map((prompt, i) => engine.submit(prompt, { ...options, maxTokens: steps - 2 * i })),
      );
      expect(answers.map(({ tokens }) => tokens)).toEqual(wanted.map((tokens, i) => tokens.slice(0, steps - 2 * i)));
    }
    model.dispose();
  });
});
