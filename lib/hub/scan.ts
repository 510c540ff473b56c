import { existsSync } from 'node:fs';
import type { Dirent } from 'node:fs';
import { readdir, readFile, readlink, rm, rmdir, stat } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { errorText, MlxError } from '../errors.js';
import { hubCacheDir } from './settings.js';

/** A snapshot: a repository at one commit. */
export interface CachedRevision {
  commitHash: string;
  path: string;
  /** Branches and tags that are at this commit. */
  refs: string[];
  /** Bytes of its files; blobs that other snapshots use too are counted here as well. */
  sizeOnDisk: number;
  /** Names of its files, and the blobs that they are. */
  files: { name: string; blobPath: string; size: number }[];
  lastModified: Date;
}

export interface CachedRepo {
  repoId: string;
  repoType: 'model' | 'dataset' | 'space';
  path: string;
  /** Bytes of all blobs, each counted once. */
  sizeOnDisk: number;
  /** Bytes of downloads that were not finished. */
  incompleteSize: number;
  /** Those downloads. */
  incomplete: { path: string; size: number; lastModified: Date }[];
  lastAccessed: Date;
  lastModified: Date;
  revisions: CachedRevision[];
}

export interface CacheInfo {
  cacheDir: string;
  sizeOnDisk: number;
  repos: CachedRepo[];
  /** Folders that are not as they should be. */
  warnings: string[];
}

const types = { models: 'model', datasets: 'dataset', spaces: 'space' } as const;

const entries = async (path: string): Promise<Dirent[]> => await readdir(path, { withFileTypes: true }).catch(() => []);

/** All files below `root`, links included, as paths relative to it. */
async function filesBelow(root: string): Promise<string[]> {
  const found = await readdir(root, { withFileTypes: true, recursive: true }).catch(() => []);
  return found
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)));
}

/** Lists what the hub's cache holds, whoever downloaded it. A cache that does not exist is empty. */
export async function scanCacheDir(cacheDir: string = hubCacheDir()): Promise<CacheInfo> {
  const repos: CachedRepo[] = [];
  const warnings: string[] = [];
  for (const entry of await entries(cacheDir)) {
    const [plural, ...name] = entry.name.split('--');
    const repoType = types[plural as keyof typeof types] as (typeof types)[keyof typeof types] | undefined;
    if (!entry.isDirectory() || repoType === undefined || name.length === 0) continue;
    try {
      repos.push(await scanRepo(join(cacheDir, entry.name), name.join('/'), repoType));
    } catch (error) {
      warnings.push(`${entry.name}: ${errorText(error)}`);
    }
  }
  repos.sort((a, b) => b.sizeOnDisk - a.sizeOnDisk || (a.repoId < b.repoId ? -1 : 1));
  return { cacheDir, sizeOnDisk: repos.reduce((sum, repo) => sum + repo.sizeOnDisk, 0), repos, warnings };
}

async function scanRepo(path: string, repoId: string, repoType: CachedRepo['repoType']): Promise<CachedRepo> {
  const refs = new Map<string, string[]>();
  for (const name of await filesBelow(join(path, 'refs'))) {
    const commit = (await readFile(join(path, 'refs', name), 'utf8')).trim();
    refs.set(commit, [...(refs.get(commit) ?? []), name]);
  }
  const blobs = new Map<string, { size: number; accessed: number; modified: number }>();
  const revisions: CachedRevision[] = [];
  for (const entry of await entries(join(path, 'snapshots'))) {
    if (entry.isDirectory())
      revisions.push(await scanRevision(join(path, 'snapshots', entry.name), entry.name, refs, blobs));
  }
  const incomplete: CachedRepo['incomplete'] = [];
  for (const { name } of await entries(join(path, 'blobs'))) {
    const part = join(path, 'blobs', name);
    const found = name.endsWith('.incomplete') ? await stat(part).catch(() => null) : null;
    if (found !== null) incomplete.push({ path: part, size: found.size, lastModified: found.mtime });
  }
  const own = await stat(path);
  const all = [...blobs.values()];
  return {
    repoId,
    repoType,
    path,
    sizeOnDisk: all.reduce((sum, blob) => sum + blob.size, 0),
    incompleteSize: incomplete.reduce((sum, part) => sum + part.size, 0),
    incomplete,
    lastAccessed: new Date(Math.max(...all.map((blob) => blob.accessed), all.length > 0 ? 0 : own.atimeMs)),
    lastModified: new Date(Math.max(...all.map((blob) => blob.modified), all.length > 0 ? 0 : own.mtimeMs)),
    revisions: revisions.toSorted((a, b) => b.lastModified.getTime() - a.lastModified.getTime()),
  };
}

async function scanRevision(
  path: string,
  commitHash: string,
  refs: ReadonlyMap<string, string[]>,
  blobs: Map<string, { size: number; accessed: number; modified: number }>,
): Promise<CachedRevision> {
  const files: CachedRevision['files'] = [];
  let lastModified = 0;
  for (const name of await filesBelow(path)) {
    const file = join(path, name);
    // Only the first link is followed: a blob may itself be a link into a store that several repositories share.
    const blobPath = await readlink(file).then(
      (target) => resolve(dirname(file), target),
      () => file,
    );
    const found = await stat(blobPath).catch(() => null);
    // A link to nothing: its download has not ended, or its blob was removed.
    if (found === null) continue;
    const { size, atimeMs, mtimeMs } = found;
    blobs.set(blobPath, { size, accessed: atimeMs, modified: mtimeMs });
    files.push({ name, blobPath, size });
    lastModified = Math.max(lastModified, mtimeMs);
  }
  const blobSizes = new Map(files.map((file) => [file.blobPath, file.size]));
  return {
    commitHash,
    path,
    refs: (refs.get(commitHash) ?? []).toSorted(),
    sizeOnDisk: [...blobSizes.values()].reduce((sum, size) => sum + size, 0),
    files,
    lastModified: new Date(lastModified || (await stat(path)).mtimeMs),
  };
}

/** What {@link planRemoval} or {@link planPrune} found, to be shown before {@link removeFromCache} does it. */
export interface Removal {
  cacheDir: string;
  /** Whole repositories. */
  repos: CachedRepo[];
  /** Single snapshots of repositories that stay. */
  revisions: { repo: CachedRepo; revision: CachedRevision }[];
  /** Unfinished downloads. */
  incomplete: CachedRepo['incomplete'];
  /** Bytes that will be free. */
  freed: number;
}

/**
 * Finds what `targets` name: a repository ('Qwen/Qwen3-0.6B', 'dataset/org/name'), or one of its snapshots by the first eight or more
 * digits of its commit. Throws ERR_MLX_HUB_NOT_FOUND for what the cache does not hold.
 */
export async function planRemoval(targets: readonly string[], cacheDir: string = hubCacheDir()): Promise<Removal> {
  const info = await scanCacheDir(cacheDir);
  const repos = new Set<CachedRepo>();
  const revisions: Removal['revisions'] = [];
  for (const target of targets) {
    const repo = info.repos.find(
      ({ repoId, repoType }) => target === `${repoType}/${repoId}` || (repoType === 'model' && target === repoId),
    );
    if (repo !== undefined) {
      repos.add(repo);
      continue;
    }
    const found = info.repos.flatMap((each) =>
      each.revisions
        .filter(({ commitHash }) => /^[0-9a-f]{8,40}$/.test(target) && commitHash.startsWith(target))
        .map((revision) => ({ repo: each, revision })),
    );
    if (found.length === 0) {
      throw new MlxError(
        'ERR_MLX_HUB_NOT_FOUND',
        `${target} is not in the cache ${cacheDir}; 'mlx-node cache list --revisions' shows what is.`,
      );
    }
    revisions.push(...found);
  }
  return removalOf(cacheDir, repos, revisions, []);
}

/** A part that nobody has written to for so many milliseconds is nobody's. */
const abandonedAfter = 3_600_000;

/** Finds what nothing points to: snapshots that are at no branch or tag, and downloads that were left more than an hour ago. */
export async function planPrune(cacheDir: string = hubCacheDir()): Promise<Removal> {
  const info = await scanCacheDir(cacheDir);
  const revisions = info.repos.flatMap((repo) =>
    repo.revisions.filter(({ refs }) => refs.length === 0).map((revision) => ({ repo, revision })),
  );
  const parts = info.repos
    .flatMap((repo) => repo.incomplete)
    .filter(({ lastModified }) => Date.now() - lastModified.getTime() > abandonedAfter);
  return removalOf(cacheDir, new Set(), revisions, parts);
}

/** Repositories all of whose snapshots go, go as a whole; snapshots of those, and such as are named twice, count once. */
function removalOf(
  cacheDir: string,
  repos: Set<CachedRepo>,
  revisions: Removal['revisions'],
  parts: Removal['incomplete'],
): Removal {
  const single = revisions.filter(
    ({ repo, revision }, i) =>
      !repos.has(repo) && revisions.findIndex((other) => other.revision.path === revision.path) === i,
  );
  for (const { repo } of single) {
    const whole = repo.revisions.every((revision) => single.some((other) => other.revision.path === revision.path));
    // A download that may still go on keeps the folder.
    if (whole && repo.incomplete.every((part) => parts.some(({ path }) => path === part.path))) repos.add(repo);
  }
  const rest = single.filter(({ repo }) => !repos.has(repo));
  const incomplete = parts.filter(
    ({ path }) => ![...repos].some((repo) => repo.incomplete.some((part) => part.path === path)),
  );
  const freed =
    [...repos].reduce((sum, repo) => sum + repo.sizeOnDisk + repo.incompleteSize, 0) +
    incomplete.reduce((sum, part) => sum + part.size, 0) +
    [...ownBlobs(rest).values()].reduce((sum, size) => sum + size, 0);
  return { cacheDir, repos: [...repos], revisions: rest, incomplete, freed };
}

/** Blobs that no snapshot uses but those in `removed`. */
function ownBlobs(removed: Removal['revisions']): Map<string, number> {
  const own = new Map<string, number>();
  for (const { repo, revision } of removed) {
    const kept = repo.revisions.filter((each) => !removed.some((other) => other.revision.path === each.path));
    const used = new Set(kept.flatMap((each) => each.files.map((file) => file.blobPath)));
    for (const file of revision.files) if (!used.has(file.blobPath)) own.set(file.blobPath, file.size);
  }
  return own;
}

/** Removes what {@link planRemoval} or {@link planPrune} found: links before blobs, so that a snapshot never points to nothing. */
export async function removeFromCache(removal: Removal): Promise<void> {
  for (const repo of removal.repos) {
    await rm(join(repo.path, 'refs'), { recursive: true, force: true });
    await rm(join(repo.path, 'snapshots'), { recursive: true, force: true });
    await rm(repo.path, { recursive: true, force: true });
    await rm(join(removal.cacheDir, '.locks', relative(removal.cacheDir, repo.path)), { recursive: true, force: true });
  }
  const blobs = ownBlobs(removal.revisions);
  for (const { repo, revision } of removal.revisions) {
    for (const ref of revision.refs) await removeRef(join(repo.path, 'refs'), ref);
    await rm(revision.path, { recursive: true, force: true });
    // Python's lists of a commit's files.
    await rm(join(repo.path, 'trees', `${revision.commitHash}.json`), { force: true });
  }
  for (const path of blobs.keys()) await rm(path, { force: true });
  for (const { path } of removal.incomplete) await rm(path, { force: true });
}

/** Removes a ref, and the folders of its name that are empty then. */
async function removeRef(root: string, ref: string): Promise<void> {
  let path = join(root, ref);
  await rm(path, { force: true });
  for (path = dirname(path); path !== root && existsSync(path); path = dirname(path)) {
    try {
      await rmdir(path);
    } catch {
      return;
    }
  }
}
