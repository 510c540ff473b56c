/**
 * Random numbers, as Python's `mlx.core.random`: from a key, or from the global state of this thread that `seed` sets.
 *
 * @module random
 */
export { seed } from './array/random-state.js';
export * from './generated/random.js';
