/** Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685). */
import { known } from '../array/convert.js';
import type { MxArray } from '../array/core.js';
import * as native from '../generated/nn.js';
import { zeros } from '../generated/ops.js';
import { uniform } from '../generated/random.js';
import { size } from './check.js';
import { Dropout } from './dropout.js';
import { Linear } from './linear.js';
import { Module } from './module.js';
import { QuantizedLinear } from './quantized.js';

export interface LoRALinearOptions {
  /** Size of the low-rank factors, 8. */
  rank?: number;
  /** Multiplies the product of the factors, 20. */
  scale?: number;
  /** The probability with which the factors' input is dropped, 0. */
  dropout?: number;
}

/**
 * A linear layer, frozen, and a low-rank correction of it: `linear(x) + scale · x Aᵀ Bᵀ`, with `loraA` `[rank, in]` at first uniform within
 * ±1/√in and `loraB` `[out, rank]` zero, both float32.
 */
export class LoRALinear extends Module {
  linear: Linear | QuantizedLinear;
  dropout: Dropout;
  loraA: MxArray;
  loraB: MxArray;
  readonly scale: number;

  constructor(linear: Linear | QuantizedLinear, options?: LoRALinearOptions) {
    super();
    const { rank = 8, scale = 20, dropout = 0 } = known(options, ['rank', 'scale', 'dropout'], 'nn.LoRALinear');
    const [outputs, inputs] = shapeOf(linear);
    this.linear = linear.freeze();
    this.dropout = new Dropout(dropout);
    this.scale = scale;
    const bound = 1 / Math.sqrt(inputs);
    this.loraA = uniform(-bound, bound, [size('nn.LoRALinear', 'rank', rank), inputs]);
    this.loraB = zeros([outputs, rank]);
  }

  /** The same as the constructor, under the name that Python's mlx-lm gives it. */
  static fromLinear(linear: Linear | QuantizedLinear, options?: LoRALinearOptions): LoRALinear {
    return new LoRALinear(linear, options);
  }

  override extraRepr(): string {
    return `rank=${this.loraA.shape[0]}, scale=${this.scale}`;
  }

  forward(x: MxArray): MxArray {
    return native.loraCorrect(this.dropout.forward(x), this.linear.forward(x), this.loraA, this.loraB, this.scale);
  }

  /** A linear layer, not packed, with the correction added to its weight. */
  fuse(): Linear {
    const [outputs, inputs] = shapeOf(this.linear);
    const weight = this.linear instanceof Linear ? this.linear.weight : this.linear.dequantized();
    const fused = new Linear(inputs, outputs, { bias: false });
    fused.weight.dispose();
    fused.weight = native.loraMerge(weight, this.loraA, this.loraB, this.scale);
    if (this.linear.bias !== undefined) fused.bias = this.linear.bias;
    return fused;
  }
}

function shapeOf(linear: Linear | QuantizedLinear): [number, number] {
  const [outputs, width] = linear.weight.shape as [number, number];
  return [outputs, linear instanceof Linear ? width : (width * 32) / linear.bits];
}
