import type { Readable } from 'node:stream';

/** What a command reads and writes: results on `stdout`, everything else on `stderr`. */
export interface CliIo {
  /** Default: no input. */
  stdin?: Readable & { isTTY?: boolean };
  stdout: { write(text: string): unknown; isTTY?: boolean; columns?: number };
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

/** Parses a whole number of at least `least`. */
export const wholeNumber = (name: string, least: number): ((text: string) => number) =>
  parseNumber(name, (n) => Number.isSafeInteger(n) && n >= least, `a whole number from ${least}`);

/** All of standard input but a newline at its end; '' where a person sits at it. */
export async function readStdin({ stdin }: CliIo): Promise<string> {
  if (stdin === undefined || stdin.isTTY === true) return '';
  let text = '';
  for await (const chunk of stdin.setEncoding('utf8')) text += chunk as string;
  return text.replace(/\r?\n$/, '');
}
