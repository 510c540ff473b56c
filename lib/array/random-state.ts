import { guard, MlxError } from '../errors.js';
import { native } from '../native.js';
import type { ArrayHandle } from '../native-types.js';
import { handleOf, MxArray } from './core.js';
import { describeValue } from './describe.js';

const random = native().random;
const core = native().core;

/** The key from which the next draw without a key of its own splits one off. Each thread has its own. */
let state: ArrayHandle | undefined;

const fresh = (from: number): ArrayHandle => random.key(from) as ArrayHandle;

/** Starts the global random numbers anew: the same seed gives the same numbers. Without a call the seed is the clock. */
export function seed(value: number): void {
  if (!Number.isSafeInteger(value) || value < 0)
    throw new MlxError('ERR_MLX_ARGUMENT', `a seed is a whole number of at least 0, not ${describeValue(value)}`);
  setRandomState(fresh(value));
}

/** @internal */
export function randomState(): ArrayHandle {
  state ??= fresh(Date.now());
  return state;
}

/** @internal Takes over the handle. */
export function setRandomState(handle: ArrayHandle): void {
  if (state !== undefined) core.release(state);
  state = handle;
}

/** @internal The key that the caller gave, or the next of the global state, as a handle the caller of the draw may forget. */
export function nextKey(key?: MxArray | null): ArrayHandle {
  if (key !== undefined && key !== null) return handleOf(key);
  const [next, own] = guard(() => core.splitKey(randomState())) as [ArrayHandle, ArrayHandle];
  setRandomState(next);
  return handleOf(new MxArray(own));
}
