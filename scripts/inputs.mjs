// Decides what is out of date. Contents are hashed, not times: a git checkout or a copy touches times and changes nothing.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';

function* files(entry) {
  const stat = fs.statSync(entry, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isDirectory()) {
    yield entry;
    return;
  }
  for (const name of fs.readdirSync(entry).toSorted()) yield* files(path.join(entry, name));
}

/** Hash over the names and contents of files and folders below `root`, and over extra strings. */
export function fingerprint(root, entries, extra = []) {
  const hash = createHash('sha256');
  for (const entry of entries) {
    for (const file of files(path.join(root, entry))) {
      const data = fs.readFileSync(file);
      hash.update(`${path.relative(root, file)}\0${data.length}\0`).update(data);
    }
  }
  for (const text of extra) hash.update(`\0${text}`);
  return hash.digest('hex');
}

/** The JSON in a file, or undefined where it is missing or cut short. */
export function readJson(file) {
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/** Whole or not at all. */
export function writeJson(file, value) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  const partial = `${file}.${process.pid}`;
  fs.writeFileSync(partial, JSON.stringify(value, null, 2));
  fs.renameSync(partial, file);
}

/**
 * Whether node_modules is what package-lock.json asks for. npm writes `node_modules/.package-lock.json` last, so an
 * interrupted installation is seen as stale.
 */
export function modulesAreFresh(lock, installed) {
  if (lock?.packages === undefined || installed?.packages === undefined) return false;
  return Object.entries(lock.packages).every(([name, wanted]) => {
    if (name === '') return true;
    const found = installed.packages[name];
    return found === undefined ? wanted.optional === true : found.version === wanted.version;
  });
}
