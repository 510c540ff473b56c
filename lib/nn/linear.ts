/** Linear layers. */
import { known } from '../array/convert.js';
import type { MxArray } from '../array/core.js';
import * as native from '../generated/nn.js';
import { uniform } from '../generated/random.js';
import { size } from './check.js';
import { Module } from './module.js';

/** What it is given. The constructor takes whatever a layer in its place would be made with. */
export class Identity extends Module {
  forward(x: MxArray): MxArray {
    return x;
  }
}

export interface LinearOptions {
  /** Adds a learned bias; true unless told. */
  bias?: boolean;
}

/**
 * `x Wᵀ + b` over the last axis. Weight `[outputDims, inputDims]` and bias `[outputDims]` are at first uniform within ±1/√inputDims.
 */
export class Linear extends Module {
  weight: MxArray;
  declare bias?: MxArray;

  constructor(inputDims: number, outputDims: number, options?: LinearOptions) {
    super();
    const { bias = true } = known(options, ['bias'], 'nn.Linear');
    const scale = Math.sqrt(1 / size('nn.Linear', 'inputDims', inputDims));
    this.weight = uniform(-scale, scale, [size('nn.Linear', 'outputDims', outputDims), inputDims]);
    if (bias) this.bias = uniform(-scale, scale, [outputDims]);
  }

  override extraRepr(): string {
    const [outputs, inputs] = this.weight.shape;
    return `inputDims=${inputs}, outputDims=${outputs}, bias=${this.bias !== undefined}`;
  }

  forward(x: MxArray): MxArray {
    return native.linear(x, this.weight, this.bias);
  }
}

/** `x1 Wᵢ x2 + bᵢ` for each output `i`. Weight `[outputDims, input2Dims, input1Dims]`, at first uniform within ±1/√input1Dims. */
export class Bilinear extends Module {
  weight: MxArray;
  declare bias?: MxArray;

  constructor(input1Dims: number, input2Dims: number, outputDims: number, options?: LinearOptions) {
    super();
    const { bias = true } = known(options, ['bias'], 'nn.Bilinear');
    const scale = Math.sqrt(1 / size('nn.Bilinear', 'input1Dims', input1Dims));
    const shape = [
      size('nn.Bilinear', 'outputDims', outputDims),
      size('nn.Bilinear', 'input2Dims', input2Dims),
      input1Dims,
    ];
    this.weight = uniform(-scale, scale, shape);
    if (bias) this.bias = uniform(-scale, scale, [outputDims]);
  }

  override extraRepr(): string {
    const [outputs, input2, input1] = this.weight.shape;
    return `input1Dims=${input1}, input2Dims=${input2}, outputDims=${outputs}, bias=${this.bias !== undefined}`;
  }

  forward(x1: MxArray, x2: MxArray): MxArray {
    return native.bilinear(x1, x2, this.weight, this.bias);
  }
}
