import pc from 'picocolors';
import { formatNumber } from './chart.js';
import type { Logger, MetricRecord, Progress, RunInfo, RunStatus } from './logger.js';

/** Where a ConsoleLogger writes: a stream such as `process.stderr`. */
export interface ConsoleStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

/** What a line shows, where the record has it. */
const shown: [key: string, label: string][] = [
  ['reward', 'reward'],
  ['loss', 'loss'],
  ['grad_norm', 'grad norm'],
  ['kl', 'kl'],
  ['entropy', 'entropy'],
  ['completions/mean_length', 'length'],
  ['step_time', 's/step'],
  ['tokens_per_second', 'tok/s'],
  ['eval_reward', 'eval reward'],
];

/** Milliseconds between two drawings of the bar. */
const interval = 80;

/**
 * One line for each record on standard error, and under it, on a terminal, a bar that shows what the run is doing. Colours follow
 * NO_COLOR.
 */
export class ConsoleLogger implements Logger {
  readonly #out: ConsoleStream;
  readonly #live: boolean;
  readonly #color: ReturnType<typeof pc.createColors>;
  #totalSteps = 0;
  #drawn = false;
  #last = 0;

  constructor(options: { stream?: ConsoleStream; color?: boolean } = {}) {
    this.#out = options.stream ?? process.stderr;
    this.#live = this.#out.isTTY === true;
    this.#color = pc.createColors(options.color ?? (this.#live && pc.isColorSupported));
  }

  start(run: RunInfo): void {
    this.#totalSteps = run.totalSteps;
    const { model } = run;
    const trained = model.numTrainable === model.numParameters ? '' : ` (${formatNumber(model.numTrainable)} trained)`;
    const from = run.startStep > 0 ? `, resuming at step ${run.startStep}` : '';
    this.#line(
      `${this.#color.bold(run.trainer)} ${run.totalSteps} steps${from}: ${model.modelType}, ${formatNumber(model.numParameters)} parameters${trained}, ${model.dtype}` +
        (run.outputDir === undefined ? '' : `, writing to ${run.outputDir}`),
    );
  }

  metrics(step: number, record: MetricRecord): void {
    const parts = shown
      .filter(([key]) => record[key] !== undefined)
      .map(
        ([key, label]) =>
          `${this.#color.dim(label)} ${key.endsWith('reward') ? this.#color.bold(formatNumber(record[key]!)) : formatNumber(record[key]!)}`,
      );
    const width = String(this.#totalSteps).length;
    this.#line(`${this.#color.cyan(`${String(step).padStart(width)}/${this.#totalSteps}`)}  ${parts.join('  ')}`);
  }

  progress({ step, totalSteps, phase, fraction, detail }: Progress): void {
    if (!this.#live || Date.now() - this.#last < interval) return;
    this.#last = Date.now();
    const cells = 24;
    const done = Math.round(cells * Math.min(1, (step + 0.999 * fraction) / totalSteps));
    const bar = this.#color.green('█'.repeat(done)) + this.#color.dim('░'.repeat(cells - done));
    const text = `step ${step + 1}/${totalSteps}  ${phase}${detail === '' ? '' : `: ${detail}`}`;
    const room = Math.max(10, (this.#out.columns ?? 80) - cells - 3);
    this.#out.write(`\r\x1b[2K${bar} ${text.slice(0, room)}`);
    this.#drawn = true;
  }

  finish(status: RunStatus): void {
    const color =
      status === 'completed' ? this.#color.green : status === 'failed' ? this.#color.red : this.#color.yellow;
    this.#line(color(status));
  }

  #line(text: string): void {
    if (this.#drawn) this.#out.write('\r\x1b[2K');
    this.#drawn = false;
    this.#out.write(`${text}\n`);
  }
}
