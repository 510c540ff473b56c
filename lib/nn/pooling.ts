/** Pooling and resizing, channels last. */
import { known } from '../array/convert.js';
import type { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import * as native from '../generated/nn.js';
import { listText, perAxis, positive } from './check.js';
import type { PerAxis } from './conv.js';
import { Module } from './module.js';

export interface PoolOptions {
  /** The size of the window unless told. */
  stride?: PerAxis;
  /** On both sides, 0 unless told. */
  padding?: PerAxis;
}

abstract class Pool extends Module {
  readonly kernelSize: readonly number[];
  readonly stride: readonly number[];
  readonly padding: readonly number[];

  constructor(axes: number, kernelSize: PerAxis, options: PoolOptions | undefined) {
    super();
    const layer = `nn.${this.constructor.name}`;
    const given = known(options, ['stride', 'padding'], layer);
    this.kernelSize = perAxis(layer, 'kernelSize', kernelSize, axes, 1);
    this.stride = perAxis(layer, 'stride', given.stride ?? this.kernelSize, axes, 1);
    this.padding = perAxis(layer, 'padding', given.padding ?? 0, axes, 0);
  }

  override extraRepr(): string {
    return `kernelSize=${listText(this.kernelSize)}, stride=${listText(this.stride)}, padding=${listText(this.padding)}`;
  }
}

type Windows = (
  x: MxArray,
  kernelSize: readonly number[],
  stride: readonly number[],
  padding: readonly number[],
) => MxArray;

/** The base of a layer that does this with windows of this many axes. */
const poolOver = (
  axes: number,
  pool: Windows,
): new (kernelSize: PerAxis, options?: PoolOptions) => Pool & { forward: (x: MxArray) => MxArray } =>
  class extends Pool {
    constructor(kernelSize: PerAxis, options?: PoolOptions) {
      super(axes, kernelSize, options);
    }

    forward(x: MxArray): MxArray {
      return pool(x, this.kernelSize, this.stride, this.padding);
    }
  };

/** The largest element of each window of `[N, L, C]`; padding is -∞. */
export class MaxPool1d extends poolOver(1, native.maxPool) {}

/** The largest element of each window of `[N, H, W, C]`; padding is -∞. */
export class MaxPool2d extends poolOver(2, native.maxPool) {}

/** The largest element of each window of `[N, D, H, W, C]`; padding is -∞. */
export class MaxPool3d extends poolOver(3, native.maxPool) {}

/** The mean of each window of `[N, L, C]`; padding counts as zeros. */
export class AvgPool1d extends poolOver(1, native.avgPool) {}

/** The mean of each window of `[N, H, W, C]`; padding counts as zeros. */
export class AvgPool2d extends poolOver(2, native.avgPool) {}

/** The mean of each window of `[N, D, H, W, C]`; padding counts as zeros. */
export class AvgPool3d extends poolOver(3, native.avgPool) {}

export type UpsampleMode = 'nearest' | 'linear' | 'cubic';

export interface UpsampleOptions {
  /** 'nearest' unless told. */
  mode?: UpsampleMode;
  /** Puts the first and last samples of input and output onto each other ('linear' and 'cubic'). */
  alignCorners?: boolean;
  /** Widens the kernel where the result is smaller ('linear' and 'cubic', without alignCorners). */
  antialias?: boolean;
}

/** Each spatial axis of `[N, .., C]` multiplied by a factor: one for all axes, or one for each. */
export class Upsample extends Module {
  readonly scaleFactor: number | readonly number[];
  readonly mode: UpsampleMode;
  readonly alignCorners: boolean;
  readonly antialias: boolean;

  constructor(scaleFactor: number | readonly number[], options?: UpsampleOptions) {
    super();
    const given = known(options, ['mode', 'alignCorners', 'antialias'], 'nn.Upsample');
    const { mode = 'nearest', alignCorners = false, antialias = false } = given;
    for (const factor of typeof scaleFactor === 'number' ? [scaleFactor] : scaleFactor)
      positive('nn.Upsample', 'scaleFactor', factor);
    if (!['nearest', 'linear', 'cubic'].includes(mode)) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `the mode of nn.Upsample must be nearest, linear or cubic, not '${String(mode)}'`,
      );
    }
    if (antialias && (alignCorners || mode === 'nearest')) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        "antialias of nn.Upsample belongs to the modes 'linear' and 'cubic' without alignCorners",
      );
    }
    this.scaleFactor = scaleFactor;
    this.mode = mode;
    this.alignCorners = alignCorners;
    this.antialias = antialias;
  }

  override extraRepr(): string {
    return `scaleFactor=${JSON.stringify(this.scaleFactor)}, mode='${this.mode}', alignCorners=${this.alignCorners}, antialias=${this.antialias}`;
  }

  forward(x: MxArray): MxArray {
    const { scaleFactor } = this;
    const axes = x.ndim - 2;
    if (axes < 1) {
      throw new MlxError(
        'ERR_MLX_SHAPE',
        `nn.Upsample takes [N, .., C] with a spatial axis, not shape [${x.shape.join(', ')}]`,
      );
    }
    const factors = typeof scaleFactor === 'number' ? Array.from({ length: axes }, () => scaleFactor) : scaleFactor;
    return native.upsample(x, factors, this.mode, this.alignCorners, this.antialias);
  }
}
