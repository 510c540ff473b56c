/** What a command writes to: results on `stdout`, everything else on `stderr`. */
export interface CliIo {
  stdout: { write(text: string): unknown };
  stderr: { write(text: string): unknown; isTTY?: boolean; columns?: number };
  /** Set by a command that ended without an exception but not well. */
  exitCode?: number;
}

/** A mistake in the arguments: exit code 2 instead of 1. */
export class UsageError extends Error {}

/** Parses the value of a numeric option. */
export function parseNumber(name: string, valid: (value: number) => boolean, wanted: string): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || !valid(value))
      throw new UsageError(`--${name} must be ${wanted}, got '${text}'`);
    return value;
  };
}
