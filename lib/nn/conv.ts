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

export interface ConvTransposeOptions extends Omit<ConvOptions, 'groups'> {
  /** Elements added at the end of each spatial axis, 0 unless told. */
  outputPadding?: PerAxis;
}

/**
 * `[N, .., inChannels]` to `[N, .., outChannels]`. The weight `[outChannels, ..kernel, inChannels / groups]` is at first uniform within
 * ±1/√fanIn, the bias `[outChannels]` zero.
 */
abstract class AnyConv extends Module {
  weight: MxArray;
  declare bias?: MxArray;
  readonly stride: readonly number[];
  readonly padding: readonly number[];
  readonly dilation: readonly number[];

  /** `own` is the option that only this kind has. */
  constructor(
    axes: number,
    inChannels: number,
    outChannels: number,
    kernelSize: PerAxis,
    options: (ConvOptions & ConvTransposeOptions) | undefined,
    own: 'groups' | 'outputPadding',
  ) {
    super();
    const layer = `nn.${this.constructor.name}`;
    const given = known(options, ['stride', 'padding', 'dilation', own, 'bias'], layer);
    const kernel = perAxis(layer, 'kernelSize', kernelSize, axes, 1);
    this.stride = perAxis(layer, 'stride', given.stride ?? 1, axes, 1);
    this.padding = perAxis(layer, 'padding', given.padding ?? 0, axes, 0);
    this.dilation = perAxis(layer, 'dilation', given.dilation ?? 1, axes, 1);
    const groups = size(layer, 'groups', given.groups ?? 1);
    size(layer, 'inChannels', inChannels);
    size(layer, 'outChannels', outChannels);
    if (inChannels % groups !== 0 || outChannels % groups !== 0) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `${layer} cannot share ${inChannels} input and ${outChannels} output channels among ${groups} groups`,
      );
    }
    const channels = inChannels / groups;
    const scale = Math.sqrt(1 / kernel.reduce((product, length) => product * length, channels));
    this.weight = uniform(-scale, scale, [outChannels, ...kernel, channels]);
    if (given.bias ?? true) this.bias = zeros([outChannels]);
  }

  protected describe(inChannels: number, own: string): string {
    const shape = this.weight.shape;
    return (
      `${inChannels}, ${shape[0]}, kernelSize=${listText(shape.slice(1, -1))}, stride=${listText(this.stride)}, ` +
      `padding=${listText(this.padding)}, dilation=${listText(this.dilation)}, ${own}, bias=${this.bias !== undefined}`
    );
  }
}

abstract class Conv extends AnyConv {
  readonly groups: number;

  constructor(axes: number, inChannels: number, outChannels: number, kernelSize: PerAxis, options?: ConvOptions) {
    super(axes, inChannels, outChannels, kernelSize, options, 'groups');
    this.groups = options?.groups ?? 1;
  }

  override extraRepr(): string {
    return this.describe(this.weight.shape.at(-1)! * this.groups, `groups=${this.groups}`);
  }

  forward(x: MxArray): MxArray {
    return native.conv(x, this.weight, this.bias ?? null, this.stride, this.padding, this.dilation, this.groups);
  }
}

abstract class ConvTranspose extends AnyConv {
  readonly outputPadding: readonly number[];

  constructor(
    axes: number,
    inChannels: number,
    outChannels: number,
    kernelSize: PerAxis,
    options?: ConvTransposeOptions,
  ) {
    super(axes, inChannels, outChannels, kernelSize, options, 'outputPadding');
    const layer = `nn.${this.constructor.name}`;
    this.outputPadding = perAxis(layer, 'outputPadding', options?.outputPadding ?? 0, axes, 0);
  }

  override extraRepr(): string {
    return this.describe(this.weight.shape.at(-1)!, `outputPadding=${listText(this.outputPadding)}`);
  }

  forward(x: MxArray): MxArray {
    const { stride, padding, dilation, outputPadding } = this;
    return native.convTranspose(x, this.weight, this.bias ?? null, stride, padding, dilation, outputPadding);
  }
}

type Layer<Options, Instance> = new (
  inChannels: number,
  outChannels: number,
  kernelSize: PerAxis,
  options?: Options,
) => Instance;

/** The base of a layer with this many spatial axes. */
const convOver = (axes: number): Layer<ConvOptions, Conv> =>
  class extends Conv {
    constructor(inChannels: number, outChannels: number, kernelSize: PerAxis, options?: ConvOptions) {
      super(axes, inChannels, outChannels, kernelSize, options);
    }
  };

const convTransposeOver = (axes: number): Layer<ConvTransposeOptions, ConvTranspose> =>
  class extends ConvTranspose {
    constructor(inChannels: number, outChannels: number, kernelSize: PerAxis, options?: ConvTransposeOptions) {
      super(axes, inChannels, outChannels, kernelSize, options);
    }
  };

/** Convolution over `[N, L, C]`. */
export class Conv1d extends convOver(1) {}

/** Convolution over `[N, H, W, C]`. */
export class Conv2d extends convOver(2) {}

/** Convolution over `[N, D, H, W, C]`. */
export class Conv3d extends convOver(3) {}

/** Transposed convolution over `[N, L, C]`. */
export class ConvTranspose1d extends convTransposeOver(1) {}

/** Transposed convolution over `[N, H, W, C]`. */
export class ConvTranspose2d extends convTransposeOver(2) {}

/** Transposed convolution over `[N, D, H, W, C]`. */
export class ConvTranspose3d extends convTransposeOver(3) {}
