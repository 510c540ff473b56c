/** A linear layer that packs both its weight and its input. */
import { known } from '../array/convert.js';
import type { Dtype, MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import { dequantize, qqmm, quantize } from '../generated/ops.js';
import { uniform } from '../generated/random.js';
import { size } from './check.js';
import type { Linear } from './linear.js';
import { Module } from './module.js';
import { quantizationShape } from './quantized.js';

export interface QQLinearOptions {
  /** Weights that share a scale: 16 for 'nvfp4', 32 for 'mxfp8', unless told. */
  groupSize?: number;
  /** Bits of a weight: 4 for 'nvfp4', 8 for 'mxfp8', unless told. */
  bits?: number;
  /** 'nvfp4' unless told. */
  mode?: 'nvfp4' | 'mxfp8';
}

const optionNames = ['groupSize', 'bits', 'mode'] as const;

/**
 * `x Wᵀ` with both sides packed, as Python's `nn.QQLinear`. In training the weight is floating, and packed on the way, so that it learns; `eval()` packs
 * it for good, `train()` unpacks it. It has no bias. GPUs only: MLX has no CPU code for the product, which is ERR_MLX_ARGUMENT there.
 */
export class QQLinear extends Module {
  /** `[outputDims, inputDims]` in training; else packed, uint32. */
  weight: MxArray;
  /** Of a packed weight. */
  declare scales?: MxArray;
  readonly groupSize: number;
  readonly bits: number;
  readonly mode: 'nvfp4' | 'mxfp8';
  /** Of the weight when it is not packed. */
  #dtype: Dtype = 'float32';

  constructor(inputDims: number, outputDims: number, options?: QQLinearOptions) {
    super();
    const { mode = 'nvfp4', groupSize, bits } = known(options, optionNames, 'nn.QQLinear');
    if (mode !== 'nvfp4' && mode !== 'mxfp8') {
      throw new MlxError('ERR_MLX_ARGUMENT', `the mode of nn.QQLinear must be nvfp4 or mxfp8, not '${String(mode)}'`);
    }
    [this.groupSize, this.bits] = quantizationShape(mode, groupSize, bits);
    this.mode = mode;
    const scale = Math.sqrt(1 / size('nn.QQLinear', 'inputDims', inputDims));
    this.weight = uniform(-scale, scale, [size('nn.QQLinear', 'outputDims', outputDims), inputDims]);
  }

  /** A layer with the weight of `linear`, which must not have a bias, in training or not as that one. */
  static fromLinear(linear: Linear, options?: QQLinearOptions): QQLinear {
    if (linear.bias !== undefined) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        'nn.QQLinear has no bias; the layer to convert must be made with { bias: false }',
      );
    }
    const [outputs, inputs] = linear.weight.shape as [number, number];
    const packed = new QQLinear(inputs, outputs, options);
    packed.weight.dispose();
    packed.weight = linear.weight;
    packed.train(linear.training);
    return packed;
  }

  get #packing(): { groupSize: number; bits: number; mode: 'nvfp4' | 'mxfp8' } {
    const { groupSize, bits, mode } = this;
    return { groupSize, bits, mode };
  }

  /** Packs the weight, if it is not. */
  quantize(): this {
    if (this.scales === undefined) {
      const { weight, scales } = quantize(this.weight, this.#packing);
      this.#dtype = this.weight.dtype;
      this.weight = weight;
      this.scales = scales;
    }
    return this;
  }

  /** Unpacks the weight, if it is packed. */
  dequantize(): this {
    if (this.scales !== undefined) {
      this.weight = dequantize(this.weight, this.scales, null, { ...this.#packing, dtype: this.#dtype });
      delete this.scales;
    }
    return this;
  }

  protected override trainOwn(mode: boolean): void {
    super.trainOwn(mode);
    if (mode) this.dequantize();
    else this.quantize();
  }

  override extraRepr(): string {
    const [outputs, width] = this.weight.shape as [number, number];
    const inputs = this.scales === undefined ? width : (width * 32) / this.bits;
    return `inputDims=${inputs}, outputDims=${outputs}, groupSize=${this.groupSize}, bits=${this.bits}, mode=${this.mode}`;
  }

  /** `[.., inputDims]` to `[.., outputDims]`. */
  forward(x: MxArray): MxArray {
    const { scales } = this;
    return qqmm(x, this.weight, scales === undefined ? this.#packing : { ...this.#packing, scales });
  }
}
