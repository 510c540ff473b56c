import { MlxError } from '../errors.js';
import type { RemoteFile } from './blob.js';
import { abortable } from './abort.js';
import { TransientError } from './errors.js';
import { open, withRetries } from './http.js';
import type { Request, RetryPolicy } from './http.js';
import { commitPattern, isSafeFileName } from './repo.js';

/** A repository at a commit. */
export interface RepoInfo {
  commit: string;
  /** What is known of each file; some mirrors list names only. */
  files: Map<string, { etag?: string; size?: number }>;
}

interface Sibling {
  rfilename?: unknown;
  size?: unknown;
  blobId?: unknown;
  lfs?: { sha256?: unknown; size?: unknown } | null;
}

const encodePath = (path: string): string => path.split('/').map(encodeURIComponent).join('/');

/** Asks the hub for the commit of a revision and its files. */
export async function repoInfo(request: Omit<Request, 'headers' | 'method'>, policy: RetryPolicy): Promise<RepoInfo> {
  const { settings, subject } = request;
  const url = `${settings.endpoint}/api/models/${subject.id}/revision/${encodeURIComponent(subject.revision)}?blobs=true`;
  return await withRetries(
    async () => {
      const answer = await open(url, request);
      const stop = setTimeout(
        () => answer.abort(new TransientError(`nothing arrived for ${settings.downloadTimeout / 1000} s`)),
        settings.downloadTimeout,
      );
      try {
        const text = await abortable(answer.response.text(), answer.signal);
        return parseInfo(text, request);
      } finally {
        clearTimeout(stop);
        answer.close();
      }
    },
    policy,
    request,
  );
}

function parseInfo(text: string, { subject, settings }: Pick<Request, 'subject' | 'settings'>): RepoInfo {
  const broken = (what: string): MlxError =>
    new MlxError(
      'ERR_MLX_HUB_NETWORK',
      `${subject.id}: the answer of ${settings.endpoint} ${what}; is HF_ENDPOINT a Hugging Face hub, and no proxy in between that asks to log in?`,
    );
  let body: { sha?: unknown; siblings?: unknown };
  try {
    body = JSON.parse(text) as typeof body;
  } catch {
    throw broken('is not JSON');
  }
  const { sha, siblings } = body;
  if (typeof sha !== 'string' || !commitPattern.test(sha) || !Array.isArray(siblings))
    throw broken('names no commit and files');
  const files: RepoInfo['files'] = new Map();
  for (const { rfilename, size, blobId, lfs } of siblings as Sibling[]) {
    // A name that would leave the snapshot's folder is not from a sound repository.
    if (typeof rfilename !== 'string' || !isSafeFileName(rfilename)) continue;
    const etag =
      typeof lfs?.sha256 === 'string' ? lfs.sha256 : lfs == null && typeof blobId === 'string' ? blobId : undefined;
    const bytes = typeof lfs?.size === 'number' ? lfs.size : size;
    files.set(rfilename, {
      ...(etag !== undefined && isEtag(etag) ? { etag } : {}),
      ...(typeof bytes === 'number' ? { size: bytes } : {}),
    });
  }
  return { commit: sha, files };
}

/** Usable as the name of a blob. */
const isEtag = (etag: string): boolean => /^[\w.+-]{1,200}$/.test(etag) && !etag.startsWith('.');

/** The file's blob and size, from `info` or from the headers that the hub sends for it. */
export async function remoteFile(
  name: string,
  info: RepoInfo,
  request: Omit<Request, 'headers' | 'method'>,
  policy: RetryPolicy,
): Promise<RemoteFile> {
  const { settings } = request;
  const subject = { ...request.subject, file: name };
  const url = `${settings.endpoint}/${subject.id}/resolve/${info.commit}/${encodePath(name)}`;
  const known = info.files.get(name);
  if (known?.etag !== undefined && known.size !== undefined) return { name, url, etag: known.etag, size: known.size };
  return await withRetries(
    async () => {
      const answer = await open(url, { ...request, subject, method: 'HEAD' });
      answer.close();
      const { hubHeaders, response } = answer;
      const etag = (hubHeaders.get('x-linked-etag') ?? hubHeaders.get('etag'))?.replace(/^W\//, '').replaceAll('"', '');
      if (etag === undefined || !isEtag(etag)) {
        throw new MlxError(
          'ERR_MLX_HUB_NETWORK',
          `${subject.id}: ${settings.endpoint} sends no ETag for ${name}; is HF_ENDPOINT a Hugging Face hub?`,
        );
      }
      const length = hubHeaders.get('x-linked-size') ?? (response.ok ? response.headers.get('content-length') : null);
      return { name, url, etag, size: length === null ? null : Number(length) };
    },
    policy,
    { ...request, subject },
  );
}
