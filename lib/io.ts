/** Files of arrays: `.npy` and `.npz` of NumPy, `.safetensors`, and `.gguf` of llama.cpp. */
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { handleOf, MxArray, wrap } from './array/core.js';
import type { ArrayLike } from './array/core.js';
import { array } from './array/create.js';
import { guard, MlxError } from './errors.js';
import { native } from './native.js';
import type { ArrayHandle, FileContents, FileMetadata } from './native-types.js';
import { rejectUnknownKeys } from './options.js';
import { withSignal } from './signal.js';
import { visitLeaves } from './tree.js';
import type { Tree } from './tree.js';

/** What a file can be. */
export type FileFormat = 'npy' | 'npz' | 'safetensors' | 'gguf';

/** Arrays by name. */
export type NamedArrays = Record<string, MxArray>;

/** A value beside the arrays of a GGUF file. Numbers are arrays of one element, lists of numbers arrays of one axis. */
export type GgufValue = string | string[] | MxArray;

/** Bytes done and bytes in all. */
export interface FileProgress {
  loaded: number;
  total: number;
}

/** What work that takes a while can be told. */
export interface FileWorkOptions {
  /** Ends the work; the promise rejects with the signal's reason. A file that was being written is as it was before. */
  signal?: AbortSignal;
  /** Called every few megabytes. */
  onProgress?: (progress: FileProgress) => void;
}

export interface LoadFileOptions {
  /** By the extension unless given. */
  format?: FileFormat;
  /**
   * A compressed `.npz` that would unpack to more bytes is refused with ERR_MLX_LOAD. By default the larger of 1 GiB and a hundred
   * times the file's size, which stops archives made to fill the memory.
   */
  maxBytes?: number;
  /** Whether metadata are returned too, as `{ arrays, metadata }`. */
  returnMetadata?: boolean;
}

/** Arrays and what a file says about them. */
export interface WithMetadata<T = GgufValue> {
  arrays: NamedArrays;
  metadata: Record<string, T>;
}

export interface SaveSafetensorsOptions {
  /** Texts for the file's `__metadata__`, such as `{ format: 'mlx' }`. */
  metadata?: Record<string, string>;
}

export interface SaveGgufOptions {
  /** Texts, lists of texts, numbers and lists of numbers. An array keeps its dtype; a whole number is int32, others float32. */
  metadata?: Record<string, string | readonly string[] | ArrayLike>;
}

const workKeys = ['signal', 'onProgress'] as const;
const loadKeys = ['format', 'maxBytes', 'returnMetadata'] as const;

/** What a file of several arrays gives: with `returnMetadata: true` also what it says about them. */
export type Loaded<O> = O extends { returnMetadata: true } ? WithMetadata : NamedArrays;
/** What `load` of a path gives: where its extension, or `format`, is known while compiling, just that. */
export type LoadedBy<P, O> = O extends { format: 'npy' }
  ? MxArray
  : O extends { format: FileFormat }
    ? Loaded<O>
    : P extends `${string}.npy`
      ? MxArray
      : P extends `${string}.${'npz' | 'safetensors' | 'gguf'}`
        ? Loaded<O>
        : MxArray | Loaded<O>;

/**
 * Reads a file of arrays: the array of an `.npy`, the arrays by name of an `.npz`, `.safetensors` or `.gguf`. At most one tensor is
 * in memory besides those that are done. Arrays of a GGUF come as in Python's MLX: Q4_0, Q4_1 and Q8_0 as packed weights with `.scales` and
 * `.biases` beside them (`groupSize` 32), other quantizations as float16.
 *
 * Whatever is wrong with the file is ERR_MLX_LOAD with the file's and the entry's name. Python objects (pickle) are never loaded.
 *
 * @example
 * const weights = await mx.load('model.safetensors');
 * const { arrays, metadata } = await mx.load('model.gguf', { returnMetadata: true });
 */
export async function load<P extends string | URL, O extends LoadFileOptions & FileWorkOptions>(
  path: P,
  options?: O,
): Promise<LoadedBy<P, O>> {
  const { signal, onProgress, ...rest } = loadOptions(options, 'load()', [...loadKeys, ...workKeys]);
  const contents = await withSignal(signal, (cancel) =>
    native().io.load(pathOf(path), rest, cancel, reporter(onProgress)),
  );
  return unpack(contents, path, rest) as LoadedBy<P, O>;
}

/** `load` without a promise, for code that cannot wait for one. */
export function loadSync<P extends string | URL, O extends LoadFileOptions>(path: P, options?: O): LoadedBy<P, O> {
  const rest = loadOptions(options, 'loadSync()', loadKeys);
  return unpack(
    guard(() => native().io.loadSync(pathOf(path), rest)),
    path,
    rest,
  ) as LoadedBy<P, O>;
}

/** What a safetensors file gives: with `returnMetadata: true` also its texts. */
export type SafetensorsOf<O> = O extends { returnMetadata: true } ? WithMetadata<string> : NamedArrays;

/** `load` of a safetensors file, whatever its extension. With `returnMetadata` also the texts of its `__metadata__`. */
export async function loadSafetensors<O extends { returnMetadata?: boolean } & FileWorkOptions>(
  path: string | URL,
  options?: O,
): Promise<SafetensorsOf<O>> {
  rejectUnknownKeys(options ?? {}, ['returnMetadata', ...workKeys], 'loadSafetensors()');
  return (await load(path, { ...options, format: 'safetensors' })) as SafetensorsOf<O>;
}

/** `loadSafetensors` without a promise. */
export function loadSafetensorsSync<O extends { returnMetadata?: boolean }>(
  path: string | URL,
  options?: O,
): SafetensorsOf<O> {
  rejectUnknownKeys(options ?? {}, ['returnMetadata'], 'loadSafetensorsSync()');
  return loadSync(path, { ...options, format: 'safetensors' }) as SafetensorsOf<O>;
}

/** `load` of a GGUF file, whatever its extension. */
export async function loadGguf<O extends { returnMetadata?: boolean } & FileWorkOptions>(
  path: string | URL,
  options?: O,
): Promise<Loaded<O>> {
  rejectUnknownKeys(options ?? {}, ['returnMetadata', ...workKeys], 'loadGguf()');
  return (await load(path, { ...options, format: 'gguf' })) as Loaded<O>;
}

/** Writes one array as `.npy` (the extension is added where it is missing). bfloat16 becomes `V2`, as in Python's MLX. */
export async function save(path: string | URL, data: ArrayLike, options: FileWorkOptions = {}): Promise<void> {
  rejectUnknownKeys(options, workKeys, 'save()');
  await write({ path, format: 'npy', names: [''], arrays: [data] }, options);
}

/** `save` without a promise. */
export function saveSync(path: string | URL, data: ArrayLike): void {
  writeSync({ path, format: 'npy', names: [''], arrays: [data] });
}

/**
 * Writes arrays as an uncompressed `.npz`: an object by its names (a tree by its paths, such as `layers.0.weight`), a list under the
 * names `arr_0`, `arr_1`, ….
 */
export async function savez(path: string | URL, arrays: Tree, options: FileWorkOptions = {}): Promise<void> {
  rejectUnknownKeys(options, workKeys, 'savez()');
  await write({ path, format: 'npz', ...npzEntries(arrays, 'savez()') }, options);
}

/** `savez` without a promise. */
export function savezSync(path: string | URL, arrays: Tree): void {
  writeSync({ path, format: 'npz', ...npzEntries(arrays, 'savezSync()') });
}

/** `savez` with compressed (deflated) entries. */
export async function savezCompressed(path: string | URL, arrays: Tree, options: FileWorkOptions = {}): Promise<void> {
  rejectUnknownKeys(options, workKeys, 'savezCompressed()');
  await write({ path, format: 'npz', compressed: true, ...npzEntries(arrays, 'savezCompressed()') }, options);
}

/** `savezCompressed` without a promise. */
export function savezCompressedSync(path: string | URL, arrays: Tree): void {
  writeSync({ path, format: 'npz', compressed: true, ...npzEntries(arrays, 'savezCompressedSync()') });
}

/** Writes arrays by name (a tree by its paths, such as `layers.0.weight`) as `.safetensors`. */
export async function saveSafetensors(
  path: string | URL,
  arrays: Tree,
  options: SaveSafetensorsOptions & FileWorkOptions = {},
): Promise<void> {
  rejectUnknownKeys(options, ['metadata', ...workKeys], 'saveSafetensors()');
  await write({ path, format: 'safetensors', ...entries(arrays, 'saveSafetensors()'), ...texts(options) }, options);
}

/** `saveSafetensors` without a promise. */
export function saveSafetensorsSync(path: string | URL, arrays: Tree, options: SaveSafetensorsOptions = {}): void {
  rejectUnknownKeys(options, ['metadata'], 'saveSafetensorsSync()');
  writeSync({ path, format: 'safetensors', ...entries(arrays, 'saveSafetensorsSync()'), ...texts(options) });
}

/** Writes arrays by name as `.gguf`. The format has float32, float16, bfloat16, float64 and int8 to int64, up to four axes. */
export async function saveGguf(
  path: string | URL,
  arrays: Tree,
  options: SaveGgufOptions & FileWorkOptions = {},
): Promise<void> {
  rejectUnknownKeys(options, ['metadata', ...workKeys], 'saveGguf()');
  const metadata = Object.entries(options.metadata ?? {}).map(([key, value]) => ggufMetadata(key, value));
  await write({ path, format: 'gguf', ...entries(arrays, 'saveGguf()'), metadata }, options);
}

/** What goes into a file. */
interface Job {
  path: string | URL;
  format: FileFormat;
  names: string[];
  arrays: readonly ArrayLike[];
  compressed?: boolean;
  metadata?: FileMetadata[];
}

type SaveArguments = [
  string,
  string[],
  ArrayHandle[],
  { format: string; compressed?: boolean; metadata?: FileMetadata[] },
];

function saveArguments({ path, format, names, arrays, compressed, metadata }: Job): SaveArguments {
  const name = pathOf(path);
  const target = extname(name).toLowerCase() === `.${format}` ? name : `${name}.${format}`;
  const handles = arrays.map((data) => handleOf(data instanceof MxArray ? data : array(data)));
  const options: SaveArguments[3] = { format };
  if (compressed !== undefined) options.compressed = compressed;
  if (metadata !== undefined) options.metadata = metadata;
  return [target, names, handles, options];
}

async function write(job: Job, { signal, onProgress }: FileWorkOptions): Promise<void> {
  const report = reporter(onProgress);
  const taken = saveArguments(job);
  await withSignal(signal, (cancel) => native().io.save(...taken, cancel, report));
}

function writeSync(job: Job): void {
  guard(() => native().io.saveSync(...saveArguments(job)));
}

export function pathOf(path: string | URL): string {
  if (path instanceof URL) {
    if (path.protocol !== 'file:') {
      throw new MlxError('ERR_MLX_ARGUMENT', `files are read from paths and file: URLs, not from ${path.href}`);
    }
    return fileURLToPath(path);
  }
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw new MlxError('ERR_MLX_ARGUMENT', `the path of a file was expected, not ${JSON.stringify(path)}`);
  }
  return path;
}

function loadOptions<O extends LoadFileOptions & FileWorkOptions>(
  options: O | undefined,
  where: string,
  known: readonly string[],
): LoadFileOptions & FileWorkOptions {
  rejectUnknownKeys(options ?? {}, known, where);
  return Object.fromEntries(Object.entries(options ?? {}).filter(([, value]) => value !== undefined));
}

export function reporter(
  onProgress: ((progress: FileProgress) => void) | undefined,
): ((loaded: number, total: number) => void) | undefined {
  if (onProgress === undefined) return undefined;
  if (typeof onProgress !== 'function') {
    throw new MlxError('ERR_MLX_ARGUMENT', `onProgress must be a function, not ${typeof onProgress}`);
  }
  return (loaded, total) => onProgress({ loaded, total });
}

function unpack(contents: FileContents, path: string | URL, options: LoadFileOptions): unknown {
  const made = contents.arrays.map((handle) => wrap(handle as ArrayHandle));
  const format = options.format ?? extname(pathOf(path)).slice(1).toLowerCase();
  if (format === 'npy') return made[0];
  // Own properties whatever the names are, `__proto__` included.
  const arrays: NamedArrays = Object.fromEntries(contents.names.map((name, i) => [name, made[i]!]));
  if (!options.returnMetadata) return arrays;
  return { arrays, metadata: Object.fromEntries(contents.metadata.map((entry) => [entry.key, valueOf(entry)])) };
}

const valueOf = ({ text, texts: list, array: handle }: FileMetadata): GgufValue =>
  text ?? list ?? wrap(handle as ArrayHandle);

/** The arrays of a tree under their paths. What is no array would be lost, so it is an error. */
function entries(tree: Tree, where: string): Pick<Job, 'names' | 'arrays'> {
  const names: string[] = [];
  const arrays: ArrayLike[] = [];
  visitLeaves(tree, (value, path) => {
    if (!(value instanceof MxArray) && !ArrayBuffer.isView(value)) {
      const what = value === null ? 'null' : `a ${typeof value}`;
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        path === ''
          ? `${where} takes arrays by name, not ${what}`
          : `${where}: '${path}' is ${what}; a file holds only arrays. Of a module, save its parameters().`,
      );
    }
    if (path === '') {
      throw new MlxError('ERR_MLX_ARGUMENT', `${where} takes arrays by name, such as { weight }, not a single array`);
    }
    names.push(path);
    arrays.push(value as ArrayLike);
  });
  return { names, arrays };
}

function npzEntries(arrays: Tree, where: string): Pick<Job, 'names' | 'arrays'> {
  const found = entries(arrays, where);
  return Array.isArray(arrays) ? { ...found, names: found.names.map((name) => `arr_${name}`) } : found;
}

function texts({ metadata }: SaveSafetensorsOptions): { metadata: FileMetadata[] } {
  return {
    metadata: Object.entries(metadata ?? {}).map(([key, text]) => {
      if (typeof text === 'string') return { key, text };
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `metadata '${key}' must be a text, as safetensors has no other, not ${typeof text}`,
      );
    }),
  };
}

function ggufMetadata(key: string, value: string | readonly string[] | ArrayLike): FileMetadata {
  if (typeof value === 'string') return { key, text: value };
  if (Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === 'string')) {
    return { key, texts: value };
  }
  return { key, array: handleOf(value instanceof MxArray ? value : array(value as ArrayLike)) };
}
