import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { etagOf, FakeHub, modelRepo, noise } from '../helpers/hub.ts';
import { tempDir } from '../helpers/temp.ts';

const root = join(import.meta.dirname, '..', '..');
const id = 'org/model';
const weights = noise(600_000);
const etag = etagOf('model.safetensors', weights);

async function setUp() {
  const hub = await FakeHub.start();
  hub.commit(id, modelRepo(weights));
  // 37 pieces, half a second and more.
  hub.fault = ({ kind, file }) => (kind === 'cdn' && file === 'model.safetensors' ? { delay: 15 } : undefined);
  const cacheDir = tempDir();
  const start = (
    env: Record<string, string> = {},
  ): { child: ChildProcess; ended: Promise<{ code: number | null; stdout: string }> } => {
    const child = spawn(
      process.execPath,
      [join(import.meta.dirname, 'download-child.mjs'), join(root, 'dist/lib/index.js'), id],
      {
        env: { ...process.env, HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cacheDir, HF_TOKEN: 'hf_x', ...env },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    let stdout = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.resume();
    return { child, ended: once(child, 'close').then(([code]) => ({ code: code as number | null, stdout })) };
  };
  const blobs = join(cacheDir, 'models--org--model', 'blobs');
  return { hub, cacheDir, blobs, part: join(blobs, `${etag}.mlx-node.incomplete`), start };
}

const askedForWeights = (hub: FakeHub): string[] => hub.fetched.filter((text) => text.startsWith('model.safetensors'));

describe('downloads in several processes', () => {
  it('fetch everything once when they start together', async () => {
    const { hub, blobs, start } = await setUp();
    const results = await Promise.all([start(), start(), start()].map(({ ended }) => ended));
    expect(results.map(({ code }) => code)).toEqual([0, 0, 0]);
    expect(new Set(results.map(({ stdout }) => stdout)).size).toBe(1);
    expect(hub.fetched.toSorted()).toEqual([...new Set(hub.fetched)].toSorted());
    expect(readFileSync(join(results[0]!.stdout, 'model.safetensors')).equals(weights)).toBe(true);
    expect(readdirSync(blobs).filter((name) => name.endsWith('.incomplete'))).toEqual([]);
  });

  it('go on from what a killed one left, and take over its lock', async () => {
    const { hub, cacheDir, part, start } = await setUp();
    const first = start();
    while (!existsSync(part) || statSync(part).size < 100_000) await sleep(5);
    first.child.kill('SIGKILL');
    await first.ended;
    const { size } = statSync(part);
    expect(size).toBeLessThan(weights.length);
    const lock = join(cacheDir, '.locks/models--org--model', `${etag}.mlx-node.lock`);
    expect(existsSync(lock)).toBe(true);
    hub.seen.length = 0;
    const { code, stdout } = await start().ended;
    expect([code, stdout]).toEqual([0, expect.stringMatching(/snapshots/)]);
    expect(askedForWeights(hub)).toEqual([`model.safetensors@bytes=${size}-`]);
    expect(readFileSync(join(stdout, 'model.safetensors')).equals(weights)).toBe(true);
    expect(existsSync(lock)).toBe(false);
  });

  it('go through a proxy where the environment names one, and around it where it says so', async () => {
    const { cacheDir, start } = await setUp();
    const asked: string[] = [];
    const proxy = createServer();
    proxy.on('connect', (request: IncomingMessage, socket: Socket) => {
      asked.push(request.url!);
      const [host, port] = request.url!.split(':');
      const through = connect(Number(port), host, () => {
        socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
        through.pipe(socket).pipe(through);
      });
      through.on('error', () => socket.destroy());
      socket.on('error', () => through.destroy());
    });
    proxy.listen(0, '127.0.0.1');
    await once(proxy, 'listening');
    onTestFinished(() => {
      proxy.close();
      proxy.closeAllConnections();
    });
    const address = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
    const around = await start({
      HTTP_PROXY: address,
      http_proxy: address,
      NO_PROXY: '127.0.0.1',
      no_proxy: '127.0.0.1',
    }).ended;
    expect([around.code, asked]).toEqual([0, []]);
    rmSync(cacheDir, { recursive: true });
    const none = { NO_PROXY: '', no_proxy: '' };
    const { code, stdout } = await start({ HTTP_PROXY: address, http_proxy: address, ...none }).ended;
    expect([code, stdout]).toEqual([0, expect.stringMatching(/snapshots/)]);
    // The hub, and the storage server.
    expect(new Set(asked).size).toBe(2);
  });
});
