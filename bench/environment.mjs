// What the benchmarks share: the model, the peers' Python, and how a table names this machine.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { say, SetupError } from '../scripts/task.mjs';

export const here = path.dirname(fileURLToPath(import.meta.url));
export const threads = os.availableParallelism();
export const defaultPython = path.join(here, '.venv/bin/python');

/** The folder of the small model: seeded random weights, so that every peer loads the same. */
export async function makeSmallModel() {
  const folder = path.join(here, '.work/small');
  if (!fs.existsSync(path.join(folder, 'model.safetensors'))) {
    const { NativeModel } = await import('mlx-node/native');
    fs.mkdirSync(folder, { recursive: true });
    const model = NativeModel.create(fs.readFileSync(path.join(here, 'configs/small.json'), 'utf8'), 0);
    await model.save(folder);
    model.dispose();
  }
  return folder;
}

/** The Python that an option names, or a SetupError that says how to get one. */
export function peersPython(file, option) {
  if (!fs.existsSync(file)) {
    throw new SetupError(`There is no Python with the peers at ${file}.`, `bench/setup.sh\nor ${option}`);
  }
  return file;
}

/** What makes Python's MLX multiply through the OpenBLAS that we bind (Linux). */
export function withOpenBlas(executable) {
  const folder = path.dirname(path.dirname(executable));
  const shim = path.join(folder, 'libopenblas-for-mlx.so');
  const versions = fs.readdirSync(path.join(folder, 'lib')).filter((name) => name.startsWith('python3'));
  const library = versions
    .map((name) => path.join(folder, 'lib', name, 'site-packages/scipy_openblas32/lib/libscipy_openblas.so'))
    .find((file) => fs.existsSync(file));
  if (!fs.existsSync(shim) || library === undefined) return {};
  // The kernels that the addon chooses (mlx-c/src/blas.rs).
  const processor = fs.existsSync('/proc/cpuinfo') ? fs.readFileSync('/proc/cpuinfo', 'utf8') : '';
  const wide = processor.includes('AuthenticAMD') && processor.includes('avx512f');
  return { LD_PRELOAD: shim, OPENBLAS_LIBRARY: library, ...(wide ? { OPENBLAS_CORETYPE: 'SKYLAKEX' } : {}) };
}

export function warnOfLoad() {
  const load = os.loadavg()[0];
  if (load > 0.5) say(`  ! the load average is ${load.toFixed(1)}: other programs will distort the numbers`);
}

/** "AMD EPYC, 2 threads, linux, Node 20.20.2". */
export const machine = () =>
  `${os.cpus()[0].model.trim()}, ${threads} threads, ${os.platform()}, Node ${process.versions.node}`;
