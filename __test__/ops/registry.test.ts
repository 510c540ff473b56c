import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';

const here = join(import.meta.dirname, '..');

/** The text of all tests but those that call everything alike. */
const text = readdirSync(here, { recursive: true, encoding: 'utf8' })
  .filter((file) => /\.test\.ts$|golden-runners\.ts$/.test(file) && !file.includes('hostile'))
  .map((file) => readFileSync(join(here, file), 'utf8'))
  .join('\n');

/** Names that say nothing where they stand as a method: JavaScript has them too. */
const common = new Set(
  [Array.prototype, String.prototype, Object.prototype, Promise.prototype, Map.prototype, Math, Number].flatMap(
    (holder) => Object.getOwnPropertyNames(holder),
  ),
);

function isTested(path: string): boolean {
  const name = path.slice(path.lastIndexOf('.') + 1);
  const inFull = new RegExp(`\\b${path.replaceAll('.', '\\.')}\\b`);
  return inFull.test(text) || (!common.has(name) && text.includes(`.${name}(`));
}

const functionsOf = (path: string, holder: object): string[] =>
  Object.entries(holder).flatMap(([name, value]) =>
    typeof value === 'function'
      ? [`${path}.${name}`]
      : typeof value === 'object' && value !== null
        ? functionsOf(`${path}.${name}`, value as object)
        : [],
  );

test('every function of mx and its namespaces is tested', () => {
  const all = functionsOf('mx', mx);
  expect(all.length).toBeGreaterThan(200);
  expect(all.filter((path) => !isTested(path))).toEqual([]);
});
