// How fast checkpoints are quantised file to file, and how much memory that takes; beside mlx-lm where bench/.venv is there (setup.sh).
//
//   node bench/convert.mjs [checkpoint folder] [--q-bits 4]
//
// Without a folder it makes one of random weights, of the sizes of Qwen3-0.6B in bfloat16 (1.2 GB, in the folder for temporary files).
// Prints one JSON object: seconds, GB of the source a second, and the highest resident memory of the process in GB.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createModel } from 'mlx-node';

const { values, positionals } = parseArgs({
  options: { 'q-bits': { type: 'string', default: '4' } },
  allowPositionals: true,
});
const bits = Number(values['q-bits']);

const qwen3 = {
  model_type: 'qwen3',
  hidden_size: 1024,
  intermediate_size: 3072,
  num_hidden_layers: 28,
  num_attention_heads: 16,
  num_key_value_heads: 8,
  head_dim: 128,
  vocab_size: 151936,
  max_position_embeddings: 40960,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000,
  tie_word_embeddings: true,
};

const scratch = mkdtempSync(join(tmpdir(), 'mlx-node-convert-'));

async function source() {
  if (positionals[0] !== undefined) return positionals[0];
  const folder = join(scratch, 'config');
  mkdirSync(folder);
  writeFileSync(join(folder, 'config.json'), JSON.stringify(qwen3));
  const model = await createModel(folder, { seed: 1, dtype: 'bfloat16' });
  await model.save(join(scratch, 'source'));
  model.dispose();
  return join(scratch, 'source');
}

/** A process of its own, so that its highest memory is that of the conversion. Runs twice: the second finds the files in memory. */
function measured(run) {
  rmSync(join(scratch, 'out'), { recursive: true, force: true });
  run();
  rmSync(join(scratch, 'out'), { recursive: true, force: true });
  return run();
}

/** The object that a process prints in its last line. */
const last = (text) => JSON.parse(text.trim().split('\n').at(-1));

const ours = `
import { convert } from 'mlx-node';
const [source, out, bits] = process.argv.slice(1);
const start = performance.now();
await convert(source, out, { quantize: { bits: Number(bits) } });
const seconds = (performance.now() - start) / 1000;
console.log(JSON.stringify({ seconds, peak: process.resourceUsage().maxRSS * 1024 }));
`;

const theirs = `
import json, pathlib, resource, sys, time
import mlx.core as mx
from mlx_lm.utils import load_model, quantize_model, save_config, save_model
mx.set_default_device(mx.cpu)
source, out, bits = sys.argv[1:]
start = time.perf_counter()
model, config = load_model(pathlib.Path(source), lazy=True)
model, config = quantize_model(model, config, 64, int(bits))
save_model(out, model, donate_model=True)
save_config(config, config_path=pathlib.Path(out) / "config.json")
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
`;

try {
  const folder = await source();
  const bytes = readdirSync(folder)
    .filter((name) => name.endsWith('.safetensors'))
    .reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
  const args = [folder, join(scratch, 'out'), String(bits)];
  const root = join(import.meta.dirname, '..');
  const numbers = ({ seconds, peak }) => ({ seconds, gb_per_s: bytes / 1e9 / seconds, peak_gb: peak / 1e9 });
  const node = () =>
    last(
      execFileSync(process.execPath, ['--input-type=module', '-e', ours, '--', ...args], {
        cwd: root,
        encoding: 'utf8',
      }),
    );
  const report = { source_gb: bytes / 1e9, bits, mlx_node: numbers(measured(node)) };
  const python = join(import.meta.dirname, '.venv/bin/python');
  if (existsSync(python)) {
    const peer = () =>
      last(execFileSync(python, ['-c', theirs, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
    report.mlx_lm = numbers(measured(peer));
  }
  console.log(JSON.stringify(report));
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
