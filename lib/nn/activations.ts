/** The activations of Python's `mlx.nn`, as functions and as modules. */
import { known } from '../array/convert.js';
import type { ArrayLike, MxArray } from '../array/core.js';
import * as native from '../generated/nn.js';
import { full, sigmoid, silu, softmax, tanh } from '../generated/ops.js';
import { MlxError } from '../errors.js';
import { Module } from './module.js';

export {
  celu,
  elu,
  gelu,
  glu,
  hardShrink,
  hardswish,
  hardTanh,
  leakyRelu,
  logSigmoid,
  logSoftmax,
  mish,
  prelu,
  relu,
  relu2,
  relu6,
  selu,
  softmin,
  softplus,
  softshrink,
  softsign,
  step,
  swiglu,
} from '../generated/nn.js';
export { sigmoid, silu, tanh } from '../generated/ops.js';
export { softmaxOverLast as softmax };

/** `exp(x) / sum(exp(x))` over an axis (-1). */
function softmaxOverLast(x: ArrayLike, axis = -1): MxArray {
  return softmax(x, axis);
}

/** `gelu` through tanh. */
export const geluApprox = (x: ArrayLike): MxArray => native.gelu(x, 'tanh');

/** `x · sigmoid(1.702 x)` */
export const geluFastApprox = (x: ArrayLike): MxArray => native.gelu(x, 'fast');

/** A function as a module. */
abstract class Activation extends Module {
  readonly #function: (x: MxArray) => MxArray;

  constructor(fn: (x: MxArray) => MxArray) {
    super();
    this.#function = fn;
  }

  forward(x: MxArray): MxArray {
    return this.#function(x);
  }
}

/** The base of the module of a function. */
function moduleOf(fn: (x: MxArray) => MxArray): new () => Activation {
  return class extends Activation {
    constructor() {
      super(fn);
    }
  };
}

/** The base of the module of a function with a number, which the module shows under `name` and which is `standard` unless told. */
function moduleWith<Name extends string>(
  fn: (x: MxArray, value: number) => MxArray,
  name: Name,
  standard: number,
): new (value?: number) => Activation & { readonly [Key in Name]: number } {
  class Parametrized extends Activation {
    constructor(value = standard) {
      super((x) => fn(x, value));
      Object.assign(this, { [name]: value });
    }
  }
  return Parametrized as unknown as new (value?: number) => Activation & { readonly [Key in Name]: number };
}

/** `1 / (1 + e^-x)` */
export class Sigmoid extends moduleOf(sigmoid) {}

/** `x · tanh(softplus(x))` */
export class Mish extends moduleOf(native.mish) {}

/** `max(x, 0)` */
export class ReLU extends moduleOf(native.relu) {}

/** `max(x, 0)²` */
export class ReLU2 extends moduleOf(native.relu2) {}

/** `min(max(x, 0), 6)` */
export class ReLU6 extends moduleOf(native.relu6) {}

/** Softmax over the last axis. */
export class Softmax extends moduleOf((x) => softmax(x, -1)) {}

/** Softmax of `-x` over the last axis. */
export class Softmin extends moduleOf((x) => native.softmin(x)) {}

/** Logarithm of the softmax over the last axis. */
export class LogSoftmax extends moduleOf((x) => native.logSoftmax(x)) {}

/** `log(1 + e^x)` */
export class Softplus extends moduleOf(native.softplus) {}

/** `x / (1 + |x|)` */
export class Softsign extends moduleOf(native.softsign) {}

/** `x · sigmoid(x)` */
export class SiLU extends moduleOf(silu) {}

/** `log(sigmoid(x))` */
export class LogSigmoid extends moduleOf(native.logSigmoid) {}

/** The hyperbolic tangent. */
export class Tanh extends moduleOf(tanh) {}

/** `x · min(max(x + 3, 0), 6) / 6` */
export class Hardswish extends moduleOf(native.hardswish) {}

/** ELU with the constants of self-normalising networks. */
export class SELU extends moduleOf(native.selu) {}

/** `min(max(x, -1), 1)` */
export class HardTanh extends moduleOf(native.hardTanh) {}

/** The first half of an axis (-1) times the sigmoid of the second. */
export class GLU extends moduleWith(native.glu, 'axis', -1) {}

/** `x` where positive, else `negativeSlope · x` (0.01). */
export class LeakyReLU extends moduleWith(native.leakyRelu, 'negativeSlope', 0.01) {}

/** `x` where positive, else `alpha · (e^x - 1)`, with an alpha of 1 unless told. */
export class ELU extends moduleWith(native.elu, 'alpha', 1) {}

/** `max(x, 0) + min(0, alpha · (e^(x / alpha) - 1))`, with an alpha of 1 unless told. */
export class CELU extends moduleWith(native.celu, 'alpha', 1) {}

/** `x` moved by `lambda` (0.5) towards 0, and 0 in between. */
export class Softshrink extends moduleWith(native.softshrink, 'lambda', 0.5) {}

/** `x` where `|x| > lambda` (0.5), else 0. */
export class HardShrink extends moduleWith(native.hardShrink, 'lambda', 0.5) {}

/** 1 where `x >= threshold` (0), else 0, as int32. */
export class Step extends moduleWith(native.step, 'threshold', 0) {}

/** `max(0, x) + weight · min(0, x)` with a learned weight: one number, or one per feature. */
export class PReLU extends Module {
  weight: MxArray;

  constructor(numParameters = 1, options?: { init?: number }) {
    super();
    const { init = 0.25 } = known(options, ['init'], 'nn.PReLU');
    this.weight = full([numParameters], init);
  }

  forward(x: MxArray): MxArray {
    return native.prelu(x, this.weight);
  }
}

export type GeluApproximation = 'none' | 'precise' | 'tanh' | 'fast';

const approximations: ReadonlySet<string> = new Set<GeluApproximation>(['none', 'precise', 'tanh', 'fast']);

/** Gaussian error linear unit: exact, through tanh ('precise', 'tanh') or through the sigmoid ('fast'). */
export class GELU extends Activation {
  constructor(readonly approx: GeluApproximation = 'none') {
    super((x) => native.gelu(x, approx));
    if (!approximations.has(approx)) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `the approximation of GELU must be none, precise, tanh or fast, not '${String(approx)}'`,
      );
    }
  }
}
