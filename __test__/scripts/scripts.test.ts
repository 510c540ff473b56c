// The build scripts decide what a newcomer sees first and what CI counts; these are their pure parts.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { add, cargoCounts, vitestCounts } from '../../scripts/counts.mjs';
import { fingerprint, modulesAreFresh, readJson, writeJson } from '../../scripts/inputs.mjs';
import { atLeast } from '../../scripts/prerequisites.mjs';
import { removeAbandoned } from '../../scripts/setup.mjs';

function folder(): string {
  return fs.mkdtempSync(path.join(os.tmpdir(), 'mlx-node-scripts-'));
}

describe('test counts', () => {
  it('sums every cargo test binary', () => {
    const output = [
      'running 3 tests',
      'test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s',
      'test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s',
    ].join('\n');
    expect(cargoCounts(output, 101)).toEqual({ passed: 7, failed: 2 });
  });

  it('counts a compile error and a crash as a failure', () => {
    expect(cargoCounts('error[E0425]: cannot find value', 101)).toEqual({ passed: 0, failed: 1 });
    expect(cargoCounts('test result: ok. 3 passed; 0 failed; 0 ignored;', 101)).toEqual({ passed: 3, failed: 1 });
  });

  it('reads the vitest report, with files that did not load', () => {
    const report = {
      numPassedTests: 5,
      numFailedTests: 1,
      testResults: [
        { status: 'failed', assertionResults: [{ status: 'failed' }, { status: 'passed' }] },
        { status: 'failed', assertionResults: [] },
        { status: 'passed', assertionResults: [{ status: 'passed' }] },
      ],
    };
    expect(vitestCounts(report, 1)).toEqual({ passed: 5, failed: 2 });
    expect(vitestCounts(undefined, 1)).toEqual({ passed: 0, failed: 1 });
    expect(add({ passed: 1, failed: 2 }, { passed: 3, failed: 4 })).toEqual({ passed: 4, failed: 6 });
  });
});

describe('staging folders', () => {
  it('go when the build that made them is dead', () => {
    const root = folder();
    const { pid: dead } = spawnSync(process.execPath, ['-e', '']);
    for (const name of [`addon-${dead}`, `addon-${process.pid}`, 'addon-x', 'mlx-lm'])
      fs.mkdirSync(path.join(root, name));
    removeAbandoned(root);
    expect(fs.readdirSync(root).toSorted()).toEqual([`addon-${process.pid}`, 'addon-x', 'mlx-lm'].toSorted());
    fs.rmSync(root, { recursive: true });
    removeAbandoned(root);
  });
});

describe('staleness', () => {
  it('sees contents and names, not times', () => {
    const root = folder();
    fs.mkdirSync(path.join(root, 'src'));
    fs.writeFileSync(path.join(root, 'src/a.rs'), 'one');
    const first = fingerprint(root, ['src', 'absent'], ['cpu']);
    fs.utimesSync(path.join(root, 'src/a.rs'), 1, 1);
    expect(fingerprint(root, ['src', 'absent'], ['cpu'])).toBe(first);
    expect(fingerprint(root, ['src', 'absent'], ['metal'])).not.toBe(first);
    fs.renameSync(path.join(root, 'src/a.rs'), path.join(root, 'src/b.rs'));
    expect(fingerprint(root, ['src', 'absent'], ['cpu'])).not.toBe(first);
    fs.writeFileSync(path.join(root, 'src/b.rs'), 'two');
    fs.renameSync(path.join(root, 'src/b.rs'), path.join(root, 'src/a.rs'));
    expect(fingerprint(root, ['src', 'absent'], ['cpu'])).not.toBe(first);
    fs.rmSync(root, { recursive: true });
  });

  it('compares installed packages with the lock file', () => {
    const lock = {
      packages: {
        '': {},
        'node_modules/a': { version: '1.0.0' },
        'node_modules/b': { version: '2.0.0', optional: true },
      },
    };
    expect(modulesAreFresh(lock, { packages: { 'node_modules/a': { version: '1.0.0' } } })).toBe(true);
    expect(modulesAreFresh(lock, { packages: { 'node_modules/a': { version: '1.0.1' } } })).toBe(false);
    expect(modulesAreFresh(lock, { packages: {} })).toBe(false);
    expect(modulesAreFresh(lock, undefined)).toBe(false);
  });

  it('takes a truncated stamp for none', () => {
    const root = folder();
    const file = path.join(root, 'deep/stamp.json');
    writeJson(file, { inputs: 'x' });
    expect(readJson(file)).toEqual({ inputs: 'x' });
    fs.writeFileSync(file, '{"inputs": ');
    expect(readJson(file)).toBeUndefined();
    fs.rmSync(root, { recursive: true });
  });

  it('compares versions by number', () => {
    expect(atLeast('20.19.0', '20.19')).toBe(true);
    expect(atLeast('1.100.0', '1.88')).toBe(true);
    expect(atLeast('1.87.9', '1.88')).toBe(false);
    expect(atLeast('2.36', '2.35')).toBe(true);
  });
});
