import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MlxError } from '../../lib/errors.ts';
import { writeFolder } from '../../lib/files.ts';
import {
  CheckpointStore,
  readState,
  refuseLaterCheckpoints,
  resolveResume,
  stateFile,
} from '../../trainers/checkpoint.ts';
import { tempDir } from '../helpers/temp.ts';

const weights = (text: string) => async (dir: string) => writeFileSync(join(dir, 'model.safetensors'), text);

describe('CheckpointStore', () => {
  it('writes complete folders, finds the newest by number, and keeps only the last ones', async () => {
    const store = new CheckpointStore(tempDir(), 2);
    await store.open();
    for (const step of [5, 90, 100]) await store.save(step, { version: 1, trainer: 'grpo', step }, weights(`w${step}`));
    expect((await store.list()).map(({ step }) => step)).toEqual([90, 100]);
    expect((await store.latest())!.path).toMatch(/step-100$/);
    expect(readdirSync(store.dir)).toHaveLength(2);
    expect(await readState(join(store.dir, 'step-100'), 'grpo', 1)).toMatchObject({ step: 100 });
  });

  it('keeps the last checkpoint when writing the next one fails, with a typed error', async () => {
    const store = new CheckpointStore(tempDir());
    await store.open();
    await store.save(1, {}, weights('good'));
    const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    const failing = store.save(2, {}, async (dir) => {
      await weights('half')(dir);
      throw full;
    });
    await expect(failing).rejects.toSatisfy(
      (error) => MlxError.isInstance(error, 'ERR_MLX_SAVE') && /disk is full/.test(error.message),
    );
    expect(readdirSync(store.dir)).toEqual(['step-1']);
    expect(readFileSync(join(store.dir, 'step-1', 'model.safetensors'), 'utf8')).toBe('good');
  });

  it('does not see a folder that a killed process left, and removes it at the next start', async () => {
    const store = new CheckpointStore(tempDir());
    await store.open();
    await store.save(1, {}, weights('good'));
    const half = join(store.dir, '.tmp-step-2-123');
    mkdirSync(half);
    writeFileSync(join(half, 'model.safetensors'), 'half');
    mkdirSync(join(store.dir, 'step-3'));
    expect((await store.latest())!.step).toBe(1);
    await store.open();
    expect(existsSync(half)).toBe(false);
  });

  it('resolves what to resume from', async () => {
    const dir = tempDir();
    const store = new CheckpointStore(dir);
    await store.open();
    await expect(resolveResume(true, store)).rejects.toThrow(/no complete checkpoint/);
    await store.save(7, {}, weights('x'));
    const path = join(store.dir, 'step-7');
    expect(await resolveResume(undefined, store)).toBeUndefined();
    expect(await resolveResume(true, store)).toBe(path);
    expect(await resolveResume(dir, undefined)).toBe(path);
    expect(await resolveResume(path, undefined)).toBe(path);
    await expect(resolveResume(join(dir, 'nothing'), store)).rejects.toThrow(stateFile);
    await expect(resolveResume(true, undefined)).rejects.toThrow(/outputDir/);
  });

  it('refuses to start below a later checkpoint', async () => {
    const store = new CheckpointStore(tempDir());
    await store.open();
    await store.save(7, {}, weights('x'));
    await expect(refuseLaterCheckpoints(store, 0)).rejects.toThrow(/step 7.*resumeFrom: true/);
    await expect(refuseLaterCheckpoints(store, 7)).resolves.toBeUndefined();
  });

  it('refuses the state of another trainer or format', async () => {
    const store = new CheckpointStore(tempDir());
    await store.open();
    const { path } = await store.save(1, { version: 2, trainer: 'grpo' }, weights('x'));
    await expect(readState(path, 'grpo', 1)).rejects.toThrow(/format 2/);
    writeFileSync(join(path, stateFile), '{"version":');
    await expect(readState(path, 'grpo', 1)).rejects.toSatisfy((error) =>
      MlxError.isInstance(error, 'ERR_MLX_CHECKPOINT'),
    );
  });
});

describe('writeFolder', () => {
  it('replaces an old checkpoint but not a folder with other things', async () => {
    const dir = join(tempDir(), 'out');
    await writeFolder(dir, async (t) => writeFileSync(join(t, 'config.json'), '1'));
    await writeFolder(dir, async (t) => writeFileSync(join(t, 'config.json'), '2'));
    expect(readFileSync(join(dir, 'config.json'), 'utf8')).toBe('2');
    const other = tempDir();
    writeFileSync(join(other, 'thesis.txt'), 'precious');
    await expect(writeFolder(other, async () => {})).rejects.toThrow(/something other than a checkpoint/);
    expect(readdirSync(other)).toEqual(['thesis.txt']);
  });
});
