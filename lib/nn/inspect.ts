/** Modules as text. */
import { moduleEntries } from './module.js';
import type { Module } from './module.js';

const indent = (text: string): string => text.replace(/^/gm, '  ');

/** As Python prints modules: the class, its options, and the modules inside, one a line. */
export function describeModule(module: Module): string {
  const children = moduleEntries(module).map(([name, child]) => indent(`(${name}): ${describeModule(child)}`));
  const body = children.length === 0 ? '' : `\n${children.join('\n')}\n`;
  return `${module.constructor.name}(${module.extraRepr()}${body})`;
}
