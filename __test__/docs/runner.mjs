// Runs compiled snippets, one after the other, and prints `{ ran, problems }`. Usage: runner.mjs file...
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { inspect } from 'node:util';
import { MxArray } from 'mlx-node';

const problems = [];
let ran = 0;

/** Values as the documents write them: lists for arrays, four digits. */
function show(value) {
  if (value instanceof MxArray) return show(listOf(value));
  if (ArrayBuffer.isView(value)) return show([...value]);
  if (typeof value === 'number') return String(Number(value.toPrecision(4)));
  if (typeof value === 'string') return value.replaceAll(/\s*\n\s*/g, ' ');
  if (Array.isArray(value)) return `[${value.map(show).join(', ')}]`;
  if (value instanceof Map) return show(Object.fromEntries(value));
  if (value?.constructor === Object)
    return `{ ${Object.entries(value)
      .map(([key, part]) => `${key}: ${show(part)}`)
      .join(', ')} }`;
  return inspect(value, { breakLength: Infinity });
}

const listOf = (array) => array.toArray();

function compare(line, expected, got) {
  ran += 1;
  const fits = expected.endsWith('…') ? got.startsWith(expected.slice(0, -1)) : got === expected;
  if (!fits) problems.push({ line, problem: `the document says '${expected}', it is '${got}'` });
}

const failure = (error) => `throws ${error?.code ?? error?.name}`;

globalThis.__check = (line, expected, body) => {
  const failed = (error) => {
    // An error that was not announced ends the program, as it would a reader's.
    if (!expected.startsWith('throws ')) throw error;
    compare(line, expected, failure(error));
  };
  try {
    const value = body();
    if (!(value instanceof Promise)) return compare(line, expected, show(value));
    return value.then((result) => compare(line, expected, show(result)), failed);
  } catch (error) {
    return failed(error);
  }
};

// What snippets print is for their readers.
console.log = () => undefined;
for (const file of process.argv.slice(2)) {
  try {
    await import(pathToFileURL(file).href);
  } catch (error) {
    problems.push({ line: 0, problem: `${file}: ${error?.stack ?? error}` });
  }
}
await sleep(0);
process.stdout.write(JSON.stringify({ ran, problems }));
