/** Normalisation layers. */
import { known } from '../array/convert.js';
import type { MxArray } from '../array/core.js';
import { exempt } from '../array/scope.js';
import { MlxError } from '../errors.js';
import * as native from '../generated/nn.js';
import { add, multiply, ones, zeros } from '../generated/ops.js';
import { positive, size } from './check.js';
import { Module } from './module.js';

export interface NormOptions {
  /** Added to the variance. */
  eps?: number;
}

export interface AffineNormOptions extends NormOptions {
  /** Learned scale and shift. */
  affine?: boolean;
}

/** `x / √(mean(x²) + eps) · weight` over the last axis, accumulated in float32. `eps` is 1e-5 unless told. */
export class RMSNorm extends Module {
  weight: MxArray;
  readonly eps: number;

  constructor(dims: number, options?: NormOptions) {
    super();
    const { eps = 1e-5 } = known(options, ['eps'], 'nn.RMSNorm');
    this.eps = positive('nn.RMSNorm', 'eps', eps);
    this.weight = ones([size('nn.RMSNorm', 'dims', dims)]);
  }

  override extraRepr(): string {
    return `${this.weight.shape[0]}, eps=${this.eps}`;
  }

  forward(x: MxArray): MxArray {
    return native.rmsNorm(x, this.weight, this.eps);
  }
}

export interface LayerNormOptions extends AffineNormOptions {
  /** A learned shift beside the scale; true unless told. */
  bias?: boolean;
}

/** `(x - mean) / √(variance + eps) · weight + bias` over the last axis. `affine` is true and `eps` 1e-5 unless told. */
export class LayerNorm extends Module {
  declare weight?: MxArray;
  declare bias?: MxArray;
  readonly dims: number;
  readonly eps: number;

  constructor(dims: number, options?: LayerNormOptions) {
    super();
    const { eps = 1e-5, affine = true, bias = true } = known(options, ['eps', 'affine', 'bias'], 'nn.LayerNorm');
    this.dims = size('nn.LayerNorm', 'dims', dims);
    this.eps = positive('nn.LayerNorm', 'eps', eps);
    if (affine) {
      this.weight = ones([dims]);
      if (bias) this.bias = zeros([dims]);
    }
  }

  override extraRepr(): string {
    return `${this.dims}, eps=${this.eps}, affine=${this.weight !== undefined}`;
  }

  forward(x: MxArray): MxArray {
    return native.layerNorm(x, this.weight ?? null, this.bias ?? null, this.eps);
  }
}

export interface GroupNormOptions extends AffineNormOptions {
  /** Groups of neighbouring features, as in PyTorch, instead of every `numGroups`-th feature. */
  pytorchCompatible?: boolean;
}

/** `x` `[N, .., dims]` normalised over groups of features and all positions. `affine` is true and `eps` 1e-5 unless told. */
export class GroupNorm extends Module {
  declare weight?: MxArray;
  declare bias?: MxArray;
  readonly numGroups: number;
  readonly dims: number;
  readonly eps: number;
  readonly pytorchCompatible: boolean;

  constructor(numGroups: number, dims: number, options?: GroupNormOptions) {
    super();
    const given = known(options, ['eps', 'affine', 'pytorchCompatible'], 'nn.GroupNorm');
    const { eps = 1e-5, affine = true, pytorchCompatible = false } = given;
    this.numGroups = size('nn.GroupNorm', 'numGroups', numGroups);
    this.dims = size('nn.GroupNorm', 'dims', dims);
    if (dims % numGroups !== 0) {
      throw new MlxError('ERR_MLX_ARGUMENT', `nn.GroupNorm cannot share ${dims} features among ${numGroups} groups`);
    }
    this.eps = positive('nn.GroupNorm', 'eps', eps);
    this.pytorchCompatible = pytorchCompatible;
    if (affine) {
      this.bias = zeros([dims]);
      this.weight = ones([dims]);
    }
  }

  override extraRepr(): string {
    return `${this.numGroups}, ${this.dims}, eps=${this.eps}, affine=${this.weight !== undefined}, pytorchCompatible=${this.pytorchCompatible}`;
  }

  forward(x: MxArray): MxArray {
    return native.groupNorm(
      x,
      this.numGroups,
      this.weight ?? null,
      this.bias ?? null,
      this.eps,
      this.pytorchCompatible,
    );
  }
}

/** Each feature of each instance of `x` `[N, .., dims]` normalised over its positions. `affine` is false and `eps` 1e-5 unless told. */
export class InstanceNorm extends Module {
  declare weight?: MxArray;
  declare bias?: MxArray;
  readonly dims: number;
  readonly eps: number;

  constructor(dims: number, options?: AffineNormOptions) {
    super();
    const { eps = 1e-5, affine = false } = known(options, ['eps', 'affine'], 'nn.InstanceNorm');
    this.dims = size('nn.InstanceNorm', 'dims', dims);
    this.eps = positive('nn.InstanceNorm', 'eps', eps);
    if (affine) {
      this.weight = ones([dims]);
      this.bias = zeros([dims]);
    }
  }

  override extraRepr(): string {
    return `${this.dims}, eps=${this.eps}, affine=${this.weight !== undefined}`;
  }

  forward(x: MxArray): MxArray {
    return native.instanceNorm(x, this.weight ?? null, this.bias ?? null, this.eps);
  }
}

export interface BatchNormOptions extends AffineNormOptions {
  /** The share of a batch in the running statistics, 0.1. */
  momentum?: number;
  /** Keeps running statistics, used outside training; true unless told. */
  trackRunningStats?: boolean;
}

const statistics = ['runningMean', 'runningVar'] as const;

/**
 * `x` `[N, .., numFeatures]` normalised by the statistics of the batch in training, by the running ones else. These are parameters (they
 * are saved), and always frozen.
 */
export class BatchNorm extends Module {
  declare weight?: MxArray;
  declare bias?: MxArray;
  declare runningMean?: MxArray;
  declare runningVar?: MxArray;
  readonly numFeatures: number;
  readonly eps: number;
  readonly momentum: number;
  readonly trackRunningStats: boolean;

  constructor(numFeatures: number, options?: BatchNormOptions) {
    super();
    const given = known(options, ['eps', 'momentum', 'affine', 'trackRunningStats'], 'nn.BatchNorm');
    const { eps = 1e-5, momentum = 0.1, affine = true, trackRunningStats = true } = given;
    this.numFeatures = size('nn.BatchNorm', 'numFeatures', numFeatures);
    this.eps = positive('nn.BatchNorm', 'eps', eps);
    this.momentum = momentum;
    this.trackRunningStats = trackRunningStats;
    if (affine) {
      this.weight = ones([numFeatures]);
      this.bias = zeros([numFeatures]);
    }
    if (trackRunningStats) {
      this.runningMean = zeros([numFeatures]);
      this.runningVar = ones([numFeatures]);
      this.freeze({ keys: statistics, recurse: false });
    }
  }

  protected override unfreezeOwn(keys: readonly string[] | undefined, strict: boolean): void {
    super.unfreezeOwn(keys, strict);
    if (this.trackRunningStats) this.freeze({ keys: statistics, recurse: false });
  }

  override extraRepr(): string {
    return `${this.numFeatures}, eps=${this.eps}, momentum=${this.momentum}, affine=${this.weight !== undefined}, trackRunningStats=${this.trackRunningStats}`;
  }

  forward(x: MxArray): MxArray {
    const { momentum, runningMean, runningVar } = this;
    let [mean, variance] = [runningMean, runningVar];
    if (this.training || mean === undefined || variance === undefined) {
      if (this.training && x.size === x.shape.at(-1)) {
        throw new MlxError(
          'ERR_MLX_SHAPE',
          `nn.BatchNorm needs more than one value per feature in training; the input has shape [${x.shape.join(', ')}]`,
        );
      }
      const [batchMean, batchVariance, unbiased] = native.batchStatistics(x) as [MxArray, MxArray, MxArray];
      if (this.training && runningMean !== undefined && runningVar !== undefined) {
        this.runningMean = add(multiply(runningMean, 1 - momentum), multiply(batchMean, momentum));
        this.runningVar = add(multiply(runningVar, 1 - momentum), multiply(unbiased, momentum));
        // They stay when the `tidy` or the transform ends in which they were made.
        exempt(this.runningMean);
        exempt(this.runningVar);
      }
      [mean, variance] = [batchMean, batchVariance];
    }
    return native.batchNorm(x, mean, variance, this.weight ?? null, this.bias ?? null, this.eps);
  }
}
