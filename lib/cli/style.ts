import { styleText } from 'node:util';
import type { CliIo } from './io.js';

type Format = Parameters<typeof styleText>[0];

/** Puts colours around a text, or nothing. */
export type Style = (format: Format, text: string) => string;

/** Colours on a terminal that has them and unless NO_COLOR says no (https://no-color.org). */
export function styleFor({ isTTY }: CliIo['stdout'], env = process.env): Style {
  const colours = isTTY === true && !env['NO_COLOR'] && env['TERM'] !== 'dumb';
  // What the stream can is decided above, not by Node, which looks at the process's own streams.
  return (format, text) => (colours && text !== '' ? styleText(format, text, { validateStream: false }) : text);
}
