#!/usr/bin/env node
// npm run bench: times us and the peers one after another on this machine and prints the ratios as a table.
// --ours                 without the peers
// --mlx-python PATH      a Python with mlx-lm (default: bench/.venv, made by bench/setup.sh)
// --torch-python PATH    a Python with torch, transformers and trl (default: the same)
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { guard, run, say, SetupError } from '../scripts/task.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const venv = path.join(here, '.venv/bin/python');
const { values: options } = parseArgs({
  options: {
    ours: { type: 'boolean', default: false },
    'mlx-python': { type: 'string', default: venv },
    'torch-python': { type: 'string', default: venv },
  },
});
const threads = String(os.availableParallelism());
const small = path.join(here, '.work/small');
const tiny = path.join(here, '../examples/tiny-qwen3');

/** Seeded random weights, so that every peer loads the same weights. */
async function makeModel() {
  const { NativeModel } = await import('mlx-node/native');
  if (!fs.existsSync(path.join(small, 'model.safetensors'))) {
    fs.mkdirSync(small, { recursive: true });
    const model = NativeModel.create(fs.readFileSync(path.join(here, 'configs/small.json'), 'utf8'), 0);
    await model.save(small);
    model.dispose();
  }
}

async function measure(what, command, args, env = {}) {
  const { code, output } = await run(what, command, args, { cwd: here, env: { ...process.env, ...env } });
  const line = output.split('\n').findLast((text) => text.startsWith('{"peer"'));
  if (code !== 0 || line === undefined) throw new SetupError(`${what} failed:\n${output.trimEnd().slice(-3000)}`);
  return JSON.parse(line);
}

function python(name) {
  const file = options[name];
  if (!fs.existsSync(file)) {
    throw new SetupError(
      `There is no Python with the peers at ${file}.`,
      `bench/setup.sh\nor --ours, or --${name} PATH`,
    );
  }
  return file;
}

/** What makes Python's MLX multiply through the OpenBLAS that we bind (Linux). */
function withOpenBlas(executable) {
  const folder = path.dirname(path.dirname(executable));
  const shim = path.join(folder, 'libopenblas-for-mlx.so');
  const versions = fs.readdirSync(path.join(folder, 'lib')).filter((name) => name.startsWith('python3'));
  const library = versions
    .map((name) => path.join(folder, 'lib', name, 'site-packages/scipy_openblas32/lib/libscipy_openblas.so'))
    .find((file) => fs.existsSync(file));
  if (!fs.existsSync(shim) || library === undefined) return {};
  return { LD_PRELOAD: shim, OPENBLAS_LIBRARY: library };
}

const number = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

await guard(async () => {
  const load = os.loadavg()[0];
  if (load > 0.5) say(`  ! the load average is ${load.toFixed(1)}: other programs will distort the numbers`);
  await makeModel();
  // Each in a process of its own: thread pools and caches of one do not touch the next.
  const ours = {
    ...(await measure('mlx-node: products, decoding, training', process.execPath, ['ours.mjs', 'small', small])),
    ...(await measure('mlx-node: GRPO', process.execPath, ['ours.mjs', 'grpo', tiny])),
    ...(await measure('mlx-node: arrays', process.execPath, ['arrays.mjs'])),
  };
  const peers = [];
  if (!options.ours) {
    peers.push(
      await measure('numpy', python('mlx-python'), ['peers/numpy_sgemm.py']),
      await measure('mlx-lm', python('mlx-python'), ['peers/mlx_lm_small.py', small]),
      await measure(
        'MLX in Python, with our BLAS',
        python('mlx-python'),
        ['peers/mlx_arrays.py'],
        withOpenBlas(python('mlx-python')),
      ),
      await measure('transformers', python('torch-python'), ['peers/torch_small.py', small, threads]),
      await measure('TRL', python('torch-python'), ['peers/trl_grpo.py', tiny, threads]),
    );
  }

  const rows = [
    ['float32 product, 1024 x 1024 x 1024', 'sgemm_ms'],
    ['one decoding step, 16 rows', 'decode_ms'],
    ['one training step, 8 x 128 tokens', 'train_ms'],
    ['one GRPO step of the demo, 256 completions', 'grpo_ms'],
    ['one step of an MLP loop, 256 x 784', 'mlp_ms'],
    ['1000 lazy additions of two scalars', 'op_us'],
    ['1000 lazy additions of a number', 'op_number_us'],
  ];
  console.log(
    `\n${os.cpus()[0].model.trim()}, ${threads} threads, ${os.platform()}, Node ${process.versions.node}; ${ours.peer}\n`,
  );
  console.log('| | mlx-node, ms | peer, ms | | times as fast |\n|---|--:|--:|---|--:|');
  for (const [what, key] of rows) {
    const against = peers.filter((peer) => key in peer);
    if (against.length === 0) console.log(`| ${what} | ${number(ours[key])} | | | |`);
    for (const peer of against) {
      const ratio = (peer[key] / ours[key]).toFixed(2);
      console.log(`| ${what} | ${number(ours[key])} | ${number(peer[key])} | ${peer.peer} | ${ratio} |`);
    }
  }
  // The work is the same: equal losses before the first update and after the last one.
  for (const peer of peers.filter((candidate) => 'first_loss' in candidate)) {
    const rowsEqual = peer.tokens.filter((row, i) => JSON.stringify(row) === JSON.stringify(ours.tokens[i])).length;
    console.log(
      `\n${peer.peer}: losses ${peer.first_loss.toFixed(4)} and ${peer.last_loss.toFixed(4)}, ours ` +
        `${ours.first_loss.toFixed(4)} and ${ours.last_loss.toFixed(4)}; ${rowsEqual} of ${peer.tokens.length} decoded rows equal`,
    );
  }
});
