import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { GRPOConfig } from '../../lib/index.ts';
import { tempDir } from '../helpers/temp.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';

const root = join(import.meta.dirname, '..', '..');
const config: GRPOConfig = {
  perDeviceTrainBatchSize: 16,
  numGenerations: 8,
  maxCompletionLength: 24,
  learningRate: 1e-3,
  maxSteps: 12,
  saveSteps: 1,
};

interface Child {
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null; output: string }>;
  /** Resolves when the child has written `text`. */
  wrote: (text: string) => Promise<void>;
  kill: (signal: NodeJS.Signals) => void;
}

/** `largestFile`, in KiB: writing on in a file of that size fails, as it does on a full disk. */
function start(
  model: string,
  outputDir: string,
  overrides: GRPOConfig,
  { resume = false, largestFile }: { resume?: boolean; largestFile?: number } = {},
): Child {
  const args = [
    join(root, '__test__/process/train-child.mjs'),
    model,
    outputDir,
    JSON.stringify({ ...config, ...overrides }),
  ];
  if (resume) args.push('resume');
  const [command, ...rest] =
    largestFile === undefined
      ? [process.execPath, ...args]
      : ['sh', '-c', 'trap "" XFSZ; ulimit -f "$0"; exec "$@"', String(largestFile * 2), process.execPath, ...args];
  const child = spawn(command!, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  let output = '';
  const waiting = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      for (const check of waiting) check();
    });
  }
  const ended = new Promise<Awaited<Child['ended']>>((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, output }));
  });
  const wrote = (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const check = (): void => {
        if (!output.includes(text)) return;
        waiting.delete(check);
        resolve();
      };
      waiting.add(check);
      check();
      void ended.then(() => reject(new Error(`the child ended without writing '${text}':\n${output}`)));
    });
  return { ended, wrote, kill: (signal) => void child.kill(signal) };
}

const weights = (outputDir: string, step: number): string =>
  readFileSync(join(outputDir, 'checkpoints', `step-${step}`, 'model.safetensors')).toString('base64');

beforeAll(() => {
  if (!existsSync(join(root, 'dist/lib/index.js'))) throw new Error("dist/ is missing: run 'npm run build' first");
});

describe('a training process', () => {
  it('ends by itself when it is done', async () => {
    const { code, signal, output } = await start(tinyCheckpoint(), tempDir(), { maxSteps: 2 }).ended;
    expect([code, signal, output]).toEqual([0, null, 'step 1\nstep 2\n']);
  });

  it('may be killed at any moment and resumes to the weights of a run that was not', async () => {
    const model = tinyCheckpoint();
    const straight = tempDir();
    await start(model, straight, {}).ended;
    const outputDir = tempDir();
    let resume = false;
    // Each life is cut short at another moment, most of them while a checkpoint is written.
    for (const [step, delay] of [
      [1, 0],
      [3, 3],
      [5, 6],
      [7, 10],
      [9, 20],
    ] as const) {
      const child = start(model, outputDir, {}, { resume });
      await child.wrote(`step ${step}\n`);
      await new Promise((resolve) => setTimeout(resolve, delay));
      child.kill('SIGKILL');
      expect((await child.ended).signal).toBe('SIGKILL');
      resume = readdirSync(join(outputDir, 'checkpoints')).some((name) => name.startsWith('step-'));
    }
    const last = await start(model, outputDir, {}, { resume }).ended;
    expect(last.code, last.output).toBe(0);
    expect(weights(outputDir, 12)).toBe(weights(straight, 12));
    expect(readdirSync(join(outputDir, 'checkpoints')).filter((name) => name.startsWith('.tmp'))).toEqual([]);
  });

  it('loses nothing when a checkpoint cannot be written, and goes on from the one before', async () => {
    const [model, straight, outputDir] = [tinyCheckpoint(), tempDir(), tempDir()];
    // The same learning rates whatever the number of steps.
    const constant: GRPOConfig = { lrSchedulerType: 'constant' };
    await start(model, straight, { ...constant, maxSteps: 6 }).ended;
    await start(model, outputDir, { ...constant, maxSteps: 3 }).ended;
    const size = (name: string): number => statSync(join(outputDir, 'checkpoints', 'step-3', name)).size;
    // Room for the weights, not for the optimizer's state.
    const largestFile = Math.ceil(size('model.safetensors') / 1024) + 4;
    expect(size('optimizer.safetensors')).toBeGreaterThan(largestFile * 1024);
    const failed = await start(model, outputDir, { ...constant, maxSteps: 6 }, { resume: true, largestFile }).ended;
    expect([failed.code, failed.signal]).toEqual([1, null]);
    expect(failed.output).toContain('ERR_MLX_SAVE');
    expect(failed.output).toMatch(/step-4: could not be written: .*optimizer\.safetensors/);
    expect(readdirSync(join(outputDir, 'checkpoints')).toSorted()).toEqual(['step-1', 'step-2', 'step-3']);
    const last = await start(model, outputDir, { ...constant, maxSteps: 6 }, { resume: true }).ended;
    expect(last.code, last.output).toBe(0);
    expect(weights(outputDir, 6)).toBe(weights(straight, 6));
  });

  it('saves on the first Ctrl-C and exits with 130', async () => {
    const model = tinyCheckpoint();
    const outputDir = tempDir();
    const child = start(model, outputDir, { saveSteps: 0, maxSteps: 1000 });
    await child.wrote('step 3\n');
    child.kill('SIGINT');
    const { code, output } = await child.ended;
    expect(code, output).toBe(130);
    expect(output).toContain('stopped by SIGINT');
    const [checkpoint] = readdirSync(join(outputDir, 'checkpoints'));
    const step = Number(checkpoint!.slice('step-'.length));
    expect(step).toBeGreaterThanOrEqual(3);
    const resumed = await start(model, outputDir, { saveSteps: 0, maxSteps: step + 2 }, { resume: true }).ended;
    expect(resumed.output).toContain(`step ${step + 2}\n`);
    expect(resumed.code).toBe(0);
  });

  it('exits at once on the second Ctrl-C, even when the first is not heeded', async () => {
    const source = `
      import { stopOnSignals } from ${JSON.stringify(join(root, 'dist/lib/interrupt.js'))};
      const stop = stopOnSignals();
      stop.signal.addEventListener('abort', () => console.log('first'));
      setTimeout(() => {}, 60_000);
      console.log('ready');`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', source], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    const lines = createInterface({ input: child.stdout });
    const ended = new Promise((resolve) => {
      child.on('close', (code) => resolve(code));
    });
    const seen: string[] = [];
    for await (const line of lines) {
      seen.push(line);
      child.kill('SIGINT');
    }
    expect(seen).toEqual(['ready', 'first']);
    expect(await ended).toBe(130);
  });
});
