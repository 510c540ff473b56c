/** What MLX holds, and how much it may. All sizes are bytes. */
import { describeValue } from './array/describe.js';
import { guard, MlxError } from './errors.js';
import { native } from './native.js';
import type { BuildInfo, MemoryStats } from './native-types.js';

/** What the addon was built with and what it runs on. */
export function buildInfo(): BuildInfo {
  return guard(() => native().buildInfo());
}

/** Bytes that MLX holds now, keeps for reuse, has held at most, and may hold: of the whole process, all workers together. */
export function memoryStats(): MemoryStats {
  return guard(() => native().memoryStats());
}

/** Starts `memoryStats().peak` anew. */
export function resetPeakMemory(): void {
  guard(() => native().resetPeakMemory());
}

/** Gives memory that is kept for reuse back to the system. Waits for running work. */
export function clearCache(): void {
  guard(() => native().clearCache());
}

/**
 * Limits the bytes that MLX keeps for reuse after arrays are freed, from their next release on; returns the old limit. 0 keeps
 * nothing, which costs time.
 */
export function setCacheLimit(bytes: number): number {
  return guard(() => native().setCacheLimit(checked(bytes, 'setCacheLimit')));
}

/**
 * Limits the bytes MLX holds; returns the old limit. It is a guideline: above it MLX waits for running work and empties its cache
 * before it allocates more, and fails only where the system has no more to give.
 */
export function setMemoryLimit(bytes: number): number {
  return guard(() => native().setMemoryLimit(checked(bytes, 'setMemoryLimit')));
}

/**
 * Limits the bytes that Metal keeps resident (macOS 15 and later); returns the old limit. More than the GPU's recommended working
 * set is an error. On other backends there is no such limit: the call changes nothing and returns 0.
 */
export function setWiredLimit(bytes: number): number {
  return guard(() => native().setWiredLimit(checked(bytes, 'setWiredLimit')));
}

function checked(bytes: number, where: string): number {
  if (typeof bytes === 'number' && bytes >= 0 && bytes <= Number.MAX_SAFE_INTEGER) return Math.floor(bytes);
  throw new MlxError('ERR_MLX_ARGUMENT', `${where} takes a number of bytes of at least 0, not ${describeValue(bytes)}`);
}
