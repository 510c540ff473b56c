import { guard } from './errors.js';
import { native } from './native.js';
import type { BuildInfo, MemoryStats } from './native-types.js';

/** What the addon was built with and what it runs on. */
export function buildInfo(): BuildInfo {
  return guard(() => native().buildInfo());
}

/** Bytes that MLX holds now, keeps for reuse, has held at most, and may hold. */
export function memoryStats(): MemoryStats {
  return guard(() => native().memoryStats());
}

/** Starts `memoryStats().peak` anew. */
export function resetPeakMemory(): void {
  guard(() => native().resetPeakMemory());
}

/** Gives memory that is kept for reuse back to the system. */
export function clearCache(): void {
  guard(() => native().clearCache());
}

/** Limits the bytes kept for reuse. */
export function setCacheLimit(bytes: number): void {
  guard(() => native().setCacheLimit(bytes));
}

/** Limits the bytes MLX may hold. */
export function setMemoryLimit(bytes: number): void {
  guard(() => native().setMemoryLimit(bytes));
}
