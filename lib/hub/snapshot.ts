import { existsSync } from 'node:fs';
import { readFile, stat, statfs } from 'node:fs/promises';
import { MlxError } from '../errors.js';
import { rejectUnknownKeys } from '../options.js';
import { linkedController } from './abort.js';
import { fetchBlob } from './blob.js';
import type { BlobContext, RemoteFile } from './blob.js';
import { diskError, offlineError, spaceError } from './errors.js';
import type { Subject } from './errors.js';
import type { RetryPolicy } from './http.js';
import { remoteFile, repoInfo } from './info.js';
import type { RepoInfo } from './info.js';
import { RepoStore, tagCache } from './layout.js';
import { DownloadMeter } from './progress.js';
import type { DownloadProgress } from './progress.js';
import { Spare } from './ranges.js';
import { checkRepoId, checkRevision, commitPattern, globTest, indexFile, indexShards, modelFiles } from './repo.js';
import { hubSettings } from './settings.js';
import type { HubSettings } from './settings.js';

/** Where a model of the hub comes from. */
export interface HubOptions {
  /** Branch, tag or full commit hash. Default 'main'. */
  revision?: string;
  /** Folder of the cache. Default HF_HUB_CACHE, else `hub` in HF_HOME, else `~/.cache/huggingface/hub`. */
  cacheDir?: string;
  /** Default HF_TOKEN, else what `hf auth login` stored; false sends none. */
  token?: string | false;
  /** Address of the hub. Default HF_ENDPOINT, else https://huggingface.co. */
  endpoint?: string;
  /** Never ask the hub. HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE do the same. Default false. */
  localFilesOnly?: boolean;
}

export interface SnapshotDownloadOptions extends HubOptions {
  /** Patterns (`*`, `?`) of the files to fetch. Default: what a model needs, its config, tokenizer and safetensors weights. */
  allowPatterns?: string | readonly string[];
  /** Patterns of files to leave out. */
  ignorePatterns?: string | readonly string[];
  /** Connections at a time: for files, and where there are fewer, for ranges of large ones. Default 8. */
  maxWorkers?: number;
  /** Bytes of a large file that one connection fetches; Infinity takes files in one piece. Default 32 MiB. */
  rangeSize?: number;
  /** Repetitions of a request that failed, counted anew whenever something arrived. Default 5. */
  maxRetries?: number;
  /** Milliseconds before the first repetition; doubled each time. Default 500. */
  retryDelay?: number;
  onProgress?: (progress: DownloadProgress) => void;
  signal?: AbortSignal;
}

export const hubKeys = ['revision', 'cacheDir', 'token', 'endpoint', 'localFilesOnly'] as const;
const snapshotKeys = [
  ...hubKeys,
  'allowPatterns',
  'ignorePatterns',
  'maxWorkers',
  'rangeSize',
  'maxRetries',
  'retryDelay',
  'onProgress',
  'signal',
];

const list = (patterns: string | readonly string[] | undefined): readonly string[] | undefined =>
  typeof patterns === 'string' ? [patterns] : patterns;

/**
 * Makes the files of a model lie in the cache that Python's huggingface_hub uses too, and returns their folder. What is there already
 * is not fetched again; a commit that is complete needs no network. When the hub cannot be asked, a complete older snapshot answers.
 *
 * Throws ERR_MLX_HUB_NOT_FOUND, …_ACCESS (private, gated), …_NETWORK, …_OFFLINE (not cached, downloads off), …_HASH and …_DISK.
 *
 * @example
 * const folder = await snapshotDownload('Qwen/Qwen3-0.6B', { onProgress: ({ loaded, total }) => show(loaded / total) });
 */
export async function snapshotDownload(repoId: string, options: SnapshotDownloadOptions = {}): Promise<string> {
  rejectUnknownKeys(options, snapshotKeys, 'snapshotDownload()');
  checkRepoId(repoId);
  const { revision = 'main', signal } = options;
  checkRevision(revision);
  const policy = { maxRetries: count(options, 'maxRetries', 5, 0), retryDelay: count(options, 'retryDelay', 500, 0) };
  const maxWorkers = count(options, 'maxWorkers', 8, 1);
  const rangeSize = options.rangeSize === Infinity ? Infinity : count(options, 'rangeSize', 32 << 20, 1);
  signal?.throwIfAborted();

  const settings = hubSettings(options);
  const store = new RepoStore(settings.cacheDir, repoId);
  const subject = { id: repoId, revision };
  const allow = list(options.allowPatterns);
  const ignore = list(options.ignorePatterns);
  const cached = await cachedSnapshot(store, revision, allow !== undefined || ignore !== undefined);

  if (settings.offline) {
    if (cached.complete) return store.snapshot(cached.commit!);
    throw offlineError(subject, cached.missing, settings.cacheDir);
  }
  if (cached.complete && commitPattern.test(revision) && allow === undefined && ignore === undefined)
    return store.snapshot(revision);

  let info: RepoInfo;
  try {
    const asking = cached.complete ? { ...policy, maxRetries: 0 } : policy;
    info = await repoInfo({ settings, subject, signal }, asking);
  } catch (error) {
    if (cached.complete && signal?.aborted !== true && MlxError.isInstance(error))
      return store.snapshot(cached.commit!);
    throw error;
  }
  const fetching = new Fetching(store, settings, subject, info, policy, { maxWorkers, rangeSize }, options);
  try {
    const names = await fetching.select(allow, ignore);
    const written = await fetching.fetch(names);
    // A cache that cannot be written but holds everything is good enough.
    await store.writeRef(revision, info.commit).catch((error: unknown) => {
      if (written) throw error;
    });
  } catch (error) {
    throw signal?.aborted === true ? signal.reason : diskError(error, settings.cacheDir);
  }
  return store.snapshot(info.commit);
}

function count(
  options: SnapshotDownloadOptions,
  name: 'maxWorkers' | 'rangeSize' | 'maxRetries' | 'retryDelay',
  fallback: number,
  least: number,
): number {
  const value = options[name] ?? fallback;
  if (!Number.isInteger(value) || value < least)
    throw new MlxError('ERR_MLX_ARGUMENT', `${name} must be a whole number from ${least}, got ${String(value)}`);
  return value;
}

/** The folder of a model in the cache, when it is complete there; undefined otherwise. Asks nobody. */
export async function findCached(repoId: string, options: HubOptions = {}): Promise<string | undefined> {
  rejectUnknownKeys(options, hubKeys, 'findCached()');
  checkRepoId(repoId);
  const { revision = 'main' } = options;
  checkRevision(revision);
  const store = new RepoStore(hubSettings(options).cacheDir, repoId);
  const { complete, commit } = await cachedSnapshot(store, revision, false);
  return complete ? store.snapshot(commit!) : undefined;
}

/** What the cache has of a revision. Which files patterns stand for only the hub knows: any snapshot counts as complete then. */
async function cachedSnapshot(
  store: RepoStore,
  revision: string,
  patterns: boolean,
): Promise<{ commit: string | undefined; missing: string[] | null; complete: boolean }> {
  const commit = await store.commitOf(revision);
  const missing = commit === undefined ? null : await store.missing(commit);
  return { commit, missing, complete: missing !== null && (patterns || missing.length === 0) };
}

class Fetching {
  constructor(
    private readonly store: RepoStore,
    private readonly settings: HubSettings,
    private readonly subject: Subject,
    private readonly info: RepoInfo,
    private readonly policy: RetryPolicy,
    private readonly limits: { maxWorkers: number; rangeSize: number },
    private readonly options: SnapshotDownloadOptions,
  ) {}

  /** The names to fetch. Reads the index of the weights, fetching it if need be, for it says which shards belong to the model. */
  async select(allow: readonly string[] | undefined, ignore: readonly string[] | undefined): Promise<string[]> {
    const { store, info, subject } = this;
    const all = [...info.files.keys()];
    const ignored = (ignore ?? []).map(globTest);
    const keep = (name: string): boolean => !ignored.some((test) => test(name));
    if (allow !== undefined) {
      const allowed = allow.map(globTest);
      return all.filter((name) => allowed.some((test) => test(name)) && keep(name));
    }
    let shards: string[] | undefined;
    if (info.files.has(indexFile) && keep(indexFile)) {
      await this.fetch([indexFile], true);
      const path = store.file(info.commit, indexFile);
      shards = indexShards(await readFile(path, 'utf8'), subject.id);
      const lacking = shards.filter((name) => !info.files.has(name));
      if (lacking.length > 0) {
        throw new MlxError(
          'ERR_MLX_HUB_NOT_FOUND',
          `${subject.id}: ${indexFile} lists ${lacking.slice(0, 3).join(', ')}, which the repository lacks.`,
        );
      }
    }
    const names = modelFiles(all, shards).filter(keep);
    if (!names.some((name) => name.endsWith('.safetensors'))) {
      const others = all.filter((name) => /\.(bin|gguf|pth|pt|h5|msgpack|onnx)$/.test(name));
      throw new MlxError(
        'ERR_MLX_LOAD',
        `${subject.id} has no safetensors weights${others.length === 0 ? '' : ` (it has ${others.slice(0, 3).join(', ')})`}; only those can be loaded.`,
      );
    }
    return names;
  }

  /** Fetches what the snapshot lacks, small files first, so that a snapshot with weights can be loaded. False: it lacked nothing. */
  async fetch(names: readonly string[], quiet = false): Promise<boolean> {
    const { store, info, settings, subject, policy, options } = this;
    const lacking = names.filter((name) => !existsSync(store.file(info.commit, name)));
    if (lacking.length === 0) return false;
    // One failure ends the others, whose parts stay.
    const { controller: failed, release } = linkedController(options.signal);
    try {
      const { signal } = failed;
      const request = { settings, subject, signal };
      await tagCache(settings.cacheDir);
      const files = await this.#inParallel(lacking, failed, (name) => remoteFile(name, info, request, policy));
      files.sort((a, b) => (a.size ?? 0) - (b.size ?? 0));
      const pending = files.filter((file) => !existsSync(store.blob(file.etag)));
      await this.#checkSpace(pending);
      const total = pending.reduce((sum, file) => sum + (file.size ?? 0), 0);
      const meter = new DownloadMeter(total, quiet ? undefined : options.onProgress);
      const { maxWorkers, rangeSize } = this.limits;
      const spare = new Spare(maxWorkers - Math.min(maxWorkers, files.length));
      // A single connection has nothing to split a file for.
      const size = maxWorkers === 1 ? Infinity : rangeSize;
      const context: BlobContext = { store, settings, subject, policy, meter, signal, rangeSize: size, spare };
      const fetchFile = async (file: RemoteFile): Promise<void> => {
        // Several names may stand for one blob.
        if (!existsSync(store.blob(file.etag))) await fetchBlob(file, context);
        await store.link(info.commit, file.name, file.etag, settings.symlinks);
      };
      await this.#inParallel(files, failed, fetchFile, () => spare.give());
      if (pending.length > 0) meter.finish(pending.at(-1)!.name);
      return true;
    } finally {
      release();
    }
  }

  /**
   * Runs `work` over `items`, `maxWorkers` at a time; the first failure stops the rest and is thrown when all have ended. `idle` is called
   * by each worker that finds nothing more to do.
   */
  async #inParallel<T, R>(
    items: readonly T[],
    failed: AbortController,
    work: (item: T) => Promise<R>,
    idle = (): void => undefined,
  ): Promise<R[]> {
    const results: R[] = [];
    let next = 0;
    let failure: { error: unknown } | undefined;
    const worker = async (): Promise<void> => {
      while (next < items.length && failure === undefined) {
        const index = next++;
        try {
          results[index] = await work(items[index]!);
        } catch (error) {
          failure ??= { error };
          failed.abort(error);
        }
      }
      idle();
    };
    await Promise.all(Array.from({ length: Math.min(this.limits.maxWorkers, items.length) }, worker));
    if (failure !== undefined) throw failure.error;
    return results;
  }

  /** Fails before the first byte when the disk cannot hold what is still to come. */
  async #checkSpace(files: readonly RemoteFile[]): Promise<void> {
    const { store, settings } = this;
    const there = await Promise.all(
      files.map((file) =>
        stat(store.part(file.etag)).then(
          // Of a file that comes in ranges, what lies between them takes no room.
          ({ size, blocks }) => (blocks > 0 ? Math.min(size, blocks * 512) : size),
          () => 0,
        ),
      ),
    );
    const needed = files.reduce((sum, file, i) => sum + Math.max(0, (file.size ?? 0) - there[i]!), 0);
    const disk = await statfs(settings.cacheDir).catch(() => null);
    if (disk === null) return;
    const free = disk.bavail * disk.bsize;
    if (needed > free) throw spaceError(needed, free, settings.cacheDir);
  }
}
