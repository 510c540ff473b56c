import { appendFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { replaceFile } from '../../lib/files.js';
import type { CompletionSample, Logger, MetricRecord, RunInfo } from './logger.js';

/** Parses JSON lines, leaving out a last line that was cut short. */
export async function readJsonLines<T>(path: string): Promise<T[]> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const rows: T[] = [];
  lines.forEach((line, i) => {
    try {
      rows.push(JSON.parse(line) as T);
    } catch (error) {
      if (i !== lines.length - 1) throw new Error(`${path}:${i + 1}: not valid JSON`, { cause: error });
    }
  });
  return rows;
}

/**
 * The record of a run: one JSON object a line, with `step`, in `metrics.jsonl`, and every round's completions in
 * `completions/step-NNNNN.jsonl`. When a run resumes, the lines after its checkpoint are removed first.
 */
export class JsonlLogger implements Logger {
  readonly #metricsFile: string;
  readonly #completionsDir: string | undefined;
  readonly #warned = new Set<string>();
  #samplesStep = -1;

  constructor(dir: string, options: { completions?: boolean } = {}) {
    this.#metricsFile = join(dir, 'metrics.jsonl');
    this.#completionsDir = (options.completions ?? true) ? join(dir, 'completions') : undefined;
  }

  async start(run: RunInfo): Promise<void> {
    await mkdir(dirname(this.#metricsFile), { recursive: true });
    const kept = (await readJsonLines<{ step: number }>(this.#metricsFile)).filter(({ step }) => step <= run.startStep);
    await replaceFile(
      this.#metricsFile,
      run.startStep === 0 ? '' : kept.map((row) => `${JSON.stringify(row)}\n`).join(''),
    );
  }

  async metrics(step: number, record: MetricRecord): Promise<void> {
    const finite = Object.fromEntries(Object.entries(record).filter(([, value]) => Number.isFinite(value)));
    const dropped = Object.keys(record).filter((name) => !(name in finite) && !this.#warned.has(name));
    if (dropped.length > 0) {
      dropped.forEach((name) => this.#warned.add(name));
      process.emitWarning(
        `step ${step}: not finite and left out of ${this.#metricsFile}: ${dropped.join(', ')}`,
        'MlxMetricWarning',
      );
    }
    await appendFile(this.#metricsFile, `${JSON.stringify({ step, time: new Date().toISOString(), ...finite })}\n`);
  }

  async samples(step: number, rows: readonly CompletionSample[]): Promise<void> {
    if (this.#completionsDir === undefined) return;
    await mkdir(this.#completionsDir, { recursive: true });
    const path = join(this.#completionsDir, `step-${String(step).padStart(5, '0')}.jsonl`);
    const text = rows.map((row) => `${JSON.stringify({ step, ...row })}\n`).join('');
    // An optimizer step may take several rounds; a repeated step of a resumed run replaces its file.
    if (step === this.#samplesStep) await appendFile(path, text);
    else await writeFile(path, text);
    this.#samplesStep = step;
  }
}
