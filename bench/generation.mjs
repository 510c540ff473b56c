#!/usr/bin/env node
// Generation against mlx-lm on this machine: the same model, requests and CPU, greedy. Every round asks all in turn; medians over rounds.
// node bench/generation.mjs [options], after npm run build
// --mlx-python PATH    a Python with mlx-lm (default: bench/.venv, made by bench/setup.sh)
// --ours               without the peers
// --rust               our own loops in Rust, too: what the engine costs beside the bare loop (compiles for some minutes)
// --rust-program PATH  the same, with the program that `cargo bench --bench decode --no-run` has made
// --rounds N           5 by default
// --slow-rounds N      rounds of mlx-lm with the BLAS that it comes with, which take minutes each (1); it leaves out the 64 requests
// --only TEXT          measurements whose name contains this
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { guard, run, SetupError } from '../scripts/task.mjs';
import { defaultPython, here, makeSmallModel, peersPython, warnOfLoad, withOpenBlas } from './environment.mjs';
import { bare, decode, firstToken, mixed } from './requests.mjs';
import { printTable, ratio, takeTurns } from './rounds.mjs';
import { Worker } from './worker.mjs';

const { values: options } = parseArgs({
  options: {
    'mlx-python': { type: 'string', default: defaultPython },
    ours: { type: 'boolean', default: false },
    rust: { type: 'boolean', default: false },
    'rust-program': { type: 'string' },
    rounds: { type: 'string', default: '5' },
    'slow-rounds': { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
  },
});

const steps = 65;
const prompt = (row, length) => Array.from({ length }, (_, column) => (17 + 7919 * row + 31 * column) % 8000);
const rows = (count) => Array.from({ length: count }, (_, row) => prompt(row, 32));
const inRust = (count) => {
  const { name, request, ms } = bare(rows(count), steps);
  return { name: name.replace('bare loop', 'engine in Rust'), request: { ...request, case: 'engine' }, ms };
};
const batches = [1, 8, 32].map((count) => ({
  count,
  engine: decode(rows(count), steps),
  loop: bare(rows(count), steps),
  rust: inRust(count),
}));
const requests = Array.from({ length: 64 }, (_, i) => ({
  prompt: prompt(i, 16 + ((i * 37) % 241)),
  max: 16 + ((i * 53) % 113),
}));

const takes = ({ request }) => request.case !== 'engine';

/** The Rust side, compiled. */
async function build() {
  const args = ['bench', '--bench', 'decode', '--no-run', '--message-format=json'];
  const { code, output } = await run('cargo bench --no-run', 'cargo', args, { cwd: path.dirname(here) });
  const lines = output.split('\n').filter((line) => line.startsWith('{'));
  const built = lines
    .map((line) => JSON.parse(line))
    .findLast(({ target, executable }) => target?.name === 'decode' && executable);
  if (code !== 0 || built === undefined) throw new SetupError(`the Rust side does not build:\n${output.slice(-3000)}`);
  return built.executable;
}

async function startAll() {
  const model = await makeSmallModel();
  const ours = await Worker.start(process.execPath, [path.join(here, 'generation-ours.mjs'), model]);
  const workers = [{ label: 'mlx-node', worker: ours, takes }];
  const program = options['rust-program'] ?? (options.rust ? await build() : undefined);
  if (program !== undefined) {
    const worker = await Worker.start(program, [model]);
    workers.push({ label: 'in Rust', worker, reference: true, takes: ({ request }) => request.case !== 'generate' });
  }
  if (options.ours) return workers;
  const python = peersPython(options['mlx-python'], '--ours, or --mlx-python PATH');
  const script = [path.join(here, 'peers/mlx_lm_generation.py'), model];
  const fast = withOpenBlas(python);
  if (Object.keys(fast).length > 0) {
    workers.push({ label: 'mlx-lm, our BLAS', worker: await Worker.start(python, script, fast), takes });
  }
  const rounds = Number(options['slow-rounds']);
  // 64 requests take it a quarter of an hour.
  const short = (measurement) => takes(measurement) && !measurement.long;
  if (rounds > 0) workers.push({ label: 'mlx-lm', worker: await Worker.start(python, script), takes: short, rounds });
  return workers;
}

/** What the engine costs beside the loop that it cannot do without. */
function printCosts(workers, { times }) {
  const rust = workers.findIndex(({ reference }) => reference);
  for (const { count, engine, loop, rust: engineInRust } of batches) {
    const of = ({ name }, i) => times.get(name)?.[i] ?? [];
    const costs = [
      ['from JavaScript', ratio(of(engine, 0), of(loop, 0))],
      ['in Rust', ratio(of(engineInRust, rust), of(loop, rust))],
      ['from JavaScript beside the loop in Rust', ratio(of(engine, 0), of(loop, rust))],
    ].filter(([, value]) => value !== undefined);
    const texts = costs.map(([what, value]) => `${what} ${((value - 1) * 100).toFixed(1)} %`);
    if (texts.length > 0) console.log(`the engine beside the bare loop, ${count}: ${texts.join('; ')}`);
  }
}

await guard(async () => {
  const workers = await startAll();
  warnOfLoad();
  const measurements = [
    ...batches.flatMap(({ engine, loop, rust }) => [engine, loop, rust]),
    firstToken(prompt(0, 32)),
    firstToken(prompt(0, 2048)),
    ...mixed(requests),
  ].filter(
    ({ name }) => name.includes(options.only) && (workers.some(({ reference }) => reference) || !name.includes('Rust')),
  );
  const results = await takeTurns(workers, measurements, Number(options.rounds));
  printTable(workers, measurements, results);
  printCosts(workers, results);
  workers.forEach(({ worker }) => worker.stop());
});
