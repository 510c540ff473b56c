#!/usr/bin/env node
// npm run bench: times us and the peers one after another on this machine and prints the ratios as a table.
// --ours                 without the peers
// --mlx-python PATH      a Python with mlx-lm (default: bench/.venv, made by bench/setup.sh)
// --torch-python PATH    a Python with torch, transformers and trl (default: the same)
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { guard, run, SetupError } from '../scripts/task.mjs';
import {
  defaultPython,
  here,
  machine,
  makeSmallModel,
  peersPython,
  threads,
  warnOfLoad,
  withOpenBlas,
} from './environment.mjs';

const { values: options } = parseArgs({
  options: {
    ours: { type: 'boolean', default: false },
    'mlx-python': { type: 'string', default: defaultPython },
    'torch-python': { type: 'string', default: defaultPython },
  },
});
const tiny = path.join(here, '../examples/tiny-qwen3');

async function measure(what, command, args, env = {}) {
  const { code, output } = await run(what, command, args, { cwd: here, env: { ...process.env, ...env } });
  const line = output.split('\n').findLast((text) => text.startsWith('{"peer"'));
  if (code !== 0 || line === undefined) throw new SetupError(`${what} failed:\n${output.trimEnd().slice(-3000)}`);
  return JSON.parse(line);
}

const python = (name) => peersPython(options[name], `--ours, or --${name} PATH`);
const number = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

await guard(async () => {
  warnOfLoad();
  const small = await makeSmallModel();
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
      await measure('transformers', python('torch-python'), ['peers/torch_small.py', small, String(threads)]),
      await measure('TRL', python('torch-python'), ['peers/trl_grpo.py', tiny, String(threads)]),
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
  console.log(`\n${machine()}; ${ours.peer}\n`);
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
