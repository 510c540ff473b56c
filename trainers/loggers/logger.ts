/** What a run tells its loggers when it starts. */
export interface RunInfo {
  trainer: string;
  config: Readonly<Record<string, unknown>>;
  model: { path: string; modelType: string; dtype: string; numParameters: number; numTrainable: number };
  outputDir: string | undefined;
  totalSteps: number;
  /** Optimizer steps already done: above 0 when the run resumes from a checkpoint. */
  startStep: number;
}

export type MetricRecord = Record<string, number>;

/** One completion of a round, for people to read. */
export interface CompletionSample {
  prompt: string;
  completion: string;
  rewards: Record<string, number | null>;
  advantage: number;
  tokens: number;
  truncated: boolean;
}

/** Where a run is at the moment, for live displays. */
export interface Progress {
  step: number;
  totalSteps: number;
  phase: 'generate' | 'reward' | 'train' | 'evaluate' | 'save';
  /** Part of the phase that is done, 0 to 1. */
  fraction: number;
  /** Short text, such as "12 rows left". */
  detail: string;
}

export type RunStatus = 'completed' | 'stopped' | 'failed';

/** Receives what a trainer reports. All methods are optional; they may be async and are awaited. */
export interface Logger {
  start?(run: RunInfo): void | Promise<void>;
  metrics?(step: number, record: MetricRecord): void | Promise<void>;
  samples?(step: number, rows: readonly CompletionSample[]): void | Promise<void>;
  progress?(progress: Progress): void;
  finish?(status: RunStatus, error?: unknown): void | Promise<void>;
}

/** Several loggers as one. A logger that throws is reported once and left out from then on; it cannot stop the run. */
export class LoggerGroup {
  readonly #loggers: Set<Logger>;

  constructor(loggers: readonly Logger[]) {
    this.#loggers = new Set(loggers);
  }

  start(run: RunInfo): Promise<void> {
    return this.#each((logger) => logger.start?.(run));
  }

  metrics(step: number, record: MetricRecord): Promise<void> {
    return this.#each((logger) => logger.metrics?.(step, record));
  }

  samples(step: number, rows: readonly CompletionSample[]): Promise<void> {
    return this.#each((logger) => logger.samples?.(step, rows));
  }

  finish(status: RunStatus, error?: unknown): Promise<void> {
    return this.#each((logger) => logger.finish?.(status, error));
  }

  progress(progress: Progress): void {
    for (const logger of this.#loggers) {
      try {
        logger.progress?.(progress);
      } catch (error) {
        this.#drop(logger, error);
      }
    }
  }

  async #each(call: (logger: Logger) => void | Promise<void> | undefined): Promise<void> {
    for (const logger of this.#loggers) {
      try {
        await call(logger);
      } catch (error) {
        this.#drop(logger, error);
      }
    }
  }

  #drop(logger: Logger, error: unknown): void {
    this.#loggers.delete(logger);
    const text = error instanceof Error ? error.message : String(error);
    process.emitWarning(`${logger.constructor.name} failed and gets no more records: ${text}`, 'MlxLoggerWarning');
  }
}
