/** Large files that come in ranges over several connections. */
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { snapshotDownload } from '../../lib/index.ts';
import type { DownloadProgress } from '../../lib/index.ts';
import { FakeHub, noise } from '../helpers/hub.ts';
import { hubWith, id, onWeights, randomFaults } from '../helpers/hub-faults.ts';
import { tempDir } from '../helpers/temp.ts';

const weights = noise(1_000_000);
const rangeSize = 100_000;

const setUp = () => hubWith(weights, { rangeSize });

/** The first and the last byte of each range asked for, by the first. */
function ranges(hub: FakeHub): [number, number][] {
  const asked = hub.fetched.map((text) => /^model\.safetensors@bytes=(\d+)-(\d+)$/.exec(text));
  return asked
    .filter((match) => match !== null)
    .map(([, from, to]): [number, number] => [Number(from), Number(to)])
    .toSorted(([a], [b]) => a - b);
}

function intact(folder: string, blobs: string): void {
  expect(readFileSync(join(folder, 'model.safetensors')).equals(weights)).toBe(true);
  expect(readdirSync(blobs).filter((name) => name.includes('incomplete') || name.endsWith('.tmp'))).toEqual([]);
}

describe('a large file', () => {
  it('comes in ranges over as many connections as there may be', async () => {
    const { hub, options, blobs } = await setUp();
    let [open, most, asked] = [0, 0, 0];
    onWeights(hub, () => {
      asked += 1;
      open += 1;
      const wait = async (): Promise<void> => {
        most = Math.max(most, open);
        // The first answer shows that there are ranges; then the others ask, before any of them gets its bytes.
        const ready = (): boolean => asked === 1 || most >= 4 || asked >= 10;
        while (!ready()) await sleep(2);
        open -= 1;
      };
      return { wait };
    });
    const reports: DownloadProgress[] = [];
    const onProgress = (report: DownloadProgress): number => reports.push(report);
    const allowPatterns = 'model.safetensors';
    intact(await snapshotDownload(id, { ...options, allowPatterns, maxWorkers: 4, onProgress }), blobs);
    expect(ranges(hub)).toEqual(Array.from({ length: 10 }, (_, i) => [i * rangeSize, (i + 1) * rangeSize - 1]));
    expect(most).toBe(4);
    expect(reports.map(({ loaded }) => loaded)).toEqual(reports.map(({ loaded }) => loaded).toSorted((a, b) => a - b));
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
  });

  it('comes in one piece over one connection, from a server without ranges, and where it is small', async () => {
    const { hub, options, blobs } = await setUp();
    intact(await snapshotDownload(id, { ...options, maxWorkers: 1 }), blobs);
    intact(await snapshotDownload(id, { ...options, cacheDir: tempDir(), rangeSize: Infinity }), blobs);
    intact(await snapshotDownload(id, { ...options, cacheDir: tempDir(), rangeSize: weights.length }), blobs);
    expect(ranges(hub)).toEqual([]);
    onWeights(hub, () => ({ ignoreRange: true }));
    const reports: DownloadProgress[] = [];
    const other = { ...options, cacheDir: tempDir(), onProgress: (report: DownloadProgress) => reports.push(report) };
    intact(await snapshotDownload(id, other), join(other.cacheDir, 'models--org--model', 'blobs'));
    expect(ranges(hub)).toHaveLength(1);
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
    await expect(snapshotDownload(id, { ...options, rangeSize: 0 })).rejects.toThrow(
      /rangeSize must be a whole number from 1, got 0/,
    );
  });

  it('goes on in every range where a cut connection ended it', async () => {
    const { hub, options, blobs } = await setUp();
    // The first request for each range, which begins with it.
    onWeights(hub, ({ range }) => (/=(0|\d00000)-/.test(range!) ? { cutAfter: 40_000 } : undefined));
    intact(await snapshotDownload(id, options), blobs);
    const asked = ranges(hub);
    expect(asked.length).toBeGreaterThan(15);
    // What was asked for again begins within a range and ends with it.
    for (const [from, to] of asked) {
      expect(to).toBe(Math.floor(from / rangeSize) * rangeSize + rangeSize - 1);
      expect(from % rangeSize).toBeLessThanOrEqual(40_000);
    }
  });

  it('keeps the ranges of an attempt that failed, and fetches what they lack', async () => {
    const { hub, options, blobs, part, notes } = await setUp();
    let asked = 0;
    onWeights(hub, () => (asked++ < 3 ? { cutAfter: 60_000 } : { status: 404 }));
    await expect(snapshotDownload(id, options)).rejects.toThrow(/there is no such model/);
    expect(existsSync(part) && existsSync(notes)).toBe(true);
    const noted = JSON.parse(readFileSync(notes, 'utf8')) as { ranges: [number, number, number][] };
    const there = noted.ranges.reduce((sum, [start, , at]) => sum + at - start, 0);
    expect(there).toBeGreaterThan(0);
    hub.fault = () => undefined;
    hub.seen.length = 0;
    const reports: DownloadProgress[] = [];
    // Also where one connection is left for it.
    const again = { ...options, maxWorkers: 1, onProgress: (report: DownloadProgress) => reports.push(report) };
    intact(await snapshotDownload(id, again), blobs);
    expect(ranges(hub).reduce((sum, [from, to]) => sum + to - from + 1, 0)).toBe(weights.length - there);
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
  });

  it('goes on behind what a single connection left', async () => {
    const { hub, options, blobs, part } = await setUp();
    let asked = 0;
    onWeights(hub, () => (asked++ === 0 ? { cutAfter: 300_000 } : { status: 404 }));
    await expect(snapshotDownload(id, { ...options, maxWorkers: 1 })).rejects.toThrow(/there is no such model/);
    const { size } = statSync(part);
    expect(size).toBeGreaterThan(0);
    hub.fault = () => undefined;
    hub.seen.length = 0;
    intact(await snapshotDownload(id, options), blobs);
    const asking = ranges(hub);
    expect(asking[0]![0]).toBe(size);
    expect(asking).toHaveLength(Math.ceil((weights.length - size) / rangeSize));
  });

  it('is fetched anew where the notes do not fit, and where a range was wrong', async () => {
    const { hub, options, blobs, part, notes, etag } = await setUp();
    let asked = 0;
    onWeights(hub, () => (asked++ === 4 ? { corrupt: true } : undefined));
    intact(await snapshotDownload(id, options), blobs);
    expect(ranges(hub)).toHaveLength(20);
    for (const text of ['{', '{"size":5,"ranges":[]}', '{"size":1000000,"ranges":[[0,1000000,900000]]}']) {
      rmSync(join(blobs, etag));
      writeFileSync(part, noise(5000, 3));
      writeFileSync(notes, text);
      intact(await snapshotDownload(id, options), blobs);
    }
    rmSync(join(blobs, etag));
    onWeights(hub, ({ range }) => (range!.startsWith('bytes=0-') ? { corrupt: true } : undefined));
    await expect(snapshotDownload(id, options)).rejects.toMatchObject({ code: 'ERR_MLX_HUB_HASH' });
    expect(readdirSync(blobs).filter((name) => name.startsWith(etag))).toEqual([]);
  });

  it('ends with the signal, and leaves its ranges', async () => {
    const { hub, options, blobs, notes } = await setUp();
    onWeights(hub, () => ({ delay: 20 }));
    const controller = new AbortController();
    const onProgress = ({ file, loaded }: DownloadProgress): void => {
      if (file === 'model.safetensors' && loaded > 200_000) controller.abort('enough');
    };
    await expect(snapshotDownload(id, { ...options, signal: controller.signal, onProgress })).rejects.toBe('enough');
    expect(existsSync(notes)).toBe(true);
    hub.fault = () => undefined;
    hub.seen.length = 0;
    intact(await snapshotDownload(id, options), blobs);
    const fetched = ranges(hub).reduce((sum, [from, to]) => sum + to - from + 1, 0);
    expect(fetched).toBeLessThan(weights.length - 100_000);
  });
});

describe('whatever goes wrong in ranges', () => {
  it.each([1, 2, 3, 4])('the file arrives intact (seed %i)', async (seed) => {
    const { hub, options, blobs } = await setUp();
    const faults = randomFaults(seed, { often: 3, most: 30, longest: 100 });
    onWeights(hub, faults.fault);
    const reports: DownloadProgress[] = [];
    const onProgress = (report: DownloadProgress): number => reports.push(report);
    intact(await snapshotDownload(id, { ...options, maxRetries: 50, retryDelay: 0, onProgress }), blobs);
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
    expect(faults.count()).toBeGreaterThan(3);
  });
});
