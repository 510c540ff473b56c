import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { lockText } from '../../lib/hub/lock.ts';
import { createModel, findCached, loadModel, snapshotDownload, Tokenizer } from '../../lib/index.ts';
import type { DownloadProgress, SnapshotDownloadOptions } from '../../lib/index.ts';
import { etagOf, FakeHub, modelRepo, noise } from '../helpers/hub.ts';
import { tempDir } from '../helpers/temp.ts';

const id = 'org/model';
const needed = [
  'config.json',
  'generation_config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
];

async function setUp(files = modelRepo()) {
  const hub = await FakeHub.start();
  const commit = hub.commit(id, files);
  const cacheDir = tempDir();
  const root = join(cacheDir, 'models--org--model');
  const options: SnapshotDownloadOptions = { endpoint: hub.endpoint, cacheDir, token: false, retryDelay: 1 };
  return { hub, commit, cacheDir, root, options, files };
}

function env(name: string, value: string): void {
  vi.stubEnv(name, value);
  onTestFinished(() => void vi.unstubAllEnvs());
}

describe('snapshotDownload', () => {
  it("fetches what a model needs, into the layout of Python's cache", async () => {
    const { hub, commit, cacheDir, root, options, files } = await setUp();
    const folder = await snapshotDownload(id, options);
    expect(folder).toBe(join(root, 'snapshots', commit));
    expect(readdirSync(folder).toSorted()).toEqual(needed);
    for (const name of needed) {
      const data = Buffer.from(files[name]!);
      expect(readFileSync(join(folder, name)).equals(data), name).toBe(true);
      expect(readlinkSync(join(folder, name))).toBe(`../../blobs/${etagOf(name, data)}`);
    }
    expect(readdirSync(join(root, 'blobs'))).toHaveLength(needed.length);
    expect(readFileSync(join(root, 'refs', 'main'), 'utf8')).toBe(commit);
    expect(readFileSync(join(cacheDir, 'CACHEDIR.TAG'), 'utf8')).toMatch(
      /^Signature: 8a477f597d28d172789f06886806bc55/,
    );
    expect(hub.fetched.toSorted()).toEqual(needed);
    // No lock stays behind.
    expect(readdirSync(join(cacheDir, '.locks', 'models--org--model'))).toEqual([]);
  });

  it('asks once more only for the commit, and for nothing when the commit is named', async () => {
    const { hub, commit, options } = await setUp();
    const folder = await snapshotDownload(id, options);
    hub.seen.length = 0;
    expect(await snapshotDownload(id, options)).toBe(folder);
    expect(hub.seen.map(({ kind, file }) => [kind, file])).toEqual([['api', 'main']]);
    expect(await snapshotDownload(id, { ...options, revision: commit })).toBe(folder);
    expect(hub.seen).toHaveLength(1);
    expect(await findCached(id, { cacheDir: options.cacheDir! })).toBe(folder);
  });

  it('fetches only what a new commit changed, and keeps the old snapshot', async () => {
    const { hub, commit, root, options, files } = await setUp();
    const old = await snapshotDownload(id, options);
    const next = hub.commit(id, { ...files, 'generation_config.json': '{"top_k":3}' });
    hub.seen.length = 0;
    const folder = await snapshotDownload(id, options);
    expect(hub.fetched).toEqual(['generation_config.json']);
    expect(readFileSync(join(folder, 'generation_config.json'), 'utf8')).toBe('{"top_k":3}');
    expect(readFileSync(join(old, 'generation_config.json'), 'utf8')).toBe('{}');
    expect(readFileSync(join(root, 'refs/main'), 'utf8')).toBe(next);
    expect(await snapshotDownload(id, { ...options, revision: commit })).toBe(old);
  });

  it('takes branches and tags, with slashes too', async () => {
    const { hub, root, options, files } = await setUp();
    const commit = hub.commit(id, { ...files, 'config.json': '{"v":2}' }, 'refs/pr/1');
    const folder = await snapshotDownload(id, { ...options, revision: 'refs/pr/1' });
    expect(folder).toMatch(commit);
    expect(readFileSync(join(root, 'refs/refs/pr/1'), 'utf8')).toBe(commit);
    expect(existsSync(join(root, 'refs/main'))).toBe(false);
  });

  it('fetches the shards that the index lists, and no other weights', async () => {
    const index = JSON.stringify({ weight_map: { a: 'model-1.safetensors', b: 'model-2.safetensors' } });
    const { hub, options } = await setUp({
      ...modelRepo(),
      'model.safetensors.index.json': index,
      'model-1.safetensors': noise(3000, 2),
      'model-2.safetensors': noise(3000, 3),
    });
    const folder = await snapshotDownload(id, options);
    expect(readdirSync(folder)).not.toContain('model.safetensors');
    expect(hub.fetched.filter((name) => name.endsWith('.safetensors')).toSorted()).toEqual([
      'model-1.safetensors',
      'model-2.safetensors',
    ]);
    rmSync(join(folder, 'model-2.safetensors'));
    expect(await findCached(id, { cacheDir: options.cacheDir! })).toBeUndefined();
  });

  it('follows patterns instead, into folders too', async () => {
    const { options } = await setUp();
    const folder = await snapshotDownload(id, {
      ...options,
      allowPatterns: ['*.json', 'onnx/*'],
      ignorePatterns: 'token*',
    });
    expect(readdirSync(folder).toSorted()).toEqual(['config.json', 'generation_config.json', 'onnx']);
    expect(readFileSync(join(folder, 'onnx/model.onnx'), 'utf8')).toBe('graph');
    expect(readlinkSync(join(folder, 'onnx/model.onnx'))).toMatch(/^\.\.\/\.\.\/\.\.\/blobs\//);
  });

  it('sends the token to the hub and not to the storage server', async () => {
    const { hub, options } = await setUp();
    await snapshotDownload(id, { ...options, token: 'hf_secret' });
    expect(new Set(hub.seen.filter(({ kind }) => kind !== 'cdn').map((seen) => seen.authorization))).toEqual(
      new Set(['Bearer hf_secret']),
    );
    expect(new Set(hub.seen.filter(({ kind }) => kind === 'cdn').map((seen) => seen.authorization))).toEqual(
      new Set([undefined]),
    );
  });

  it('asks for headers where the list has names only', async () => {
    const { hub, options, files } = await setUp();
    hub.listsBlobs = false;
    const folder = await snapshotDownload(id, options);
    expect(readFileSync(join(folder, 'model.safetensors')).equals(files['model.safetensors'] as Buffer)).toBe(true);
    expect(
      hub.seen
        .filter(({ method }) => method === 'HEAD')
        .map(({ file }) => file)
        .toSorted(),
    ).toEqual(needed);
    expect(readlinkSync(join(folder, 'model.safetensors'))).toMatch(/\/[0-9a-f]{64}$/);
  });

  it('reports a true total from the first report to the last', async () => {
    const { hub, options, files } = await setUp(modelRepo(noise(400_000)));
    hub.fault = ({ kind }) => (kind === 'cdn' ? { delay: 15 } : undefined);
    const reports: DownloadProgress[] = [];
    await snapshotDownload(id, { ...options, onProgress: (progress) => reports.push(progress) });
    const total = needed.reduce((sum, name) => sum + Buffer.byteLength(files[name]!), 0);
    expect(new Set(reports.map((report) => report.total))).toEqual(new Set([total]));
    expect(reports.length).toBeGreaterThan(2);
    expect(reports.map(({ loaded }) => loaded)).toEqual(reports.map(({ loaded }) => loaded).toSorted((a, b) => a - b));
    expect(reports.at(-1)).toMatchObject({ loaded: total, file: 'model.safetensors' });
    const speed = reports.at(-1)!.bytesPerSecond;
    // 25 pieces of 16 KiB, 15 ms each at least.
    expect(speed).toBeGreaterThan(1e4);
    expect(speed).toBeLessThan(400_000 / 0.3);
  });

  it('fetches several files at a time, as many as asked for', async () => {
    const { hub, options } = await setUp();
    const most = async (maxWorkers: number): Promise<number> => {
      let [asked, open, peak] = [0, 0, 0];
      hub.fault = ({ kind, file }) => {
        if (kind !== 'resolve' || !file.endsWith('config.json')) return undefined;
        asked += 1;
        open += 1;
        peak = Math.max(peak, open);
        const wait = async (): Promise<void> => {
          // What is fetched together is asked for before the first of it is answered.
          const ready = (): boolean => maxWorkers === 1 || asked >= 3;
          while (!ready()) await sleep(5);
          open -= 1;
        };
        return { wait };
      };
      await snapshotDownload(id, { ...options, cacheDir: tempDir(), maxWorkers });
      return peak;
    };
    expect(await most(1)).toBe(1);
    expect(await most(8)).toBe(3);
  });
});

describe('several at once', () => {
  it('in one process fetch everything once, and all have it', async () => {
    const { hub, root, options, files } = await setUp();
    const reports: DownloadProgress[] = [];
    const onProgress = (report: DownloadProgress): number => reports.push(report);
    const folders = await Promise.all(
      Array.from({ length: 12 }, () => snapshotDownload(id, { ...options, onProgress })),
    );
    expect(new Set(folders).size).toBe(1);
    expect(hub.fetched.toSorted()).toEqual(needed);
    expect(readdirSync(root).toSorted()).toEqual(['blobs', 'refs', 'snapshots']);
    expect(readFileSync(join(folders[0]!, 'model.safetensors')).equals(files['model.safetensors'] as Buffer)).toBe(
      true,
    );
    // Who waited for another sees all of it arrive as well.
    for (const { loaded, total } of reports) expect(loaded).toBeLessThanOrEqual(total);
  });
});

describe('without the hub', () => {
  it.each([['HF_HUB_OFFLINE'], ['TRANSFORMERS_OFFLINE']])('%s: takes what is cached and asks nobody', async (name) => {
    const { hub, options } = await setUp();
    const folder = await snapshotDownload(id, options);
    hub.seen.length = 0;
    env(name, '1');
    expect(await snapshotDownload(id, options)).toBe(folder);
    expect(hub.seen).toEqual([]);
    await expect(snapshotDownload('org/other', options)).rejects.toMatchObject({
      code: 'ERR_MLX_HUB_OFFLINE',
      message: expect.stringMatching(/org\/other is not in the cache .*mlx-node download org\/other$/) as string,
    });
    await expect(snapshotDownload(id, { ...options, revision: 'v2' })).rejects.toThrow(
      /mlx-node download org\/model --revision v2$/,
    );
  });

  it('names what is missing of a model that is half there', async () => {
    const { options } = await setUp();
    const folder = await snapshotDownload(id, options);
    rmSync(join(folder, 'model.safetensors'));
    await expect(snapshotDownload(id, { ...options, localFilesOnly: true })).rejects.toThrow(
      /is only partly \(model\.safetensors missing\) in the cache/,
    );
  });

  it('takes what is cached when the hub cannot be reached, is broken, or does not know the model any more', async () => {
    const { hub, options } = await setUp();
    const folder = await snapshotDownload(id, options);
    for (const status of [500, 404, 401, 429]) {
      hub.fault = () => ({ status });
      expect(await snapshotDownload(id, options)).toBe(folder);
    }
    hub.stop();
    expect(await snapshotDownload(id, options)).toBe(folder);
    await expect(snapshotDownload('org/other', options)).rejects.toMatchObject({
      code: 'ERR_MLX_HUB_NETWORK',
      message: expect.stringMatching(
        /^org\/other: the download from http.* failed 3 times: .*ECONNREFUSED.*Check the network, a proxy/,
      ) as string,
    });
  });
});

describe('what lies in the cache already', () => {
  it('mends a link that points to nothing, and uses blobs that are there', async () => {
    const { hub, root, options, files } = await setUp();
    const folder = await snapshotDownload(id, options);
    const config = join(folder, 'config.json');
    rmSync(join(root, 'blobs', etagOf('config.json', Buffer.from(files['config.json']!))));
    rmSync(join(folder, 'tokenizer.json'));
    hub.seen.length = 0;
    await snapshotDownload(id, options);
    expect(hub.fetched).toEqual(['config.json']);
    expect(readFileSync(config, 'utf8')).toBe(files['config.json']);
    expect(existsSync(join(folder, 'tokenizer.json'))).toBe(true);
  });

  it('works without symbolic links', async () => {
    const { hub, options } = await setUp();
    env('HF_HUB_DISABLE_SYMLINKS', '1');
    const folder = await snapshotDownload(id, options);
    expect(lstatSync(join(folder, 'model.safetensors')).isFile()).toBe(true);
    hub.seen.length = 0;
    await snapshotDownload(id, options);
    expect(hub.fetched).toEqual([]);
  });

  it('takes over the lock of a process that died, and waits for one that lives', async () => {
    const { cacheDir, root, options, files } = await setUp();
    const etag = etagOf('config.json', Buffer.from(files['config.json']!));
    const lock = join(cacheDir, '.locks/models--org--model', `${etag}.mlx-node.lock`);
    mkdirSync(join(cacheDir, '.locks/models--org--model'), { recursive: true });
    writeFileSync(lock, lockText());
    const controller = new AbortController();
    const waiting = snapshotDownload(id, { ...options, signal: controller.signal });
    setTimeout(() => controller.abort('enough'), 400);
    await expect(waiting).rejects.toBe('enough');
    expect(existsSync(lock)).toBe(true);
    // Its heart has stopped, wherever it ran.
    const old = Date.now() / 1000 - 60;
    utimesSync(lock, old, old);
    const folder = await snapshotDownload(id, options);
    expect(existsSync(join(folder, 'config.json'))).toBe(true);
    expect(readdirSync(join(cacheDir, '.locks/models--org--model'))).toEqual([]);
    // A process of this machine that is no more.
    const { pid } = spawnSync(process.execPath, ['-e', '']);
    rmSync(join(folder, 'config.json'));
    rmSync(join(root, 'blobs', etag));
    writeFileSync(lock, JSON.stringify({ ...(JSON.parse(lockText()) as object), pid }));
    await snapshotDownload(id, options);
    expect(existsSync(join(folder, 'config.json'))).toBe(true);
  });

  it('replaces a part that is longer than the file', async () => {
    const { root, options, files } = await setUp();
    const weights = files['model.safetensors'] as Buffer;
    const part = join(root, 'blobs', `${etagOf('model.safetensors', weights)}.mlx-node.incomplete`);
    mkdirSync(join(root, 'blobs'), { recursive: true });
    writeFileSync(part, Buffer.concat([weights, weights]));
    const folder = await snapshotDownload(id, options);
    expect(readFileSync(join(folder, 'model.safetensors')).equals(weights)).toBe(true);
    expect(existsSync(part)).toBe(false);
  });
});

describe('mistakes', () => {
  it.each([
    ['Qwen3', {}, /"Qwen3" is not the name of a model on the hub/],
    [id, { revision: '../x' }, /revision must be a branch/],
    [id, { revision: '' }, /revision must be a branch/],
    [id, { maxWorkers: 0 }, /maxWorkers must be a whole number from 1, got 0/],
    [id, { alowPatterns: 'x' }, /did you mean 'allowPatterns'/],
  ])('%s with %j', async (name, options, message) => {
    await expect(snapshotDownload(name, options as SnapshotDownloadOptions)).rejects.toThrow(message);
  });

  it('a repository without safetensors, one whose index lists shards that it lacks, and an answer that is none', async () => {
    const { hub, options } = await setUp({ 'config.json': '{}', 'pytorch_model.bin': 'x' });
    await expect(snapshotDownload(id, options)).rejects.toThrow(
      /has no safetensors weights \(it has pytorch_model\.bin\)/,
    );
    hub.commit('org/shards', {
      'config.json': '{}',
      'model.safetensors.index.json': '{"weight_map":{"a":"model-1.safetensors"}}',
    });
    await expect(snapshotDownload('org/shards', options)).rejects.toThrow(
      /lists model-1\.safetensors, which the repository lacks/,
    );
    hub.fault = () => ({ body: '<html>Log in</html>' });
    await expect(snapshotDownload(id, options)).rejects.toThrow(/is not JSON; is HF_ENDPOINT a Hugging Face hub/);
    hub.fault = () => ({ body: '{"sha":"main","siblings":[]}' });
    await expect(snapshotDownload(id, options)).rejects.toThrow(/names no commit and files/);
  });

  it('file names that would leave the cache are passed over', async () => {
    const { hub, cacheDir, options } = await setUp({ ...modelRepo(), '../../../evil.json': 'x' });
    await snapshotDownload(id, { ...options, allowPatterns: '*' });
    expect(hub.fetched).not.toContain('evil.json');
    expect(existsSync(join(cacheDir, 'evil.json'))).toBe(false);
  });
});

describe('a part of a model', () => {
  it('is all that a tokenizer needs', async () => {
    const folder = join(import.meta.dirname, '../../examples/tiny-qwen3');
    const names = ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];
    const files = Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name))]));
    const { hub, cacheDir, options } = await setUp(files);
    const where = { endpoint: hub.endpoint, cacheDir, token: false } as const;
    const reports: DownloadProgress[] = [];
    const tokenizer = await Tokenizer.load(id, { ...where, onProgress: (report) => reports.push(report) });
    expect(tokenizer.encode('12+3=')).toEqual((await Tokenizer.load(folder)).encode('12+3='));
    expect(hub.fetched.toSorted()).toEqual(['tokenizer.json', 'tokenizer_config.json']);
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
    // It is no model yet.
    expect(await findCached(id, { cacheDir })).toBeUndefined();
    using fresh = await createModel(id, { ...where, seed: 3 });
    expect(fresh.repoId).toBe(id);
    expect(hub.fetched).toContain('config.json');
    expect(hub.fetched).not.toContain('model.safetensors');
    using model = await loadModel(id, where);
    expect(model.numParameters).toBe(fresh.numParameters);
    expect(hub.fetched.filter((name) => name === 'tokenizer.json')).toHaveLength(1);
    await expect(Tokenizer.load('org/none', where)).rejects.toMatchObject({ code: 'ERR_MLX_HUB_NOT_FOUND' });
    await expect(Tokenizer.load(id, { ...where, revison: 'x' } as object)).rejects.toThrow(/did you mean 'revision'/);
    const signal = AbortSignal.abort('never');
    await expect(Tokenizer.load(id, { ...options, maxWorkers: 2 } as object)).rejects.toThrow(
      /unknown option|maxWorkers/,
    );
    await expect(Tokenizer.load(id, { ...where, signal })).rejects.toBe('never');
  });
});
