/** How far a download is. */
export interface DownloadProgress {
  /** The file that moved. */
  file: string;
  /** Bytes of all files that are there, those of an earlier attempt included. */
  loaded: number;
  /** Bytes of all files of this download; right from the first report. */
  total: number;
  /** Of the last seconds. */
  bytesPerSecond: number;
}

const window = 5_000;
const interval = 100;

/** Sums what the files report, and passes it on ten times a second at most, and at the end. */
export class DownloadMeter {
  #loaded = 0;
  #last = -Infinity;
  readonly #samples: { time: number; bytes: number }[] = [];

  constructor(
    private readonly total: number,
    private readonly report: ((progress: DownloadProgress) => void) | undefined,
  ) {}

  /** `bytes` of `file` were there already; they count, but not for the speed. */
  found(file: string, bytes: number): void {
    this.#move(file, bytes, false);
  }

  arrived(file: string, bytes: number): void {
    this.#move(file, bytes, true);
  }

  /** The last report, with whatever was held back. */
  finish(file: string): void {
    this.#emit(file, performance.now());
  }

  #move(file: string, bytes: number, fresh: boolean): void {
    this.#loaded += bytes;
    if (this.report === undefined) return;
    const now = performance.now();
    if (fresh) this.#samples.push({ time: now, bytes });
    if (now - this.#last >= interval) this.#emit(file, now);
  }

  #emit(file: string, now: number): void {
    this.#last = now;
    while (this.#samples.length > 0 && this.#samples[0]!.time < now - window) this.#samples.shift();
    const bytes = this.#samples.reduce((sum, sample) => sum + sample.bytes, 0);
    const seconds = Math.max(0.1, (now - (this.#samples[0]?.time ?? now)) / 1000);
    this.report?.({ file, loaded: this.#loaded, total: this.total, bytesPerSecond: bytes / seconds });
  }
}
