/** Values in error messages. */
import { MxArray } from './core.js';

/** A value of the wrong kind, for a message. */
export function describeValue(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
    case 'bigint':
      return `the bigint ${value}`;
    case 'symbol':
    case 'function':
      return `a ${typeof value}`;
    case 'object': {
      if (value === null) return 'null';
      if (value instanceof MxArray) return 'an MxArray';
      return Array.isArray(value) ? describeList(value) : 'an object';
    }
    default:
      return String(value);
  }
}

function describeList(list: readonly unknown[]): string {
  const odd = list.find((entry) => typeof entry !== 'number');
  return odd === undefined
    ? `a list of ${list.length}`
    : `a list with ${Array.isArray(odd) ? 'a list' : describeValue(odd)}`;
}
