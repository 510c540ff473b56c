/** The activations of Python's `mlx.nn`, as functions and as modules. */
import { known } from '../array/convert.js';
import type { ArrayLike, MxArray } from '../array/core.js';
import {
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
  sigmoid,
  silu,
  softmaxOverLast as softmax,
  softmin,
  softplus,
  softshrink,
  softsign,
  step,
  swiglu,
  tanh,
};

/** `gelu` through tanh. */
export const geluApprox = (x: ArrayLike): MxArray => gelu(x, 'tanh');

/** `x · sigmoid(1.702 x)` */
export const geluFastApprox = (x: ArrayLike): MxArray => gelu(x, 'fast');

/** The first half of an axis times the sigmoid of the second. */
export class GLU extends Module {
  constructor(readonly axis = -1) {
    super();
  }

  forward(x: MxArray): MxArray {
    return glu(x, this.axis);
  }
}

/** `1 / (1 + e^-x)` */
export class Sigmoid extends Module {
  forward(x: MxArray): MxArray {
    return sigmoid(x);
  }
}

/** `x · tanh(softplus(x))` */
export class Mish extends Module {
  forward(x: MxArray): MxArray {
    return mish(x);
  }
}

/** `max(x, 0)` */
export class ReLU extends Module {
  forward(x: MxArray): MxArray {
    return relu(x);
  }
}

/** `max(x, 0)²` */
export class ReLU2 extends Module {
  forward(x: MxArray): MxArray {
    return relu2(x);
  }
}

/** `min(max(x, 0), 6)` */
export class ReLU6 extends Module {
  forward(x: MxArray): MxArray {
    return relu6(x);
  }
}

/** `x` where positive, else `negativeSlope · x`. */
export class LeakyReLU extends Module {
  constructor(readonly negativeSlope = 0.01) {
    super();
  }

  forward(x: MxArray): MxArray {
    return leakyRelu(x, this.negativeSlope);
  }
}

/** `x` where positive, else `alpha · (e^x - 1)`. */
export class ELU extends Module {
  constructor(readonly alpha = 1) {
    super();
  }

  forward(x: MxArray): MxArray {
    return elu(x, this.alpha);
  }
}

/** `exp(x) / sum(exp(x))` over an axis (-1). */
function softmaxOverLast(x: ArrayLike, axis = -1): MxArray {
  return softmax(x, axis);
}

/** Softmax over the last axis. */
export class Softmax extends Module {
  forward(x: MxArray): MxArray {
    return softmax(x, -1);
  }
}

/** `log(1 + e^x)` */
export class Softplus extends Module {
  forward(x: MxArray): MxArray {
    return softplus(x);
  }
}

/** `x / (1 + |x|)` */
export class Softsign extends Module {
  forward(x: MxArray): MxArray {
    return softsign(x);
  }
}

/** `x` moved by `lambda` towards 0, and 0 in between. */
export class Softshrink extends Module {
  constructor(readonly lambda = 0.5) {
    super();
  }

  forward(x: MxArray): MxArray {
    return softshrink(x, this.lambda);
  }
}

/** `max(x, 0) + min(0, alpha · (e^(x / alpha) - 1))` */
export class CELU extends Module {
  constructor(readonly alpha = 1) {
    super();
  }

  forward(x: MxArray): MxArray {
    return celu(x, this.alpha);
  }
}

/** `x · sigmoid(x)` */
export class SiLU extends Module {
  forward(x: MxArray): MxArray {
    return silu(x);
  }
}

/** Logarithm of the softmax over the last axis. */
export class LogSoftmax extends Module {
  forward(x: MxArray): MxArray {
    return logSoftmax(x);
  }
}

/** `log(sigmoid(x))` */
export class LogSigmoid extends Module {
  forward(x: MxArray): MxArray {
    return logSigmoid(x);
  }
}

/** `max(0, x) + weight · min(0, x)` with a learned weight: one number, or one per feature. */
export class PReLU extends Module {
  weight: MxArray;

  constructor(numParameters = 1, options?: { init?: number }) {
    super();
    const { init = 0.25 } = known(options, ['init'], 'nn.PReLU');
    this.weight = full([numParameters], init);
  }

  forward(x: MxArray): MxArray {
    return prelu(x, this.weight);
  }
}

export type GeluApproximation = 'none' | 'precise' | 'tanh' | 'fast';

/** Gaussian error linear unit: exact, through tanh ('precise', 'tanh') or through the sigmoid ('fast'). */
export class GELU extends Module {
  constructor(readonly approx: GeluApproximation = 'none') {
    super();
    if (!['none', 'precise', 'tanh', 'fast'].includes(approx)) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `the approximation of GELU must be none, precise, tanh or fast, not '${String(approx)}'`,
      );
    }
  }

  forward(x: MxArray): MxArray {
    return gelu(x, this.approx);
  }
}

/** The hyperbolic tangent. */
export class Tanh extends Module {
  forward(x: MxArray): MxArray {
    return tanh(x);
  }
}

/** `x · min(max(x + 3, 0), 6) / 6` */
export class Hardswish extends Module {
  forward(x: MxArray): MxArray {
    return hardswish(x);
  }
}

/** 1 where `x >= threshold`, else 0, as int32. */
export class Step extends Module {
  constructor(readonly threshold = 0) {
    super();
  }

  forward(x: MxArray): MxArray {
    return step(x, this.threshold);
  }
}

/** ELU with the constants of self-normalising networks. */
export class SELU extends Module {
  forward(x: MxArray): MxArray {
    return selu(x);
  }
}

/** `min(max(x, -1), 1)` */
export class HardTanh extends Module {
  forward(x: MxArray): MxArray {
    return hardTanh(x);
  }
}

/** `x` where `|x| > lambda`, else 0. */
export class HardShrink extends Module {
  constructor(readonly lambda = 0.5) {
    super();
  }

  forward(x: MxArray): MxArray {
    return hardShrink(x, this.lambda);
  }
}

/** Softmax of `-x` over the last axis. */
export class Softmin extends Module {
  forward(x: MxArray): MxArray {
    return softmin(x);
  }
}
