/** Trees: arrays in lists, Maps and plain objects, as functions take and return them. */
import { MxArray } from './array/core.js';
import { describeValue } from './array/describe.js';
import { list, mustBeFunction } from './array/guards.js';
import { MlxError } from './errors.js';

/** Objects of a class that count as trees by their own enumerable properties: modules, optimizers' states. */
export const treeSymbol: unique symbol = Symbol.for('mlx-node.tree') as never;

/** Arrays in lists and plain objects, with other values between them. */
export type Tree = unknown;

/** `T` with every array replaced by `R`. */
export type MapTree<T, R> = T extends MxArray ? R : T extends object ? { [K in keyof T]: MapTree<T[K], R> } : T;

/** True for what is walked into: lists, Maps, plain objects and objects that carry `treeSymbol`. */
export function isBranch(value: unknown): value is object {
  if (typeof value !== 'object' || value === null || value instanceof MxArray) return false;
  if (Array.isArray(value)) return Array.isArray(list(value));
  if (value instanceof Map || treeSymbol in value) return true;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function childrenOf(branch: object): [string, unknown][] {
  if (branch instanceof Map) return [...branch].map(([key, value]) => [String(key), value]);
  return Object.entries(branch);
}

const join = (prefix: string, name: string): string => (prefix === '' ? name : `${prefix}.${name}`);

function visit(tree: unknown, path: string, leaf: (value: unknown, path: string) => void, above: Set<object>): void {
  if (!isBranch(tree)) return leaf(tree, path);
  if (above.has(tree)) {
    throw new MlxError('ERR_MLX_ARGUMENT', `the tree contains itself at '${path}'; trees of arrays must end`);
  }
  above.add(tree);
  for (const [name, child] of childrenOf(tree)) visit(child, join(path, name), leaf, above);
  above.delete(tree);
}

/** @internal Every leaf of a tree with its path, arrays and others. */
export const visitLeaves = (tree: Tree, leaf: (value: unknown, path: string) => void): void =>
  visit(tree, '', leaf, new Set());

/** The arrays of a tree with their paths, such as `['layers.0.weight', array]`, in a fixed order. */
export function treeFlatten(tree: Tree): [string, MxArray][] {
  const leaves: [string, MxArray][] = [];
  visit(tree, '', (value, path) => value instanceof MxArray && leaves.push([path, value]), new Set());
  return leaves;
}

/** The arrays of a tree, in the order of `treeFlatten`. */
export const treeLeaves = (tree: Tree): MxArray[] => treeFlatten(tree).map(([, array]) => array);

/** A tree of the same form with every array replaced; what is no array stays. Objects become plain ones. */
export function treeMap<T, R>(replace: (array: MxArray, path: string) => R, tree: T): MapTree<T, R> {
  mustBeFunction(replace, 'treeMap()');
  const walk = (value: unknown, path: string): unknown => {
    if (value instanceof MxArray) return replace(value, path);
    if (!isBranch(value)) return value;
    if (Array.isArray(value)) return value.map((child, i) => walk(child, join(path, String(i))));
    if (value instanceof Map)
      return new Map([...value].map(([key, child]) => [key, walk(child, join(path, String(key)))]));
    return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, walk(child, join(path, key))]));
  };
  visit(tree, '', () => undefined, new Set());
  return walk(tree, '') as MapTree<T, R>;
}

/** `treeMap`, whose function is given the path before the array, as in Python. */
export const treeMapWithPath = <T, R>(replace: (path: string, array: MxArray) => R, tree: T): MapTree<T, R> => {
  mustBeFunction(replace, 'treeMapWithPath()');
  return treeMap((array, path) => replace(path, array), tree);
};

/** `combine` over the arrays of a tree in their order, from `initial`, or from the first one without it. */
export function treeReduce(combine: (sum: MxArray, array: MxArray) => MxArray, tree: Tree): MxArray;
export function treeReduce<R>(combine: (sum: R, array: MxArray) => R, tree: Tree, initial: R): R;
export function treeReduce(
  combine: (sum: never, array: MxArray) => unknown,
  tree: Tree,
  ...initial: unknown[]
): unknown {
  mustBeFunction(combine, 'treeReduce()');
  const arrays = treeLeaves(tree);
  if (initial.length === 0 && arrays.length === 0)
    throw new MlxError('ERR_MLX_ARGUMENT', 'treeReduce(): of a tree without arrays, an initial value is needed');
  const first: unknown = initial.length === 0 ? arrays.shift() : initial[0];
  return arrays.reduce<unknown>((sum, array) => combine(sum as never, array), first);
}

const isNothing = (tree: unknown): boolean =>
  tree === undefined || tree === null || (isBranch(tree) && childrenOf(tree).length === 0);

/**
 * Two trees as one: what only one of them has is taken from it, and `merge` decides where both have a leaf; without it that is an error. `{}`,
 * `[]`, null and undefined count as having nothing, so that trees of different parameters of a model can be put together.
 */
export function treeMerge(a: Tree, b: Tree, merge?: (a: unknown, b: unknown) => unknown): Tree {
  if (merge !== undefined) mustBeFunction(merge, 'treeMerge()');
  visitLeaves(a, () => undefined);
  visitLeaves(b, () => undefined);
  const walk = (left: unknown, right: unknown, path: string): unknown => {
    if (isNothing(left)) return right;
    if (isNothing(right)) return left;
    if (isBranch(left) && isBranch(right) && Array.isArray(left) === Array.isArray(right)) {
      const [ours, theirs] = [new Map(childrenOf(left)), new Map(childrenOf(right))];
      const names = [...new Set([...ours.keys(), ...theirs.keys()])];
      const children = names.map((name) => walk(ours.get(name), theirs.get(name), join(path, name)));
      return Array.isArray(left) ? children : Object.fromEntries(names.map((name, i) => [name, children[i]]));
    }
    if (merge === undefined || isBranch(left) || isBranch(right))
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `treeMerge(): both trees have something at '${path}', which cannot be put together`,
      );
    return merge(left, right);
  };
  return walk(a, b, '');
}

const notPairs = (what: string): MlxError =>
  new MlxError('ERR_MLX_ARGUMENT', `treeUnflatten takes pairs [path, array], not ${what}`);

function* pairsOf(entries: Iterable<readonly [string, MxArray]>): Generator<readonly [string, MxArray]> {
  if (typeof entries !== 'object' || entries === null || !(Symbol.iterator in entries))
    throw notPairs(describeValue(entries));
  for (const entry of entries) {
    if (!Array.isArray(entry) || typeof entry[0] !== 'string') throw notPairs(`one with ${describeValue(entry)}`);
    yield entry as readonly [string, MxArray];
  }
}

/** Objects nested by the dots of the paths; a level of the names 0, 1, … becomes a list. The inverse of `treeFlatten`. */
export function treeUnflatten(entries: Iterable<readonly [string, MxArray]>): Tree {
  const root = new Map<string, unknown>();
  for (const [path, array] of pairsOf(entries)) {
    const names = path.split('.');
    let branch = root;
    for (const name of names.slice(0, -1)) {
      let next = branch.get(name);
      if (!(next instanceof Map)) branch.set(name, (next = new Map<string, unknown>()));
      branch = next as Map<string, unknown>;
    }
    branch.set(names.at(-1)!, array);
  }
  const plain = (value: unknown): unknown => {
    if (!(value instanceof Map)) return value;
    const keys = [...(value as Map<string, unknown>).keys()];
    const children = [...(value as Map<string, unknown>).values()].map(plain);
    if (keys.length > 0 && keys.every((key) => /^\d+$/.test(key))) {
      return keys
        .map((key, i) => [Number(key), children[i]] as const)
        .toSorted(([a], [b]) => a - b)
        .map(([, child]) => child);
    }
    return Object.fromEntries(keys.map((key, i) => [key, children[i]]));
  };
  return plain(root);
}

/** @internal The form of a tree: what tells two apart that differ in more than the values of their arrays. */
export function treeForm(tree: Tree): string {
  const text = (value: unknown): string => {
    if (value instanceof MxArray) return 'A';
    if (Array.isArray(value)) return `[${value.map(text).join()}]`;
    if (isBranch(value))
      return `{${childrenOf(value)
        .map(([key, child]) => `${JSON.stringify(key)}:${text(child)}`)
        .join()}}`;
    if (typeof value === 'function' || typeof value === 'symbol' || (typeof value === 'object' && value !== null))
      return identity(value);
    return typeof value === 'bigint'
      ? `${value}n`
      : Object.is(value, -0)
        ? '-0'
        : (JSON.stringify(value) ?? 'undefined') +
          (typeof value === 'number' && !Number.isFinite(value) ? String(value) : '');
  };
  return text(tree);
}

const numbers = new WeakMap<object | symbol, number>();
let count = 0;

/** A name for a value that is compared by identity. */
function identity(value: object | symbol | Function): string {
  if (typeof value === 'symbol') return String(value);
  let number = numbers.get(value);
  if (number === undefined) numbers.set(value, (number = count++));
  return `#${number}`;
}

const entriesOf = (branch: object): [unknown, unknown][] =>
  branch instanceof Map ? [...(branch as Map<unknown, unknown>)] : Object.entries(branch);

function put(branch: object, key: unknown, value: unknown): void {
  if (branch instanceof Map) branch.set(key, value);
  else (branch as Record<string, unknown>)[key as string] = value;
}

/** @internal Puts arrays into the places of the arrays of a tree, in order, changing the tree itself. */
export function treeAssign(tree: Tree, arrays: readonly MxArray[]): void {
  let next = 0;
  const walk = (branch: object): void => {
    for (const [key, value] of entriesOf(branch)) {
      if (value instanceof MxArray) put(branch, key, arrays[next++]!);
      else if (isBranch(value)) walk(value);
    }
  };
  if (!isBranch(tree)) {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      'captured state must be a list, a Map, an object or a module that holds the arrays',
    );
  }
  walk(tree);
}

/** @internal Remembers which arrays a tree holds where; `restore` puts them back, and takes out what came later when asked to. */
export function treeSnapshot(tree: Tree): { restore: (removeNew: boolean) => void } {
  const places: { branch: object; entries: [unknown, unknown][] }[] = [];
  const walk = (branch: unknown): void => {
    if (!isBranch(branch)) return;
    const entries = entriesOf(branch);
    places.push({ branch, entries });
    for (const [, child] of entries) walk(child);
  };
  walk(tree);
  return {
    restore: (removeNew) => {
      for (const { branch, entries } of places) {
        if (removeNew && !Array.isArray(branch)) {
          const keys = new Set(entries.map(([key]) => key));
          for (const [key] of entriesOf(branch)) {
            if (keys.has(key)) continue;
            if (branch instanceof Map) branch.delete(key);
            else delete (branch as Record<string, unknown>)[key as string];
          }
        }
        for (const [key, value] of entries) if (value instanceof MxArray) put(branch, key, value);
      }
    },
  };
}
