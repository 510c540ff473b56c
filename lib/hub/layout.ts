import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { adapterWeights, commitPattern, indexFile, indexShards } from './repo.js';

/*
 * The cache that all tools of the hub share:
 *   <cacheDir>/models--org--name/blobs/<etag>                contents
 *                               /refs/<branch or tag>        a commit hash
 *                               /snapshots/<commit>/<file>   links to blobs
 *   <cacheDir>/.locks/models--org--name/<etag>…              locks of downloads
 */
export const repoFolderName = (id: string): string => `models--${id.replace('/', '--')}`;

export class RepoStore {
  readonly root: string;
  readonly locks: string;

  constructor(cacheDir: string, id: string) {
    this.root = join(cacheDir, repoFolderName(id));
    this.locks = join(cacheDir, '.locks', repoFolderName(id));
  }

  blob(etag: string): string {
    return join(this.root, 'blobs', etag);
  }

  /** Holds what has arrived of a blob. The name is our own: Python resumes or removes files of its names without our lock. */
  part(etag: string): string {
    return join(this.root, 'blobs', `${etag}.mlx-node.incomplete`);
  }

  /** Says which ranges of the part have arrived, where they come over several connections. */
  notes(etag: string): string {
    return join(this.root, 'blobs', `${etag}.mlx-node.ranges.incomplete`);
  }

  lock(etag: string): string {
    return join(this.locks, `${etag}.mlx-node.lock`);
  }

  snapshot(commit: string): string {
    return join(this.root, 'snapshots', commit);
  }

  file(commit: string, name: string): string {
    return join(this.snapshot(commit), ...name.split('/'));
  }

  /** The commit that a branch or tag was at when it was last asked for; a hash stands for itself. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (commitPattern.test(revision)) return revision;
    try {
      const text = (await readFile(join(this.root, 'refs', ...revision.split('/')), 'utf8')).trim();
      return commitPattern.test(text) ? text : undefined;
    } catch {
      return undefined;
    }
  }

  async writeRef(revision: string, commit: string): Promise<void> {
    if (revision === commit || (await this.commitOf(revision)) === commit) return;
    const path = join(this.root, 'refs', ...revision.split('/'));
    await mkdir(dirname(path), { recursive: true });
    // Under a name of its own, since others may write it too, and not among the refs, where it would pass for one.
    const temporary = join(this.root, `.ref-${randomUUID()}`);
    try {
      await writeFile(temporary, commit);
      await rename(temporary, path);
    } finally {
      await rm(temporary, { force: true });
    }
  }

  /** Puts the blob into the snapshot under its name. */
  async link(commit: string, name: string, etag: string, symlinks: boolean): Promise<void> {
    const blob = this.blob(etag);
    const path = this.file(commit, name);
    await mkdir(dirname(path), { recursive: true });
    const target = relative(dirname(path), blob);
    for (let attempts = symlinks ? 2 : 0; attempts > 0; attempts--) {
      try {
        await symlink(target, path);
        return;
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === 'EEXIST') {
          // Another process made it; or it points to nothing, of a download that went wrong.
          if (existsSync(path)) return;
          await rm(path, { force: true });
        } else if (code === 'EPERM' || code === 'ENOSYS' || code === 'ENOTSUP' || code === 'EOPNOTSUPP') break;
        else throw error;
      }
    }
    // A disk without links: the file itself, as Python does it. Another snapshot may hold the blob already.
    try {
      await rename(blob, path);
    } catch {
      await copyFile(blob, path);
    }
  }

  /** What the snapshot of `commit` lacks to be loaded as a model: empty when it is complete, null when there is no snapshot. */
  async missing(commit: string): Promise<string[] | null> {
    const has = async (name: string): Promise<boolean> =>
      await stat(this.file(commit, name)).then(
        () => true,
        () => false,
      );
    if (!existsSync(this.snapshot(commit))) return null;
    if (await has('adapter_config.json')) {
      for (const name of adapterWeights) if (await has(name)) return [];
      return [adapterWeights[0]!];
    }
    const absent = (await has('config.json')) ? [] : ['config.json'];
    let weights = ['model.safetensors'];
    if (await has(indexFile)) {
      try {
        weights = indexShards(await readFile(this.file(commit, indexFile), 'utf8'), this.snapshot(commit));
      } catch {
        weights = [indexFile];
        return [...absent, ...weights];
      }
    }
    for (const name of weights) if (!(await has(name))) absent.push(name);
    return absent;
  }
}

const tag = 'CACHEDIR.TAG';

/** Marks the cache for backup tools, in the form of https://bford.info/cachedir/. */
export async function tagCache(cacheDir: string): Promise<void> {
  await mkdir(cacheDir, { recursive: true });
  const path = join(cacheDir, tag);
  if (existsSync(path)) return;
  const text =
    'Signature: 8a477f597d28d172789f06886806bc55\n# A cache of models, shared by the tools of the Hugging Face hub.\n';
  await writeFile(path, text, { flag: 'wx' }).catch(() => undefined);
}
