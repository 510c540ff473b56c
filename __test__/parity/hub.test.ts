import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { findCached, scanCacheDir, snapshotDownload } from '../../lib/index.ts';
import { FakeHub, modelRepo } from '../helpers/hub.ts';
import { mlxLm } from '../helpers/peers.ts';
import { tempDir } from '../helpers/temp.ts';

const id = 'org/model';

async function setUp() {
  const hub = await FakeHub.start();
  const commit = hub.commit(id, modelRepo());
  const cacheDir = tempDir();
  const { endpoint } = hub;
  const { python, env } = mlxLm();
  /** What huggingface_hub answers; it runs beside the hub, which lives in this process. */
  const peer = async (...args: string[]): Promise<unknown> => {
    const child = spawn(python, [join(import.meta.dirname, 'peers/hub.py'), ...args], {
      env: {
        ...env,
        HF_ENDPOINT: endpoint,
        HF_HUB_CACHE: cacheDir,
        HF_HUB_DISABLE_TELEMETRY: '1',
        HF_HUB_DISABLE_XET: '1',
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let [stdout, stderr] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const [code] = (await once(child, 'close')) as [number];
    expect(code, stderr).toBe(0);
    return JSON.parse(stdout.trim().split('\n').at(-1)!);
  };
  return { hub, commit, cacheDir, peer, options: { endpoint, cacheDir, token: false as const } };
}

/** Both see the same repositories, sizes, commits and refs. */
async function sameScan(cacheDir: string, peer: (...args: string[]) => Promise<unknown>): Promise<void> {
  const { repos } = await scanCacheDir(cacheDir);
  const ours = repos.map(({ repoId, sizeOnDisk, revisions }) => ({
    repoId,
    sizeOnDisk,
    revisions: revisions
      .map((revision) => ({ commitHash: revision.commitHash, refs: revision.refs, sizeOnDisk: revision.sizeOnDisk }))
      .toSorted((a, b) => (a.commitHash < b.commitHash ? -1 : 1)),
  }));
  expect(await peer('scan', id)).toEqual({ warnings: [], repos: ours });
}

describe("Python's huggingface_hub and ours share a cache", () => {
  it('the other one finds what we downloaded, without a network', async () => {
    const { commit, cacheDir, hub, peer, options } = await setUp();
    const folder = await snapshotDownload(id, options);
    hub.stop();
    expect(await peer('cached', id)).toEqual({
      snapshot: folder,
      config: join(folder, 'config.json'),
      weights: join(folder, 'model.safetensors'),
      absent: null,
    });
    expect(folder).toMatch(commit);
    await sameScan(cacheDir, peer);
  });

  it('we find what it downloaded, and fetch only what it left out', async () => {
    const { cacheDir, hub, peer, options } = await setUp();
    const folder = (await peer('download', id)) as string;
    expect(await findCached(id, { cacheDir })).toBe(folder);
    expect(await snapshotDownload(id, { ...options, localFilesOnly: true })).toBe(folder);
    hub.seen.length = 0;
    expect(await snapshotDownload(id, options)).toBe(folder);
    expect(hub.fetched).toEqual([]);
    await sameScan(cacheDir, peer);
    // A later commit: each takes the blobs that the other has.
    hub.commit(id, { ...modelRepo(), 'config.json': '{"v":2}' });
    const next = await snapshotDownload(id, options);
    expect(hub.fetched).toEqual(['config.json']);
    hub.seen.length = 0;
    expect(await peer('download', id)).toBe(next);
    expect(hub.fetched).toEqual([]);
    expect(readFileSync(join(next, 'config.json'), 'utf8')).toBe('{"v":2}');
    await sameScan(cacheDir, peer);
  });
});
