import { randomUUID } from 'node:crypto';
import { readlinkSync } from 'node:fs';
import { mkdir, open, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { linkedController, pause } from './abort.js';

/** A lock that nobody has touched for so many milliseconds is of a process that is gone, or of a machine that is. */
const staleAfter = 10_000;
const touchEvery = 2_500;
const pollEvery = 200;

/** Where process ids mean the same: containers may share a name without sharing them. */
function place(): string {
  try {
    return `${hostname()} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return hostname();
  }
}

/** What a lock of this process says. */
export const lockText = (): string => JSON.stringify({ pid: process.pid, place: place(), token: randomUUID() });

/**
 * Runs `work` while no other process holds the lock file at `path`; waits for one that does, and takes over from one that died. `work`
 * gets a signal that also aborts when the lock is lost, as after a sleep of the machine; it runs again once the lock is held anew. What
 * it guards must bear a rare double run: no lock of files is perfect.
 *
 * The locks of Python's huggingface_hub are flock(2)'s, which Node does not have; the two do not see each other, and need not, for each
 * writes to files of its own and renames them when they are complete.
 */
export async function withLock<T>(
  path: string,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  await mkdir(dirname(path), { recursive: true });
  const mine = lockText();
  for (;;) {
    signal?.throwIfAborted();
    if (!(await create(path, mine))) {
      if (!(await takeOver(path, mine))) await pause(pollEvery, signal);
      continue;
    }
    const lost = new AbortController();
    const { controller, release } = linkedController(signal);
    lost.signal.addEventListener('abort', () => controller.abort(lost.signal.reason), { once: true });
    const timer = setInterval(() => void touch(path, mine, lost), touchEvery);
    try {
      return await work(controller.signal);
    } catch (error) {
      if (signal !== undefined && signal.aborted) throw signal.reason;
      if (!lost.signal.aborted) throw error;
    } finally {
      clearInterval(timer);
      release();
      if ((await read(path)) === mine) await rm(path, { force: true });
    }
  }
}

const read = async (path: string): Promise<string | null> => await readFile(path, 'utf8').catch(() => null);

async function create(path: string, mine: string): Promise<boolean> {
  try {
    const handle = await open(path, 'wx', 0o664);
    try {
      await handle.writeFile(mine);
    } finally {
      await handle.close();
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Shows that the holder lives, or finds that it has lost the lock. */
async function touch(path: string, mine: string, lost: AbortController): Promise<void> {
  if ((await read(path)) !== mine) return lost.abort(new Error(`the lock ${path} was taken over`));
  const now = new Date();
  await utimes(path, now, now).catch(() => undefined);
}

/** Removes a lock whose holder is gone; false while it lives. */
async function takeOver(path: string, mine: string): Promise<boolean> {
  const [text, found] = await Promise.all([read(path), stat(path).catch(() => null)]);
  if (text === null || found === null) return true;
  if (Date.now() - found.mtimeMs < staleAfter && !isDead(text, mine)) return false;
  // Renamed first, so that of several processes one removes it; and looked at again, since another may just have made it anew.
  const aside = `${path}.${randomUUID().slice(0, 8)}`;
  try {
    await rename(path, aside);
  } catch {
    return true;
  }
  const taken = await read(aside);
  if (taken !== text) await rename(aside, path).catch(() => undefined);
  else await rm(aside, { force: true });
  return true;
}

/** True when `text` is of a process of this machine that does not exist. */
function isDead(text: string, mine: string): boolean {
  try {
    const holder = JSON.parse(text) as { pid: number; place: string };
    if (holder.place !== (JSON.parse(mine) as { place: string }).place || !Number.isInteger(holder.pid)) return false;
    process.kill(holder.pid, 0);
    return false;
  } catch (error) {
    // EPERM: alive, somebody else's. Half a text is of a process that is just writing it.
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}
