#!/usr/bin/env node
// Generation against mlx-lm on this machine: the same model, requests and CPU, greedy. Every round asks all in turn; medians over rounds.
// node bench/generation.mjs [options], after npm run build
// --mlx-python PATH   a Python with mlx-lm (default: bench/.venv, made by bench/setup.sh)
// --ours              without the peers
// --rust              our own loops in Rust, too: what the engine costs beside the bare loop (compiles for some minutes)
// --rust-program PATH the same, with the program that `cargo bench --bench decode --no-run` has made
// --rounds N          5 by default; mlx-lm with the BLAS that it comes with takes part in the first --slow-rounds (2)
// --only TEXT         measurements whose name contains this
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { guard, run, say, SetupError } from '../scripts/task.mjs';
import { defaultPython, here, machine, makeSmallModel, peersPython, warnOfLoad, withOpenBlas } from './environment.mjs';
import { median } from './times.mjs';
import { Worker } from './worker.mjs';

const { values: options } = parseArgs({
  options: {
    'mlx-python': { type: 'string', default: defaultPython },
    ours: { type: 'boolean', default: false },
    rust: { type: 'boolean', default: false },
    'rust-program': { type: 'string' },
    rounds: { type: 'string', default: '5' },
    'slow-rounds': { type: 'string', default: '2' },
    only: { type: 'string', default: '' },
  },
});

const prompt = (row, length) => Array.from({ length }, (_, column) => (17 + 7919 * row + 31 * column) % 8000);
const prompts = (rows, length) => Array.from({ length: rows }, (_, row) => prompt(row, length));

const steps = 65;
/** Requests that start together, and the milliseconds of one step from the first token of all to the last. */
const decode = (rows) => ({
  name: `decoding step, ${rows} ${rows === 1 ? 'row' : 'rows'}`,
  request: {
    case: 'generate',
    prompts: prompts(rows, 32),
    maxTokens: Array(rows).fill(steps),
    batchSize: rows,
    prefillBatchSize: rows,
  },
  ms: ({ first, last }) => (Math.max(...last) - Math.max(...first)) / (steps - 1),
});
const firstToken = (length) => ({
  name: `first token of a prompt of ${length}`,
  request: { case: 'generate', prompts: prompts(1, length), maxTokens: [1], batchSize: 32, prefillBatchSize: 8 },
  ms: ({ first }) => first[0],
});
const requests = Array.from({ length: 64 }, (_, i) => ({
  prompt: prompt(i, 16 + ((i * 37) % 241)),
  max: 16 + ((i * 53) % 113),
}));
const mixed = {
  name: `64 requests (${sum(requests.map((one) => one.prompt.length))} + ${sum(requests.map((one) => one.max))} tokens)`,
  request: {
    case: 'generate',
    prompts: requests.map((one) => one.prompt),
    maxTokens: requests.map((one) => one.max),
    batchSize: 32,
    prefillBatchSize: 8,
  },
  ms: ({ last }) => Math.max(...last),
};
const meanFirst = {
  ...mixed,
  name: 'mean wait for their first tokens',
  request: undefined,
  ms: ({ first }) => sum(first) / first.length,
};
const bare = (rows) => ({
  name: `step of the bare loop, ${rows} ${rows === 1 ? 'row' : 'rows'}`,
  request: { case: 'bare', prompts: prompts(rows, 32), steps },
  ms: ({ stepMs }) => stepMs,
});
const rustEngine = (rows) => ({
  ...bare(rows),
  name: `step of the engine in Rust, ${rows}`,
  request: { ...bare(rows).request, case: 'engine' },
  rust: true,
});

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

const measurements = [
  ...[1, 8, 32].flatMap((rows) => [decode(rows), bare(rows), rustEngine(rows)]),
  firstToken(32),
  firstToken(2048),
  mixed,
  meanFirst,
].filter(({ name }) => name.includes(options.only));

async function buildRust() {
  const cargo = ['bench', '--bench', 'decode', '--no-run', '--message-format=json'];
  const { code, output } = await run('cargo bench --no-run', 'cargo', cargo, { cwd: path.dirname(here) });
  const built = output
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));
  const executable = built.findLast(({ target, executable: file }) => target?.name === 'decode' && file)?.executable;
  if (code !== 0 || executable === undefined)
    throw new SetupError(`the Rust side does not build:\n${output.slice(-3000)}`);
  return executable;
}

await guard(async () => {
  const model = await makeSmallModel();
  const workers = [
    {
      label: 'mlx-node',
      worker: await Worker.start(process.execPath, [path.join(here, 'generation-ours.mjs'), model]),
    },
  ];
  const program = options['rust-program'] ?? (options.rust ? await buildRust() : undefined);
  if (program !== undefined)
    workers.push({ label: 'mlx-node in Rust', worker: await Worker.start(program, [model]), rust: true });
  if (!options.ours) {
    const python = peersPython(options['mlx-python'], '--ours, or --mlx-python PATH');
    const script = [path.join(here, 'peers/mlx_lm_generation.py'), model];
    const fast = withOpenBlas(python);
    if (Object.keys(fast).length > 0) {
      workers.push({ label: 'mlx-lm, our BLAS', worker: await Worker.start(python, script, fast) });
    }
    workers.push({
      label: 'mlx-lm',
      worker: await Worker.start(python, script),
      rounds: Number(options['slow-rounds']),
    });
  }
  warnOfLoad();

  const times = new Map(measurements.map(({ name }) => [name, workers.map(() => [])]));
  const equal = new Map();
  const takesPart = (worker, measurement) =>
    measurement.rust === true ? worker.rust === true : worker.rust !== true || measurement.request?.case === 'bare';
  // Round 0 warms up.
  for (let round = 0; round <= Number(options.rounds); round++) {
    let answers;
    for (const measurement of measurements) {
      if (measurement.request !== undefined) answers = workers.map(() => undefined);
      for (const [i, worker] of workers.entries()) {
        if (!takesPart(worker, measurement) || round > (worker.rounds ?? Infinity)) continue;
        // A warm-up of what takes long is not worth its time.
        if (round === 0 && (worker.rounds !== undefined || measurement === mixed || measurement === meanFirst))
          continue;
        if (measurement.request !== undefined) answers[i] = await worker.worker.ask(measurement.request);
        if (round > 0) times.get(measurement.name)[i].push(measurement.ms(answers[i]));
      }
      if (round === 1 && answers[0] !== undefined) {
        const rows = answers.map(
          (answer) => answer?.tokens.filter((row, at) => `${row}` === `${answers[0].tokens[at]}`).length,
        );
        equal.set(
          measurement.name,
          `${rows
            .slice(1)
            .filter((count) => count !== undefined)
            .join(', ')} of ${answers[0].tokens.length}`,
        );
      }
    }
    say(`  round ${round} of ${options.rounds}`);
  }

  const show = (values) => (values.length === 0 ? '' : median(values).toPrecision(median(values) >= 100 ? 4 : 3));
  const headers = workers.map(({ label }) => `${label}, ms`);
  const peers = workers.map((worker, i) => ({ ...worker, i })).filter(({ i, rust }) => i > 0 && rust !== true);
  console.log(`\n${machine()}; ${workers.map(({ worker }) => worker.peer).join('; ')}\n`);
  console.log(`| | ${[...headers, ...peers.map(({ label }) => `${label} / mlx-node`)].join(' | ')} |`);
  console.log(`|---|${[...headers, ...peers].map(() => '--:|').join('')}`);
  for (const { name } of measurements) {
    const lists = times.get(name);
    // Of the same round: what else runs on the machine then slows both.
    const ratios = peers.map(({ i }) => {
      const pairs = lists[i].map((value, round) => value / lists[0][round]).filter(Number.isFinite);
      return pairs.length === 0 ? '' : median(pairs).toFixed(2);
    });
    console.log(`| ${[name, ...lists.map(show), ...ratios].join(' | ')} |`);
  }
  for (const rows of [1, 8, 32]) {
    const of = (measurement, i) => times.get(measurement.name)?.[i] ?? [];
    const loss = (engine, loop) => {
      const ratios = engine.map((value, round) => value / loop[round]).filter(Number.isFinite);
      return ratios.length === 0 ? undefined : `${((median(ratios) - 1) * 100).toFixed(1)} %`;
    };
    const rust = workers.findIndex((worker) => worker.rust === true);
    const lines = [
      ['the engine takes more than the bare loop', loss(of(decode(rows), 0), of(bare(rows), 0))],
      ['in Rust', loss(of(rustEngine(rows), rust), of(bare(rows), rust))],
      ['the engine from JavaScript more than the bare loop in Rust', loss(of(decode(rows), 0), of(bare(rows), rust))],
    ].filter(([, value]) => value !== undefined);
    if (lines.length > 0)
      console.log(`\n${rows} rows: ${lines.map(([what, value]) => `${what}: ${value}`).join('; ')}`);
  }
  console.log('\nanswers equal to ours, token for token:');
  for (const [name, text] of equal) console.log(`  ${name}: ${text}`);
  workers.forEach(({ worker }) => worker.stop());
});
