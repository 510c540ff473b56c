import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { lockText, withLock } from '../../lib/hub/lock.ts';
import { tempDir } from '../helpers/temp.ts';

const path = (): string => join(tempDir(), 'locks', 'a.lock');

describe('withLock', () => {
  it('runs one at a time, whoever asks, and frees the lock when the work fails', async () => {
    const lock = path();
    let inside = 0;
    let most = 0;
    const work = async (): Promise<void> => {
      most = Math.max(most, ++inside);
      await new Promise((resolve) => setTimeout(resolve, 30));
      inside -= 1;
    };
    await Promise.all([
      withLock(lock, undefined, work),
      withLock(lock, undefined, work),
      withLock(lock, undefined, work),
    ]);
    expect(most).toBe(1);
    const failing = withLock(lock, undefined, async () => {
      expect(JSON.parse(readFileSync(lock, 'utf8'))).toMatchObject({ pid: process.pid });
      throw new RangeError('mine');
    });
    await expect(failing).rejects.toThrow(RangeError);
    expect(existsSync(lock)).toBe(false);
  });

  it('stops work whose lock was taken over, and runs it again once the other has ended', async () => {
    const lock = path();
    let runs = 0;
    const done = withLock(lock, undefined, async (signal) => {
      runs += 1;
      if (runs === 2) return 'again';
      // As if this machine had slept: another process holds the lock now, and ends a little later.
      writeFileSync(lock, JSON.stringify({ ...(JSON.parse(lockText()) as object), place: 'elsewhere' }));
      await once(signal, 'abort');
      setTimeout(
        () => writeFileSync(lock, JSON.stringify({ ...(JSON.parse(lockText()) as object), pid: 2 ** 30 })),
        300,
      );
      throw signal.reason;
    });
    expect(await done).toBe('again');
    expect(runs).toBe(2);
    expect(existsSync(lock)).toBe(false);
  });

  it('is not fooled by half a lock, nor by one of another machine', async () => {
    const lock = path();
    const held = async (text: string): Promise<void> => {
      await withLock(lock, undefined, async () => undefined);
      writeFileSync(lock, text);
      const signal = AbortSignal.timeout(300);
      await expect(withLock(lock, signal, async () => undefined)).rejects.toSatisfy((error) => error === signal.reason);
      expect(readFileSync(lock, 'utf8')).toBe(text);
      writeFileSync(lock, JSON.stringify({ ...(JSON.parse(lockText()) as object), pid: 2 ** 30 }));
    };
    await held('{"pid":1');
    await held(JSON.stringify({ pid: 2 ** 30, place: 'another machine', token: 'x' }));
  });
});
