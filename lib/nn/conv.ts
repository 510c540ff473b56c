/** Convolutions, channels last. */
import { known } from '../array/convert.js';
import type { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import * as native from '../generated/nn.js';
import { zeros } from '../generated/ops.js';
import { uniform } from '../generated/random.js';
import { listText, perAxis, size } from './check.js';
import { Module } from './module.js';

/** One number for all spatial axes, or one for each. */
export type PerAxis = number | readonly number[];

export interface ConvOptions {
  /** 1 unless told. */
  stride?: PerAxis;
  /** Zeros on both sides, 0 unless told. */
  padding?: PerAxis;
  /** Steps between the elements of the kernel, 1 unless told. */
  dilation?: PerAxis;
  /** Groups of channels that do not see each other, 1 unless told. */
  groups?: number;
  /** A learned bias; true unless told. */
  bias?: boolean;
}

/** `[N, .., inChannels]` to `[N, .., outChannels]`. The weight `[outChannels, ..kernel, inChannels / groups]` is at first uniform within ±1/√fanIn. */
abstract class Conv extends Module {
  weight: MxArray;
  declare bias?: MxArray;
  readonly stride: readonly number[];
  readonly padding: readonly number[];
  readonly dilation: readonly number[];
  readonly groups: number;

  constructor(
    axes: number,
    inChannels: number,
    outChannels: number,
    kernelSize: PerAxis,
    options: ConvOptions | undefined,
  ) {
    super();
    const layer = `nn.${this.constructor.name}`;
    const given = known(options, ['stride', 'padding', 'dilation', 'groups', 'bias'], layer);
    const kernel = perAxis(layer, 'kernelSize', kernelSize, axes, 1);
    this.stride = perAxis(layer, 'stride', given.stride ?? 1, axes, 1);
    this.padding = perAxis(layer, 'padding', given.padding ?? 0, axes, 0);
    this.dilation = perAxis(layer, 'dilation', given.dilation ?? 1, axes, 1);
    this.groups = size(layer, 'groups', given.groups ?? 1);
    size(layer, 'inChannels', inChannels);
    size(layer, 'outChannels', outChannels);
    if (inChannels % this.groups !== 0 || outChannels % this.groups !== 0) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `${layer} cannot share ${inChannels} input and ${outChannels} output channels among ${this.groups} groups`,
      );
    }
    const channels = inChannels / this.groups;
    const scale = Math.sqrt(1 / kernel.reduce((product, length) => product * length, channels));
    this.weight = uniform(-scale, scale, [outChannels, ...kernel, channels]);
    if (given.bias ?? true) this.bias = zeros([outChannels]);
  }

  override extraRepr(): string {
    const shape = this.weight.shape;
    return (
      `${shape.at(-1)! * this.groups}, ${shape[0]}, kernelSize=${listText(shape.slice(1, -1))}, stride=${listText(this.stride)}, ` +
      `padding=${listText(this.padding)}, dilation=${listText(this.dilation)}, groups=${this.groups}, bias=${this.bias !== undefined}`
    );
  }

  forward(x: MxArray): MxArray {
    return native.conv(x, this.weight, this.bias ?? null, this.stride, this.padding, this.dilation, this.groups);
  }
}

/** Convolution over `[N, L, C]`. */
export class Conv1d extends Conv {
  constructor(inChannels: number, outChannels: number, kernelSize: PerAxis, options?: ConvOptions) {
    super(1, inChannels, outChannels, kernelSize, options);
  }
}

/** Convolution over `[N, H, W, C]`. */
export class Conv2d extends Conv {
  constructor(inChannels: number, outChannels: number, kernelSize: PerAxis, options?: ConvOptions) {
    super(2, inChannels, outChannels, kernelSize, options);
  }
}

/** Convolution over `[N, D, H, W, C]`. */
export class Conv3d extends Conv {
  constructor(inChannels: number, outChannels: number, kernelSize: PerAxis, options?: ConvOptions) {
    super(3, inChannels, outChannels, kernelSize, options);
  }
}

export interface ConvTransposeOptions extends Omit<ConvOptions, 'groups'> {
  /** Elements added at the end of each spatial axis, 0 unless told. */
  outputPadding?: PerAxis;
}

abstract class ConvTranspose extends Module {
  weight: MxArray;
  declare bias?: MxArray;
  readonly stride: readonly number[];
  readonly padding: readonly number[];
  readonly dilation: readonly number[];
  readonly outputPadding: readonly number[];

  constructor(
    axes: number,
    inChannels: number,
    outChannels: number,
    kernelSize: PerAxis,
    options: ConvTransposeOptions | undefined,
  ) {
    super();
    const layer = `nn.${this.constructor.name}`;
    const given = known(options, ['stride', 'padding', 'dilation', 'outputPadding', 'bias'], layer);
    const kernel = perAxis(layer, 'kernelSize', kernelSize, axes, 1);
    this.stride = perAxis(layer, 'stride', given.stride ?? 1, axes, 1);
    this.padding = perAxis(layer, 'padding', given.padding ?? 0, axes, 0);
    this.dilation = perAxis(layer, 'dilation', given.dilation ?? 1, axes, 1);
    this.outputPadding = perAxis(layer, 'outputPadding', given.outputPadding ?? 0, axes, 0);
    size(layer, 'inChannels', inChannels);
    const scale = Math.sqrt(1 / kernel.reduce((product, length) => product * length, inChannels));
    this.weight = uniform(-scale, scale, [size(layer, 'outChannels', outChannels), ...kernel, inChannels]);
    if (given.bias ?? true) this.bias = zeros([outChannels]);
  }

  override extraRepr(): string {
    const shape = this.weight.shape;
    return (
      `${shape.at(-1)}, ${shape[0]}, kernelSize=${listText(shape.slice(1, -1))}, stride=${listText(this.stride)}, padding=${listText(this.padding)}, ` +
      `dilation=${listText(this.dilation)}, outputPadding=${listText(this.outputPadding)}, bias=${this.bias !== undefined}`
    );
  }

  forward(x: MxArray): MxArray {
    const { stride, padding, dilation, outputPadding } = this;
    return native.convTranspose(x, this.weight, this.bias ?? null, stride, padding, dilation, outputPadding);
  }
}

/** Transposed convolution over `[N, L, C]`. */
export class ConvTranspose1d extends ConvTranspose {
  constructor(inChannels: number, outChannels: number, kernelSize: PerAxis, options?: ConvTransposeOptions) {
    super(1, inChannels, outChannels, kernelSize, options);
  }
}

/** Transposed convolution over `[N, H, W, C]`. */
export class ConvTranspose2d extends ConvTranspose {
  constructor(inChannels: number, outChannels: number, kernelSize: PerAxis, options?: ConvTransposeOptions) {
    super(2, inChannels, outChannels, kernelSize, options);
  }
}

/** Transposed convolution over `[N, D, H, W, C]`. */
export class ConvTranspose3d extends ConvTranspose {
  constructor(inChannels: number, outChannels: number, kernelSize: PerAxis, options?: ConvTransposeOptions) {
    super(3, inChannels, outChannels, kernelSize, options);
  }
}
