/** What every layer is: a tree of arrays and other modules, under the names of its properties. */
import { evalAll, MxArray } from '../array/core.js';
import type { Dtype } from '../array/core.js';
import { exempt } from '../array/scope.js';
import { MlxError } from '../errors.js';
import { astype } from '../generated/ops.js';
import { nearestName } from '../options.js';
import { treeFlatten, treeLeaves, treeSymbol } from '../tree.js';
import type { Tree } from '../tree.js';
import { describeModule } from './inspect.js';
import { checkUpdate } from './update.js';
import { loadInto, saveFrom } from './weights.js';
import type { WeightEntries } from './weights.js';

/** What only a module's own class knows: arguments and results of its `forward`, the form of its trees. */
// oxlint-disable-next-line typescript/no-explicit-any -- `unknown` would ask for a cast at every use of a layer
export type Untyped = any;

/** Arrays nested by the names of a module's properties. Layers without any are empty objects, so that lists keep their positions. */
export type ParameterTree = { [name: string]: Untyped };

/** Modules nested by the names of a module's properties. */
export type ModuleTree = { [name: string]: Untyped };

/** Whether a member of a module counts; `name` is its property, or `property.index` inside lists and objects. */
export type MemberFilter = (module: Module, name: string, value: unknown) => boolean;

export interface FreezeOptions {
  /** Also in all modules inside; true unless told. */
  recurse?: boolean;
  /** Only parameters of these names, such as `'bias'`. */
  keys?: string | readonly string[];
  /** A key that no module has is an error. */
  strict?: boolean;
}

export interface LoadWeightsOptions {
  /** Every parameter must be given, with its shape, and nothing else; true unless told. */
  strict?: boolean;
}

const floating = new Set<Dtype>(['float16', 'bfloat16', 'float32', 'float64']);

/** True for lists, Maps and plain objects: what modules may keep their parts in. */
export function isContainer(value: unknown): value is object {
  if (typeof value !== 'object' || value === null || value instanceof MxArray || value instanceof Module) return false;
  if (Array.isArray(value) || value instanceof Map) return true;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** The members of a container or a module, by name. */
export function membersOf(branch: object): [string, unknown][] {
  if (branch instanceof Map) return [...(branch as Map<unknown, unknown>)].map(([key, value]) => [String(key), value]);
  return Object.entries(branch);
}

/** @internal Puts a value where `membersOf` found one. */
export function setMember(branch: object, name: string, value: unknown): void {
  if (branch instanceof Map) {
    for (const key of branch.keys()) if (String(key) === name) return void branch.set(key, value);
  } else (branch as Record<string, unknown>)[name] = value;
}

/** Members that can hold parameters: arrays, modules and containers whose name does not start with `_`. */
const mayHoldParameters: MemberFilter = (_, name, value) =>
  !name.startsWith('_') && (value instanceof MxArray || value instanceof Module || isContainer(value));

const mayHoldModules: MemberFilter = (_, name, value) =>
  !name.startsWith('_') && (value instanceof Module || isContainer(value));

const listOf = (keys: string | readonly string[]): readonly string[] => (typeof keys === 'string' ? [keys] : keys);

/**
 * A layer, or a model made of layers. As Python's `mlx.nn.Module`.
 *
 * Arrays, modules, and lists, Maps and plain objects of them that a module keeps in its properties are its parameters and children, under those
 * names; properties whose names start with `_` and `#private` fields are not. `forward` computes.
 *
 * @example
 * class Net extends nn.Module {
 *   readonly layers = [new nn.Linear(2, 16), new nn.Linear(16, 1)];
 *   forward(x: MxArray): MxArray {
 *     return this.layers[1]!.forward(nn.relu(this.layers[0]!.forward(x)));
 *   }
 * }
 */
export abstract class Module {
  /** What a compiled function sees of a module besides its arrays: it is traced again when these change. */
  _training = true;
  /** Names of own parameters that gradients leave alone, sorted. */
  _frozen: readonly string[] = [];

  abstract forward(...args: Untyped[]): Untyped;

  /** Whether layers such as dropout and batch normalisation behave as in training. */
  get training(): boolean {
    return this._training;
  }

  /** The module itself, as state for `mx.compile`: all its arrays, parameters or not. */
  get state(): Tree {
    return this;
  }

  /** What `inspect` shows between the parentheses. */
  extraRepr(): string {
    return '';
  }

  /** Tries a member for being a parameter; subclasses with members that are none overrule it. */
  static validParameterFilter: MemberFilter = mayHoldParameters;

  static trainableParameterFilter: MemberFilter = (module, name, value) =>
    mayHoldParameters(module, name, value) && !module._frozen.includes(name);

  static validChildFilter: MemberFilter = mayHoldModules;

  /**
   * A tree of the members that `filter` accepts, with `map` applied to its leaves: what is neither a module nor a container, or what
   * `isLeaf` says.
   */
  filterAndMap(
    filter: MemberFilter,
    map: (value: Untyped) => unknown = (value) => value,
    isLeaf: MemberFilter = (_, __, value) => !(value instanceof Module) && !isContainer(value),
  ): ParameterTree {
    const unwrap = (module: Module, name: string, value: unknown): unknown => {
      if (isLeaf(module, name, value)) return map(value);
      if (value instanceof Module) return ofModule(value);
      const item = ([key, child]: [string, unknown]): unknown => {
        const own = `${name}.${key}`;
        return filter(module, own, child) ? unwrap(module, own, child) : {};
      };
      if (Array.isArray(value)) return membersOf(value).map(item);
      if (isContainer(value)) return Object.fromEntries(membersOf(value).map((entry) => [entry[0], item(entry)]));
      throw new MlxError('ERR_MLX_ARGUMENT', `filterAndMap(): '${name}' is neither a leaf nor can it be walked into`);
    };
    const above = new Set<Module>();
    const ofModule = (module: Module): ParameterTree => {
      if (above.has(module)) {
        throw new MlxError(
          'ERR_MLX_ARGUMENT',
          `a ${module.constructor.name} contains itself; keep references to parents in names that start with _ or #`,
        );
      }
      above.add(module);
      const tree = Object.fromEntries(
        membersOf(module)
          .filter(([name, value]) => filter(module, name, value))
          .map(([name, value]) => [name, unwrap(module, name, value)]),
      );
      above.delete(module);
      return tree;
    };
    return ofModule(this);
  }

  /** All parameters, nested by name. */
  parameters(): ParameterTree {
    return this.filterAndMap(Module.validParameterFilter);
  }

  /** The parameters that are not frozen, nested by name. */
  trainableParameters(): ParameterTree {
    return this.filterAndMap(Module.trainableParameterFilter);
  }

  /** All parameters with their paths, such as `['layers.0.weight', array]`. */
  namedParameters(): [string, MxArray][] {
    return treeFlatten(this.parameters());
  }

  /** How many numbers the parameters are. */
  numParameters(options: { trainable?: boolean } = {}): number {
    const leaves = treeFlatten(options.trainable === true ? this.trainableParameters() : this.parameters());
    return leaves.reduce((sum, [, array]) => sum + array.size, 0);
  }

  /** The modules directly inside, nested by name. */
  children(): ModuleTree {
    return this.filterAndMap(Module.validChildFilter, undefined, (_, __, value) => value instanceof Module);
  }

  /** The modules without modules inside, nested by name. */
  leafModules(): ModuleTree {
    return this.filterAndMap(
      Module.validChildFilter,
      undefined,
      (_, __, value) => value instanceof Module && moduleEntries(value).length === 0,
    );
  }

  /** This module (under the name '') and all modules inside, with their paths. */
  namedModules(): [string, Module][] {
    const found: [string, Module][] = [];
    const visit = (prefix: string, module: Module): void => {
      found.push([prefix, module]);
      for (const [name, child] of moduleEntries(module)) visit(prefix === '' ? name : `${prefix}.${name}`, child);
    };
    visit('', this);
    return found;
  }

  /** This module and all modules inside. */
  modules(): Module[] {
    return this.namedModules().map(([, module]) => module);
  }

  /** Calls `fn` with the path and the module, for this module and all inside. */
  applyToModules(fn: (name: string, module: Module) => void): this {
    for (const [name, module] of this.namedModules()) fn(name, module);
    return this;
  }

  /** Replaces every parameter that `filter` accepts by what `map` makes of it. */
  apply(map: (array: MxArray) => MxArray, filter: MemberFilter = Module.validParameterFilter): this {
    return this.update(this.filterAndMap(filter, map), { strict: false });
  }

  /**
   * Replaces parameters by those of a tree like `parameters()`, or a part of one. With `strict` (true unless told), a name that the
   * module does not have, a value that is no array and an array of another shape are errors, and nothing is replaced.
   */
  update(parameters: ParameterTree, options: { strict?: boolean } = {}): this {
    for (const replace of checkUpdate(this, parameters, options.strict ?? true, 'parameter')) replace();
    // What a module holds outlives the `tidy` in which it was made.
    for (const array of treeLeaves(parameters)) exempt(array);
    return this;
  }

  /** Replaces modules by those of a tree like `children()`, or a part of one. */
  updateModules(modules: ModuleTree, options: { strict?: boolean } = {}): this {
    for (const replace of checkUpdate(this, modules, options.strict ?? true, 'module')) replace();
    return this;
  }

  /** Takes parameters out of `trainableParameters()`: all, or those of the given names. */
  freeze(options: FreezeOptions = {}): this {
    return this.#eachChosen(options, (module, keys) => {
      const names =
        keys ??
        membersOf(module)
          .filter(([name, value]) => mayHoldParameters(module, name, value) && !(value instanceof Module))
          .flatMap(([name, value]) => (isContainer(value) ? ownArrayNames(name, value) : [name]));
      module._frozen = [...new Set([...module._frozen, ...names])].toSorted();
    });
  }

  /** Puts parameters back into `trainableParameters()`: all, or those of the given names. */
  unfreeze(options: FreezeOptions = {}): this {
    const { recurse = true, keys, strict = false } = options;
    if (recurse && strict && keys !== undefined) this.#mustHave(keys);
    // Through each module's own method: some keep what must stay frozen.
    for (const module of recurse ? this.modules() : [this])
      module.unfreezeOwn(keys === undefined ? undefined : listOf(keys), strict && !recurse);
    return this;
  }

  /** Unfreezes parameters of this module alone; layers whose statistics or codes must stay frozen overrule it. */
  protected unfreezeOwn(keys: readonly string[] | undefined, strict: boolean): void {
    if (strict && keys !== undefined) mustHaveOwn(this, keys);
    this._frozen = keys === undefined ? [] : this._frozen.filter((name) => !keys.includes(name));
  }

  #eachChosen(options: FreezeOptions, act: (module: Module, keys: readonly string[] | undefined) => void): this {
    const { recurse = true, keys, strict = false } = options;
    if (strict && keys !== undefined) {
      if (recurse) this.#mustHave(keys);
      else mustHaveOwn(this, listOf(keys));
    }
    for (const module of recurse ? this.modules() : [this]) act(module, keys === undefined ? undefined : listOf(keys));
    return this;
  }

  #mustHave(keys: string | readonly string[]): void {
    const known = new Set(this.modules().flatMap((module) => membersOf(module).map(([name]) => name)));
    for (const key of listOf(keys)) if (!known.has(key)) throw unknownMember(this, key, known);
  }

  /** Sets `training` here and in all modules inside. */
  train(mode = true): this {
    for (const module of this.modules()) module.trainOwn(mode);
    return this;
  }

  /** Sets `training` of this module alone; layers that hold other arrays outside of training overrule it. */
  protected trainOwn(mode: boolean): void {
    this._training = mode;
  }

  /** The same as `train(false)`. */
  eval(): this {
    return this.train(false);
  }

  /** Converts the parameters whose dtype `predicate` accepts: the floating ones unless told. */
  setDtype(dtype: Dtype, predicate: (dtype: Dtype) => boolean = (own) => floating.has(own)): this {
    return this.apply((array) => (predicate(array.dtype) && array.dtype !== dtype ? astype(array, dtype) : array));
  }

  /**
   * Takes parameters from a `.safetensors` or `.npz` file or from pairs of names and arrays. Names may be written as here (`qProj.weight`) or as in
   * Python (`q_proj.weight`). On an error nothing is replaced.
   */
  loadWeights(weights: string | WeightEntries, options: LoadWeightsOptions = {}): this {
    loadInto(this, weights, options.strict ?? true);
    return this;
  }

  /** Writes the parameters to a `.safetensors` or `.npz` file, under the names that Python gives them (`q_proj.weight` for `qProj.weight`). */
  saveWeights(path: string): void {
    saveFrom(this, path);
  }

  /** Frees all arrays of this module and the modules inside. */
  dispose(): void {
    for (const [, array] of treeFlatten(this)) array.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Computes the parameters, which are lazy at first. */
  materialize(): this {
    evalAll(...this.namedParameters().map(([, array]) => array));
    return this;
  }

  /** As Python prints modules. */
  toString(): string {
    return describeModule(this);
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return describeModule(this);
  }
}

Object.defineProperty(Module.prototype, treeSymbol, { value: true });

/** The modules directly inside, with paths through lists, Maps and objects. */
export function moduleEntries(module: Module): [string, Module][] {
  const found: [string, Module][] = [];
  const visit = (name: string, value: unknown): void => {
    if (value instanceof Module) found.push([name, value]);
    else if (isContainer(value)) for (const [key, child] of membersOf(value)) visit(`${name}.${key}`, child);
  };
  for (const [name, value] of membersOf(module)) if (!name.startsWith('_')) visit(name, value);
  return found;
}

function ownArrayNames(name: string, container: object): string[] {
  return membersOf(container).flatMap(([key, value]) => {
    const own = `${name}.${key}`;
    if (value instanceof MxArray) return [own];
    return isContainer(value) ? ownArrayNames(own, value) : [];
  });
}

function mustHaveOwn(module: Module, keys: readonly string[]): void {
  const known = new Set(membersOf(module).map(([name]) => name));
  for (const key of keys) if (!known.has(key)) throw unknownMember(module, key, known);
}

function unknownMember(module: Module, key: string, known: Iterable<string>): MlxError {
  const near = nearestName(key, known);
  return new MlxError(
    'ERR_MLX_ARGUMENT',
    `no member '${key}' in this ${module.constructor.name}${near === undefined ? '' : `: did you mean '${near}'?`}`,
  );
}
