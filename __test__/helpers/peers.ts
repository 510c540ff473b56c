import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..', '..');

/** A Python that reads what we save. */
export interface Peer {
  python: string;
  script: string;
  env: NodeJS.ProcessEnv;
}

export interface Request {
  folder: string;
  adapter?: string;
  /** Of an adapter that the peer makes. */
  config?: object;
  /** Token ids, all of one length. */
  prompts: number[][];
  steps: number;
}

export interface Reading {
  dtype: string;
  /** Of the prompts, [B, T, V]. */
  logits: number[][][];
  /** Chosen greedily after them, [B, steps]. */
  tokens: number[][];
}

const pins = [
  'mlx-lm==0.32.2',
  process.platform === 'darwin' ? 'mlx==0.32.4' : 'mlx[cpu]==0.32.4',
  'transformers==5.23.0',
  'gguf==0.19.0',
];

/**
 * mlx-lm from PyPI in a folder of its own, installed once. pip's --target needs neither venv nor ensurepip, which Debian keeps in
 * other packages, and leaves the Python that it runs in alone.
 */
export function mlxLm(): Peer {
  const python = process.env['PYTHON'] || 'python3';
  const run = (args: string[]): string =>
    execFileSync(python, args, {
      encoding: 'utf8',
      env: { ...process.env, PIP_REQUIRE_VIRTUALENV: '0' },
      stdio: 'pipe',
    });
  let version: string;
  try {
    version = run(['-c', 'import sys, pip; print(f"{sys.version_info[0]}.{sys.version_info[1]}")']).trim();
  } catch (error) {
    throw new Error(
      `'${python}' must be a Python 3.10 or newer with pip, to read what we save with mlx-lm: apt-get install python3 python3-pip, ` +
        'brew install python, or set PYTHON to one',
      { cause: error },
    );
  }
  const parent = join(root, 'target', 'setup');
  const name = `mlx-lm-python${version}-${pins.join('-').replaceAll(/[^\w.-]+/g, '_')}`;
  const folder = join(parent, name);
  if (!existsSync(folder)) {
    mkdirSync(parent, { recursive: true });
    // Complete or absent, also when the test is killed.
    for (const entry of readdirSync(parent)) {
      if (entry.startsWith(`${name}.partial-`)) rmSync(join(parent, entry), { recursive: true });
    }
    const partial = join(parent, `${name}.partial-${process.pid}`);
    try {
      run([
        '-m',
        'pip',
        'install',
        '--quiet',
        '--disable-pip-version-check',
        '--only-binary=:all:',
        '--target',
        partial,
        ...pins,
      ]);
    } catch (error) {
      rmSync(partial, { recursive: true, force: true });
      throw new Error(
        `pip could not install ${pins.join(', ')} for Python ${version}. These tests need Python 3.10 or newer and PyPI (HTTPS_PROXY, ` +
          `PIP_INDEX_URL), once; everything lands in target/setup.\n${(error as { stderr?: string }).stderr ?? ''}`,
        { cause: error },
      );
    }
    renameSync(partial, folder);
  }
  return {
    python,
    script: join(root, '__test__/parity/peers/read_with_mlx_lm.py'),
    // Nothing of the user's own packages.
    env: { ...process.env, PYTHONPATH: folder, PYTHONNOUSERSITE: '1' },
  };
}

/** The Python with torch, transformers and PEFT that MLX_NODE_TRANSFORMERS_PYTHON names. */
export function transformersPeer(): Peer {
  return {
    python: process.env['MLX_NODE_TRANSFORMERS_PYTHON']!,
    script: join(root, '__test__/parity/peers/read_with_transformers.py'),
    env: process.env,
  };
}

/** What a peer makes of saved models, in one process. */
export function read({ python, script, env }: Peer, requests: Request[]): Reading[] {
  const output = execFileSync(python, [script], {
    input: requests.map((request) => `${JSON.stringify(request)}\n`).join(''),
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    env: { ...env, HF_HUB_OFFLINE: '1', TOKENIZERS_PARALLELISM: 'false', TRANSFORMERS_VERBOSITY: 'error' },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const readings = output
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Reading);
  if (readings.length !== requests.length)
    throw new Error(`${script} answered ${readings.length} of ${requests.length}`);
  return readings;
}
