// Trains the toy task in a process of its own, for tests that end it from outside.
// Arguments: checkpoint folder, output folder, config as JSON, 'resume' or nothing.
import { Interrupted, GRPOTrainer, loadModel, stopOnSignals } from '../../dist/lib/index.js';

const [path, outputDir, config, resume] = process.argv.slice(2);
const model = await loadModel(path);
const vowels = ({ completions }) => completions.map((text) => [...text].filter((c) => 'aeiou'.includes(c)).length);
const dataset = [...'abcdefgh'].map((prompt) => ({ prompt }));
const report = { metrics: (step) => process.stdout.write(`step ${step}\n`) };
const trainer = new GRPOTrainer({
  model,
  dataset,
  rewards: vowels,
  config: { outputDir, ...JSON.parse(config) },
  loggers: [report],
});
const stop = stopOnSignals();
try {
  await trainer.train({ signal: stop.signal, resumeFrom: resume === 'resume' });
} catch (error) {
  if (!(error instanceof Interrupted)) throw error;
  process.stdout.write(`${error.message}\n`);
  process.exitCode = error.exitCode;
} finally {
  stop.release();
}
