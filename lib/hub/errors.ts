import { errorText, MlxError } from '../errors.js';
import { defaultEndpoint } from './settings.js';
import type { HubSettings } from './settings.js';

/** A failure that may pass by itself: a cut connection, a busy server. */
export class TransientError extends Error {
  /** How long the server asked to wait, in milliseconds. */
  readonly retryAfter: number | undefined;
  /** No connection came about at all. */
  readonly unreachable: boolean;

  constructor(
    message: string,
    options: ErrorOptions & { retryAfter?: number | undefined; unreachable?: boolean } = {},
  ) {
    super(message, options);
    this.retryAfter = options.retryAfter;
    this.unreachable = options.unreachable ?? false;
  }
}

/** What was asked for, for messages. */
export interface Subject {
  id: string;
  revision: string;
  file?: string;
}

const named = ({ id, revision, file }: Subject): string =>
  `${id}${revision === 'main' ? '' : ` at ${revision}`}${file === undefined ? '' : `: ${file}`}`;

/** Where a person reads about a model: the hub's page, also when a mirror serves the files. */
const page = (id: string): string => `${defaultEndpoint}/${id}`;
const tokenAdvice = `make a token at ${defaultEndpoint}/settings/tokens and set HF_TOKEN, or log in with 'hf auth login'`;

const transientStatus = new Set([408, 425, 429, 500, 502, 503, 504]);

/** Milliseconds of a Retry-After header: seconds or a date. */
export function retryAfter(value: string | null, now = Date.now()): number | undefined {
  if (value === null) return undefined;
  const ms = /^\d+(\.\d+)?$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - now;
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

/** The error for an answer that is not a success. */
export function statusError(response: Response, subject: Subject, settings: HubSettings): Error {
  const { status, headers } = response;
  const code = headers.get('x-error-code');
  const said = headers.get('x-error-message');
  const words = said === null ? '' : ` The hub says: ${said}`;
  const what = named(subject);
  if (transientStatus.has(status)) {
    return new TransientError(
      `${what}: ${settings.endpoint} answered ${status}${status === 429 ? ' (too many requests)' : ''}`,
      {
        retryAfter: retryAfter(headers.get('retry-after')),
      },
    );
  }
  if (code === 'GatedRepo') {
    const cure =
      settings.token === undefined
        ? `Accept its licence at ${page(subject.id)}, then ${tokenAdvice}.`
        : `The token in use belongs to an account without access: accept the licence at ${page(subject.id)} with that account, or wait until the authors grant it.`;
    return new MlxError('ERR_MLX_HUB_ACCESS', `${what}: the model is gated (${status}). ${cure}`);
  }
  if (code === 'RevisionNotFound') {
    return new MlxError(
      'ERR_MLX_HUB_NOT_FOUND',
      `${subject.id} has no revision '${subject.revision}'; ${page(subject.id)}/tree/main lists its branches and tags.`,
    );
  }
  if (code === 'EntryNotFound') {
    return new MlxError('ERR_MLX_HUB_NOT_FOUND', `${what}: there is no such file in the repository.`);
  }
  if (status === 401 && (code !== 'RepoNotFound' || settings.token !== undefined)) {
    const cure =
      settings.token === undefined
        ? `There is no such model, or it is private: check the name; for a private model, ${tokenAdvice}.`
        : `The token in use is not valid, or may not see this model: ${tokenAdvice}.`;
    return new MlxError('ERR_MLX_HUB_ACCESS', `${what}: the hub refused access (401). ${cure}${words}`);
  }
  if (status === 403) {
    return new MlxError(
      'ERR_MLX_HUB_ACCESS',
      `${what}: the hub refused access (403). If the model is gated, accept its licence at ${page(subject.id)}; else ${tokenAdvice}.${words}`,
    );
  }
  if (status === 404 || status === 401 || status === 410) {
    const cure =
      settings.token === undefined
        ? `check the name; if it is private, ${tokenAdvice}`
        : 'check the name, and that the token in use may see it';
    return new MlxError('ERR_MLX_HUB_NOT_FOUND', `${what}: there is no such model on ${settings.endpoint}; ${cure}.`);
  }
  return new MlxError('ERR_MLX_HUB_NETWORK', `${what}: ${settings.endpoint} answered ${status}.${words}`);
}

/** What went wrong below fetch: the code and words of the innermost cause. */
export function networkText(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  const code = (inner as { code?: unknown } | null)?.code;
  const text = errorText(inner) || errorText(error);
  return typeof code === 'string' && !text.includes(code) ? `${code}: ${text}` : text;
}

/** The error after the last attempt. */
export function givenUp(error: TransientError, subject: Subject, settings: HubSettings, attempts: number): MlxError {
  const cure = error.unreachable
    ? 'Check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT. Models that are in the cache load without a network.'
    : 'What has arrived is kept: run it again to go on from there.';
  return new MlxError(
    'ERR_MLX_HUB_NETWORK',
    `${named(subject)}: the download from ${settings.endpoint} failed ${attempts === 1 ? 'once' : `${attempts} times`}: ${error.message}. ${cure}`,
    { cause: error },
  );
}

export function offlineError(subject: Subject, missing: readonly string[] | null, cacheDir: string): MlxError {
  const revision = subject.revision === 'main' ? '' : ` --revision ${subject.revision}`;
  const state =
    missing === null || missing.length === 0 ? 'is not' : `is only partly (${missing.slice(0, 3).join(', ')} missing)`;
  return new MlxError(
    'ERR_MLX_HUB_OFFLINE',
    `${named(subject)} ${state} in the cache ${cacheDir}, and downloads are off (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE or localFilesOnly). ` +
      `With a network run:  HF_HUB_OFFLINE=0 TRANSFORMERS_OFFLINE=0 mlx-node download ${subject.id}${revision}`,
  );
}

export function hashError(subject: Subject, expected: string, got: string): MlxError {
  return new MlxError(
    'ERR_MLX_HUB_HASH',
    `${named(subject)}: what arrived twice is not the file: its hash is ${got}, and the hub lists ${expected}. ` +
      'It was removed. A proxy or a mirror may change files on their way: check HF_ENDPOINT and HTTPS_PROXY.',
  );
}

/** A full disk, in words; other failures of the file system unchanged. */
export function diskError(error: unknown, cacheDir: string): unknown {
  const { code } = (error ?? {}) as { code?: unknown };
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new MlxError(
      'ERR_MLX_HUB_DISK',
      `the disk of the cache ${cacheDir} is full. What has arrived is kept: free some space ('mlx-node cache list' shows what the cache holds), or set HF_HOME to a larger disk.`,
      { cause: error },
    );
  }
  if (code === 'EACCES' || code === 'EROFS' || code === 'EPERM' || code === 'ENOTDIR') {
    return new MlxError(
      'ERR_MLX_HUB_DISK',
      `the cache ${cacheDir} cannot be written: ${errorText(error)}. Set HF_HOME or HF_HUB_CACHE to a folder that can.`,
      { cause: error },
    );
  }
  return error;
}

const gb = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

export function spaceError(needed: number, free: number, cacheDir: string): MlxError {
  return new MlxError(
    'ERR_MLX_HUB_DISK',
    `the download needs ${gb(needed)}, and the disk of the cache ${cacheDir} has ${gb(free)} left. Free some space ('mlx-node cache list' shows what the cache holds), or set HF_HOME to a larger disk.`,
  );
}
