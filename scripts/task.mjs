// Runs the long commands of the set-up: one line while they run, one line when they are done, their output when they fail.
import { spawn } from 'node:child_process';
import { performance } from 'node:perf_hooks';
import process from 'node:process';

/** A failure the reader can mend: printed without a stack trace. */
export class SetupError extends Error {
  /**
   * @param {string} problem what is wrong
   * @param {string} [remedy] what to do about it
   */
  constructor(problem, remedy) {
    super(problem);
    this.name = 'SetupError';
    this.remedy = remedy;
  }
}

const interactive = process.stderr.isTTY && !process.env.CI;
const heartbeatMs = interactive ? 500 : 20_000;

/** Whole seconds, or minutes and seconds. */
export function duration(milliseconds) {
  const seconds = milliseconds / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export function say(text) {
  process.stderr.write(`${text}\n`);
}

const children = new Set();
let interrupted = false;

/** Signals the whole group: npm and cargo have children of their own. */
function stop(child, signal) {
  try {
    process.kill(-child.pid, signal);
  } catch {
    // It has ended already.
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    if (children.size === 0) process.exit(130);
    interrupted = true;
    for (const child of children) {
      stop(child, signal);
      setTimeout(() => stop(child, 'SIGKILL'), 5000).unref();
    }
  });
}

/**
 * Runs a command, shows that it is alive, and resolves with its output.
 *
 * @param {string} what shown to the reader
 * @param {string} command
 * @param {string[]} args
 * @param {{ cwd: string, env?: NodeJS.ProcessEnv, quiet?: boolean }} options
 * @returns {Promise<{ code: number, output: string }>}
 */
export async function run(what, command, args, { cwd, env = process.env, quiet = false }) {
  const started = performance.now();
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  children.add(child);

  let output = '';
  let lastLine = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8');
    stream.on('data', (chunk) => {
      output += chunk;
      lastLine = chunk.trimEnd().split('\n').at(-1).trim() || lastLine;
    });
  }
  const show = () => {
    const text = `  … ${what} (${duration(performance.now() - started)})${lastLine ? `: ${lastLine}` : ''}`;
    if (interactive) process.stderr.write(`\r\u001b[2K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`);
    else say(text.slice(0, 160));
  };
  if (!quiet && !interactive) say(`  … ${what}`);
  const timer = quiet ? undefined : setInterval(show, heartbeatMs);

  const code = await new Promise((resolve) => {
    child.on('error', (error) => {
      output += `cannot run ${command}: ${error.message}\n`;
      resolve(127);
    });
    child.on('close', (status) => resolve(status ?? 1));
  });
  clearInterval(timer);
  children.delete(child);
  if (interactive && !quiet) process.stderr.write('\r\u001b[2K');
  if (interrupted) {
    say('\ninterrupted; nothing is half written, run the same command again to go on');
    process.exit(130);
  }
  if (!quiet && code === 0) say(`  ✓ ${what} (${duration(performance.now() - started)})`);
  if (!quiet && code !== 0) say(`  ✗ ${what} (${duration(performance.now() - started)})`);
  return { code, output };
}

/** Runs `main`, and prints a SetupError as a message with its remedy. */
export async function guard(main) {
  try {
    process.exitCode = (await main()) ?? 0;
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(`\n${error.message}`);
    if (error.remedy) say(`\nTo mend it:  ${error.remedy.replaceAll('\n', '\n             ')}`);
    process.exitCode = 1;
  }
}
