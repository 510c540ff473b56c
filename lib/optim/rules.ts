/** The optimizers of `mlx.optimizers`, with torch's options beside MLX's. */
import { Optimizer } from './optimizer.js';
import type { OptimizerOptions } from './options.js';

export interface SGDSettings {
  /** Of the running sum of gradients; 0 unless told. */
  momentum?: number;
  /** An L2 penalty, added to the gradient; 0 unless told. */
  weightDecay?: number;
  /** Of the gradient in the momentum; 0 unless told. */
  dampening?: number;
  /** Looks one step ahead. Needs momentum and no dampening. */
  nesterov?: boolean;
  /** Whether the first gradient is dampened like the later ones (true, MLX) or starts the momentum whole (torch). */
  dampenFirst?: boolean;
}

/** Stochastic gradient descent: `v = momentum * v + (1 - dampening) * g`, `w = w - learningRate * v`. */
export class SGD extends Optimizer {
  constructor(options: OptimizerOptions<SGDSettings>) {
    super('SGD', ['momentum', 'weightDecay', 'dampening', 'nesterov', 'dampenFirst'], options);
  }
}

export interface AdamSettings {
  /** Of the first and second moment; [0.9, 0.999] unless told. */
  betas?: readonly [number, number];
  /** Added to the root of the second moment; 1e-8 unless told. */
  eps?: number;
  /** Divides the moments by `1 - beta ** step`, as torch always does; false unless told. */
  biasCorrection?: boolean;
  /** An L2 penalty, added to the gradient; 0 unless told. Torch's. */
  weightDecay?: number;
  /** Divides by the largest second moment so far. Torch's. */
  amsgrad?: boolean;
}

const adamKeys = ['betas', 'eps', 'biasCorrection', 'weightDecay', 'amsgrad'];

/** Adam (Kingma and Ba, 2015): `w = w - learningRate * m / (√v + eps)`. */
export class Adam extends Optimizer {
  constructor(options: OptimizerOptions<AdamSettings>) {
    super('Adam', adamKeys, options);
  }
}

export interface AdamWSettings extends Omit<AdamSettings, 'weightDecay'> {
  /** The weight shrinks by `learningRate * weightDecay` of itself each step; 0.01 unless told. */
  weightDecay?: number;
}

/** Adam with decoupled weight decay (Loshchilov and Hutter, 2019). */
export class AdamW extends Optimizer {
  constructor(options: OptimizerOptions<AdamWSettings>) {
    super('AdamW', adamKeys, options);
  }
}

export interface AdamaxSettings {
  /** Of the mean and the largest gradient; [0.9, 0.999] unless told. */
  betas?: readonly [number, number];
  /** 1e-8 unless told. */
  eps?: number;
}

/** Adam with the largest gradient in place of the second moment, without bias correction. */
export class Adamax extends Optimizer {
  constructor(options: OptimizerOptions<AdamaxSettings>) {
    super('Adamax', ['betas', 'eps'], options);
  }
}

export interface RMSpropSettings {
  /** Of the mean square; 0.99 unless told. */
  alpha?: number;
  /** 1e-8 unless told. */
  eps?: number;
  /** An L2 penalty, added to the gradient; 0 unless told. Torch's. */
  weightDecay?: number;
  /** Of the update; 0 unless told. Torch's. */
  momentum?: number;
  /** Divides by the root of the gradient's variance in place of its mean square. Torch's. */
  centered?: boolean;
}

/** Gradients over the root of their mean square (Tieleman and Hinton, 2012). */
export class RMSprop extends Optimizer {
  constructor(options: OptimizerOptions<RMSpropSettings>) {
    super('RMSprop', ['alpha', 'eps', 'weightDecay', 'momentum', 'centered'], options);
  }
}

export interface AdagradSettings {
  /** 1e-8 unless told. */
  eps?: number;
}

/** Gradients over the root of the sum of their squares (Duchi, Hazan and Singer, 2011). */
export class Adagrad extends Optimizer {
  constructor(options: OptimizerOptions<AdagradSettings>) {
    super('Adagrad', ['eps'], options);
  }
}

export interface AdaDeltaSettings {
  /** Of both mean squares; 0.9 unless told. */
  rho?: number;
  /** 1e-6 unless told. */
  eps?: number;
}

/** Updates in the unit of the weight (Zeiler, 2012). */
export class AdaDelta extends Optimizer {
  constructor(options: OptimizerOptions<AdaDeltaSettings>) {
    super('AdaDelta', ['rho', 'eps'], options);
  }
}

export interface AdafactorSettings {
  /** Added to the squared gradient; the least size of a weight that `scaleParameter` counts with. [1e-30, 1e-3] unless told. */
  eps?: readonly [number, number];
  /** The root mean square of an update is at most this; 1 unless told. */
  clipThreshold?: number;
  /** The second moment's coefficient at step t is `1 - t ** decayRate`; -0.8 unless told. */
  decayRate?: number;
  /** The first moment's coefficient; none is kept unless told. */
  beta1?: number | null;
  /** 0 unless told. */
  weightDecay?: number;
  /** Multiplies the learning rate by the root mean square of the weight; true unless told. */
  scaleParameter?: boolean;
  /** A learning rate of `1 / √step`, at most 0.01, in place of `learningRate`; true unless told. */
  relativeStep?: boolean;
  /** With `relativeStep`: at most 1e-6 times the step in place of 0.01. */
  warmupInit?: boolean;
}

/** Second moments of a matrix from the means of its rows and columns (Shazeer and Stern, 2018). */
export class Adafactor extends Optimizer {
  constructor(options: OptimizerOptions<AdafactorSettings> = {}) {
    const keys = [
      'eps',
      'clipThreshold',
      'decayRate',
      'beta1',
      'weightDecay',
      'scaleParameter',
      'relativeStep',
      'warmupInit',
    ];
    super('Adafactor', keys, options);
  }
}

export interface LionSettings {
  /** Of the direction and of the mean; [0.9, 0.99] unless told. */
  betas?: readonly [number, number];
  /** Decoupled; 0 unless told. */
  weightDecay?: number;
}

/** Steps of one size in the direction of a sign (Chen et al., 2023). Wants a learning rate 3 to 10 times below AdamW's. */
export class Lion extends Optimizer {
  constructor(options: OptimizerOptions<LionSettings>) {
    super('Lion', ['betas', 'weightDecay'], options);
  }
}

export interface MuonSettings {
  /** 0.95 unless told. */
  momentum?: number;
  /** An L2 penalty, added to the gradient; 0.01 unless told. */
  weightDecay?: number;
  /** True unless told. */
  nesterov?: boolean;
  /** Newton-Schulz iterations; 5 unless told. */
  nsSteps?: number;
}

/**
 * Momentum whose update of a matrix is made orthogonal (Jordan et al., 2024). For embeddings, the output head and vectors another
 * optimizer does better: see `MultiOptimizer`.
 */
export class Muon extends Optimizer {
  constructor(options: OptimizerOptions<MuonSettings>) {
    super('Muon', ['momentum', 'weightDecay', 'nesterov', 'nsSteps'], options);
  }
}
