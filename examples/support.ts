/** What the array examples share: options with a help text, a line that shows progress, a page with charts, a verdict. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { htmlPage } from 'mlx-node';

/** By name: the default, and what the option is. */
type Options = Record<string, readonly [standard: number | string, about: string]>;

type Values<T extends Options> = { [Name in keyof T]: T[Name][0] extends number ? number : string };

function leave(text: string, code: number): never {
  (code === 0 ? process.stdout : process.stderr).write(`${text}\n`);
  process.exit(code);
}

/** Options from the command line; numbers are whole and not negative. `--help` prints them all. */
export function readOptions<T extends Options>(about: string, options: T): Values<T> {
  const entries = Object.entries(options);
  const help = entries.map(([name, [standard, what]]) => `  --${name.padEnd(10)} ${what} (${standard})`).join('\n');
  const read = () => {
    const known = Object.fromEntries(entries.map(([name]) => [name, { type: 'string' as const }]));
    const { values } = parseArgs({ options: { ...known, help: { type: 'boolean', short: 'h' } } });
    return entries.map(([name, [standard]]) => {
      const text = (values as Record<string, string | undefined>)[name] ?? String(standard);
      if (typeof standard === 'string') return [name, text];
      if (!/^\d+$/.test(text) || (text === '0' && name !== 'seed'))
        throw new Error(`--${name} must be a whole number of at least ${name === 'seed' ? 0 : 1}, not '${text}'`);
      return [name, Number(text)];
    });
  };
  if (process.argv.includes('--help') || process.argv.includes('-h'))
    leave(`${about}\n\nOptions:\n${help}\n  --help       this text`, 0);
  try {
    return Object.fromEntries(read()) as Values<T>;
  } catch (error) {
    return leave(`${(error as Error).message}\n\nOptions:\n${help}`, 2);
  }
}

let shown = 0;

/** Progress: one line that changes on a terminal, elsewhere a line every five seconds. `last` ends it. */
export function progress(text: string, last = false): void {
  const { stderr } = process;
  if (!last && Date.now() - shown < (stderr.isTTY ? 80 : 5000)) return;
  shown = Date.now();
  if (stderr.isTTY) stderr.write(`\r\x1b[2K${text.slice(0, stderr.columns - 1)}${last ? '\n' : ''}`);
  else stderr.write(`${text}\n`);
}

/** Writes a page with charts, and whatever else follows them. */
export function writePage(path: string, title: string, subtitle: string, charts: string[], rest = ''): void {
  mkdirSync(dirname(path), { recursive: true });
  const body = `<div class="charts">${charts.join('')}</div>${rest}`;
  writeFileSync(path, htmlPage({ title, subtitle, body }));
  console.log(`charts: ${path}`);
}

/** Says whether the example has learned what it should; the process then ends well or with code 1. */
export function verdict(learned: boolean, text: string): void {
  console.log(`${learned ? 'learned' : 'NOT learned'}: ${text}`);
  if (!learned) process.exitCode = 1;
}
