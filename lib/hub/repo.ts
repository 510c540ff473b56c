import { tokenizerFiles } from '../files.js';
import { MlxError } from '../errors.js';

const part = '[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?';
const repoIdPattern = new RegExp(`^${part}/[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?$`);

/** A full commit hash, which never moves. */
export const commitPattern = /^[0-9a-f]{40}$/;

/** True for `organisation/name`, the form of a model's name on the hub. */
export function isRepoId(text: string): boolean {
  return (
    repoIdPattern.test(text) &&
    text.length <= 96 &&
    !text.includes('--') &&
    !text.includes('..') &&
    !text.endsWith('.git')
  );
}

export function checkRepoId(id: unknown): asserts id is string {
  if (typeof id === 'string' && isRepoId(id)) return;
  throw new MlxError(
    'ERR_MLX_ARGUMENT',
    `${JSON.stringify(id)} is not the name of a model on the hub; that is 'organisation/name', as in 'Qwen/Qwen3-0.6B'.`,
  );
}

/** A branch, a tag or a commit hash; it becomes a path below `refs`. */
export function checkRevision(revision: unknown): asserts revision is string {
  const fine =
    typeof revision === 'string' &&
    /^[\w.+@/-]{1,255}$/.test(revision) &&
    revision.split('/').every((piece) => piece !== '' && !piece.startsWith('.'));
  if (!fine) {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `revision must be a branch, a tag or a commit hash, got ${JSON.stringify(revision)}`,
    );
  }
}

/** True when `name`, which a server sent, stays inside the folder that it is joined to. */
export function isSafeFileName(name: string): boolean {
  return (
    name !== '' &&
    !/[\\:\0]/.test(name) &&
    name.split('/').every((piece) => piece !== '' && piece !== '.' && piece !== '..')
  );
}

/** Files beside the weights that a model needs: its config, and what its tokenizer may consist of. */
const companions = ['config.json', 'generation_config.json', ...tokenizerFiles, 'adapter_config.json'];

/** The weights of an adapter: PEFT's and mlx-lm's. */
export const adapterWeights: readonly string[] = ['adapter_model.safetensors', 'adapters.safetensors'];

export const indexFile = 'model.safetensors.index.json';

/** Names of the files that a model needs, of all `names` in its repository. `shards` are those that its index lists. */
export function modelFiles(names: readonly string[], shards: readonly string[] | undefined): string[] {
  const weights =
    shards ??
    (names.includes('model.safetensors')
      ? ['model.safetensors']
      : names.filter((name) => /^[^/]+\.safetensors$/.test(name)));
  const wanted = new Set([...companions, indexFile, ...adapterWeights, ...weights]);
  return names.filter((name) => wanted.has(name));
}

/** The weight files that an index lists. */
export function indexShards(text: string, where: string): string[] {
  let map: unknown;
  try {
    map = (JSON.parse(text) as { weight_map?: unknown }).weight_map;
  } catch (error) {
    throw new MlxError('ERR_MLX_LOAD', `${where}: ${indexFile} is not JSON`, { cause: error });
  }
  const files = typeof map === 'object' && map !== null ? Object.values(map) : [];
  if (files.length === 0 || !files.every((file): file is string => typeof file === 'string' && isSafeFileName(file)))
    throw new MlxError('ERR_MLX_LOAD', `${where}: ${indexFile} has no weight_map from names to files`);
  return [...new Set(files)];
}

/** Turns a pattern with `*` and `?` into a test, as Python's fnmatch: `*` also matches slashes. */
export function globTest(pattern: string): (name: string) => boolean {
  const body = pattern
    .replace(/\/$/, '/*')
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.');
  const regex = new RegExp(`^${body}$`, 's');
  return (name) => regex.test(name);
}
