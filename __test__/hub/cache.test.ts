import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { run } from '../../lib/cli/run.ts';
import { downloadLine } from '../../lib/cli/loading.ts';
import { loadModel, planPrune, planRemoval, removeFromCache, scanCacheDir, snapshotDownload } from '../../lib/index.ts';
import type { LoadProgress } from '../../lib/index.ts';
import { native } from '../helpers/fake-native.ts';
import { etagOf, FakeHub, modelRepo, noise } from '../helpers/hub.ts';
import { tempDir } from '../helpers/temp.ts';

vi.mock('../../lib/native.ts', () => import('../helpers/fake-native.ts'));

/** Weights of 100 kB that the fake addon can read. */
const readable = Buffer.from('[1,2,3,4]'.padEnd(100_000));

/** A hub that the environment points to, and an empty cache. */
async function setUp() {
  const hub = await FakeHub.start();
  const cacheDir = tempDir();
  vi.stubEnv('HF_ENDPOINT', hub.endpoint);
  vi.stubEnv('HF_HUB_CACHE', cacheDir);
  vi.stubEnv('HF_TOKEN', 'hf_test');
  onTestFinished(() => void vi.unstubAllEnvs());
  return { hub, cacheDir };
}

async function cli(args: string[], isTTY = false) {
  let stdout = '';
  let stderr = '';
  const io = {
    stdout: { write: (text: string) => (stdout += text) },
    stderr: { write: (text: string) => (stderr += text), isTTY, columns: 100 },
  };
  return { code: await run(args, io, native), stdout, stderr };
}

describe('the cache', () => {
  it('is listed: sizes once for each blob, refs, unfinished parts, and what others left', async () => {
    const { hub, cacheDir } = await setUp();
    const first = hub.commit('org/model', modelRepo());
    await snapshotDownload('org/model');
    const second = hub.commit('org/model', { ...modelRepo(), 'config.json': '{"v":2}' });
    await snapshotDownload('org/model');
    hub.commit('org/small', { 'config.json': '{}', 'model.safetensors': noise(10) });
    await snapshotDownload('org/small');
    writeFileSync(join(cacheDir, 'models--org--small/blobs/abc.incomplete'), '12345');
    mkdirSync(join(cacheDir, 'datasets--org--data/snapshots/x'), { recursive: true });
    mkdirSync(join(cacheDir, 'models--broken'));
    writeFileSync(join(cacheDir, 'version.txt'), '1');

    const info = await scanCacheDir();
    const found = info.repos.map(({ repoType, repoId }) => `${repoType}/${repoId}`);
    expect(found).toEqual(['model/org/model', 'model/org/small', 'model/broken', 'dataset/org/data']);
    const [model, small] = [info.repos[0]!, info.repos[1]!];
    const shared = 100_000 + 5000 + 2 + Buffer.byteLength('{"chat_template":"x"}');
    expect(model.sizeOnDisk).toBe(shared + Buffer.byteLength('{"model_type":"qwen3"}') + Buffer.byteLength('{"v":2}'));
    expect(Object.fromEntries(model.revisions.map(({ commitHash, refs }) => [commitHash, refs]))).toEqual({
      [first]: [],
      [second]: ['main'],
    });
    expect(model.revisions.find(({ commitHash }) => commitHash === second)!.sizeOnDisk).toBe(shared + 7);
    expect(small.incompleteSize).toBe(5);
    expect(await scanCacheDir('/nowhere')).toMatchObject({ repos: [], sizeOnDisk: 0 });
  });

  it('gives room: a commit takes only what no other needs', async () => {
    const { hub, cacheDir } = await setUp();
    const first = hub.commit('org/model', modelRepo(), 'refs/pr/1');
    const old = await snapshotDownload('org/model', { revision: 'refs/pr/1' });
    hub.commit('org/model', { ...modelRepo(), 'config.json': '{"v":2}' });
    const folder = await snapshotDownload('org/model');
    const removal = await planRemoval([first.slice(0, 8), first]);
    expect(removal).toMatchObject({ repos: [], freed: Buffer.byteLength('{"model_type":"qwen3"}') });
    expect(existsSync(old)).toBe(true);
    await removeFromCache(removal);
    expect(existsSync(old)).toBe(false);
    expect(readdirSync(join(cacheDir, 'models--org--model/refs'))).toEqual(['main']);
    expect(readFileSync(join(folder, 'model.safetensors')).length).toBe(100_000);
    const blobs = readdirSync(join(cacheDir, 'models--org--model/blobs'));
    expect(blobs).not.toContain(etagOf('config.json', Buffer.from('{"model_type":"qwen3"}')));
    // The last commit takes the repository with it.
    const last = readdirSync(join(cacheDir, 'models--org--model/snapshots'))[0]!;
    await removeFromCache(await planRemoval([last]));
    expect(existsSync(join(cacheDir, 'models--org--model'))).toBe(false);
    await expect(planRemoval(['org/model'])).rejects.toThrow(/org\/model is not in the cache .*cache list --revisions/);
  });

  it('does not remove what several repositories share through a store of blobs', async () => {
    const { hub, cacheDir } = await setUp();
    hub.commit('org/model', modelRepo());
    const first = await snapshotDownload('org/model');
    const etag = etagOf('model.safetensors', noise(100_000));
    const blob = join(cacheDir, 'models--org--model/blobs', etag);
    mkdirSync(join(cacheDir, 'blobs'));
    writeFileSync(join(cacheDir, 'blobs', 'shared'), readFileSync(blob));
    rmSync(blob);
    symlinkSync('../../blobs/shared', blob);
    hub.commit('org/model', { ...modelRepo(noise(50)) });
    await snapshotDownload('org/model');
    expect((await scanCacheDir()).repos[0]!.revisions.some(({ sizeOnDisk }) => sizeOnDisk > 100_000)).toBe(true);
    await removeFromCache(await planRemoval([first.slice(-40)]));
    expect(existsSync(blob)).toBe(false);
    expect(readFileSync(join(cacheDir, 'blobs', 'shared')).length).toBe(100_000);
  });
});

describe('loadModel with a name on the hub', () => {
  it('downloads, loads, and knows its name', async () => {
    const { hub } = await setUp();
    hub.commit('org/model', modelRepo(readable));
    const phases = new Set<string>();
    const model = await loadModel('org/model', { onProgress: ({ phase }: LoadProgress) => phases.add(phase) });
    expect(model.repoId).toBe('org/model');
    expect(model.path).toMatch(/models--org--model\/snapshots\/[0-9a-f]{40}$/);
    expect(phases).toContain('download');
    model.dispose();
    expect(() => model.handle).toThrow(/load it again with loadModel\('org\/model'\)/);
  });

  it('takes adapters from the hub as well, and says what is wrong with an adapter alone', async () => {
    const { hub } = await setUp();
    hub.commit('org/model', modelRepo(readable), 'v1');
    hub.commit('org/lora', { 'adapter_config.json': '{}', 'adapter_model.safetensors': '[1]', 'optimizer.pt': 'x' });
    const model = await loadModel('org/model', { adapter: 'org/lora', revision: 'v1' });
    expect(model.hasAdapter).toBe(true);
    await expect(loadModel('org/lora')).rejects.toThrow(/org\/lora: this is an adapter; load its base model/);
    await expect(loadModel('org/model', { revision: 'v1', adapter: 'org/model' })).rejects.toThrow(
      /org\/model has no revision 'main'/,
    );
  });

  it('prefers a folder, and says that there is neither', async () => {
    const { hub } = await setUp();
    const here = tempDir();
    const cwd = process.cwd();
    process.chdir(here);
    onTestFinished(() => process.chdir(cwd));
    mkdirSync('org/model', { recursive: true });
    writeFileSync('org/model/config.json', '{}');
    writeFileSync('org/model/tokenizer.json', '{}');
    expect((await loadModel('org/model')).repoId).toBeUndefined();
    expect(hub.seen).toEqual([]);
    await expect(loadModel('org/other')).rejects.toMatchObject({
      code: 'ERR_MLX_HUB_NOT_FOUND',
      message: expect.stringMatching(/no such model on .*There is no folder 'org\/other' either/) as string,
    });
    await expect(loadModel('Qwen3')).rejects.toThrow(
      /Qwen3: there is no such folder. Give a folder .*'Qwen\/Qwen3-0\.6B'/,
    );
  });
});

describe('mlx-node', () => {
  it('download: prints the folder, and shows progress on a terminal only', async () => {
    const { hub, cacheDir } = await setUp();
    const commit = hub.commit('org/model', modelRepo(), 'v1');
    const plain = await cli(['download', 'org/model', '--revision', 'v1']);
    expect(plain).toEqual({
      code: 0,
      stdout: `${join(cacheDir, 'models--org--model/snapshots', commit)}\n`,
      stderr: '',
    });
    hub.fault = ({ kind }) => (kind === 'cdn' ? { delay: 30 } : undefined);
    const other = tempDir();
    const shown = await cli(['download', 'org/model', '--revision', 'v1', '--cache-dir', other], true);
    expect(shown.code).toBe(0);
    expect(shown.stderr).toMatch(/\[#* *\] \d+ % [\d.]+ kB of 106 kB, .*\/s/);
    expect(shown.stderr.endsWith('\r\x1b[2K')).toBe(true);
    const quiet = await cli(['download', 'org/model', '--revision', 'v1', '--cache-dir', tempDir(), '-q'], true);
    expect(quiet.stderr).toBe('');
    const some = await cli([
      'download',
      'org/model',
      '--revision',
      'v1',
      '--cache-dir',
      tempDir(),
      '--include',
      '*.json',
      '--exclude',
      'tok*',
    ]);
    expect(readdirSync(some.stdout.trim()).toSorted()).toEqual(['config.json', 'generation_config.json']);
  });

  it('download: fails with the code of the error; a signal leaves the parts and ends with 130', async () => {
    const { hub, cacheDir } = await setUp();
    expect(await cli(['download', 'org/none'])).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/no such model.*\[ERR_MLX_HUB_NOT_FOUND\]/) as string,
    });
    hub.commit('org/model', modelRepo());
    let sent = false;
    hub.fault = ({ kind }) => {
      if (kind !== 'cdn') return undefined;
      if (!sent) setTimeout(() => process.emit('SIGINT', 'SIGINT'), 60);
      sent = true;
      return { delay: 20 };
    };
    const stopped = await cli(['download', 'org/model']);
    expect(stopped).toEqual({ code: 130, stdout: '', stderr: 'mlx-node: stopped by SIGINT\n' });
    expect(readdirSync(join(cacheDir, 'models--org--model/blobs')).some((name) => name.endsWith('.incomplete'))).toBe(
      true,
    );
  });

  it('generate: takes a name, a revision, and shows the download', async () => {
    const { hub } = await setUp();
    hub.commit('org/model', modelRepo(readable), 'v1');
    expect((await cli(['generate', '-m', 'org/model', '--revision', 'v1', 'x', '-n', '3'])).stdout).toBe('abc\n');
    expect((await cli(['generate', '-m', 'org/model', '--revision', 'v2', 'x'])).stderr).toMatch(
      /has no revision 'v2'/,
    );
    hub.fault = ({ kind }) => (kind === 'cdn' ? { delay: 30 } : undefined);
    vi.stubEnv('HF_HUB_CACHE', tempDir());
    const shown = await cli(['generate', '-m', 'org/model', '--revision', 'v1', 'x', '-n', '3'], true);
    expect(shown.stderr).toMatch(/% [\d.]+ kB of 106 kB/);
  });

  it('train: takes a name where no such folder lies beside the file', async () => {
    const { hub } = await setUp();
    const dir = tempDir();
    writeFileSync(join(dir, 'train.jsonl'), '{"prompt":"x"}\n');
    writeFileSync(join(dir, 'rewards.mjs'), 'export const one = ({ completions }) => completions.map(() => 1);');
    writeFileSync(join(dir, 'run.yaml'), 'model: org/none\nrevision: v1\ndataset: train.jsonl\nrewards: rewards.mjs\n');
    expect((await cli(['train', 'grpo', join(dir, 'run.yaml')])).stderr).toMatch(
      /org\/none at v1: there is no such model/,
    );
    expect(hub.seen.map(({ kind, file }) => [kind, file])).toEqual([['api', 'v1']]);
    mkdirSync(join(dir, 'org/none'), { recursive: true });
    const { stderr } = await cli(['train', 'grpo', join(dir, 'run.yaml')]);
    expect(stderr).toMatch(new RegExp(`${dir}/org/none: there is no config\\.json`));
  });

  it('cache list and remove', async () => {
    const { hub, cacheDir } = await setUp();
    const commit = hub.commit('org/model', modelRepo(noise(2_000_000)));
    await snapshotDownload('org/model');
    const today = new Date().toISOString().slice(0, 10);
    const listed = await cli(['cache', 'list']);
    expect(listed.stdout).toBe(
      `NAME       SIZE    LAST USED   CHANGED     REFS\norg/model  2.0 MB  ${today}  ${today}  main\n\n${cacheDir}: 1 repository, 2.0 MB\n`,
    );
    expect((await cli(['cache', 'ls', '--revisions'])).stdout).toMatch(new RegExp(`org/model +${commit} +2\\.0 MB`));
    expect(JSON.parse((await cli(['cache', 'list', '--json'])).stdout)).toMatchObject({
      cacheDir,
      repos: [{ repoId: 'org/model' }],
    });
    expect((await cli(['cache', 'remove', 'org/model', '--dry-run'])).stdout).toBe(
      'org/model  2.0 MB\nThis frees 2.0 MB.\n',
    );
    expect(await cli(['cache', 'remove', 'org/model'])).toMatchObject({
      code: 2,
      stderr: 'mlx-node: add --yes to remove without being asked\n',
    });
    expect(existsSync(join(cacheDir, 'models--org--model'))).toBe(true);
    expect((await cli(['cache', 'rm', 'model/org/model', '--yes'])).stdout).toMatch(/Removed; 2\.0 MB are free\.\n$/);
    expect(readdirSync(cacheDir).toSorted()).toEqual(['.locks', 'CACHEDIR.TAG']);
    expect((await cli(['cache', 'list'])).stdout).toBe(`\n${cacheDir}: 0 repositories, 0 B\n`);
    expect(await cli(['cache', 'remove', 'org/model'])).toMatchObject({ code: 1 });
  });

  it('cache prune: takes what nothing points to, and leaves what may still go on', async () => {
    const { hub, cacheDir } = await setUp();
    expect(await cli(['cache', 'prune'])).toMatchObject({ code: 0, stdout: 'There is nothing to remove.\n' });
    const first = hub.commit('org/model', modelRepo());
    await snapshotDownload('org/model');
    const kept = hub.commit('org/model', { ...modelRepo(), 'config.json': '{"v":2}' });
    await snapshotDownload('org/model');
    const pinned = hub.commit('org/pinned', modelRepo(noise(50)));
    await snapshotDownload('org/pinned', { revision: pinned });
    const blobs = join(cacheDir, 'models--org--model/blobs');
    for (const [name, minutes] of [
      ['old.incomplete', 90],
      ['new.incomplete', 5],
    ] as const) {
      writeFileSync(join(blobs, name), '12345');
      const time = Date.now() / 1000 - 60 * minutes;
      utimesSync(join(blobs, name), time, time);
    }
    const freed = Buffer.byteLength('{"model_type":"qwen3"}') + 5;
    const { stdout } = await cli(['cache', 'prune', '--dry-run']);
    expect(stdout).toMatch(
      new RegExp(
        `^org/pinned  5\\.1 kB\norg/model at ${first}\nmodels--org--model/blobs/old\\.incomplete  5 B\nThis frees 5\\.1 kB\\.\n$`,
      ),
    );
    const removal = await planPrune();
    expect(removal.freed - removal.repos[0]!.sizeOnDisk).toBe(freed);
    expect((await cli(['cache', 'prune', '--yes'])).code).toBe(0);
    expect(readdirSync(join(cacheDir, 'models--org--model/snapshots'))).toEqual([kept]);
    expect(existsSync(join(cacheDir, 'models--org--pinned'))).toBe(false);
    expect(readdirSync(blobs).filter((name) => name.endsWith('.incomplete'))).toEqual(['new.incomplete']);
    expect((await cli(['cache', 'prune'])).stdout).toBe('There is nothing to remove.\n');
  });

  it('draws one line, no wider than the terminal', () => {
    const at = { file: 'model.safetensors', loaded: 7.5e8, total: 1.5e9, bytesPerSecond: 2.5e7 };
    expect(downloadLine(at, 100)).toBe(
      '[##########          ] 50 % 750.0 MB of 1.50 GB, 25.0 MB/s, 30 s left  model.safetensors',
    );
    expect(downloadLine(at, 40)).toHaveLength(39);
    expect(downloadLine({ ...at, bytesPerSecond: 1e6 })).toMatch(/13 min left/);
    expect(downloadLine({ ...at, bytesPerSecond: 1e5 })).toMatch(/2\.1 h left/);
    expect(downloadLine({ ...at, bytesPerSecond: 0 })).not.toMatch(/left/);
    expect(downloadLine({ file: 'x', loaded: 0, total: 0, bytesPerSecond: 0 })).toMatch(/100 %/);
  });
});
