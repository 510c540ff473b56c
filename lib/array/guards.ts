/** What the addon must not be given, because it would fill the memory with it before it looked at it. */
import { MlxError } from '../errors.js';

/** More entries than any list of sizes, axes or arrays has: the addon makes room for all of them before it looks at them. */
const longest = 2 ** 20;

/** A list that is not absurdly long; anything else passes. */
export function list<T>(values: T): T {
  if (Array.isArray(values) && values.length > longest)
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `a list of ${values.length} entries is too long; at most ${longest} are taken`,
    );
  return values;
}

/** Text, or nothing. Of anything else the addon would write out all it holds, be it gigabytes, only to refuse it. */
export function text<T extends string | null | undefined>(value: T): T {
  if (typeof value === 'string' || value === undefined || value === null) return value;
  throw new MlxError('ERR_MLX_ARGUMENT', 'text was expected');
}

/** The entries of what must be a list of arrays. */
export function arrayList<T>(values: readonly T[]): readonly T[] {
  if (!Array.isArray(values)) throw new MlxError('ERR_MLX_ARGUMENT', 'a list of arrays was expected');
  return list(values);
}

export function mustBeFunction(fn: unknown, where: string): void {
  if (typeof fn !== 'function') throw new MlxError('ERR_MLX_ARGUMENT', `${where} takes a function, not ${typeof fn}`);
}
