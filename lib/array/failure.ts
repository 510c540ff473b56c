/** What a generated function throws when a call into the addon fails. */
import { MlxError, wrapNativeError } from '../errors.js';
import { MxArray } from './core.js';
import { describeValue } from './describe.js';

const isNumber = (value: unknown): boolean => typeof value === 'number';

/** `every` passes over the holes of a list, however many they are. */
function all(list: readonly unknown[], fits: (value: unknown) => boolean): boolean {
  for (const value of list) if (!fits(value)) return false;
  return true;
}

const isNumbers = (value: unknown): boolean => Array.isArray(value) && all(value, isNumber);
const isArrayLike = (value: unknown): boolean =>
  ['number', 'boolean', 'bigint'].includes(typeof value) ||
  value instanceof MxArray ||
  Array.isArray(value) ||
  ArrayBuffer.isView(value) ||
  (typeof value === 'object' && value !== null && 're' in value && 'im' in value);

/** The kinds of parameters: what they take, in words, and whether a value is one. */
const kinds: Readonly<Record<string, readonly [string, (value: unknown) => boolean]>> = {
  array: ['an array or numbers', isArrayLike],
  arrays: ['a list of arrays', Array.isArray],
  boolean: ['true or false', (value) => typeof value === 'boolean'],
  dtype: ['the name of a dtype', (value) => typeof value === 'string'],
  number: ['a number', isNumber],
  numbers: ['a list of numbers', isNumbers],
  'number|numbers': ['a number or a list of numbers', (value) => isNumber(value) || isNumbers(value)],
  lists: [
    'a number, a list of numbers or a list of such lists',
    (value) => isNumber(value) || (Array.isArray(value) && all(value, (entry) => isNumber(entry) || isNumbers(entry))),
  ],
  'lists of numbers': ['a list of lists of numbers', (value) => Array.isArray(value) && all(value, isNumbers)],
  object: ['an object', (value) => typeof value === 'object'],
  string: ['text', (value) => typeof value === 'string'],
};

const plain = (text: string): string => text.replaceAll('_', '').toLowerCase();

/**
 * The error for the caller. `parameters` names the parameters of `name` and their kinds (`a:array axis:number? options.key:array?`),
 * `values` are those they had in the call, without the options' fields. An argument of the wrong kind is named.
 */
export function failure(error: unknown, name: string, parameters: string, values: readonly unknown[]): unknown {
  const wrapped = wrapNativeError(error);
  const mine = MlxError.isInstance(wrapped);
  if (mine ? wrapped.code !== 'ERR_MLX_ARGUMENT' : !(wrapped instanceof TypeError || wrapped instanceof RangeError))
    return wrapped;
  const message = (mine ? wrongKind(parameters, values) : undefined) ?? (wrapped as Error).message;
  const named = plain(message).includes(plain(name.slice(name.lastIndexOf('.') + 1)));
  if (mine && named && message === wrapped.message) return wrapped;
  return new MlxError('ERR_MLX_ARGUMENT', `${name}(): ${message}`, { cause: error });
}

/** Which argument is not of its kind, in words. */
function wrongKind(parameters: string, values: readonly unknown[]): string | undefined {
  const given = new Map<string, unknown>();
  let next = 0;
  for (const parameter of parameters.split(', ')) {
    const [name, kind] = parameter.split(':') as [string, string];
    const [parent, field] = name.split('.') as [string, string | undefined];
    const value =
      field === undefined ? values[next++] : (given.get(parent) as Record<string, unknown> | null | undefined)?.[field];
    given.set(name, value);
    const optional = kind.endsWith('?');
    if (optional && (value === undefined || value === null)) continue;
    const [text, fits] = kinds[optional ? kind.slice(0, -1) : kind] ?? ['', () => true];
    if (!fits(value)) return `${name} must be ${text}, not ${describeValue(value)}`;
  }
  return undefined;
}
