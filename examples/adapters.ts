/**
 * Two adapters on one model: the tiny Qwen3 of the demo adds numbers; one adapter teaches it to repeat the first number of a sum, another
 * the second. Each is trained alone, saved, loaded again under its name, and switched, while the base stays as it is.
 *
 *   node dist/examples/adapters.js [--steps 150] [--rank 8]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadModel, SFTTrainer } from 'mlx-node';
import { sums } from './arithmetic.js';
import { readOptions } from './support.js';

const { steps, rank } = readOptions('Two adapters on one model, trained, saved, loaded and switched.', {
  steps: [150, 'training steps of each adapter'],
  rank: [8, 'rank of the adapters'],
});

const source = 'examples/tiny-qwen3';
const folder = mkdtempSync(join(tmpdir(), 'adapters-'));
const { train, heldOut } = sums();
const numbers = (prompt: string): string[] => /(\d+)\+(\d+)/.exec(prompt)!.slice(1, 3);
const wanted: Record<string, (prompt: string) => string> = {
  first: (prompt) => numbers(prompt)[0]!,
  second: (prompt) => numbers(prompt)[1]!,
};

for (const [name, answer] of Object.entries(wanted)) {
  const model = await loadModel(source, { dtype: 'float32' });
  const trainer = new SFTTrainer({
    model,
    dataset: train.map(({ prompt }) => ({ prompt, completion: answer(prompt) })),
    peftConfig: { rank, alpha: 2 * rank, targetModules: 'all-linear' },
    config: { maxSteps: steps, perDeviceTrainBatchSize: 64, learningRate: 1e-2 },
    loggers: [],
  });
  const { loss } = await trainer.train();
  await model.saveAdapter(join(folder, name));
  process.stdout.write(
    `${name}: ${model.numTrainable} of ${model.numParameters} numbers trained, loss ${loss.toFixed(3)}\n`,
  );
  model.dispose();
}

const model = await loadModel(source, { dtype: 'float32' });
for (const name of Object.keys(wanted)) await model.loadAdapter(join(folder, name), { name });
rmSync(folder, { recursive: true });
const prompts = heldOut.slice(0, 100).map(({ prompt }) => prompt);
const answers = async (): Promise<string[]> => {
  const { completions } = await model.generateBatch(prompts, { raw: true, maxTokens: 6, temperature: 0 });
  return completions.map(([completion]) => completion!.text.trim());
};
let right = 0;
for (const name of [null, ...Object.keys(wanted)]) {
  model.setAdapter(name);
  const given = await answers();
  process.stdout.write(`${name ?? 'base'}: ${prompts[0]}${given[0]}\n`);
  if (name === null) continue;
  const share = given.filter((text, i) => text === wanted[name]!(prompts[i]!)).length;
  process.stdout.write(`  ${share} of ${prompts.length} new prompts as taught\n`);
  right += share;
}
model.dispose();
const learned = right > 0.9 * prompts.length * Object.keys(wanted).length;
process.stdout.write(
  learned ? 'learned: each adapter does what it was taught\n' : 'NOT learned; more --steps may help\n',
);
process.exitCode = learned ? 0 : 1;
