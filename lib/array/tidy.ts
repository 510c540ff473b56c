/** Freeing arrays without naming them. */
import { MxArray } from './core.js';
import { list, mustBeFunction } from './guards.js';
import { exempt, Scope } from './scope.js';

const nobody: ReadonlySet<MxArray> = new Set();

/**
 * Runs `body` and frees every array made meanwhile, except those that it returns: on their own or in lists, Maps, Sets, objects
 * and modules, however deep, and those passed to {@link keep}. When it throws, all are freed.
 *
 * An async function (or any that returns a promise) may be given too: arrays are freed when it has settled. The arrays are those
 * of `body` and of what it calls and awaits; other code that runs in between keeps its own. Work that is started inside and not
 * awaited makes arrays for the `tidy` around, once this one is over.
 *
 * Inside another `tidy` the results belong to the outer one. Nothing is freed before `body` ends: put it around a step, not
 * around a whole run. Without it arrays live until the garbage collector finds them, which it only does when the program
 * comes back to the event loop; a long loop without `await` needs `tidy`, `using` or `dispose()`.
 *
 * @example
 * const loss = mx.tidy(() => model.forward(x).subtract(y).square().mean().eval());
 */
export function tidy<T>(body: () => T): T {
  mustBeFunction(body, 'tidy()');
  const scope = new Scope();
  let result: T;
  try {
    result = scope.run(body);
  } catch (error) {
    scope.close();
    throw error;
  }
  if (!isPromise(result)) {
    scope.close(arraysIn(result));
    return result;
  }
  return result.then(
    (value) => {
      scope.close(arraysIn(value));
      return value;
    },
    (error: unknown) => {
      scope.close();
      throw error;
    },
  ) as T;
}

/**
 * Lets the arrays of a value (an array, or lists, Maps, Sets, objects and modules of them) live on when the `tidy` or transform in
 * which they were made ends, as what is stored in a model must. They then live until `dispose()` or the garbage collector.
 */
export function keep<T>(value: T): T {
  for (const array of arraysIn(value)) exempt(array);
  return value;
}

/** Frees the arrays of a value: an array, or lists, Maps, Sets, objects and modules of them. */
export function dispose(value: unknown): void {
  for (const array of arraysIn(value)) array.dispose();
}

function isPromise(value: unknown): value is Promise<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';
}

/** Every array that can be reached through lists, Maps, Sets and the properties of objects. */
function arraysIn(value: unknown): ReadonlySet<MxArray> {
  if (typeof value !== 'object' || value === null) return nobody;
  const arrays = new Set<MxArray>();
  if (value instanceof MxArray) return arrays.add(value);
  const seen = new Set<object>();
  const rest: unknown[] = [value];
  while (rest.length > 0) {
    const next = rest.pop();
    if (typeof next !== 'object' || next === null || seen.has(next) || ArrayBuffer.isView(next)) continue;
    if (next instanceof MxArray) {
      arrays.add(next);
      continue;
    }
    seen.add(next);
    if (next instanceof Map) for (const [key, child] of next) rest.push(key, child);
    else if (next instanceof Set || Array.isArray(next)) for (const child of list(next)) rest.push(child);
    else for (const child of Object.values(next)) rest.push(child);
  }
  return arrays;
}
