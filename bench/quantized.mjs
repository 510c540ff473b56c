#!/usr/bin/env node
// Decoding of packed models against mlx-lm on this machine: the same checkpoints (affine, groups of 64), prompts and CPU, greedy, one row
// and eight; the plain model beside them. Every round asks all in turn; medians over rounds.
// node bench/quantized.mjs [options], after npm run build
// --mlx-python PATH    a Python with mlx-lm (default: bench/.venv, made by bench/setup.sh)
// --ours               without the peers
// --rounds N           5 by default
// --slow-rounds N      rounds of mlx-lm with the BLAS that it comes with (1)
// --only TEXT          measurements whose name contains this
import fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { convert } from 'mlx-node';
import { guard } from '../scripts/task.mjs';
import { defaultPython, here, makeSmallModel, peersPython, warnOfLoad, withOpenBlas } from './environment.mjs';
import { bare, decode } from './requests.mjs';
import { printTable, takeTurns } from './rounds.mjs';
import { median } from './times.mjs';
import { Worker } from './worker.mjs';

const { values: options } = parseArgs({
  options: {
    'mlx-python': { type: 'string', default: defaultPython },
    ours: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '5' },
    'slow-rounds': { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
  },
});

const steps = 33;
const rows = (count) =>
  Array.from({ length: count }, (_, row) => Array.from({ length: 32 }, (__, i) => (17 + 7919 * row + 31 * i) % 8000));
const kinds = ['plain', '8-bit', '4-bit'];
const measurements = kinds
  .flatMap((kind) =>
    [1, 8].flatMap((count) =>
      [decode, bare].map((measure) => {
        const { name, request, ms } = measure(rows(count), steps);
        return { name: `${kind}, ${name}`, count, ms, request: { ...request, kind } };
      }),
    ),
  )
  .filter(({ name }) => name.includes(options.only));

/** The folder of the small model, packed or not. */
async function folderOf(kind) {
  const plain = await makeSmallModel();
  if (kind === 'plain') return plain;
  const folder = `${plain}-${kind}`;
  if (!fs.existsSync(path.join(folder, 'config.json'))) {
    await convert(plain, folder, { quantize: { bits: Number.parseInt(kind, 10), groupSize: 64 } });
  }
  return folder;
}

/** A worker that is a process for each kind of checkpoint. */
async function startFor(folders, start) {
  const processes = new Map();
  for (const [kind, folder] of folders) processes.set(kind, await start(folder));
  const all = [...processes.values()];
  return {
    peer: all[0].peer,
    ask: (request) => processes.get(request.kind).ask(request),
    stop: () => all.forEach((worker) => worker.stop()),
  };
}

async function startAll() {
  const folders = new Map();
  for (const kind of kinds) {
    if (measurements.some(({ request }) => request.kind === kind)) folders.set(kind, await folderOf(kind));
  }
  const script = path.join(here, 'generation-ours.mjs');
  const ours = await startFor(folders, (folder) => Worker.start(process.execPath, [script, folder]));
  const workers = [{ label: 'mlx-node', worker: ours }];
  if (options.ours) return workers;
  const python = peersPython(options['mlx-python'], '--ours, or --mlx-python PATH');
  const peer = (env) =>
    startFor(folders, (folder) => Worker.start(python, [path.join(here, 'peers/mlx_lm_generation.py'), folder], env));
  const fast = withOpenBlas(python);
  if (Object.keys(fast).length > 0) workers.push({ label: 'mlx-lm, our BLAS', worker: await peer(fast) });
  const slow = Number(options['slow-rounds']);
  if (slow > 0) workers.push({ label: 'mlx-lm', worker: await peer({}), rounds: slow });
  return workers;
}

/** The same medians as tokens a second. */
function printRates(workers, { times }) {
  console.log(`\ntokens a second:\n\n| | ${workers.map(({ label }) => label).join(' | ')} |`);
  console.log(`|---|${'--:|'.repeat(workers.length)}`);
  for (const { name, count } of measurements) {
    const rates = times.get(name).map((list) => (list.length === 0 ? '' : ((1000 * count) / median(list)).toFixed(0)));
    console.log(`| ${[name, ...rates].join(' | ')} |`);
  }
}

await guard(async () => {
  const workers = await startAll();
  warnOfLoad();
  const results = await takeTurns(workers, measurements, Number(options.rounds));
  printTable(workers, measurements, results);
  printRates(workers, results);
  workers.forEach(({ worker }) => worker.stop());
});
