import { constants, createReadStream } from 'node:fs';
import type { Hash } from 'node:crypto';
import { open as openFile, readFile, rm } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { replaceFile } from '../files.js';
import { linkedController } from './abort.js';
import type { BlobContext, RemoteFile } from './blob.js';
import { newHash, rangeStart, receive } from './body.js';
import { TransientError } from './errors.js';
import { Retries, transient } from './http.js';

/** The server sends whole files only. */
export class NoRanges extends Error {}

/** Connections beyond the one that each file has; whoever ends gives its own to the others. */
export class Spare {
  constructor(private free: number) {}

  take(): boolean {
    if (this.free === 0) return false;
    this.free -= 1;
    return true;
  }

  give(): void {
    this.free += 1;
  }
}

/** Bytes from `start` to before `end`, of which those before `at` have arrived. */
interface Range {
  start: number;
  end: number;
  at: number;
}

/** However large a file is. */
const mostRanges = 256;
/** Milliseconds between two notes of what has arrived. */
const noteEvery = 500;

/**
 * One pass over a large file, whose ranges come over several connections; each goes on from what it has. What has arrived is noted beside
 * the part, after it was written: whoever goes on later fetches at most the last half second again.
 */
export class RangeDownload {
  readonly #file: RemoteFile & { size: number };
  readonly #hash: Hash | undefined;
  #ranges: Range[] = [];
  #next = 0;
  #hashed = 0;
  #hashing: Promise<void> = Promise.resolve();
  #noted = 0;
  #noting: Promise<void> = Promise.resolve();
  /** The server has sent a range. */
  #proven = false;

  constructor(
    file: RemoteFile,
    private readonly part: string,
    private readonly notes: string,
    private readonly context: BlobContext & { signal: AbortSignal },
  ) {
    this.#file = { ...file, size: file.size! };
    this.#hash = newHash(file);
  }

  /** Bytes that have arrived. */
  get position(): number {
    return this.#ranges.reduce((sum, { start, at }) => sum + at - start, 0);
  }

  /** Fills the part and returns its hash, of the kind that the etag is. */
  async run(): Promise<string | undefined> {
    const handle = await openFile(this.part, constants.O_RDWR | constants.O_CREAT);
    try {
      await this.#resume(handle);
      this.context.meter.found(this.#file.name, this.position);
      await this.#fetchAll(handle);
      this.#hashOn();
      await this.#hashing;
      await handle.sync();
    } finally {
      await this.#noting;
      await handle.close();
    }
    return this.#hash?.digest('hex');
  }

  /** Ranges of an earlier attempt, else new ones behind what a single connection left. */
  async #resume(handle: FileHandle): Promise<void> {
    const { size } = this.#file;
    const there = (await handle.stat()).size;
    const noted = await readFile(this.notes, 'utf8').then(
      (text) => readNotes(text, size, there),
      () => undefined,
    );
    if (noted === 'unusable' || there > size) {
      await handle.truncate(0);
      this.#ranges = split(0, size, this.context.rangeSize);
    } else if (noted !== undefined) this.#ranges = noted;
    else {
      const before = there > 0 ? [{ start: 0, end: there, at: there }] : [];
      this.#ranges = [...before, ...split(there, size, this.context.rangeSize)];
    }
    // From now on the size of the part says nothing.
    await replaceFile(this.notes, this.#text());
  }

  #text(): string {
    const ranges = this.#ranges.map(({ start, end, at }) => [start, end, at]);
    return JSON.stringify({ size: this.#file.size, ranges });
  }

  /** Notes what has arrived. */
  #note(): void {
    this.#noted = performance.now();
    // What cannot be noted is fetched again.
    this.#noting = this.#noting.then(() => replaceFile(this.notes, this.#text())).catch(() => undefined);
  }

  async #fetchAll(handle: FileHandle): Promise<void> {
    const { spare, signal } = this.context;
    const { controller: stop, release } = linkedController(signal);
    let failure: { error: unknown } | undefined;
    const workers = new Set<Promise<void>>();
    const work = async (): Promise<void> => {
      try {
        for (let range = this.#take(); range !== undefined; range = this.#take()) {
          await this.#fetch(handle, range, stop.signal, more);
          this.#hashOn();
          more();
        }
      } catch (error) {
        failure ??= { error };
        stop.abort(error);
      }
    };
    const more = (): void => {
      if (!this.#proven || failure !== undefined) return;
      while (this.#next < this.#ranges.length && spare.take()) workers.add(work().finally(() => spare.give()));
    };
    try {
      workers.add(work());
      // Those that begin meanwhile are among them.
      for (const worker of workers) await worker;
    } finally {
      release();
      this.#note();
    }
    if (failure !== undefined) throw signal.aborted ? signal.reason : failure.error;
  }

  #take(): Range | undefined {
    while (this.#next < this.#ranges.length) {
      const range = this.#ranges[this.#next++]!;
      if (range.at < range.end) return range;
    }
    return undefined;
  }

  /** Fetches the rest of a range; what goes wrong and may pass is repeated. */
  async #fetch(handle: FileHandle, range: Range, signal: AbortSignal, proven: () => void): Promise<void> {
    const { context } = this;
    const retries = new Retries(context.policy, context.subject, context.settings);
    while (range.at < range.end) {
      const before = range.at;
      try {
        await this.#receive(handle, range, signal, proven);
        if (range.at < range.end)
          throw new TransientError(`the connection ended after ${range.at - range.start} bytes of a range`);
      } catch (error) {
        if (range.at > before) retries.progress();
        await retries.next(transient(error), signal);
      }
    }
  }

  async #receive(handle: FileHandle, range: Range, signal: AbortSignal, proven: () => void): Promise<void> {
    const file = this.#file;
    const from = range.at;
    await receive(
      file,
      `bytes=${from}-${range.end - 1}`,
      { ...this.context, signal },
      (response) => {
        const start = rangeStart(response);
        if (start === undefined && !this.#proven) throw new NoRanges();
        if (start !== from) throw new TransientError('the server sent another range than asked for');
        this.#proven = true;
        proven();
      },
      async (chunk) => {
        const piece = chunk.subarray(0, range.end - range.at);
        for (let at = 0; at < piece.byteLength;)
          at += (await handle.write(piece, at, piece.byteLength - at, range.at + at)).bytesWritten;
        range.at += piece.byteLength;
        if (performance.now() - this.#noted > noteEvery) this.#note();
        this.context.meter.arrived(file.name, piece.byteLength);
        return range.at < range.end;
      },
    );
  }

  /** Hashes what is there from the beginning on, while the rest is on its way. */
  #hashOn(): void {
    const first = this.#ranges.find(({ at, end }) => at < end);
    this.#hashing = this.#hashTo(this.#hashing, first?.at ?? this.#file.size);
    // It is awaited at the end.
    this.#hashing.catch(() => undefined);
  }

  async #hashTo(before: Promise<void>, end: number): Promise<void> {
    await before;
    if (this.#hash === undefined || end <= this.#hashed) return;
    const options = { start: this.#hashed, end: end - 1, highWaterMark: 1 << 20, signal: this.context.signal };
    for await (const chunk of createReadStream(this.part, options)) this.#hash.update(chunk as Buffer);
    this.#hashed = end;
  }
}

/** Removes a part and what is noted of it. */
export async function removePart(part: string, notes: string): Promise<void> {
  // The notes last: a part without them would pass for a beginning.
  await rm(part, { force: true });
  await rm(notes, { force: true });
}

function split(from: number, size: number, rangeSize: number): Range[] {
  const rest = size - from;
  const step = Math.max(Math.min(rangeSize, rest), Math.ceil(rest / mostRanges), 1);
  return Array.from({ length: Math.ceil(rest / step) }, (_, i) => {
    const start = from + i * step;
    return { start, end: Math.min(start + step, size), at: start };
  });
}

/** The ranges of a note, when they make up the file and the part can hold what they say has arrived. */
function readNotes(text: string, size: number, there: number): Range[] | 'unusable' {
  try {
    const noted = JSON.parse(text) as { size: number; ranges: [number, number, number][] };
    let end = 0;
    const ranges = noted.ranges.map(([start, stop, at]) => {
      const whole = [start, stop, at].every(Number.isSafeInteger);
      if (!whole || start !== end || at < start || at > stop || stop <= start || (at > start && at > there))
        throw new RangeError('these ranges do not fit');
      end = stop;
      return { start, end: stop, at };
    });
    return noted.size === size && end === size ? ranges : 'unusable';
  } catch {
    return 'unusable';
  }
}
