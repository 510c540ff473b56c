/** Recurrent layers over `[.., T, inputSize]`, under the names of Python's parameters. */
import { known } from '../array/convert.js';
import type { MxArray } from '../array/core.js';
import * as native from '../generated/nn.js';
import { add, stack, tanh } from '../generated/ops.js';
import { uniform } from '../generated/random.js';
import { size } from './check.js';
import { Module } from './module.js';

export interface RecurrentOptions {
  /** Learned biases; true unless told. */
  bias?: boolean;
}

export interface RNNOptions extends RecurrentOptions {
  /** `tanh` unless told. */
  nonlinearity?: (x: MxArray) => MxArray;
}

function draw(hiddenSize: number, shape: readonly number[]): MxArray {
  const scale = 1 / Math.sqrt(hiddenSize);
  return uniform(-scale, scale, shape);
}

/** `h ← nonlinearity(x Wxhᵀ + h Whhᵀ + b)` (Elman 1990). */
export class RNN extends Module {
  readonly hiddenSize: number;
  readonly nonlinearity: (x: MxArray) => MxArray;
  Wxh: MxArray;
  Whh: MxArray;
  declare bias?: MxArray;

  constructor(inputSize: number, hiddenSize: number, options?: RNNOptions) {
    super();
    const { bias = true, nonlinearity = tanh } = known(options, ['bias', 'nonlinearity'], 'nn.RNN');
    size('nn.RNN', 'inputSize', inputSize);
    this.hiddenSize = size('nn.RNN', 'hiddenSize', hiddenSize);
    this.nonlinearity = nonlinearity;
    this.Wxh = draw(hiddenSize, [hiddenSize, inputSize]);
    this.Whh = draw(hiddenSize, [hiddenSize, hiddenSize]);
    if (bias) this.bias = draw(hiddenSize, [hiddenSize]);
  }

  override extraRepr(): string {
    return `inputDims=${this.Wxh.shape[1]}, hiddenSize=${this.hiddenSize}, bias=${this.bias !== undefined}`;
  }

  /** Hidden states at all times `[.., T, hiddenSize]`, from the hidden state before the first, or none. */
  forward(x: MxArray, hidden?: MxArray | null): MxArray {
    const states: MxArray[] = [];
    let state = hidden ?? undefined;
    for (const input of native.recurrentInputs(x, this.Wxh, this.bias)) {
      state = this.nonlinearity(state === undefined ? input : add(input, native.linear(state, this.Whh)));
      states.push(state);
    }
    return stack(states, -2);
  }
}

/** Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078). */
export class GRU extends Module {
  readonly hiddenSize: number;
  Wx: MxArray;
  Wh: MxArray;
  declare b?: MxArray;
  declare bhn?: MxArray;

  constructor(inputSize: number, hiddenSize: number, options?: RecurrentOptions) {
    super();
    const { bias = true } = known(options, ['bias'], 'nn.GRU');
    size('nn.GRU', 'inputSize', inputSize);
    this.hiddenSize = size('nn.GRU', 'hiddenSize', hiddenSize);
    this.Wx = draw(hiddenSize, [3 * hiddenSize, inputSize]);
    this.Wh = draw(hiddenSize, [3 * hiddenSize, hiddenSize]);
    if (bias) {
      this.b = draw(hiddenSize, [3 * hiddenSize]);
      this.bhn = draw(hiddenSize, [hiddenSize]);
    }
  }

  override extraRepr(): string {
    return `inputDims=${this.Wx.shape[1]}, hiddenSize=${this.hiddenSize}, bias=${this.b !== undefined}`;
  }

  /** Hidden states at all times `[.., T, hiddenSize]`, from the hidden state before the first, or none. */
  forward(x: MxArray, hidden?: MxArray | null): MxArray {
    return native.gru(x, this.Wx, this.Wh, this.b, this.bhn, hidden);
  }
}

/** Long short-term memory (Hochreiter and Schmidhuber 1997). */
export class LSTM extends Module {
  readonly hiddenSize: number;
  Wx: MxArray;
  Wh: MxArray;
  declare bias?: MxArray;

  constructor(inputSize: number, hiddenSize: number, options?: RecurrentOptions) {
    super();
    const { bias = true } = known(options, ['bias'], 'nn.LSTM');
    size('nn.LSTM', 'inputSize', inputSize);
    this.hiddenSize = size('nn.LSTM', 'hiddenSize', hiddenSize);
    this.Wx = draw(hiddenSize, [4 * hiddenSize, inputSize]);
    this.Wh = draw(hiddenSize, [4 * hiddenSize, hiddenSize]);
    if (bias) this.bias = draw(hiddenSize, [4 * hiddenSize]);
  }

  override extraRepr(): string {
    return `inputDims=${this.Wx.shape[1]}, hiddenSize=${this.hiddenSize}, bias=${this.bias !== undefined}`;
  }

  /** Hidden states and cells at all times `[.., T, hiddenSize]`, from those before the first, or none. */
  forward(x: MxArray, hidden?: MxArray | null, cell?: MxArray | null): [MxArray, MxArray] {
    return native.lstm(x, this.Wx, this.Wh, this.bias, hidden, cell) as [MxArray, MxArray];
  }
}
