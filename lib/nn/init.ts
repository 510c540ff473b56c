/**
 * Functions that make initial weights: each takes an array and returns another of its shape. As Python's `mlx.nn.init`.
 *
 * @module init
 */
import type { Dtype, MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import * as native from '../generated/nn.js';
import { full } from '../generated/ops.js';
import { normal as drawNormal, uniform as drawUniform } from '../generated/random.js';
import { array } from '../array/create.js';

export type Initializer = (a: MxArray) => MxArray;

/** One number everywhere. */
export const constant =
  (value: number, dtype: Dtype = 'float32'): Initializer =>
  (a) =>
    full(a.shape, value, dtype);

/** Normally distributed numbers. */
export const normal =
  (mean = 0, std = 1, dtype: Dtype = 'float32'): Initializer =>
  (a) =>
    drawNormal(a.shape, { loc: mean, scale: std, dtype });

/** Uniformly distributed numbers in [low, high). */
export const uniform =
  (low = 0, high = 1, dtype: Dtype = 'float32'): Initializer =>
  (a) =>
    drawUniform(low, high, a.shape, { dtype });

/** The identity; square matrices only. */
export const identity =
  (dtype: Dtype = 'float32'): Initializer =>
  (a) => {
    const [rows, columns] = a.shape;
    if (a.ndim !== 2 || rows !== columns) {
      throw new MlxError(
        'ERR_MLX_SHAPE',
        `an identity is a square matrix, not an array of shape [${a.shape.join(', ')}]`,
      );
    }
    const data = new Float32Array(rows! * rows!);
    for (let i = 0; i < rows!; i++) data[i * rows! + i] = 1;
    return array(data, dtype).reshape([rows!, rows!]);
  };

/** Inputs and outputs of one element of a weight `[out, .., in]`. */
function fans(a: MxArray): { fanIn: number; fanOut: number } {
  const shape = a.shape;
  if (shape.length < 2) {
    throw new MlxError(
      'ERR_MLX_SHAPE',
      `Glorot and He initialisation need 2 axes or more, not shape [${shape.join(', ')}]`,
    );
  }
  const field = shape.slice(1, -1).reduce((product, size) => product * size, 1);
  return { fanIn: shape.at(-1)! * field, fanOut: shape[0]! * field };
}

/** Normal with the deviation `gain · √(2 / (fanIn + fanOut))` (Glorot and Bengio 2010). */
export const glorotNormal =
  (dtype: Dtype = 'float32') =>
  (a: MxArray, gain = 1): MxArray => {
    const { fanIn, fanOut } = fans(a);
    return drawNormal(a.shape, { scale: gain * Math.sqrt(2 / (fanIn + fanOut)), dtype });
  };

/** Uniform within `±gain · √(6 / (fanIn + fanOut))` (Glorot and Bengio 2010). */
export const glorotUniform =
  (dtype: Dtype = 'float32') =>
  (a: MxArray, gain = 1): MxArray => {
    const { fanIn, fanOut } = fans(a);
    const limit = gain * Math.sqrt(6 / (fanIn + fanOut));
    return drawUniform(-limit, limit, a.shape, { dtype });
  };

export type FanMode = 'fanIn' | 'fanOut';

function fan(a: MxArray, mode: FanMode): number {
  if (mode !== 'fanIn' && mode !== 'fanOut') {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `the mode of He initialisation must be 'fanIn' or 'fanOut', not '${String(mode)}'`,
    );
  }
  return fans(a)[mode];
}

/** Normal with the deviation `gain / √fan` (He et al. 2015, arXiv:1502.01852). */
export const heNormal =
  (dtype: Dtype = 'float32') =>
  (a: MxArray, mode: FanMode = 'fanIn', gain = 1): MxArray =>
    drawNormal(a.shape, { scale: gain / Math.sqrt(fan(a, mode)), dtype });

/** Uniform within `±gain · √(3 / fan)` (He et al. 2015, arXiv:1502.01852). */
export const heUniform =
  (dtype: Dtype = 'float32') =>
  (a: MxArray, mode: FanMode = 'fanIn', gain = 1): MxArray => {
    const limit = gain * Math.sqrt(3 / fan(a, mode));
    return drawUniform(-limit, limit, a.shape, { dtype });
  };

/** Normal numbers, of which each row loses the share `sparsity` to zeros at random places; matrices only. */
export const sparse =
  (sparsity: number, mean = 0, std = 1, dtype: Dtype = 'float32'): Initializer =>
  (a) =>
    native.sparse(a.shape, sparsity, mean, std, dtype);

/** Orthogonal rows or columns times `gain` (Saxe et al. 2014, arXiv:1312.6120); matrices only. */
export const orthogonal =
  (gain = 1, dtype: Dtype = 'float32'): Initializer =>
  (a) =>
    native.orthogonal(a.shape, gain, dtype);
