import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile, rename, rm, rmdir, stat, statfs } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { guard, MlxError } from './errors.js';
import { copyTokenizerFiles, replaceFile, saveError, syncFolder, temporaryPrefix } from './files.js';
import type { DownloadProgress } from './hub/progress.js';
import { resolveModel } from './hub/resolve.js';
import { hubKeys } from './hub/snapshot.js';
import type { HubOptions } from './hub/snapshot.js';
import { native } from './native.js';
import type { ConvertReport, NativeConvertSettings } from './native-types.js';
import { rejectUnknownKeys } from './options.js';
import { resolveQuantization } from './quantization.js';
import type { ModelQuantization } from './quantization.js';
import { withSignal } from './signal.js';

/** How far a conversion is: first bytes that come from the hub, where any do, then bytes of weights written. */
export interface ConvertProgress {
  phase: 'download' | 'convert';
  /** Bytes so far and in all, of this phase. */
  done: number;
  total: number;
  /** While downloading: the file that moved. */
  file?: string;
  /** While downloading. */
  bytesPerSecond?: number;
}

/** Options of {@link convert}. Those of {@link HubOptions} matter for models of the hub only. */
export interface ConvertOptions extends HubOptions {
  /** Of numbers and scales. Default: that of the checkpoint's config.json. */
  dtype?: 'float32' | 'bfloat16' | 'float16';
  /** Packs the layers: mlx-lm's `-q`. */
  quantize?: ModelQuantization;
  /** Unpacks what is packed. */
  dequantize?: boolean;
  /** A file of weights has no more bytes, unless one weight has. Default: 5 GB. */
  shardBytes?: number;
  onProgress?: (progress: ConvertProgress) => void;
  signal?: AbortSignal;
}

const keys = ['dtype', 'quantize', 'dequantize', 'shardBytes', 'onProgress', 'signal'] as const;

const manifestName = 'conversion.json';

/** What must be the same for finished files of an interrupted conversion to be taken: the source's files, and what is made of them. */
async function fingerprint(source: string, settings: NativeConvertSettings): Promise<string> {
  const files: [string, number, number][] = [];
  for (const name of (await readdir(source)).toSorted()) {
    if (!name.endsWith('.safetensors') && name !== 'config.json' && !name.endsWith('.index.json')) continue;
    const { size, mtimeMs } = await stat(join(source, name));
    files.push([name, size, mtimeMs]);
  }
  return JSON.stringify({ version: 1, source: resolve(source), files, settings });
}

/** Prepares the folder that becomes `target`: the one of an interrupted conversion of the same, or an empty one. */
async function prepare(folder: string, wanted: string): Promise<void> {
  const found = await readFile(join(folder, manifestName), 'utf8').catch(() => undefined);
  if (found !== wanted) {
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    await replaceFile(join(folder, manifestName), wanted);
    return;
  }
  // Files that were being written.
  for (const name of await readdir(folder)) {
    if (name.endsWith('.tmp')) await rm(join(folder, name), { force: true });
  }
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

/** Throws where the disk has no room for what is still to be written. */
async function checkSpace(folder: string, target: string, bytes: number): Promise<void> {
  let there = 0;
  for (const name of await readdir(folder)) there += (await stat(join(folder, name))).size;
  const { bavail, bsize } = await statfs(folder);
  const [needed, free] = [bytes - there, bavail * bsize];
  if (needed > free) {
    throw new MlxError(
      'ERR_MLX_SAVE',
      `${target}: the disk has ${gigabytes(free)} left, and the weights need ${gigabytes(needed)}; free some space or choose another folder`,
    );
  }
}

/** @internal Throws where there is something that a new checkpoint would replace. */
export async function refuseExisting(out: string): Promise<void> {
  const target = resolve(out);
  if (existsSync(target) && (!(await stat(target)).isDirectory() || (await readdir(target)).length > 0)) {
    throw new MlxError('ERR_MLX_SAVE', `${out}: this exists already; remove it, or choose another folder`);
  }
}

/**
 * Writes a checkpoint as another one: in another dtype, quantised or dequantised, in mlx-lm's layout. Weights go through memory one by
 * one, so that the model never is in it. `out` is complete or absent: an interrupted conversion leaves what it finished beside it, and the
 * same call goes on from there. `pathOrId` is a folder, or the name of a model on the hub.
 *
 * @example
 * await convert('Qwen/Qwen3-0.6B', './Qwen3-0.6B-4bit', { quantize: { bits: 4 } });
 */
export async function convert(pathOrId: string, out: string, options: ConvertOptions = {}): Promise<ConvertReport> {
  const where = 'convert()';
  rejectUnknownKeys(options, [...keys, ...hubKeys], where);
  const { dtype, quantize, dequantize, shardBytes, onProgress, signal } = options;
  if (shardBytes !== undefined && !(Number.isFinite(shardBytes) && shardBytes >= 1))
    throw new MlxError('ERR_MLX_CONFIG', `${where}: shardBytes must be at least 1, got ${String(shardBytes)}`);
  signal?.throwIfAborted();
  const target = resolve(out);
  await refuseExisting(out);
  const { path } = await resolveModel(pathOrId, {
    ...Object.fromEntries(hubKeys.map((key) => [key, options[key]])),
    ...(signal === undefined ? {} : { signal }),
    ...(onProgress === undefined
      ? {}
      : {
          onProgress: ({ loaded, ...progress }: DownloadProgress) =>
            onProgress({ phase: 'download', done: loaded, ...progress }),
        }),
  });
  const settings: NativeConvertSettings = {
    ...(dtype === undefined ? {} : { dtype }),
    ...(quantize === undefined
      ? {}
      : {
          quantize: resolveQuantization(
            quantize,
            () => guard(() => native().NativeModel.layersOf(path)),
            `${where}'s quantize`,
          ),
        }),
    ...(dequantize === undefined ? {} : { dequantize }),
    ...(shardBytes === undefined ? {} : { shardBytes }),
  };
  const plan = await withSignal(signal, () => native().planConversion(path, settings));
  const folder = join(dirname(target), `${temporaryPrefix}convert-${basename(target)}`);
  try {
    await prepare(folder, await fingerprint(path, settings));
    await checkSpace(folder, target, plan.bytes);
    const report = await withSignal(signal, (cancel) =>
      native().convertCheckpoint(
        path,
        folder,
        settings,
        cancel,
        onProgress === undefined ? undefined : (done, total) => onProgress({ phase: 'convert', done, total }),
      ),
    );
    await copyTokenizerFiles(path, folder);
    for (const name of await readdir(path)) {
      if (name.endsWith('.py')) await copyFile(join(path, name), join(folder, name));
    }
    await rm(join(folder, manifestName));
    await syncFolder(folder);
    if (existsSync(target)) await rmdir(target);
    await rename(folder, target);
    return report;
  } catch (error) {
    if (signal?.aborted === true) throw signal.reason;
    throw saveError(target, error);
  }
}
