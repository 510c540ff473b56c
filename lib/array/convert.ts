/** What the generated functions share: plain data to arrays, options to checked options, functions to methods. */
import { MlxError } from '../errors.js';
import { native } from '../native.js';
import type { ArrayHandle, NumberOrArray } from '../native-types.js';
import { rejectUnknownKeys } from '../options.js';
import { handleOf, MxArray } from './core.js';
import type { ArrayLike } from './core.js';
import { array } from './create.js';
import { arrayList } from './guards.js';

const core = native().core;

/** The handle of an operand. A number takes the dtype of the first array beside it, where that can hold it. */
export function operand(value: ArrayLike, like?: ArrayLike | null, other?: ArrayLike | null): ArrayHandle {
  if (value instanceof MxArray) return handleOf(value);
  if (typeof value === 'number') {
    const neighbour = like instanceof MxArray ? like : other instanceof MxArray ? other : undefined;
    if (neighbour !== undefined)
      return handleOf(new MxArray(core.weakScalar(value, handleOf(neighbour)) as ArrayHandle));
  }
  return handleOf(array(value));
}

/** The places through which numbers reach the addon, shared with it. */
const scratch = core.scratch?.() ?? new Float64Array(1);

/** The handle of one side of an operation, or a sign that a number beside the array on the other side lies in the scratch memory. */
export function beside(value: ArrayLike, other: ArrayLike): ArrayHandle {
  if (typeof value === 'number' && other instanceof MxArray) {
    scratch[0] = value;
    return -1 as ArrayHandle;
  }
  return value instanceof MxArray ? handleOf(value) : operand(value, other);
}

/** The same for a value with no array beside it: a number has no dtype of its own then. */
export function alone(value: ArrayLike): ArrayHandle {
  if (typeof value !== 'number') return operand(value);
  scratch[0] = value;
  return -1 as ArrayHandle;
}

/** The handle of indices; that of plain data has a minus, so that the addon checks them. */
export function places(value: ArrayLike): ArrayHandle {
  if (value instanceof MxArray) return handleOf(value);
  const made = array(value);
  return -handleOf(made.size === 0 ? array(made, 'int32') : made) as ArrayHandle;
}

export function placeLists(values: readonly ArrayLike[]): ArrayHandle[] {
  return arrayList(values).map(places);
}

export function operands(values: readonly ArrayLike[]): ArrayHandle[] {
  return arrayList(values).map((value) => operand(value));
}

export function optionalOperand(
  value?: ArrayLike | null,
  like?: ArrayLike | null,
  other?: ArrayLike | null,
): ArrayHandle | undefined {
  return value === undefined || value === null ? undefined : operand(value, like, other);
}

export function optionalOperands(values?: readonly ArrayLike[] | null): ArrayHandle[] | undefined {
  return values === undefined || values === null ? undefined : operands(values);
}

/** A number in a list of its own, or the handle of an array. */
export function numberOrArray(value: ArrayLike): NumberOrArray {
  return typeof value === 'number' ? [value] : operand(value);
}

export function optionalNumberOrArray(value?: ArrayLike | null): NumberOrArray | undefined {
  return value === undefined || value === null ? undefined : numberOrArray(value);
}

/** The options, or none, after a check of their names. */
export function known<T extends object>(options: T | null | undefined, keys: readonly string[], where: string): T {
  if (options === undefined || options === null) return {} as T;
  if (typeof options !== 'object')
    throw new MlxError('ERR_MLX_ARGUMENT', `${where} takes its options as an object, not ${typeof options}`);
  rejectUnknownKeys(options, keys, where);
  return options;
}

export function wrapFields<R, T>(result: R, convert: (result: R) => T): T {
  return convert(result);
}

/** Puts functions on the prototype of arrays. */
export function methods(functions: object & ThisType<MxArray>): void {
  for (const [name, value] of Object.entries(functions)) {
    Object.defineProperty(MxArray.prototype, name, { value, writable: true, configurable: true });
  }
}
