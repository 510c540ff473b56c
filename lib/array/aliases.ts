/** Second names that Python's MLX has for some functions, most of them from the array API standard. */
export { array as asarray } from './create.js';
export { norm as matrixNorm } from '../generated/linalg.js';
export {
  arccos as acos,
  arccosh as acosh,
  arcsin as asin,
  arcsinh as asinh,
  arctan as atan,
  arctan2 as atan2,
  arctanh as atanh,
  concatenate as concat,
  cumprod as cumulativeProd,
  cumsum as cumulativeSum,
  leftShift as bitwiseLeftShift,
  power as pow,
  rightShift as bitwiseRightShift,
  transpose as permuteDims,
  zeros as empty,
  zerosLike as emptyLike,
} from '../generated/ops.js';
