/** Layers of several experts, of which every token uses a few (Shazeer et al. 2017, arXiv:1701.06538). As mlx-lm's `switch_layers`. */
import { known } from '../array/convert.js';
import type { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import * as native from '../generated/nn.js';
import { expandDims, squeeze, zeros } from '../generated/ops.js';
import { uniform } from '../generated/random.js';
import { native as addon } from '../native.js';
import { size } from './check.js';
import type { LinearOptions } from './linear.js';
import { Module } from './module.js';

/** Linear layers `[numExperts, outputDims, inputDims]`, at first uniform within ±1/√inputDims; biases `[numExperts, outputDims]` are zero. */
export class SwitchLinear extends Module {
  weight: MxArray;
  declare bias?: MxArray;

  constructor(inputDims: number, outputDims: number, numExperts: number, options?: LinearOptions) {
    super();
    const { bias = true } = known(options, ['bias'], 'nn.SwitchLinear');
    const scale = Math.sqrt(1 / size('nn.SwitchLinear', 'inputDims', inputDims));
    const experts = size('nn.SwitchLinear', 'numExperts', numExperts);
    const shape = [experts, size('nn.SwitchLinear', 'outputDims', outputDims), inputDims];
    this.weight = uniform(-scale, scale, shape);
    if (bias) this.bias = zeros([experts, outputDims]);
  }

  override extraRepr(): string {
    const [experts, outputs, inputs] = this.weight.shape;
    return `inputDims=${inputs}, outputDims=${outputs}, numExperts=${experts}, bias=${this.bias !== undefined}`;
  }

  /** Rows `[.., 1, inputDims]`, broadcast against the experts `[..]`, to `[.., 1, outputDims]`. `sortedIndices` says that these ascend. */
  forward(x: MxArray, indices: MxArray, sortedIndices = false): MxArray {
    return native.switchLinear(x, this.weight, this.bias ?? null, indices, sortedIndices);
  }
}

/** The gated feed-forward block of each expert, `down(silu(gate(x)) · up(x))`. Without biases unless told. */
export class SwitchGLU extends Module {
  gateProj: Module;
  upProj: Module;
  downProj: Module;

  constructor(inputDims: number, hiddenDims: number, numExperts: number, options?: LinearOptions) {
    super();
    const { bias = false } = known(options, ['bias'], 'nn.SwitchGLU');
    this.gateProj = new SwitchLinear(inputDims, hiddenDims, numExperts, { bias });
    this.upProj = new SwitchLinear(inputDims, hiddenDims, numExperts, { bias });
    this.downProj = new SwitchLinear(hiddenDims, inputDims, numExperts, { bias });
  }

  /** Tokens `[.., inputDims]` and their experts `[.., k]` to `[.., k, inputDims]`. Many tokens are sorted by expert meanwhile. */
  forward(x: MxArray, indices: MxArray): MxArray {
    const [tokens, experts] = [x.shape, indices.shape];
    if (tokens.length !== experts.length || tokens.slice(0, -1).some((length, axis) => length !== experts[axis])) {
      throw new MlxError(
        'ERR_MLX_SHAPE',
        `nn.SwitchGLU takes tokens [.., dims] and experts [.., k], not [${tokens.join(', ')}] and [${experts.join(', ')}]`,
      );
    }
    if (!addon().core.sortsTokens(indices.size)) {
      return squeeze(this.#experts(expandDims(x, [-2, -3]), indices, false), -2);
    }
    const [rows, sorted, places] = native.sortTokens(x, indices) as [MxArray, MxArray, MxArray];
    return native.restoreTokens(this.#experts(rows, sorted, true), places, experts);
  }

  #experts(x: MxArray, indices: MxArray, sorted: boolean): MxArray {
    const gate = this.gateProj.forward(x, indices, sorted);
    return this.downProj.forward(
      native.swiglu(gate, this.upProj.forward(x, indices, sorted)),
      indices,
      sorted,
    ) as MxArray;
  }
}
