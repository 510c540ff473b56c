#!/usr/bin/env node
// npm run lint: format, lints, generated files and the pages of the API. Every check runs; the output of those that fail is shown.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { docs } from './docs.mjs';
import { root, setup } from './setup.mjs';
import { guard, run, say } from './task.mjs';

const bin = (name) => path.join(root, 'node_modules/.bin', name);

const checks = [
  ['cargo fmt', 'cargo', ['fmt', '--all', '--check']],
  ['clippy', 'cargo', ['clippy', '--quiet', '--workspace', '--all-targets', '--', '-D', 'warnings']],
  ['clippy, with the JavaScript binding', 'cargo', ['clippy', '--quiet', '--features', 'node', '--', '-D', 'warnings']],
  ['oxfmt', bin('oxfmt'), ['--check']],
  ['oxlint', bin('oxlint'), ['--deny-warnings']],
  ['tsc', bin('tsc'), ['--project', 'tsconfig.check.json']],
  [
    'index.cjs, index.d.cts and lib/generated are what the build generates',
    'git',
    ['diff', '--exit-code', 'HEAD', '--', 'index.cjs', 'index.d.cts', 'lib/generated'],
  ],
];

/** The committed bindings against freshly generated ones. */
async function bindings() {
  const fresh = path.join(os.tmpdir(), `bindings-${process.pid}.rs`);
  try {
    const what = 'bindings.rs is what bindgen generates';
    const made = await run('generating the bindings', path.join(root, 'mlx-c/scripts/bindings.sh'), [fresh], {
      cwd: root,
    });
    if (made.code !== 0) return { what, ...made };
    return {
      what,
      ...(await run(what, 'diff', ['-u', path.join(root, 'mlx-c/src/bindings.rs'), fresh], { cwd: root })),
    };
  } finally {
    fs.rmSync(fresh, { force: true });
  }
}

/** How many checks failed. */
export async function lint() {
  say('lint');
  const results = [];
  for (const [what, command, args] of checks)
    results.push({ what, ...(await run(what, command, args, { cwd: root })) });
  results.push(await bindings());
  results.push({ what: 'the API pages build without warnings', ...(await docs()) });
  const failed = results.filter((result) => result.code !== 0);
  for (const { what, output } of failed) say(`\n${what}:\n${output.trimEnd()}`);
  return failed.length;
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  await guard(async () => {
    await setup();
    return (await lint()) === 0 ? 0 : 1;
  });
}
