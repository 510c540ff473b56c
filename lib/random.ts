/** Random numbers: from a key, or from the global state of this thread that `seed` sets. */
export { seed } from './array/random-state.js';
export * from './generated/random.js';
