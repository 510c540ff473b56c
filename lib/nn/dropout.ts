/** Dropout: the identity outside training. */
import type { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import * as native from '../generated/nn.js';
import { multiply, ones } from '../generated/ops.js';
import { Module } from './module.js';

abstract class AnyDropout extends Module {
  constructor(readonly p = 0.5) {
    super();
    if (!(p >= 0 && p < 1)) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `the probability of ${this.constructor.name} must be in [0, 1), not ${String(p)}`,
      );
    }
  }

  override extraRepr(): string {
    return `p=${this.p}`;
  }

  forward(x: MxArray): MxArray {
    return this.training && this.p > 0 ? this.drop(x) : x;
  }

  protected abstract drop(x: MxArray): MxArray;

  /** Drops whole maps: all positions of a feature together. */
  protected dropMaps(x: MxArray, spatial: number): MxArray {
    const shape = x.shape;
    if (shape.length !== spatial + 1 && shape.length !== spatial + 2) {
      throw new MlxError(
        'ERR_MLX_SHAPE',
        `${this.constructor.name} takes inputs of ${spatial + 1} or ${spatial + 2} axes, not of shape [${shape.join(', ')}]`,
      );
    }
    const maps = shape.map((length, axis) =>
      axis < shape.length - 1 && axis >= shape.length - 1 - spatial ? 1 : length,
    );
    return multiply(native.dropout(ones(maps, x.dtype), this.p), x);
  }
}

/** Each element is 0 with probability `p` (0.5), else divided by `1 - p` (Srivastava et al. 2014). */
export class Dropout extends AnyDropout {
  protected drop(x: MxArray): MxArray {
    return native.dropout(x, this.p);
  }
}

/** Whole maps of `[N, H, W, C]` or `[H, W, C]` are 0 with probability `p` (0.5). */
export class Dropout2d extends AnyDropout {
  protected drop(x: MxArray): MxArray {
    return this.dropMaps(x, 2);
  }
}

/** Whole maps of `[N, D, H, W, C]` or `[D, H, W, C]` are 0 with probability `p` (0.5). */
export class Dropout3d extends AnyDropout {
  protected drop(x: MxArray): MxArray {
    return this.dropMaps(x, 3);
  }
}
