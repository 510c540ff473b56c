/**
 * The losses of Python's `mlx.nn.losses`: the same names, defaults and numbers.
 *
 * @module losses
 */
import type { ArrayLike, MxArray } from '../array/core.js';
import { known } from '../array/convert.js';
import * as native from '../generated/nn.js';

/** What becomes of the losses of a batch. */
export type Reduction = 'none' | 'mean' | 'sum';

export interface LossOptions {
  /** Each function says which it takes unless told. */
  reduction?: Reduction;
}

export interface CrossEntropyOptions extends LossOptions {
  /** One factor per loss. */
  weights?: ArrayLike;
  /** The axis of the classes, -1. */
  axis?: number;
  /** The share of the target that goes to all classes alike, in [0, 1). */
  labelSmoothing?: number;
}

/** Cross entropy of `logits` with `targets`: class numbers (one rank less) or probabilities. Reduction: 'none'. */
export function crossEntropy(logits: ArrayLike, targets: ArrayLike, options?: CrossEntropyOptions): MxArray {
  const given = known(options, ['weights', 'axis', 'labelSmoothing', 'reduction'], 'losses.crossEntropy()');
  const { weights, axis = -1, labelSmoothing = 0, reduction = 'none' } = given;
  return native.crossEntropy(logits, targets, weights ?? null, axis, labelSmoothing, reduction);
}

export interface BinaryCrossEntropyOptions extends LossOptions {
  /** One factor per loss. */
  weights?: ArrayLike;
  /** Whether the inputs are logits (true) or probabilities. */
  withLogits?: boolean;
}

/** Binary cross entropy of logits or probabilities with targets in [0, 1]. Reduction: 'mean'. */
export function binaryCrossEntropy(
  inputs: ArrayLike,
  targets: ArrayLike,
  options?: BinaryCrossEntropyOptions,
): MxArray {
  const given = known(options, ['weights', 'withLogits', 'reduction'], 'losses.binaryCrossEntropy()');
  const { weights, withLogits = true, reduction = 'mean' } = given;
  return native.binaryCrossEntropy(inputs, targets, weights ?? null, withLogits, reduction);
}

/** `|prediction - target|`. Reduction: 'mean'. */
export function l1Loss(predictions: ArrayLike, targets: ArrayLike, options?: LossOptions): MxArray {
  return native.l1Loss(predictions, targets, known(options, ['reduction'], 'losses.l1Loss()').reduction ?? 'mean');
}

/** `(prediction - target)²`. Reduction: 'mean'. */
export function mseLoss(predictions: ArrayLike, targets: ArrayLike, options?: LossOptions): MxArray {
  return native.mseLoss(predictions, targets, known(options, ['reduction'], 'losses.mseLoss()').reduction ?? 'mean');
}

export interface AxisLossOptions extends LossOptions {
  /** The axis of the distribution, -1. */
  axis?: number;
}

/** Minus the log-probability (of `inputs`) of each integer target. Reduction: 'none'. */
export function nllLoss(inputs: ArrayLike, targets: ArrayLike, options?: AxisLossOptions): MxArray {
  const { axis = -1, reduction = 'none' } = known(options, ['axis', 'reduction'], 'losses.nllLoss()');
  return native.nllLoss(inputs, targets, axis, reduction);
}

export interface GaussianNllLossOptions extends LossOptions {
  /** With the constant `½ log 2π`. */
  full?: boolean;
  /** The smallest variance, 1e-6. */
  eps?: number;
}

/** Negative log-likelihood of targets under normal distributions of the given means and variances. Reduction: 'mean'. */
export function gaussianNllLoss(
  inputs: ArrayLike,
  targets: ArrayLike,
  vars: ArrayLike,
  options?: GaussianNllLossOptions,
): MxArray {
  const given = known(options, ['full', 'eps', 'reduction'], 'losses.gaussianNllLoss()');
  const { full = false, eps = 1e-6, reduction = 'mean' } = given;
  return native.gaussianNllLoss(inputs, targets, vars, full, eps, reduction);
}

/** Kullback-Leibler divergence over an axis; both sides are log-probabilities. Reduction: 'none'. */
export function klDivLoss(inputs: ArrayLike, targets: ArrayLike, options?: AxisLossOptions): MxArray {
  const { axis = -1, reduction = 'none' } = known(options, ['axis', 'reduction'], 'losses.klDivLoss()');
  return native.klDivLoss(inputs, targets, axis, reduction);
}

/** Squared below `beta` (1), linear above. Reduction: 'mean'. */
export function smoothL1Loss(
  predictions: ArrayLike,
  targets: ArrayLike,
  options?: LossOptions & { beta?: number },
): MxArray {
  const { beta = 1, reduction = 'mean' } = known(options, ['beta', 'reduction'], 'losses.smoothL1Loss()');
  return native.smoothL1Loss(predictions, targets, beta, reduction);
}

/** Squared below `delta` (1), linear above. Reduction: 'none'. */
export function huberLoss(inputs: ArrayLike, targets: ArrayLike, options?: LossOptions & { delta?: number }): MxArray {
  const { delta = 1, reduction = 'none' } = known(options, ['delta', 'reduction'], 'losses.huberLoss()');
  return native.huberLoss(inputs, targets, delta, reduction);
}

export interface TripletLossOptions extends AxisLossOptions {
  /** Of the norm, 2. */
  p?: number;
  margin?: number;
  /** Added to the sum under the root, 1e-6. */
  eps?: number;
}

/** `max(distance to the positive - distance to the negative + margin, 0)`. Reduction: 'none'. */
export function tripletLoss(
  anchors: ArrayLike,
  positives: ArrayLike,
  negatives: ArrayLike,
  options?: TripletLossOptions,
): MxArray {
  const given = known(options, ['axis', 'p', 'margin', 'eps', 'reduction'], 'losses.tripletLoss()');
  const { axis = -1, p = 2, margin = 1, eps = 1e-6, reduction = 'none' } = given;
  return native.tripletLoss(anchors, positives, negatives, axis, p, margin, eps, reduction);
}

/** `max(1 - input · target, 0)` with targets of -1 and 1. Reduction: 'none'. */
export function hingeLoss(inputs: ArrayLike, targets: ArrayLike, options?: LossOptions): MxArray {
  return native.hingeLoss(inputs, targets, known(options, ['reduction'], 'losses.hingeLoss()').reduction ?? 'none');
}

/** `log cosh(input - target)`. Reduction: 'none'. */
export function logCoshLoss(inputs: ArrayLike, targets: ArrayLike, options?: LossOptions): MxArray {
  return native.logCoshLoss(inputs, targets, known(options, ['reduction'], 'losses.logCoshLoss()').reduction ?? 'none');
}

export interface CosineSimilarityLossOptions extends LossOptions {
  /** The axis of the vectors, 1. */
  axis?: number;
  /** The smallest product of norms, 1e-8. */
  eps?: number;
}

/** `x1 · x2 / max(‖x1‖ ‖x2‖, eps)`: a similarity, as in Python. Reduction: 'none'. */
export function cosineSimilarityLoss(x1: ArrayLike, x2: ArrayLike, options?: CosineSimilarityLossOptions): MxArray {
  const given = known(options, ['axis', 'eps', 'reduction'], 'losses.cosineSimilarityLoss()');
  const { axis = 1, eps = 1e-8, reduction = 'none' } = given;
  return native.cosineSimilarityLoss(x1, x2, axis, eps, reduction);
}

/** `max(0, -target · (input1 - input2) + margin)` with targets of -1 and 1. Reduction: 'none'. */
export function marginRankingLoss(
  inputs1: ArrayLike,
  inputs2: ArrayLike,
  targets: ArrayLike,
  options?: LossOptions & { margin?: number },
): MxArray {
  const { margin = 0, reduction = 'none' } = known(options, ['margin', 'reduction'], 'losses.marginRankingLoss()');
  return native.marginRankingLoss(inputs1, inputs2, targets, margin, reduction);
}
