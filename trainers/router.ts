import type { LanguageModel } from '../lib/model.js';
import { configError } from './validate.js';

/**
 * The weight of the routers' load-balancing loss: what the config says, else what the model's own configuration says. Undefined for a
 * model without experts, for which only 0 may be given.
 */
export function resolveRouterAuxLossCoef(
  given: number | undefined,
  model: LanguageModel,
  where: string,
): number | undefined {
  const own = model.handle.routerAuxLossCoef ?? undefined;
  if (own !== undefined) return given ?? own;
  if (given === undefined || given === 0) return undefined;
  const problem = `routerAuxLossCoef is ${given}, but this ${model.modelType} has no experts to balance; leave it out`;
  throw configError([problem], where);
}
