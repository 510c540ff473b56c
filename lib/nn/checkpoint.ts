/** Recomputation instead of memory. */
import { checkpoint as recompute } from '../transforms.js';
import { treeSnapshot } from '../tree.js';
import { checkUpdate } from './update.js';
import type { Module, ParameterTree, Untyped } from './module.js';

/**
 * `module.forward`, or `fn` which uses the module, computed again by a gradient instead of kept. As Python's `nn.utils.checkpoint`. What it
 * assigns into the module is dropped.
 */
export function checkpoint<A extends readonly unknown[], R = Untyped>(
  module: Module,
  fn?: (...args: A) => R,
): (...args: A) => R {
  const forward = fn ?? ((...args: A): R => module.forward(...args) as R);
  const recomputed = recompute((parameters: ParameterTree, ...args: A): R => {
    const before = treeSnapshot(module);
    try {
      for (const replace of checkUpdate(module, parameters, false, 'parameter')) replace();
      return forward(...args);
    } finally {
      before.restore(true);
    }
  });
  return (...args) => recomputed(module.trainableParameters(), ...args);
}
