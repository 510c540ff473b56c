/** How the routers of a model with experts use these. */
import { operands, optionalOperand } from './array/convert.js';
import { wrap } from './array/core.js';
import type { ArrayLike, MxArray } from './array/core.js';
import { guard, MlxError } from './errors.js';
import { native } from './native.js';
import { rejectUnknownKeys } from './options.js';

const loss = native().loss;

export interface RouterOptions {
  /** Experts that each token uses: `model.numExpertsPerTok`. */
  numExpertsPerTok: number;
  /** [B, T], 0 at padding. Without it all tokens count. */
  attentionMask?: ArrayLike;
}

function routerUse(routerLogits: readonly ArrayLike[], options: RouterOptions, where: string) {
  rejectUnknownKeys(options, ['numExpertsPerTok', 'attentionMask'], where);
  const { numExpertsPerTok, attentionMask } = options;
  if (!Number.isInteger(numExpertsPerTok)) {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `${where}: numExpertsPerTok must be a whole number, got ${numExpertsPerTok}`,
    );
  }
  return guard(() => loss.routerUse(operands(routerLogits), numExpertsPerTok, optionalOperand(attentionMask)));
}

/**
 * The load-balancing loss of router logits [B, T, experts], one array for each layer, as transformers computes it: `numExpertsPerTok` where
 * all experts are used alike, more where those are used most that are also likeliest. A float32 scalar with a gradient.
 *
 * @example
 * const { routerLogits } = model.forward(ids, { attentionMask, outputRouterLogits: true });
 * const balance = loadBalancingLoss(routerLogits, { numExpertsPerTok: model.numExpertsPerTok!, attentionMask });
 */
export function loadBalancingLoss(routerLogits: readonly ArrayLike[], options: RouterOptions): MxArray {
  return wrap(routerUse(routerLogits, options, 'loadBalancingLoss()').loadBalancingLoss);
}

/**
 * The share of a layer's choices that fell on each of its experts, float32 [layers, experts] without a gradient: each row adds up to 1, and
 * is 1 / experts throughout where all are used alike.
 */
export function expertLoad(routerLogits: readonly ArrayLike[], options: RouterOptions): MxArray {
  return wrap(routerUse(routerLogits, options, 'expertLoad()').load);
}
