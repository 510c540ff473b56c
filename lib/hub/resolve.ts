import { stat } from 'node:fs/promises';
import { MlxError } from '../errors.js';
import { isGguf } from '../files.js';
import { isRepoId } from './repo.js';
import { snapshotDownload } from './snapshot.js';
import type { HubOptions, SnapshotDownloadOptions } from './snapshot.js';

/** Where a checkpoint lies, and the name under which the hub has it. */
export interface Resolved {
  path: string;
  repoId?: string;
}

/** True when `path` is a folder. */
export const isFolder = async (path: string): Promise<boolean> =>
  await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );

/** The folder that `pathOrId` names: itself, when there is such a folder or .gguf file, else the hub's model of that name, downloaded if need be. */
export async function resolveModel(
  pathOrId: string,
  options: HubOptions & Pick<SnapshotDownloadOptions, 'allowPatterns' | 'onProgress' | 'signal'> = {},
): Promise<Resolved> {
  if (isGguf(pathOrId) || (await isFolder(pathOrId))) return { path: pathOrId };
  if (!isRepoId(pathOrId)) {
    throw new MlxError(
      'ERR_MLX_LOAD',
      `${pathOrId}: there is no such folder. Give a folder with config.json and *.safetensors, a .gguf file, or the name of a model on the hub ('Qwen/Qwen3-0.6B').`,
    );
  }
  try {
    return { path: await snapshotDownload(pathOrId, options), repoId: pathOrId };
  } catch (error) {
    if (!MlxError.isInstance(error, 'ERR_MLX_HUB_NOT_FOUND') && !MlxError.isInstance(error, 'ERR_MLX_HUB_OFFLINE'))
      throw error;
    throw new MlxError(error.code, `${error.message} (There is no folder '${pathOrId}' either.)`, { cause: error });
  }
}
