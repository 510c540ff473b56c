/** Several optimizers, each for its own parameters. */
import type { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import { BaseOptimizer } from './base.js';
import type { Pair, Prepared } from './base.js';

/** Whether a parameter belongs to an optimizer, by its path and its array (the gradient in an update, as in Python). */
export type ParameterFilter = (name: string, array: MxArray) => boolean;

/**
 * Optimizers that share a model, as Python's `MultiOptimizer`: a parameter belongs to the first optimizer whose filter accepts it, and
 * to the last, which has no filter, where none does.
 *
 * @example
 * new MultiOptimizer([new Muon({ learningRate: 0.02 }), new AdamW({ learningRate: 1e-3 })], [(name, g) => g.ndim === 2])
 */
export class MultiOptimizer extends BaseOptimizer {
  readonly state: { states: object[] };

  constructor(
    readonly optimizers: readonly BaseOptimizer[],
    readonly filters: readonly ParameterFilter[] = [],
  ) {
    super();
    if (
      !Array.isArray(optimizers) ||
      optimizers.length === 0 ||
      !optimizers.every((one) => one instanceof BaseOptimizer)
    )
      throw new MlxError('ERR_MLX_ARGUMENT', 'MultiOptimizer() takes a list of optimizers, at least one');
    if (!Array.isArray(filters) || filters.length !== optimizers.length - 1) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `MultiOptimizer() takes a filter for each optimizer but the last: ${optimizers.length - 1}, not ${filters?.length}`,
      );
    }
    if (new Set(optimizers).size !== optimizers.length)
      throw new MlxError('ERR_MLX_ARGUMENT', 'MultiOptimizer() got the same optimizer twice');
    this.state = { states: optimizers.map((optimizer) => optimizer.state) };
  }

  get step(): number {
    return Math.max(...this.optimizers.map((optimizer) => optimizer.step));
  }

  /** The first optimizer's; setting it sets that of all. */
  get learningRate(): number {
    return this.optimizers[0]!.learningRate;
  }

  set learningRate(rate: number) {
    for (const optimizer of this.optimizers) optimizer.learningRate = rate;
  }

  #ownerOf(path: string, array: MxArray): number {
    const found = this.filters.findIndex((filter) => filter(path, array));
    return found < 0 ? this.optimizers.length - 1 : found;
  }

  /** @internal */
  add(parameters: readonly [string, MxArray][]): void {
    const owners = parameters.map(([path, array]) => this.#ownerOf(path, array));
    for (const [i, optimizer] of this.optimizers.entries())
      optimizer.add(parameters.filter((_, at) => owners[at] === i));
  }

  /** @internal */
  prepare(pairs: readonly Pair[]): Prepared {
    const owners = pairs.map(({ path, gradient }) => this.#ownerOf(path, gradient));
    const steps: Prepared[] = [];
    const abandon = (): void => steps.forEach((step) => step.abandon());
    try {
      for (const [i, optimizer] of this.optimizers.entries())
        steps.push(optimizer.prepare(pairs.filter((_, at) => owners[at] === i)));
    } catch (error) {
      abandon();
      throw error;
    }
    const next = steps.map(() => 0);
    const weights = owners.map((owner) => steps[owner]!.weights[next[owner]!++]!);
    return { weights, commit: () => steps.forEach((step) => step.commit()), abandon };
  }

  /** @internal */
  restore(arrays: ReadonlyMap<string, MxArray>): () => void {
    const parts = this.optimizers.map(() => new Map<string, MxArray>());
    for (const [name, array] of arrays) {
      const [, place, rest] = /^states\.(\d+)\.(.+)$/.exec(name) ?? [];
      const part = place === undefined ? undefined : parts[Number(place)];
      if (part === undefined)
        throw new MlxError('ERR_MLX_ARGUMENT', `the optimizer state's '${name}' has no place here`);
      part.set(rest!, array);
    }
    const restores = this.optimizers.map((optimizer, i) => optimizer.restore(parts[i]!));
    return () => restores.forEach((restore) => restore());
  }
}
