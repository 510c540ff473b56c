#!/usr/bin/env node
// npm test: sets up what is stale, then runs the Rust and the TypeScript tests.
// npm test -- --rust [filter]    npm test -- --js [files or vitest options]
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { add, cargoCounts, vitestCounts } from './counts.mjs';
import { readJson } from './inputs.mjs';
import { root, setup } from './setup.mjs';
import { guard, say } from './task.mjs';

/** Runs a command in sight of the reader and keeps its standard output. */
function show(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['inherit', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.setEncoding('utf8');
    child.stdout.on('data', (chunk) => {
      output += chunk;
      process.stdout.write(chunk);
    });
    child.on('error', (error) => {
      say(`cannot run ${command}: ${error.message}`);
      resolve({ code: 127, output });
    });
    child.on('close', (status) => resolve({ code: status ?? 1, output }));
  });
}

async function rust(args) {
  say('cargo test');
  const { code, output } = await show('cargo', ['test', '--workspace', '--no-fail-fast', '--quiet', ...args]);
  return cargoCounts(output, code);
}

async function typescript(args) {
  say('vitest');
  const file = `${root}/target/setup/vitest-${process.pid}.json`;
  fs.mkdirSync(`${root}/target/setup`, { recursive: true });
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
  const { code } = await show(`${root}/node_modules/.bin/vitest`, ['run', ...reporters, ...args]);
  const counts = vitestCounts(readJson(file), code);
  fs.rmSync(file, { force: true });
  return counts;
}

/** Both suites, or the one that the first argument names. */
export async function test(args = []) {
  const [only, ...rest] = args[0] === '--rust' || args[0] === '--js' ? args : [undefined, ...args];
  let counts = { passed: 0, failed: 0 };
  if (only !== '--js') counts = add(counts, await rust(only === undefined ? [] : rest));
  if (only !== '--rust') counts = add(counts, await typescript(rest));
  return counts;
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  await guard(async () => {
    await setup();
    const { passed, failed } = await test(process.argv.slice(2));
    console.log(`${passed} passed, ${failed} failed`);
    return failed === 0 ? 0 : 1;
  });
}
