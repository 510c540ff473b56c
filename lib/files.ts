import { existsSync, statSync } from 'node:fs';
import { copyFile, mkdir, open, readdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { errorText, MlxError } from './errors.js';

/** Prefix of folders that are being written or removed; whatever carries it is not complete. */
export const temporaryPrefix = '.tmp-';

/** Files beside the weights that make a checkpoint usable by transformers, mlx-lm and this package. */
export const tokenizerFiles: readonly string[] = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
];

/** Whether a path is a model in one file of llama.cpp's format. */
export function isGguf(path: string): boolean {
  return /\.gguf$/i.test(path) && statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

export async function copyTokenizerFiles(from: string, to: string): Promise<void> {
  for (const name of tokenizerFiles) {
    if (existsSync(join(from, name))) await copyFile(join(from, name), join(to, name));
  }
}

/** Writes a text file that is the old one or complete at any moment. A failure leaves nothing beside it. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = `${path}.tmp`;
  try {
    await writeFile(temporary, text);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
}

/** Flushes every file of `dir` and the folder itself to the disk. */
export async function syncFolder(dir: string): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) await syncFolder(path);
    else if (entry.isFile()) await syncPath(path);
  }
  await syncPath(dir);
}

async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Fills a temporary folder beside `dir` with `write`, flushes it and renames it to `dir`: `dir` is either absent, the old one, or
 * complete. A failure removes the temporary folder and leaves an old `dir` as it was.
 */
export async function writeFolder(dir: string, write: (temporary: string) => Promise<void>): Promise<void> {
  const target = resolve(dir);
  const parent = dirname(target);
  const temporary = join(parent, `${temporaryPrefix}${basename(target)}-${process.pid}`);
  try {
    await mkdir(parent, { recursive: true });
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary);
    await write(temporary);
    await syncFolder(temporary);
    if (existsSync(target)) await replaceFolder(target, temporary);
    else await rename(temporary, target);
    await syncPath(parent);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw saveError(target, error);
  }
}

async function replaceFolder(target: string, temporary: string): Promise<void> {
  const entries = await readdir(target);
  if (entries.length === 0) {
    await rmdir(target);
    await rename(temporary, target);
    return;
  }
  if (
    !entries.includes('config.json') &&
    !entries.includes('adapter_config.json') &&
    !entries.includes('trainer_state.json')
  ) {
    throw new MlxError(
      'ERR_MLX_SAVE',
      `${target}: the folder exists and holds something other than a checkpoint; choose another one or empty it.`,
    );
  }
  const old = join(dirname(target), `${temporaryPrefix}old-${basename(target)}-${process.pid}`);
  await rename(target, old);
  await rename(temporary, target);
  await rm(old, { recursive: true, force: true });
}

/** An ERR_MLX_SAVE with the cure for the common causes. */
export function saveError(path: string, error: unknown): MlxError {
  if (MlxError.isInstance(error) && error.code !== 'ERR_MLX_INTERNAL') return error;
  const text = errorText(error);
  const code = (error as { code?: unknown } | null)?.code;
  if (code === 'ENOSPC' || code === 'EDQUOT' || /no space left|disk quota/i.test(text)) {
    return new MlxError(
      'ERR_MLX_SAVE',
      `${path}: the disk is full (${text}). Nothing that was saved before is lost; free some space and try again.`,
      {
        cause: error,
      },
    );
  }
  return new MlxError('ERR_MLX_SAVE', `${path}: could not be written: ${text}`, { cause: error });
}
