import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

/** Where the hub is, where its cache lies, and what may be sent and asked; the variables are those of Python's huggingface_hub. */
export interface HubSettings {
  cacheDir: string;
  /** Without a slash at its end. */
  endpoint: string;
  token: string | undefined;
  /** No request may be made. */
  offline: boolean;
  /** Longest wait for the first byte of an answer, in milliseconds. */
  metadataTimeout: number;
  /** Longest silence in the middle of a file, in milliseconds. */
  downloadTimeout: number;
  /** False: snapshots hold the files themselves. */
  symlinks: boolean;
}

type Environment = Record<string, string | undefined>;

export const defaultEndpoint = 'https://huggingface.co';

const isTrue = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? '');

/** A path of a variable: `~` and `$NAME` as Python expands them. */
function expand(path: string, env: Environment): string {
  const home = env['HOME'] || homedir();
  const variables = path.replace(
    /\$(?:\{(\w+)\}|(\w+))/g,
    (text, braced: string | undefined, bare: string | undefined) => env[braced ?? bare ?? ''] ?? text,
  );
  return resolve(variables.replace(/^~(?=$|\/)/, home));
}

function seconds(value: string | undefined, fallback: number): number {
  const number = Number(value);
  return value !== undefined && value.trim() !== '' && number > 0 ? number * 1000 : fallback;
}

/** HF_HOME, or the place that stands for it. */
export function hubHome(env: Environment = process.env): string {
  const home = env['HOME'] || homedir();
  return expand(env['HF_HOME'] || join(env['XDG_CACHE_HOME'] || join(home, '.cache'), 'huggingface'), env);
}

/** HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, or `hub` in HF_HOME. */
export function hubCacheDir(env: Environment = process.env): string {
  const named = env['HF_HUB_CACHE'] || env['HUGGINGFACE_HUB_CACHE'];
  return named ? expand(named, env) : join(hubHome(env), 'hub');
}

/** HF_TOKEN, or the file that `hf auth login` writes (HF_TOKEN_PATH). */
function storedToken(env: Environment): string | undefined {
  const direct = (env['HF_TOKEN'] ?? env['HUGGING_FACE_HUB_TOKEN'])?.trim();
  if (direct) return direct;
  const path = env['HF_TOKEN_PATH'] ? expand(env['HF_TOKEN_PATH'], env) : join(hubHome(env), 'token');
  try {
    return readFileSync(path, 'utf8').trim() || undefined;
  } catch {
    return undefined;
  }
}

/** The settings of the environment, with what `options` says instead. `token: false` sends none. */
export function hubSettings(
  options: {
    cacheDir?: string | undefined;
    endpoint?: string | undefined;
    token?: string | false | undefined;
    localFilesOnly?: boolean | undefined;
  } = {},
  env: Environment = process.env,
): HubSettings {
  const implicit = (): string | undefined =>
    isTrue(env['HF_HUB_DISABLE_IMPLICIT_TOKEN']) ? undefined : storedToken(env);
  return {
    cacheDir: options.cacheDir === undefined ? hubCacheDir(env) : expand(options.cacheDir, env),
    endpoint: (options.endpoint ?? (env['HF_ENDPOINT'] || defaultEndpoint)).replace(/\/+$/, ''),
    token: options.token === false ? undefined : options.token?.trim() || implicit(),
    offline: options.localFilesOnly === true || isTrue(env['HF_HUB_OFFLINE'] || env['TRANSFORMERS_OFFLINE']),
    metadataTimeout: seconds(env['HF_HUB_ETAG_TIMEOUT'], 10_000),
    downloadTimeout: seconds(env['HF_HUB_DOWNLOAD_TIMEOUT'], 10_000),
    symlinks: !isTrue(env['HF_HUB_DISABLE_SYMLINKS']),
  };
}
