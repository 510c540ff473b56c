import type { Hash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, open as openFile, rename, rm } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { newHash, rangeStart, receive } from './body.js';
import { diskError, hashError, TransientError } from './errors.js';
import type { Subject } from './errors.js';
import { Retries, transient } from './http.js';
import type { RetryPolicy } from './http.js';
import type { RepoStore } from './layout.js';
import { withLock } from './lock.js';
import type { DownloadMeter } from './progress.js';
import { NoRanges, RangeDownload, removePart } from './ranges.js';
import type { Spare } from './ranges.js';
import type { HubSettings } from './settings.js';

/** A file of a repository at a commit. */
export interface RemoteFile {
  name: string;
  /** Name of its blob: the sha256 of a large file, the git hash of a small one. */
  etag: string;
  /** In bytes; null where the hub does not say. */
  size: number | null;
  url: string;
}

export interface BlobContext {
  store: RepoStore;
  settings: HubSettings;
  subject: Subject;
  policy: RetryPolicy;
  meter: DownloadMeter;
  signal: AbortSignal | undefined;
  /** Bytes of a large file that a connection fetches at a time; Infinity: whole files. */
  rangeSize: number;
  /** Connections for further ranges. */
  spare: Spare;
}

/**
 * Makes the blob of `file` exist: waits for a process that fetches it already, goes on from what an earlier attempt left, repeats cut
 * connections, and checks the hash before the blob gets its name.
 */
export async function fetchBlob(file: RemoteFile, context: BlobContext): Promise<void> {
  const { store, settings, meter } = context;
  const subject = { ...context.subject, file: file.name };
  const blob = store.blob(file.etag);
  try {
    await mkdir(dirname(blob), { recursive: true });
    await withLock(store.lock(file.etag), context.signal, async (signal) => {
      if (existsSync(blob)) {
        meter.found(file.name, file.size ?? 0);
        return;
      }
      const [part, notes] = [store.part(file.etag), store.notes(file.etag)];
      // Ranges need a hash: of what comes in pieces nobody could say otherwise whether they fit together.
      let ranged =
        existsSync(notes) || (file.size !== null && file.size > context.rangeSize && newHash(file) !== undefined);
      for (let attempt = 1; ; attempt++) {
        const given = { ...context, subject, signal };
        const download = ranged ? new RangeDownload(file, part, notes, given) : new Download(file, part, given);
        const got = await download.run().catch((error: unknown) => {
          if (error instanceof NoRanges) return error;
          throw error;
        });
        if (got === undefined || got === file.etag) break;
        await removePart(part, notes);
        meter.arrived(file.name, -download.position);
        if (got instanceof NoRanges) [ranged, attempt] = [false, 0];
        else if (attempt === 2) throw hashError(subject, file.etag, got);
      }
      await rename(part, blob);
      await rm(notes, { force: true });
    });
  } catch (error) {
    throw context.signal?.aborted === true ? context.signal.reason : diskError(error, settings.cacheDir);
  }
}

/** One pass over a file: from what its part holds to its end. */
class Download {
  position = 0;
  #hash: Hash | undefined;

  constructor(
    private readonly file: RemoteFile,
    private readonly part: string,
    private readonly context: BlobContext & { signal: AbortSignal },
  ) {}

  /** Fills the part and returns its hash, of the kind that the etag is; undefined where the etag is no hash. */
  async run(): Promise<string | undefined> {
    const { file, context } = this;
    const handle = await openFile(this.part, 'a+');
    try {
      await this.#resume(handle);
      const retries = new Retries(context.policy, context.subject, context.settings);
      while (file.size === null || this.position < file.size) {
        const before = this.position;
        try {
          await this.#receive(handle);
          if (file.size === null) break;
          if (this.position < file.size)
            throw new TransientError(`the connection ended after ${this.position} of ${file.size} bytes`);
        } catch (error) {
          if (this.position > before) retries.progress();
          await retries.next(transient(error), context.signal);
          // Without a size nobody can say whether the rest is missing.
          if (file.size === null) await this.#restart(handle);
        }
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    return this.#hash?.digest('hex');
  }

  async #resume(handle: FileHandle): Promise<void> {
    const { size } = await handle.stat();
    this.#hash = newHash(this.file);
    if (this.file.size === null || size > this.file.size) return await this.#restart(handle);
    if (size === 0) return;
    for await (const chunk of createReadStream(this.part, {
      end: size - 1,
      highWaterMark: 1 << 20,
      signal: this.context.signal,
    }))
      this.#hash?.update(chunk as Buffer);
    this.position = size;
    this.context.meter.found(this.file.name, size);
  }

  async #restart(handle: FileHandle): Promise<void> {
    await handle.truncate(0);
    this.context.meter.found(this.file.name, -this.position);
    this.position = 0;
    this.#hash = newHash(this.file);
  }

  async #receive(handle: FileHandle): Promise<void> {
    const { file, context } = this;
    await receive(
      file,
      this.position > 0 ? `bytes=${this.position}-` : undefined,
      context,
      async (response) => {
        if (this.position === 0) return;
        // A server that does not know ranges sends all of it again.
        if (rangeStart(response) !== this.position) await this.#restart(handle);
        if (response.status === 206 && this.position === 0)
          throw new TransientError('the server sent another range than asked for');
      },
      async (chunk) => {
        await write(handle, chunk);
        this.#hash?.update(chunk);
        this.position += chunk.byteLength;
        context.meter.arrived(file.name, chunk.byteLength);
        // More than the whole is a wrong file; its hash will tell.
        return file.size === null || this.position <= file.size;
      },
    );
  }
}

async function write(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let at = 0; at < chunk.byteLength;) at += (await handle.write(chunk, at)).bytesWritten;
}
