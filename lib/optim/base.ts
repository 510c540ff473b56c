/** What all optimizers do: pair gradients with parameters, and save and restore their state. */
import { MxArray } from '../array/core.js';
import { exempt } from '../array/scope.js';
import { MlxError } from '../errors.js';
import { loadSafetensorsSync, saveSafetensorsSync } from '../io.js';
import { isBranch, treeFlatten, treeMap } from '../tree.js';

/** A parameter with its gradient, and where it is kept. */
export interface Pair {
  path: string;
  parameter: MxArray;
  gradient: MxArray;
  branch: object;
  key: unknown;
}

/** A step that has been computed, and not yet been made the optimizer's state. */
export interface Prepared {
  /** In the order of the pairs. */
  weights: MxArray[];
  commit: () => void;
  abandon: () => void;
}

const childOf = (branch: object, key: string): [unknown, unknown] => {
  if (!(branch instanceof Map)) return [key, (branch as Record<string, unknown>)[key]];
  for (const [own, value] of branch as Map<unknown, unknown>) if (String(own) === key) return [own, value];
  return [key, undefined];
};

const entriesOf = (branch: object): [string, unknown][] =>
  branch instanceof Map ? [...branch].map(([key, value]) => [String(key), value]) : Object.entries(branch);

/** The gradients of a tree with the parameters at the same places. */
function pairsOf(gradients: unknown, parameters: unknown): Pair[] {
  const pairs: Pair[] = [];
  const walk = (branch: object, beside: unknown, prefix: string): void => {
    for (const [name, gradient] of entriesOf(branch)) {
      const isArray = gradient instanceof MxArray;
      if (!isArray && !isBranch(gradient)) continue;
      const path = prefix + name;
      const [key, own] = isBranch(beside) ? childOf(beside, name) : [name, undefined];
      if (!isArray) walk(gradient, own, `${path}.`);
      else if (own instanceof MxArray) pairs.push({ path, parameter: own, gradient, branch: beside as object, key });
      else throw new MlxError('ERR_MLX_ARGUMENT', `there is a gradient '${path}', but no parameter of that name`);
    }
  };
  if (!isBranch(gradients) || !isBranch(parameters)) {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      'an optimizer takes a module or a tree of parameters (an object, list or Map), and gradients of the same form',
    );
  }
  walk(gradients, parameters, '');
  return pairs;
}

/** Something with parameters: a module. */
interface HasParameters {
  trainableParameters: () => unknown;
}

/** The arrays to be trained, by path. */
function parametersOf(parameters: unknown): [string, MxArray][] {
  if (!isBranch(parameters))
    throw new MlxError('ERR_MLX_ARGUMENT', 'init() takes a module or a tree of parameters (an object, list or Map)');
  const isModule = typeof (parameters as Partial<HasParameters>).trainableParameters === 'function';
  return treeFlatten(isModule ? (parameters as HasParameters).trainableParameters() : parameters);
}

/** What every optimizer can do. */
export abstract class BaseOptimizer {
  /**
   * All arrays that a step changes: give it to `mx.compile` as input and output beside the model. Its arrays belong to the optimizer: those
   * that a step replaces are freed.
   */
  abstract readonly state: object;

  /** Steps taken. */
  abstract readonly step: number;

  /**
   * The learning rate of the latest step, or of the first one before any; NaN where the optimizer makes its own. Setting it ends a
   * schedule.
   */
  abstract learningRate: number;

  /** @internal */
  abstract prepare(pairs: readonly Pair[]): Prepared;

  /** @internal Makes parameters known. */
  abstract add(parameters: readonly [string, MxArray][]): void;

  /** @internal Checks arrays by the names of `state` and gives what makes them the state. */
  abstract restore(arrays: ReadonlyMap<string, MxArray>): () => void;

  /** Makes the state for a module's trainable parameters, or those of a tree. The first update does it too. */
  init(parameters: object): this {
    this.add(parametersOf(parameters));
    return this;
  }

  /**
   * One step: replaces the parameters of a module, or of a tree, for which there are gradients. The new arrays are lazy: evaluate them together
   * with `state`, or the graph grows. On an error nothing changes.
   */
  update(model: object, gradients: unknown): void {
    const pairs = pairsOf(gradients, model);
    const { weights, commit } = this.prepare(pairs);
    commit();
    keepAll(weights);
    for (const [i, { branch, key }] of pairs.entries()) {
      if (branch instanceof Map) branch.set(key, weights[i]);
      else (branch as Record<string, unknown>)[key as string] = weights[i];
    }
  }

  /** One step: new parameters in a tree of the form of the gradients; the old ones stay as they are. */
  applyGradients<T>(gradients: T, parameters: object): T {
    const { weights, commit } = this.prepare(pairsOf(gradients, parameters));
    commit();
    let next = 0;
    return treeMap(() => weights[next++]!, gradients) as T;
  }

  /** Writes `state` to a file, whose name gets the extension `.safetensors` where it has none. Waits for the arrays. */
  save(path: string | URL): void {
    saveSafetensorsSync(path, new Map(treeFlatten(this.state).map(([name, array]) => [fileName(name), array])));
  }

  /** Continues from a file of `save`. Parameters must be known: call `init` first. On an error nothing changes. */
  load(path: string | URL): void {
    const file = typeof path !== 'string' || path.endsWith('.safetensors') ? path : `${path}.safetensors`;
    const arrays = loadSafetensorsSync(file, {});
    try {
      this.loadState(arrays);
    } finally {
      for (const array of Object.values(arrays)) array.dispose();
    }
  }

  /** Continues from a copy of `state`, or from its arrays by name. Parameters must be known: call `init` first. On an error nothing changes. */
  loadState(state: object): void {
    this.restore(new Map(treeFlatten(state).map(([name, array]) => [stateName(name), array])))();
  }

  /** Frees the state. */
  dispose(): void {
    for (const [, array] of treeFlatten(this.state)) array.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Lets arrays outlive the function in which they were made. */
export const keepAll = (arrays: readonly MxArray[]): void => arrays.forEach(exempt);

// In files the name of Python.
const fileName = (name: string): string => name.replace(/(^|\.)learningRate$/, '$1learning_rate');
const stateName = (name: string): string => name.replace(/(^|\.)learning_rate$/, '$1learningRate');
