#!/usr/bin/env node
// npm run docs: the pages of the API, by TypeDoc, in target/docs. TypeDoc needs a TypeScript of its own (docs/api), which is installed
// when it is stale. A warning is an error: something public that is not documented there, or a link to nothing.
import fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { modulesAreFresh, readJson } from './inputs.mjs';
import { root, setup } from './setup.mjs';
import { guard, run, say } from './task.mjs';

const folder = path.join(root, 'docs/api');

/** Builds the pages; `{ code, output }` of what failed, or of TypeDoc. */
export async function docs() {
  const lock = readJson(path.join(folder, 'package-lock.json'));
  if (!modulesAreFresh(lock, readJson(path.join(folder, 'node_modules/.package-lock.json')))) {
    const installed = await run('npm packages of docs/api', 'npm', ['ci', '--no-audit', '--no-fund'], { cwd: folder });
    if (installed.code !== 0) return installed;
  }
  return run('API pages', path.join(folder, 'node_modules/.bin/typedoc'), [], {
    cwd: folder,
    env: { ...process.env, NO_COLOR: '1' },
  });
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  await guard(async () => {
    await setup();
    const { code, output } = await docs();
    say(code === 0 ? 'target/docs/index.html' : output.trimEnd());
    return code === 0 ? 0 : 1;
  });
}
