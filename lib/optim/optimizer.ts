/** An optimizer of one rule: groups of parameters, the state, and steps inside and outside `mx.compile`. */
import { handleOf, wrap, wrapAll } from '../array/core.js';
import type { Dtype, MxArray } from '../array/core.js';
import { guard, MlxError } from '../errors.js';
import { add } from '../generated/ops.js';
import { keep } from '../array/tidy.js';
import { native } from '../native.js';
import type { ArrayHandle, NativeOptimizer } from '../native-types.js';
import { nearestName } from '../options.js';
import { capturedByCompile, ownsArrays } from '../transforms.js';
import { treeFlatten } from '../tree.js';
import { BaseOptimizer, keepAll } from './base.js';
import type { Pair, Prepared } from './base.js';
import { checkOptions, checkRate, definition, given } from './options.js';
import type { OptimizerOptions } from './options.js';

/** The arrays of an optimizer: of the parameters under `<parameter>.<name>`, such as `layers.0.weight.m`, as in Python. */
export interface OptimizerState {
  /** Steps taken, uint64. */
  step: MxArray;
  /** Float32; absent where the rule makes its own. Of groups with a rate of their own: `groups.<i>.learningRate`. */
  learningRate?: MxArray;
  /** Whether the learning rate follows a schedule: a compiled function is traced again when it changes. */
  scheduled: boolean;
  [name: string]: MxArray | boolean | undefined;
}

/** Where a group's learning rate comes from. */
type Rate =
  | { kind: 'rule' | 'optimizer' }
  | { kind: 'constant' | 'schedule'; key: string }
  | { kind: 'function'; key: string; fn: (step: number) => number };

interface Member {
  index: number;
  /** Names of its arrays in the state. */
  names: string[];
}

const core = native().core;

/** An optimizer as Python's `mlx.optimizers` has them, with groups. */
export abstract class Optimizer extends BaseOptimizer {
  readonly state: OptimizerState;
  readonly #name: string;
  readonly #native: NativeOptimizer;
  readonly #filters: ((name: string, parameter: MxArray) => boolean)[];
  /** By group; the last is the optimizer's own. */
  readonly #rates: Rate[];
  readonly #members = new Map<string, Member>();
  /** Numbers of the state whose values are known without reading: those that are still there. */
  readonly #known = new Map<string, { array: MxArray; value: number }>();
  /** The step that an update inside a compiled function has made. */
  #tracedStep: MxArray | undefined;

  /** @internal */
  protected constructor(name: string, settings: readonly string[], options: OptimizerOptions<object>) {
    super();
    const { own, groups } = checkOptions(name, settings, options);
    const all = [...groups.map(({ filter: _filter, ...group }) => ({ ...own, ...given(group) })), own];
    this.#name = name;
    this.#filters = groups.map((group) => group.filter);
    this.#native = guard(() => new (native().NativeOptimizer)(all.map((one) => definition(name, one))));
    const take = this.#native.takeLearningRates();
    this.#rates = all.map((_, i): Rate => {
      const last = i === all.length - 1;
      if (!take[i]) return { kind: 'rule' };
      const rate = last ? own.learningRate : groups[i]!.learningRate;
      if (rate === undefined) return { kind: 'optimizer' };
      const key = last ? 'learningRate' : `groups.${i}.learningRate`;
      if (typeof rate === 'function') return { kind: 'function', key, fn: rate };
      return { kind: typeof rate === 'number' ? 'constant' : 'schedule', key };
    });
    this.state = { step: scalar(0, 'uint64'), scheduled: false };
    ownsArrays(this.state);
    this.#known.set('step', { array: this.state.step, value: 0 });
    this.#updateScheduled();
    const first = this.#ratesAt(0);
    for (const [i, rate] of this.#rates.entries()) if ('key' in rate) this.#write(rate.key, first[i]!);
  }

  get step(): number {
    return this.#read('step');
  }

  get learningRate(): number {
    return this.state.learningRate === undefined ? NaN : this.#read('learningRate');
  }

  set learningRate(rate: number) {
    const own = this.#rates.at(-1)!;
    if (own.kind === 'rule')
      throw new MlxError('ERR_MLX_ARGUMENT', `${this.#name} makes its own learning rate here; none can be set`);
    checkRate(rate, 'learningRate');
    this.#rates[this.#rates.length - 1] = { kind: 'constant', key: 'learningRate' };
    this.#updateScheduled();
    this.#write('learningRate', Math.fround(rate));
  }

  #updateScheduled(): void {
    this.state.scheduled = this.#rates.some(({ kind }) => kind === 'schedule' || kind === 'function');
  }

  /** A number of the state. */
  #read(key: string): number {
    const array = this.state[key] as MxArray;
    const known = this.#known.get(key);
    if (known?.array === array) return known.value;
    const value = array.item();
    this.#known.set(key, { array, value });
    return value;
  }

  #write(key: string, value: number): void {
    const known = this.#known.get(key);
    const old = this.state[key] as MxArray | undefined;
    if (known !== undefined && known.array === old && Object.is(known.value, value)) return;
    const array = scalar(value, key === 'step' ? 'uint64' : 'float32');
    this.state[key] = array;
    this.#known.set(key, { array, value });
    if (capturedByCompile() === undefined) old?.dispose();
  }

  /** Rates of the step after `taken` ones, by group, rounded to the float32 in which the state keeps them. */
  #ratesAt(taken: number): number[] {
    const scheduled = this.#rates.some(({ kind }) => kind !== 'rule' && kind !== 'optimizer');
    const native_ = scheduled ? guard(() => this.#native.rates(taken)) : [];
    const rates = this.#rates.map((rate, i): number => {
      if (rate.kind === 'rule' || rate.kind === 'optimizer') return 0;
      if (rate.kind === 'constant' && rate.key in this.state) return this.#read(rate.key);
      if (rate.kind !== 'function') return Math.fround(native_[i]!);
      const value = rate.fn(taken);
      checkRate(value, `what the learningRate function of ${this.#name} returned for step ${taken}`);
      return Math.fround(value);
    });
    const own = rates.at(-1)!;
    return rates.map((rate, i) => (this.#rates[i]!.kind === 'optimizer' ? own : rate));
  }

  /** The same inside a compiled function. */
  #lazyRates(step: MxArray): MxArray[] {
    const scheduled = wrapAll(guard(() => this.#native.lazyRates(handleOf(step)) as ArrayHandle[]));
    const rates = this.#rates.map((rate, i): MxArray => {
      if (rate.kind === 'function') {
        throw new MlxError(
          'ERR_MLX_ARGUMENT',
          `the learningRate of ${this.#name} is a JavaScript function, which a compiled function would freeze; use one of optim.schedules`,
        );
      }
      return rate.kind === 'constant' ? (this.state[rate.key] as MxArray) : scheduled[i]!;
    });
    const own = rates.at(-1)!;
    return rates.map((rate, i) => (this.#rates[i]!.kind === 'optimizer' ? own : rate));
  }

  #groupOf(path: string, parameter: MxArray): number {
    const found = this.#filters.findIndex((filter) => filter(path, parameter));
    return found < 0 ? this.#filters.length : found;
  }

  /** Members for parameters; the state of new ones waits in `fresh`. */
  #membersOf(parameters: readonly (readonly [string, MxArray])[], fresh: Map<string, MxArray>): Map<string, Member> {
    const members = new Map<string, Member>();
    for (const [path, parameter] of parameters) {
      if (members.has(path)) throw new MlxError('ERR_MLX_ARGUMENT', `parameter '${path}' is there twice`);
      let member = this.#members.get(path);
      if (member === undefined || member.names.some((name) => !(name in this.state))) {
        const group = this.#groupOf(path, parameter);
        const { index, names, arrays } = guard(() => this.#native.add(group, path, handleOf(parameter)));
        member = { index, names };
        for (const [i, array] of wrapAll(arrays as ArrayHandle[]).entries()) fresh.set(names[i]!, array);
      }
      members.set(path, member);
    }
    return members;
  }

  /** Forgets what was made known for a step that failed. */
  #forget(fresh: Map<string, MxArray>): void {
    this.#native.truncate(this.#members.size);
    for (const array of fresh.values()) array.dispose();
  }

  #adopt(members: Map<string, Member>): void {
    for (const [path, member] of members) this.#members.set(path, member);
  }

  /** @internal */
  add(parameters: readonly [string, MxArray][]): void {
    const fresh = new Map<string, MxArray>();
    try {
      const members = this.#membersOf(parameters, fresh);
      for (const [path, parameter] of parameters)
        guard(() => this.#native.checkParameter(members.get(path)!.index, handleOf(parameter)));
      this.#adopt(members);
    } catch (error) {
      this.#forget(fresh);
      throw error;
    }
    for (const [name, array] of fresh) this.state[name] = keep(array);
  }

  /** @internal */
  prepare(pairs: readonly Pair[]): Prepared {
    const fresh = new Map<string, MxArray>();
    try {
      const members = this.#membersOf(
        pairs.map(({ path, parameter }) => [path, parameter]),
        fresh,
      );
      const names = [...members.values()].flatMap((member) => member.names);
      const old = names.map((name) => fresh.get(name) ?? (this.state[name] as MxArray));
      const arrays = [
        [...members.values()].map((member) => member.index),
        pairs.map(({ parameter }) => handleOf(parameter)),
        pairs.map(({ gradient }) => handleOf(gradient)),
        old.map(handleOf),
      ] as const;
      const traced = capturedByCompile();
      const { made, commitNumbers } = traced === undefined ? this.#numbered(arrays) : this.#traced(arrays, traced);
      const weights = made.slice(0, pairs.length);
      const commit = (): void => {
        this.#adopt(members);
        for (const [i, name] of names.entries()) this.state[name] = made[pairs.length + i]!;
        if (traced === undefined) {
          keepAll(made.slice(pairs.length));
          for (const array of old) array.dispose();
        }
        commitNumbers();
      };
      const abandon = (): void => {
        for (const array of made) array.dispose();
        this.#forget(fresh);
      };
      return { weights, commit, abandon };
    } catch (error) {
      this.#forget(fresh);
      throw error;
    }
  }

  /** A step whose number and learning rates are known. */
  #numbered(arrays: Arrays): { made: MxArray[]; commitNumbers: () => void } {
    const taken = this.#read('step');
    const rates = this.#ratesAt(taken);
    const made = wrapAll(guard(() => this.#native.update(...mutable(arrays), taken + 1, rates) as ArrayHandle[]));
    const commitNumbers = (): void => {
      for (const [i, rate] of this.#rates.entries()) if ('key' in rate) this.#write(rate.key, rates[i]!);
      this.#write('step', taken + 1);
    };
    return { made, commitNumbers };
  }

  /** A step of a compiled function. */
  #traced(arrays: Arrays, captured: ReadonlySet<MxArray>): { made: MxArray[]; commitNumbers: () => void } {
    const { step } = this.state;
    if (!captured.has(step) && step !== this.#tracedStep) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        'an optimizer that updates inside mx.compile must have its state in both inputs and outputs: { inputs: [model, optimizer.state], outputs: [model, optimizer.state] }',
      );
    }
    const number = add(step, 1);
    const rates = this.#lazyRates(step);
    const made = wrapAll(
      guard(() => this.#native.lazyUpdate(...mutable(arrays), handleOf(number), rates.map(handleOf)) as ArrayHandle[]),
    );
    const commitNumbers = (): void => {
      for (const [i, rate] of this.#rates.entries()) if ('key' in rate) this.state[rate.key] = rates[i]!;
      this.state.step = this.#tracedStep = number;
    };
    return { made, commitNumbers };
  }

  /** @internal */
  restore(arrays: ReadonlyMap<string, MxArray>): () => void {
    const own = treeFlatten(this.state).map(([name]) => name);
    const stray = [...arrays.keys()].find((name) => !own.includes(name));
    if (stray !== undefined) {
      const near = nearestName(stray, own);
      const hint =
        this.#members.size === 0
          ? 'call init(parameters) before loading'
          : near === undefined
            ? 'it belongs to another model or optimizer'
            : `did you mean '${near}'?`;
      throw new MlxError('ERR_MLX_ARGUMENT', `the optimizer state's '${stray}' has no place here: ${hint}`);
    }
    const missing = own.find((name) => !arrays.has(name));
    if (missing !== undefined) throw new MlxError('ERR_MLX_ARGUMENT', `the optimizer state has no '${missing}'`);
    for (const { index, names } of this.#members.values()) {
      guard(() =>
        this.#native.checkState(
          index,
          names.map((name) => handleOf(arrays.get(name)!)),
        ),
      );
    }
    const numbers = ['step', ...this.#rates.flatMap((rate) => ('key' in rate ? [rate.key] : []))];
    const values = numbers.map((name): [string, number] => {
      const array = arrays.get(name)!;
      if (array.size !== 1)
        throw new MlxError(
          'ERR_MLX_SHAPE',
          `the optimizer state's '${name}' must be one number, not of shape [${array.shape.join(', ')}]`,
        );
      const value = array.item();
      if (name === 'step' ? !Number.isSafeInteger(value) || value < 0 : !(Number.isFinite(value) && value >= 0))
        throw new MlxError('ERR_MLX_ARGUMENT', `the optimizer state's '${name}' is ${value}`);
      return [name, value];
    });
    return () => {
      for (const name of own) {
        if (numbers.includes(name)) continue;
        const copy = keep(wrap(core.alias(handleOf(arrays.get(name)!)) as ArrayHandle));
        (this.state[name] as MxArray).dispose();
        this.state[name] = copy;
      }
      for (const [name, value] of values) this.#write(name, value);
    };
  }
}

type Arrays = readonly [
  indices: readonly number[],
  parameters: readonly ArrayHandle[],
  gradients: readonly ArrayHandle[],
  state: readonly ArrayHandle[],
];

const mutable = (arrays: Arrays): [number[], ArrayHandle[], ArrayHandle[], ArrayHandle[]] =>
  arrays as unknown as [number[], ArrayHandle[], ArrayHandle[], ArrayHandle[]];

const scalar = (value: number, dtype: Dtype): MxArray =>
  keep(wrap(guard(() => core.scalar(value, dtype) as ArrayHandle)));
