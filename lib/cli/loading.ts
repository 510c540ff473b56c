import { Option } from 'commander';
import type { Command } from 'commander';
import type { DownloadProgress } from '../hub/progress.js';
import { loadModel } from '../model.js';
import type { Dtype, LanguageModel, LoadOptions, LoadProgress } from '../model.js';
import type { CliIo } from './io.js';

/** Milliseconds between two drawings. */
const interval = 100;

/** What the argument of every `--model` may be. */
export const modelHelp = "checkpoint folder, or a model's name on the hub, such as Qwen/Qwen3-0.6B";

/** Adds `--revision`, for commands that take a model. */
export const withRevision = (command: Command): Command =>
  command.addOption(
    new Option('--revision <rev>', "branch, tag or commit of the hub's model").default(undefined, 'main'),
  );

/** What {@link withModel} reads. */
export interface ModelFlags {
  model: string;
  revision?: string;
  adapter?: string;
  dtype: Dtype;
}

/** Adds `--model` and how to load it. */
export function withModel(command: Command): Command {
  withRevision(command.requiredOption('-m, --model <model>', modelHelp))
    .option('--adapter <adapter>', 'adapter of PEFT or mlx-lm: a folder, or its name on the hub (also --adapter-path)')
    .addOption(
      new Option('--dtype <dtype>', 'of the weights')
        .choices(['auto', 'float32', 'bfloat16', 'float16'] satisfies Dtype[])
        .default('auto'),
    );
  const also = new Option('--adapter-path <adapter>').hideHelp();
  also.attributeName = () => 'adapter';
  return command.addOption(also);
}

/** The model of {@link withModel}'s flags. */
export async function loadModelOf(
  { model, revision, adapter, dtype }: ModelFlags,
  signal: AbortSignal,
  stderr: CliIo['stderr'],
): Promise<LanguageModel> {
  const options: LoadOptions = { dtype, signal };
  if (adapter !== undefined) options.adapter = adapter;
  if (revision !== undefined) options.revision = revision;
  return await loadWithProgress(model, options, stderr);
}

/** `1.23 GB`. */
export const bytesText = (bytes: number): string =>
  bytes >= 1e9
    ? `${(bytes / 1e9).toFixed(2)} GB`
    : bytes >= 1e6
      ? `${(bytes / 1e6).toFixed(1)} MB`
      : `${Math.ceil(bytes / 1e3)} kB`;

function remaining(seconds: number): string {
  if (!Number.isFinite(seconds)) return '';
  const whole = Math.ceil(seconds);
  return whole < 60
    ? `, ${whole} s left`
    : whole < 3600
      ? `, ${Math.ceil(whole / 60)} min left`
      : `, ${(whole / 3600).toFixed(1)} h left`;
}

/** A bar of 20 cells and a percentage. */
export function progressBar(done: number, total: number): string {
  const part = total > 0 ? Math.min(1, done / total) : 1;
  const cells = 20;
  const full = Math.floor(part * cells);
  return `[${'#'.repeat(full)}${' '.repeat(cells - full)}] ${Math.floor(100 * part)} %`;
}

/** One line about a download, no wider than `columns`: a bar, bytes, speed, what is left, and the file that moves. */
export function downloadLine({ file, loaded, total, bytesPerSecond }: DownloadProgress, columns = 80): string {
  const left = bytesPerSecond > 0 ? remaining((total - loaded) / bytesPerSecond) : '';
  const text = `${progressBar(loaded, total)} ${bytesText(loaded)} of ${bytesText(total)}, ${bytesText(bytesPerSecond)}/s${left}  ${file}`;
  return text.length < columns ? text : text.slice(0, Math.max(1, columns - 1));
}

/** A line of the terminal that is drawn over and over; nothing where there is no terminal. */
export class ProgressLine {
  #last = -Infinity;
  #drawn = false;
  #ended = false;

  constructor(private readonly stderr: CliIo['stderr']) {}

  get shown(): boolean {
    return this.stderr.isTTY === true;
  }

  draw(text: string): void {
    // A report may still be on its way when the work is done.
    if (!this.shown || this.#ended || Date.now() - this.#last < interval) return;
    this.#last = Date.now();
    this.#drawn = true;
    this.stderr.write(`\r\x1b[2K${text}`);
  }

  /** Leaves no trace. */
  end(): void {
    this.#ended = true;
    if (this.#drawn) this.stderr.write('\r\x1b[2K');
  }
}

/** {@link loadModel} that shows on a terminal how far it is, and leaves no trace of that when it is done. */
export async function loadWithProgress(
  pathOrId: string,
  options: LoadOptions,
  stderr: CliIo['stderr'],
): Promise<LanguageModel> {
  const line = new ProgressLine(stderr);
  if (!line.shown) return await loadModel(pathOrId, options);
  const onProgress = ({ phase, loaded, total, file = '', bytesPerSecond = 0 }: LoadProgress): void =>
    line.draw(
      phase === 'download'
        ? downloadLine({ file, loaded, total, bytesPerSecond }, stderr.columns)
        : `Loading ${pathOrId}: ${Math.floor((100 * loaded) / Math.max(1, total))} % of ${(total / 1e9).toFixed(1)} GB`,
    );
  try {
    return await loadModel(pathOrId, { ...options, onProgress });
  } finally {
    line.end();
  }
}
