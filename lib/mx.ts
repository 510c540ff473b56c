/**
 * The functions of Python's `mlx.core`, under its names in camelCase: `mx.add(a, b)` is `a.add(b)`.
 *
 * @module mx
 */
export { array } from './array/create.js';
export { evalAll as eval, evalAsync } from './array/core.js';
export * from './generated/ops.js';
export * as random from './random.js';
