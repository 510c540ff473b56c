/** Running the graphs behind trees of arrays: models, states of optimizers, results. */
import { evalAll, evalAsync as evalArrays, MxArray } from './array/core.js';
import { MlxError } from './errors.js';
import { isBranch, treeLeaves } from './tree.js';
import type { Tree } from './tree.js';

function leavesOf(trees: readonly Tree[], where: string): MxArray[] {
  for (const tree of trees) {
    if (tree instanceof MxArray || isBranch(tree)) continue;
    const what = tree === null ? 'null' : typeof tree === 'object' ? `a ${tree?.constructor.name}` : typeof tree;
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `${where} takes arrays, and lists, Maps, objects and modules of arrays, not ${what}`,
    );
  }
  return treeLeaves(trees);
}

/**
 * Runs the graphs behind arrays and trees of arrays, together, and waits: `mx.eval(loss, model.parameters(), optimizer.state)`.
 * Reading values does it by itself; training loops call it once a step.
 */
function evaluate(...trees: readonly Tree[]): void {
  evalAll(...leavesOf(trees, 'mx.eval()'));
}

export { evaluate as eval };

/** `mx.eval` without blocking the event loop; the garbage collector can free arrays meanwhile. */
export async function evalAsync(...trees: readonly Tree[]): Promise<void> {
  await evalArrays(...leavesOf(trees, 'mx.evalAsync()'));
}
