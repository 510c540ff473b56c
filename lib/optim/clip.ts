/** Gradient clipping. Norms stay lazy, so that a step evaluates them together with its weights. */
import { handleOf, wrap, wrapAll } from '../array/core.js';
import type { MxArray } from '../array/core.js';
import { guard } from '../errors.js';
import { native } from '../native.js';
import type { ArrayHandle } from '../native-types.js';
import { treeLeaves, treeMap } from '../tree.js';

/** The tree with other arrays, in order. */
function filled<T>(tree: T, handles: ArrayHandle[]): T {
  const arrays = wrapAll(handles);
  let next = 0;
  return treeMap(() => arrays[next++]!, tree) as T;
}

/** The Euclidean norm over all elements of all arrays of a tree: a float32 scalar. */
export function globalNorm(gradients: unknown): MxArray {
  return wrap(guard(() => native().optim.globalNorm(treeLeaves(gradients).map(handleOf)) as ArrayHandle));
}

/**
 * Gradients scaled so that their global norm is at most `maxNorm`, and the norm before: by `maxNorm / (norm + 1e-6)`, as
 * `torch.nn.utils.clip_grad_norm_` and Python's `optim.clip_grad_norm`. A norm that is not finite gives gradients that are not.
 */
export function clipGradNorm<T>(gradients: T, maxNorm: number): [T, MxArray] {
  const leaves = treeLeaves(gradients).map(handleOf);
  const handles = guard(() => native().optim.clipGradNorm(leaves, maxNorm) as ArrayHandle[]);
  const norm = wrap(handles.pop()!);
  return [filled(gradients, handles), norm];
}

/** Gradients with every element inside `[-clipValue, clipValue]`, as `torch.nn.utils.clip_grad_value_`. */
export function clipGradValue<T>(gradients: T, clipValue: number): T {
  const leaves = treeLeaves(gradients).map(handleOf);
  return filled(
    gradients,
    guard(() => native().optim.clipGradValue(leaves, clipValue) as ArrayHandle[]),
  );
}
