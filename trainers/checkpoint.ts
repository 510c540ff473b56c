import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { errorText, MlxError } from '../lib/errors.js';
import { temporaryPrefix, writeFolder } from '../lib/files.js';

/** Written last into a checkpoint folder. */
export const stateFile = 'trainer_state.json';

const stepName = /^step-(\d+)$/;

/** A complete checkpoint on disk. */
export interface Checkpoint {
  step: number;
  path: string;
}

/**
 * The checkpoints of one run: `<outputDir>/checkpoints/step-N`. A folder with that name is always complete, because it is filled under
 * a temporary name, flushed, and renamed; so a run can be killed at any moment.
 */
export class CheckpointStore {
  readonly dir: string;
  readonly #limit: number | undefined;

  constructor(outputDir: string, limit?: number) {
    this.dir = join(outputDir, 'checkpoints');
    this.#limit = limit;
  }

  /** Creates the folder and removes what an interrupted run left half written. */
  async open(): Promise<void> {
    await mkdir(this.dir, { recursive: true });
    for (const entry of await readdir(this.dir)) {
      if (entry.startsWith(temporaryPrefix)) await rm(join(this.dir, entry), { recursive: true, force: true });
    }
  }

  /** Complete checkpoints, oldest first. */
  async list(): Promise<Checkpoint[]> {
    const entries = await readdir(this.dir).catch(() => [] as string[]);
    return entries
      .map((name) => ({ name, match: stepName.exec(name) }))
      .filter(({ name, match }) => match !== null && existsSync(join(this.dir, name, stateFile)))
      .map(({ name, match }) => ({ step: Number(match![1]), path: join(this.dir, name) }))
      .toSorted((a, b) => a.step - b.step);
  }

  async latest(): Promise<Checkpoint | undefined> {
    return (await this.list()).at(-1);
  }

  /** Writes `step-<step>`: `write` adds the weights, then `state` follows as JSON. Older checkpoints beyond the limit are removed. */
  async save(step: number, state: object, write: (dir: string) => Promise<void>): Promise<Checkpoint> {
    const path = join(this.dir, `step-${step}`);
    await writeFolder(path, async (temporary) => {
      await write(temporary);
      await writeFile(join(temporary, stateFile), JSON.stringify(state));
    });
    await this.#prune();
    return { step, path };
  }

  async #prune(): Promise<void> {
    if (this.#limit === undefined) return;
    const all = await this.list();
    for (const { path } of all.slice(0, Math.max(0, all.length - this.#limit))) {
      // Renamed first: a removal that is cut short must not leave a folder that looks complete.
      const doomed = join(this.dir, `${temporaryPrefix}old-${basename(path)}`);
      await rm(doomed, { recursive: true, force: true });
      await rename(path, doomed);
      await rm(doomed, { recursive: true, force: true });
    }
  }
}

/** Reads the state of a checkpoint, checking that it is one of this trainer's. */
export async function readState<State extends { version: number; trainer: string }>(
  path: string,
  trainer: string,
  version: number,
): Promise<State> {
  const file = join(path, stateFile);
  let state: State;
  try {
    state = JSON.parse(await readFile(file, 'utf8')) as State;
  } catch (error) {
    throw new MlxError(
      'ERR_MLX_CHECKPOINT',
      `${path}: this is not a complete checkpoint: ${stateFile} cannot be read (${errorText(error)})`,
      {
        cause: error,
      },
    );
  }
  if (state.trainer !== trainer || state.version !== version) {
    throw new MlxError(
      'ERR_MLX_CHECKPOINT',
      `${file}: written by ${state.trainer ?? 'something else'} (format ${state.version}), but ${trainer} (format ${version}) wants to resume from it`,
    );
  }
  return state;
}

/**
 * Refuses to start at `step` in a folder with later checkpoints: they belong to another run, and "the newest" would be one of them.
 */
export async function refuseLaterCheckpoints(store: CheckpointStore, step: number): Promise<void> {
  const latest = await store.latest();
  if (latest === undefined || latest.step <= step) return;
  const start = step === 0 ? 'the beginning' : `step ${step}`;
  throw new MlxError(
    'ERR_MLX_CHECKPOINT',
    `${store.dir}: has a checkpoint of step ${latest.step}, but the run would start at ${start}. Continue with resumeFrom: true, choose another outputDir, or remove the later checkpoints.`,
  );
}

/** The folder to resume from: a path, or the newest complete checkpoint for `true` and 'latest'. */
export async function resolveResume(
  resumeFrom: string | boolean | undefined,
  store: CheckpointStore | undefined,
): Promise<string | undefined> {
  if (resumeFrom === undefined || resumeFrom === false) return undefined;
  if (typeof resumeFrom === 'string' && resumeFrom !== 'latest') {
    if (existsSync(join(resumeFrom, stateFile))) return resumeFrom;
    const inside = await new CheckpointStore(resumeFrom).latest();
    if (inside !== undefined) return inside.path;
    throw new MlxError(
      'ERR_MLX_CHECKPOINT',
      `${resumeFrom}: neither a checkpoint (it has no ${stateFile}) nor the folder of a run with one`,
    );
  }
  if (store === undefined)
    throw new MlxError('ERR_MLX_CONFIG', `resumeFrom: ${JSON.stringify(resumeFrom)} needs outputDir in the config`);
  const latest = await store.latest();
  if (latest === undefined)
    throw new MlxError('ERR_MLX_CHECKPOINT', `${store.dir}: there is no complete checkpoint to resume from`);
  return latest.path;
}
