import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { snapshotDownload } from '../../lib/index.ts';
import type { DownloadProgress } from '../../lib/index.ts';
import { diskError, TransientError } from '../../lib/hub/errors.ts';
import { FakeHub, modelRepo, noise } from '../helpers/hub.ts';
import { hubWith, id, inTurn, onWeights, randomFaults } from '../helpers/hub-faults.ts';
import { tempDir } from '../helpers/temp.ts';

const weights = noise(300_000);

const setUp = () => hubWith(weights);

async function intact(folder: string): Promise<void> {
  expect(readFileSync(join(folder, 'model.safetensors')).equals(weights)).toBe(true);
}

const ofWeights = (hub: FakeHub): string[] => hub.fetched.filter((text) => text.startsWith('model.safetensors'));

describe('a connection that is cut', () => {
  it('goes on where it ended, several times', async () => {
    const { hub, options, blobs } = await setUp();
    onWeights(hub, inTurn({ cutAfter: 100_000 }, { cutAfter: 50_000 }, { cutAfter: 0 }));
    const reports: DownloadProgress[] = [];
    await intact(await snapshotDownload(id, { ...options, onProgress: (report) => reports.push(report) }));
    const starts = ofWeights(hub).map((text) => Number(/bytes=(\d+)-/.exec(text)?.[1] ?? 0));
    expect(starts).toHaveLength(4);
    expect(starts[0]).toBe(0);
    expect(starts[1]).toBeGreaterThan(0);
    expect(starts[1]).toBeLessThanOrEqual(100_000);
    expect(starts[2]).toBeGreaterThan(starts[1]!);
    expect(starts[3]).toBe(starts[2]);
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
    expect(readdirSync(blobs).filter((name) => name.endsWith('.incomplete'))).toEqual([]);
  });

  it('counts failures anew when something arrives, and gives up after maxRetries without', async () => {
    const { hub, options, part } = await setUp();
    onWeights(hub, inTurn(...Array.from({ length: 12 }, () => ({ cutAfter: 16_384 }))));
    await intact(await snapshotDownload(id, { ...options, maxRetries: 1 }));
    const other = { ...options, cacheDir: tempDir(), maxRetries: 3 };
    onWeights(hub, inTurn({ cutAfter: 65_536 }, ...Array.from({ length: 9 }, () => ({ cutAfter: 0 }))));
    hub.seen.length = 0;
    await expect(snapshotDownload(id, other)).rejects.toMatchObject({
      code: 'ERR_MLX_HUB_NETWORK',
      message: expect.stringMatching(
        /^org\/model: model\.safetensors: the download from .* failed 4 times: .*What has arrived is kept/,
      ) as string,
    });
    // The first, and 1 + 3 without a byte: the failure of the first one counts, since it got on.
    expect(ofWeights(hub)).toHaveLength(4);
    const left = part.replace(options.cacheDir!, other.cacheDir);
    expect(statSync(left).size).toBeGreaterThan(0);
    hub.fault = () => undefined;
    hub.seen.length = 0;
    const reports: DownloadProgress[] = [];
    const size = statSync(left).size;
    await intact(await snapshotDownload(id, { ...other, onProgress: (report) => reports.push(report) }));
    expect(ofWeights(hub)).toEqual([`model.safetensors@bytes=${size}-`]);
    // What was there counts as loaded.
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
  });

  it('starts anew with a server that knows no ranges', async () => {
    const { hub, options } = await setUp();
    onWeights(hub, inTurn({ cutAfter: 100_000 }, { ignoreRange: true }));
    const reports: DownloadProgress[] = [];
    await intact(await snapshotDownload(id, { ...options, onProgress: (report) => reports.push(report) }));
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
  });

  it('notices a server that falls silent', async () => {
    const { hub, options } = await setUp();
    vi.stubEnv('HF_HUB_DOWNLOAD_TIMEOUT', '0.2');
    onTestFinished(() => void vi.unstubAllEnvs());
    onWeights(hub, inTurn({ stallAfter: 65_536 }));
    await intact(await snapshotDownload(id, options));
    expect(ofWeights(hub)).toHaveLength(2);
    hub.fault = ({ kind }) => (kind === 'cdn' ? { stallAfter: 0 } : undefined);
    await expect(snapshotDownload(id, { ...options, cacheDir: tempDir(), maxRetries: 1 })).rejects.toThrow(
      /nothing arrived for 0\.2 s/,
    );
  });
});

describe('whatever goes wrong, in whatever order', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])('the files arrive intact (seed %i)', async (seed) => {
    const { hub, options, blobs } = await setUp();
    const faults = randomFaults(seed, { often: 5, most: 20, longest: 200 });
    hub.fault = faults.fault;
    const reports: DownloadProgress[] = [];
    const folder = await snapshotDownload(id, {
      ...options,
      maxRetries: 50,
      retryDelay: 0,
      onProgress: (report) => reports.push(report),
    });
    const files = modelRepo(weights);
    for (const name of readdirSync(folder))
      expect(readFileSync(join(folder, name)).equals(Buffer.from(files[name]!)), name).toBe(true);
    expect(readdirSync(folder)).toHaveLength(5);
    expect(readdirSync(blobs).filter((name) => name.endsWith('.incomplete'))).toEqual([]);
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
    expect(faults.count()).toBeGreaterThan(3);
  });
});

describe('a busy server', () => {
  it.each([429, 500, 502, 503, 504, 408])('is asked again after %i', async (status) => {
    const { hub, options } = await setUp();
    const failed = new Set<string>();
    hub.fault = ({ kind, file }) => {
      if (failed.has(`${kind} ${file}`)) return undefined;
      failed.add(`${kind} ${file}`);
      return { status };
    };
    await intact(await snapshotDownload(id, options));
    expect(failed).toContain('api main');
    expect(failed).toContain('resolve config.json');
    expect(failed).toContain('cdn model.safetensors');
  });

  it('waits as long as it says', async () => {
    const { hub, options } = await setUp();
    let asked = 0;
    hub.fault = ({ kind }) =>
      kind === 'api' && asked++ === 0 ? { status: 429, headers: { 'retry-after': '1' } } : undefined;
    const start = performance.now();
    await snapshotDownload(id, options);
    expect(performance.now() - start).toBeGreaterThan(990);
  });

  it('ends with what it said when it goes on', async () => {
    const { hub, options } = await setUp();
    hub.fault = () => ({ status: 503 });
    await expect(snapshotDownload(id, { ...options, maxRetries: 2 })).rejects.toThrow(
      /failed 3 times: .* answered 503/,
    );
    expect(hub.seen).toHaveLength(3);
    hub.fault = () => ({ status: 418 });
    await expect(snapshotDownload(id, options)).rejects.toThrow(/answered 418/);
    expect(hub.seen).toHaveLength(4);
  });
});

describe('wrong contents', () => {
  it('are removed and fetched once more', async () => {
    const { hub, options } = await setUp();
    onWeights(hub, inTurn({ corrupt: true }));
    const reports: DownloadProgress[] = [];
    await intact(await snapshotDownload(id, { ...options, onProgress: (report) => reports.push(report) }));
    expect(ofWeights(hub)).toEqual(['model.safetensors', 'model.safetensors']);
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
  });

  it('are an error the second time, and leave nothing behind', async () => {
    const { hub, options, blobs, part, etag } = await setUp();
    onWeights(hub, inTurn({ corrupt: true }, { corrupt: true }));
    await expect(snapshotDownload(id, options)).rejects.toMatchObject({
      code: 'ERR_MLX_HUB_HASH',
      message: expect.stringMatching(
        new RegExp(`model\\.safetensors: what arrived twice is not the file: .*lists ${etag}`),
      ) as string,
    });
    expect(existsSync(join(blobs, etag))).toBe(false);
    expect(existsSync(part)).toBe(false);
  });

  it('are noticed in small files too, and in parts of an earlier attempt', async () => {
    const { hub, options, part } = await setUp();
    hub.fault = ({ kind, file }) => (kind === 'resolve' && file === 'config.json' ? { corrupt: true } : undefined);
    await expect(snapshotDownload(id, { ...options, cacheDir: tempDir() })).rejects.toThrow(
      /config\.json: what arrived twice is not the file/,
    );
    onWeights(hub, inTurn({ cutAfter: 100_000 }, ...Array.from({ length: 9 }, () => ({ status: 500 }))));
    await expect(snapshotDownload(id, { ...options, maxRetries: 1 })).rejects.toThrow(/answered 500/);
    const handle = await open(part, 'r+');
    await handle.write(Buffer.from('rot'), 0, 3, 10);
    await handle.close();
    hub.fault = () => undefined;
    hub.seen.length = 0;
    await intact(await snapshotDownload(id, options));
    expect(ofWeights(hub).at(-1)).toBe('model.safetensors');
  });
});

describe('no access', () => {
  it('a gated model: where to accept the licence, and how to say who one is', async () => {
    const { hub, options } = await setUp();
    hub.deny(id, 401, { 'x-error-code': 'GatedRepo' });
    await expect(snapshotDownload(id, options)).rejects.toMatchObject({
      code: 'ERR_MLX_HUB_ACCESS',
      message: expect.stringMatching(
        /gated \(401\)\. Accept its licence at https:\/\/huggingface\.co\/org\/model, then make a token at https:\/\/huggingface\.co\/settings\/tokens and set HF_TOKEN/,
      ) as string,
    });
    hub.deny(id, 403, { 'x-error-code': 'GatedRepo' });
    const withToken = snapshotDownload(id, { ...options, token: 'hf_secret' });
    await expect(withToken).rejects.toThrow(/account without access: accept the licence at/);
    await expect(withToken).rejects.not.toThrow(/hf_secret/);
  });

  it.each([
    [
      { status: 401, headers: { 'x-error-code': 'RepoNotFound' } },
      undefined,
      'ERR_MLX_HUB_NOT_FOUND',
      /there is no such model on .*check the name; if it is private/,
    ],
    [{ status: 401 }, undefined, 'ERR_MLX_HUB_ACCESS', /no such model, or it is private/],
    [{ status: 401 }, 'hf_x', 'ERR_MLX_HUB_ACCESS', /The token in use is not valid/],
    [
      { status: 403, headers: { 'x-error-message': 'disabled' } },
      'hf_x',
      'ERR_MLX_HUB_ACCESS',
      /refused access \(403\).*The hub says: disabled/,
    ],
    [{ status: 404 }, undefined, 'ERR_MLX_HUB_NOT_FOUND', /there is no such model/],
    [
      { status: 404, headers: { 'x-error-code': 'RevisionNotFound' } },
      undefined,
      'ERR_MLX_HUB_NOT_FOUND',
      /has no revision 'main'/,
    ],
    [{ status: 404, headers: { 'x-error-code': 'EntryNotFound' } }, undefined, 'ERR_MLX_HUB_NOT_FOUND', /no such file/],
  ])('%j with token %s: %s', async (fault, token, code, message) => {
    const { hub, options } = await setUp();
    hub.fault = () => fault;
    await expect(snapshotDownload(id, { ...options, token: token ?? false })).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
    // Asking again would not help.
    expect(hub.seen).toHaveLength(1);
  });

  it('a revision that does not exist', async () => {
    const { options } = await setUp();
    await expect(snapshotDownload(id, { ...options, revision: 'v9' })).rejects.toThrow(
      /org\/model has no revision 'v9'/,
    );
  });
});

describe('the disk', () => {
  it('is full: an error before the first byte, or as it happens', async () => {
    const { hub, options, etag } = await setUp();
    // A file of many terabytes, by the list.
    hub.fault = ({ kind }) => {
      if (kind !== 'api') return undefined;
      const sibling = (rfilename: string, size: number) => ({ rfilename, size, lfs: { sha256: etag, size } });
      return { body: JSON.stringify({ sha: 'a'.repeat(40), siblings: [sibling('model.safetensors', 9e15)] }) };
    };
    await expect(snapshotDownload(id, options)).rejects.toMatchObject({
      code: 'ERR_MLX_HUB_DISK',
      message: expect.stringMatching(/the download needs 9000000\.00 GB, and the disk .* has [\d.]+ GB left/) as string,
    });
    expect(hub.fetched).toEqual([]);
    const full = diskError(Object.assign(new Error('no space'), { code: 'ENOSPC' }), '/cache');
    expect(full).toMatchObject({
      code: 'ERR_MLX_HUB_DISK',
      message: expect.stringMatching(/\/cache is full\. What has arrived is kept/) as string,
    });
    const other = new TransientError('x');
    expect(diskError(other, '/cache')).toBe(other);
  });

  it('cannot be written: says which folder, and what to set', async () => {
    const { options } = await setUp();
    const file = join(tempDir(), 'file');
    writeFileSync(file, '');
    await expect(snapshotDownload(id, { ...options, cacheDir: join(file, 'hub') })).rejects.toMatchObject({
      code: 'ERR_MLX_HUB_DISK',
      message: expect.stringMatching(/cannot be written.*Set HF_HOME/) as string,
    });
  });

  it('is read-only but holds the model', async () => {
    const { options } = await setUp();
    const folder = await snapshotDownload(id, options);
    chmodSync(options.cacheDir!, 0o555);
    onTestFinished(() => chmodSync(options.cacheDir!, 0o755));
    expect(await snapshotDownload(id, options)).toBe(folder);
  });
});

describe('signal', () => {
  it('ends a download within a moment, with its reason, and leaves parts to go on from', async () => {
    const { hub, options, part } = await setUp();
    hub.fault = ({ kind, file }) => (kind === 'cdn' && file === 'model.safetensors' ? { delay: 20 } : undefined);
    const controller = new AbortController();
    const reason = new Error('enough');
    let aborted = 0;
    const onProgress = ({ file, loaded }: DownloadProgress): void => {
      if (file !== 'model.safetensors' || loaded < 50_000 || aborted > 0) return;
      aborted = performance.now();
      controller.abort(reason);
    };
    await expect(snapshotDownload(id, { ...options, signal: controller.signal, onProgress })).rejects.toBe(reason);
    expect(performance.now() - aborted).toBeLessThan(500);
    const { size } = statSync(part);
    expect(size).toBeGreaterThan(0);
    expect(size).toBeLessThan(weights.length);
    hub.seen.length = 0;
    await intact(await snapshotDownload(id, options));
    expect(ofWeights(hub)).toEqual([`model.safetensors@bytes=${size}-`]);
  });

  it('ends a wait for the next attempt, and a request without an answer', async () => {
    const { hub, options } = await setUp();
    hub.fault = () => ({ status: 503 });
    const start = performance.now();
    const signal = AbortSignal.timeout(100);
    await expect(snapshotDownload(id, { ...options, retryDelay: 60_000, signal })).rejects.toSatisfy(
      (error) => error === signal.reason,
    );
    hub.fault = () => ({ delay: 60_000 });
    const other = AbortSignal.timeout(100);
    await expect(snapshotDownload(id, { ...options, signal: other })).rejects.toSatisfy(
      (error) => error === other.reason,
    );
    expect(performance.now() - start).toBeLessThan(5000);
    await expect(snapshotDownload(id, { ...options, signal: AbortSignal.abort('never') })).rejects.toBe('never');
  });

  it('an exception of onProgress ends the download with it', async () => {
    const { options } = await setUp();
    const onProgress = (): void => {
      throw new RangeError('mine');
    };
    await expect(snapshotDownload(id, { ...options, onProgress })).rejects.toThrow(RangeError);
  });
});
