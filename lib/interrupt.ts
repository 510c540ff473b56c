/** Exit code of a process that was ended by this signal, as shells count. */
const exitCodes = { SIGINT: 130, SIGTERM: 143 } as const;

/** Why a run was stopped from outside. */
export class Interrupted extends Error {
  readonly exitCode: number;

  constructor(signal: keyof typeof exitCodes) {
    super(`stopped by ${signal}`);
    this.name = 'AbortError';
    this.exitCode = exitCodes[signal];
  }
}

/**
 * An AbortSignal for scripts: the first Ctrl-C (or SIGTERM) aborts it, so that a trainer can save; the second ends the process at once.
 * Call `release()` when the work is done.
 *
 * @example
 * const stop = stopOnSignals();
 * try { await trainer.train({ signal: stop.signal }); } finally { stop.release(); }
 */
export function stopOnSignals(): { signal: AbortSignal; release: () => void } {
  const controller = new AbortController();
  const handler = (name: NodeJS.Signals): void => {
    const signal = name as keyof typeof exitCodes;
    if (controller.signal.aborted) process.exit(exitCodes[signal]);
    controller.abort(new Interrupted(signal));
  };
  process.on('SIGINT', handler);
  process.on('SIGTERM', handler);
  return {
    signal: controller.signal,
    release: () => {
      process.off('SIGINT', handler);
      process.off('SIGTERM', handler);
    },
  };
}
