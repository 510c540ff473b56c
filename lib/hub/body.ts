import { createHash } from 'node:crypto';
import type { Hash } from 'node:crypto';
import { abortable } from './abort.js';
import type { BlobContext, RemoteFile } from './blob.js';
import { TransientError } from './errors.js';
import { open } from './http.js';
import type { Answer } from './http.js';

/**
 * Requests the contents of `file`, with `range` where one is given. `begin` sees the answer; `take` gets its pieces until it returns
 * false. A connection that falls silent is ended.
 */
export async function receive(
  file: RemoteFile,
  range: string | undefined,
  { settings, subject, signal }: Pick<BlobContext, 'settings' | 'subject'> & { signal: AbortSignal },
  begin: (response: Response) => void | Promise<void>,
  take: (chunk: Uint8Array) => Promise<boolean>,
): Promise<void> {
  const headers: Record<string, string> = range === undefined ? {} : { range };
  const answer = await open(file.url, { headers, settings, subject, signal });
  const silent = new TransientError(`nothing arrived for ${settings.downloadTimeout / 1000} s`);
  let timer = setTimeout(() => answer.abort(silent), settings.downloadTimeout);
  try {
    await begin(answer.response);
    for await (const chunk of pieces(answer)) {
      clearTimeout(timer);
      // A write to a slow disk is no silence of the server.
      const more = await take(chunk);
      timer = setTimeout(() => answer.abort(silent), settings.downloadTimeout);
      if (!more) break;
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw error;
  } finally {
    clearTimeout(timer);
    answer.close();
    answer.abort(silent);
  }
}

/** Where the range of an answer begins; undefined where it is none. */
export const rangeStart = (response: Response): number | undefined => {
  const from = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1];
  return response.status === 206 && from !== undefined ? Number(from) : undefined;
};

/** The body of an answer. Its stream is left as it is at the end: cancelling it may never end. */
async function* pieces({ response, signal }: Answer): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  for (;;) {
    const { done, value } = await abortable(reader.read(), signal);
    if (done) return;
    yield value;
  }
}

/** A hash that ends up equal to the etag of an intact file: sha256 for large files, git's for the others. */
export function newHash(file: RemoteFile): Hash | undefined {
  if (/^[0-9a-f]{64}$/.test(file.etag)) return createHash('sha256');
  if (/^[0-9a-f]{40}$/.test(file.etag) && file.size !== null) return createHash('sha1').update(`blob ${file.size}\0`);
  return undefined;
}
