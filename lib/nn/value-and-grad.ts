/** Gradients of a function with respect to the parameters of a module. */
import type { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import { differentiate } from '../transforms.js';
import { treeFlatten, treeLeaves, treeSnapshot } from '../tree.js';
import { membersOf, Module, setMember } from './module.js';
import type { ParameterTree } from './module.js';
import { checkUpdate } from './update.js';

/**
 * A function that returns what `fn` returns and the gradient of its first array, a scalar, with respect to the trainable parameters of
 * `module`: a tree like `module.trainableParameters()`. Further arrays in what `fn` returns are auxiliary. As Python's
 * `nn.value_and_grad`.
 *
 * Afterwards the module holds its own arrays; arrays that the forward pass put into it, such as running statistics, stay. An error leaves
 * the module as it was.
 *
 * @example
 * const lossAndGrad = nn.valueAndGrad(model, (x: MxArray, y: MxArray) => nn.losses.mseLoss(model.forward(x), y));
 * const [loss, gradients] = lossAndGrad(x, y);
 * optimizer.update(model, gradients);
 */
export function valueAndGrad<A extends readonly unknown[], R>(
  module: Module,
  fn: (...args: A) => R,
): (...args: A) => [R, ParameterTree] {
  if (!(module instanceof Module))
    throw new MlxError('ERR_MLX_ARGUMENT', 'nn.valueAndGrad() takes a module and a function of its output');
  if (typeof fn !== 'function')
    throw new MlxError('ERR_MLX_ARGUMENT', `nn.valueAndGrad() takes a function, not ${typeof fn}`);
  return (...args) => {
    const trainable = module.trainableParameters();
    const before = treeSnapshot(module);
    const owned = new Set(treeLeaves(module));
    let assigned: MxArray[] = [];
    let done = false;
    try {
      const { value, gradients } = differentiate(
        ([parameters]) => {
          const traced = treeLeaves(parameters);
          for (const replace of checkUpdate(module, parameters, false, 'parameter')) replace();
          const result = fn(...args);
          const standIns = new Set(traced);
          assigned = treeLeaves(module).filter((array) => !owned.has(array) && !standIns.has(array));
          return result;
        },
        [trainable],
        'nn.valueAndGrad()',
        () => assigned,
      );
      done = true;
      return [value, gradients[0] as ParameterTree];
    } finally {
      const fresh = new Set(done ? assigned : []);
      const after = treeFlatten(module).filter(([, array]) => fresh.has(array));
      before.restore(!done);
      put(module, after);
    }
  };
}

/** Puts arrays to the places where they were found. */
function put(module: Module, entries: readonly [string, MxArray][]): void {
  for (const [path, array] of entries) {
    const names = path.split('.');
    let branch: object = module;
    for (const name of names.slice(0, -1)) branch = memberOf(branch, name);
    setMember(branch, names.at(-1)!, array);
  }
}

const memberOf = (branch: object, name: string): object =>
  (branch instanceof Map
    ? membersOf(branch).find(([key]) => key === name)![1]
    : (branch as Record<string, unknown>)[name]) as object;
