/**
 * Transforms of functions of arrays: gradients, products with the Jacobian, vectorisation, recomputation, compilation.
 *
 * A transform calls the function with stand-ins for its arrays to see what it computes. Arrays made inside are freed when the
 * function returns, except those it returns, those in modules that it was given through `nn.valueAndGrad`, and those passed to `keep`.
 */
import { handleOf, MxArray, wrap, wrapAll } from './array/core.js';
import type { ArrayLike } from './array/core.js';
import { array } from './array/create.js';
import { arrayList, mustBeFunction } from './array/guards.js';
import { randomState, setRandomState } from './array/random-state.js';
import { exempt, isExempt, Scope } from './array/scope.js';
import { MlxError, wrapNativeError } from './errors.js';
import { native } from './native.js';
import type { ArrayHandle, NativeTransformed } from './native-types.js';
import { rejectUnknownKeys } from './options.js';
import { isBranch, treeAssign, treeForm, treeLeaves, treeMap, treeSnapshot } from './tree.js';
import type { Tree } from './tree.js';

const transforms = native().transforms;
const core = native().core;

/** One call of a user's function by a transform: what it returned, or threw. */
class Trace<R> {
  /** What a function threw that a transform called later, in the middle of another one: a gradient, a recomputation. */
  static inner: { error: unknown } | undefined;

  result: { value: R } | undefined;
  failure: { error: unknown } | undefined;

  constructor(
    private readonly body: (arrays: MxArray[]) => R,
    private readonly survivors: () => Iterable<MxArray> = () => [],
  ) {}

  /** As the addon calls it. */
  readonly run = (inputs: ArrayHandle[]): ArrayHandle[] | null => {
    try {
      const scope = new Scope();
      try {
        const value = scope.run(() => this.body(wrapAll(inputs)));
        for (const survivor of this.survivors()) exempt(survivor);
        if (value instanceof Promise) {
          value.catch(() => undefined);
          throw new MlxError(
            'ERR_MLX_ARGUMENT',
            'a transformed function must not be async: transforms see what it computes while it runs',
          );
        }
        const outputs = treeLeaves(value);
        if (outputs.length === 0)
          throw new MlxError(
            'ERR_MLX_ARGUMENT',
            `a transformed function must return an array, or arrays in lists or objects; it returned ${String(value)}`,
          );
        this.result = { value };
        // Other handles of the same arrays: the wrappers may be freed at once.
        return outputs.map((output) => core.alias(handleOf(output)) as ArrayHandle);
      } finally {
        scope.close();
      }
    } catch (error) {
      this.failure = { error };
      Trace.inner ??= this.failure;
      return null;
    }
  };

  /** Calls into the addon; what the function threw goes before what MLX makes of it. */
  through<T>(call: () => T): T {
    const outer = Trace.inner;
    Trace.inner = undefined;
    this.failure = undefined;
    try {
      return call();
    } catch (error) {
      const failure = this.failure ?? Trace.inner;
      if (failure !== undefined) throw (failure as { error: unknown }).error;
      throw wrapNativeError(error);
    } finally {
      Trace.inner = outer;
    }
  }

  /** The result with the given arrays in the places of the traced ones. */
  rebuild(arrays: readonly MxArray[]): R {
    let next = 0;
    return treeMap(() => arrays[next++]!, this.result!.value) as R;
  }
}

/** Which arguments to differentiate: a position, or several. */
export type Argnums = number | readonly number[];

type Positions = { positions: number[]; single: boolean };

function positionsOf(argnums: Argnums, where: string): Positions {
  const positions = typeof argnums === 'number' ? [argnums] : [...argnums];
  if (
    positions.length === 0 ||
    positions.some((at) => !Number.isInteger(at) || at < 0) ||
    new Set(positions).size !== positions.length
  ) {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `argnums of ${where} must be a position of an argument (0, 1, …) or a list of different ones, not ${JSON.stringify(argnums)}`,
    );
  }
  return { positions, single: typeof argnums === 'number' };
}

/** The trees with the traced arrays in the places of their own. */
function fill(trees: readonly Tree[], arrays: readonly MxArray[]): Tree[] {
  let next = 0;
  return trees.map((tree) => treeMap(() => arrays[next++]!, tree));
}

/** @internal The result and the gradients of `fn`, whose differentiated arguments are `trees`. */
export function differentiate<R>(
  fn: (trees: Tree[]) => R,
  trees: readonly Tree[],
  where: string,
  survivors?: () => Iterable<MxArray>,
): { value: R; gradients: Tree[] } {
  const leaves = treeLeaves(trees);
  if (leaves.length === 0) {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `${where} has nothing to differentiate: the chosen arguments hold no arrays`,
    );
  }
  const trace = new Trace((arrays) => fn(fill(trees, arrays)), survivors);
  const result = trace.through(() => transforms.valueAndGrad(trace.run, leaves.map(handleOf)));
  return { value: trace.rebuild(wrapAll(result.outputs)), gradients: fill(trees, wrapAll(result.derivatives)) };
}

/**
 * A function that returns what `fn` returns and the gradient of its first array, a scalar, with respect to the arguments in
 * `argnums` (0): trees like those arguments, one for a single position, else a list. Further arrays in what `fn` returns are
 * auxiliary. As Python's `mx.value_and_grad`.
 *
 * @example
 * const lossAndGrad = mx.valueAndGrad((w: MxArray) => w.multiply(x).subtract(y).square().mean());
 * const [loss, gradient] = lossAndGrad(w);
 */
export function valueAndGrad<A extends readonly unknown[], R>(
  fn: (...args: A) => R,
  argnums?: 0,
): (...args: A) => [R, A[0]];
export function valueAndGrad<A extends readonly unknown[], R, N extends 1 | 2 | 3>(
  fn: (...args: A) => R,
  argnums: N,
): (...args: A) => [R, A[N]];
export function valueAndGrad<A extends readonly unknown[], R, N extends readonly number[]>(
  fn: (...args: A) => R,
  argnums: readonly [...N],
): (...args: A) => [R, { -readonly [I in keyof N]: A[N[I]] }];
export function valueAndGrad<A extends readonly unknown[], R>(
  fn: (...args: A) => R,
  argnums: Argnums,
): (...args: A) => [R, unknown];
export function valueAndGrad<A extends readonly unknown[], R>(
  fn: (...args: A) => R,
  argnums: Argnums = 0,
): (...args: A) => [R, unknown] {
  mustBeFunction(fn, 'valueAndGrad()');
  const { positions, single } = positionsOf(argnums, 'valueAndGrad()');
  return (...args) => {
    const beyond = positions.find((at) => at >= args.length);
    if (beyond !== undefined) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `argnums of valueAndGrad() names argument ${beyond}, but the function was called with ${args.length}`,
      );
    }
    const { value, gradients } = differentiate(
      (trees) =>
        fn(...(args.map((arg, i) => (positions.includes(i) ? trees[positions.indexOf(i)] : arg)) as unknown as A)),
      positions.map((at) => args[at]),
      'valueAndGrad()',
    );
    return [value, single ? gradients[0] : gradients];
  };
}

/**
 * A function that returns the gradient of `fn`'s first array, a scalar, with respect to the arguments in `argnums` (0). As Python's
 * `mx.grad`.
 *
 * @example mx.grad((x: MxArray) => x.square().sum())(mx.array([1.5])) // 3
 */
export function grad<A extends readonly unknown[]>(fn: (...args: A) => unknown, argnums?: 0): (...args: A) => A[0];
export function grad<A extends readonly unknown[], N extends 1 | 2 | 3>(
  fn: (...args: A) => unknown,
  argnums: N,
): (...args: A) => A[N];
export function grad<A extends readonly unknown[], N extends readonly number[]>(
  fn: (...args: A) => unknown,
  argnums: readonly [...N],
): (...args: A) => { -readonly [I in keyof N]: A[N[I]] };
export function grad<A extends readonly unknown[]>(
  fn: (...args: A) => unknown,
  argnums: Argnums,
): (...args: A) => unknown;
export function grad<A extends readonly unknown[]>(
  fn: (...args: A) => unknown,
  argnums: Argnums = 0,
): (...args: A) => unknown {
  const both = valueAndGrad(fn, argnums);
  return (...args) => {
    const [value, gradient] = both(...args);
    for (const output of treeLeaves(value)) if (!isExempt(output)) output.dispose();
    return gradient;
  };
}

const handlesOf = (values: readonly ArrayLike[]): ArrayHandle[] =>
  arrayList(values).map((value) => handleOf(value instanceof MxArray ? value : array(value)));

/** A function of arrays that returns an array or a list of them. */
export type ListFunction = (...primals: MxArray[]) => MxArray | readonly MxArray[];

function listTransform(
  fn: ListFunction,
  call: (run: Trace<unknown>['run']) => NativeTransformed,
): [MxArray[], MxArray[]] {
  const trace = new Trace((arrays) => fn(...arrays));
  const result = trace.through(() => call(trace.run));
  return [wrapAll(result.outputs), wrapAll(result.derivatives)];
}

/** Outputs of `fn` at `primals`, and the products of `cotangents` (one per output, of its shape) with its Jacobian, one per primal. */
export function vjp(
  fn: ListFunction,
  primals: readonly ArrayLike[],
  cotangents: readonly ArrayLike[],
): [MxArray[], MxArray[]] {
  mustBeFunction(fn, 'vjp()');
  return listTransform(fn, (run) => transforms.vjp(run, handlesOf(primals), handlesOf(cotangents)));
}

/** Outputs of `fn` at `primals`, and the products of its Jacobian with `tangents` (one per primal, of its shape), one per output. */
export function jvp(
  fn: ListFunction,
  primals: readonly ArrayLike[],
  tangents: readonly ArrayLike[],
): [MxArray[], MxArray[]] {
  mustBeFunction(fn, 'jvp()');
  return listTransform(fn, (run) => transforms.jvp(run, handlesOf(primals), handlesOf(tangents)));
}

/** Axes of one argument's arrays: one for all of them, `null` for whole, or a tree of axes like the argument. */
export type Axes = number | null | readonly Axes[] | { readonly [name: string]: Axes };

export interface VmapOptions {
  /** The mapped axis of each argument (0 for all), `null` for an argument that goes in whole. */
  inAxes?: number | null | readonly Axes[];
  /** The axis along which each output is stacked (0 for all). */
  outAxes?: number | readonly number[];
}

/** One axis for each array of an argument. */
function axesFor(tree: Tree, axes: Axes): (number | null)[] {
  if (axes === null || typeof axes === 'number') return treeLeaves(tree).map(() => axes);
  const branches: [string, unknown][] =
    tree instanceof Map ? [...tree].map(([key, value]) => [String(key), value]) : Object.entries(tree as object);
  if (tree instanceof MxArray || typeof tree !== 'object' || branches.length !== Object.keys(axes).length) {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `inAxes of vmap() must have the form of the arguments, or be one number for each`,
    );
  }
  return branches.flatMap(([name, child]) => axesFor(child, (axes as { [name: string]: Axes })[name] ?? null));
}

/**
 * `fn` for every slice of its arguments' arrays at once. Its results are stacked. As Python's `mx.vmap`.
 *
 * @example mx.vmap((row: MxArray, w: MxArray) => row.multiply(w).sum(), { inAxes: [0, null] })(matrix, w)
 */
export function vmap<A extends readonly unknown[], R>(
  fn: (...args: A) => R,
  options: VmapOptions = {},
): (...args: A) => R {
  mustBeFunction(fn, 'vmap()');
  rejectUnknownKeys(options, ['inAxes', 'outAxes'], 'vmap()');
  const { inAxes = 0, outAxes = 0 } = options;
  return (...args) => {
    if (Array.isArray(inAxes) && inAxes.length !== args.length) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `inAxes of vmap() has ${inAxes.length} entries for ${args.length} arguments`,
      );
    }
    const axes = args.flatMap((arg, i) =>
      axesFor(arg, Array.isArray(inAxes) ? (inAxes as readonly Axes[])[i]! : (inAxes as number | null)),
    );
    const trace = new Trace((arrays) => fn(...(fill(args, arrays) as unknown as A)));
    const out = Array.isArray(outAxes) ? [...(outAxes as readonly number[])] : [outAxes as number];
    return trace.rebuild(
      wrapAll(trace.through(() => transforms.vmap(trace.run, treeLeaves(args).map(handleOf), axes, out))),
    );
  };
}

/**
 * `fn`, computed again by a gradient instead of kept from the forward pass: less memory for more time. Everything that needs a
 * gradient must come in through its arguments. As Python's `mx.checkpoint`.
 */
export function checkpoint<A extends readonly unknown[], R>(fn: (...args: A) => R): (...args: A) => R {
  mustBeFunction(fn, 'checkpoint()');
  return (...args) => {
    const trace = new Trace((arrays) => fn(...(fill(args, arrays) as unknown as A)));
    return trace.rebuild(
      wrapAll(trace.through(() => transforms.checkpoint(trace.run, treeLeaves(args).map(handleOf)))),
    );
  };
}

/** From the arguments, what belongs to each output, and the outputs: one gradient for each argument. All are lists of arrays. */
export type CustomGradient = (primals: MxArray[], cotangents: MxArray[], outputs: MxArray[]) => readonly MxArray[];

/**
 * `fn` (arrays to an array or a list of them) with `gradient` in place of its own differentiation. As Python's
 * `mx.custom_function` with `.vjp`. An error in `gradient` surfaces from the transform that called it.
 */
export function customVjp<R extends MxArray | readonly MxArray[]>(
  fn: (...primals: MxArray[]) => R,
  gradient: CustomGradient,
): (...primals: ArrayLike[]) => R {
  mustBeFunction(fn, 'customVjp()');
  mustBeFunction(gradient, 'the gradient of customVjp()');
  return (...primals) => {
    const trace = new Trace((arrays) => fn(...arrays));
    const backward = (inputs: ArrayHandle[], cotangents: ArrayHandle[], outputs: ArrayHandle[]): ArrayHandle[] | null =>
      new Trace((arrays) => {
        const [first, second] = [inputs.length, inputs.length + cotangents.length];
        return gradient(arrays.slice(0, first), arrays.slice(first, second), arrays.slice(second));
      }).run([...inputs, ...cotangents, ...outputs]);
    return trace.rebuild(wrapAll(trace.through(() => transforms.customVjp(trace.run, backward, handlesOf(primals)))));
  };
}

export interface CompileOptions {
  /** State that the function reads besides its arguments: trees (modules, optimizer states) whose arrays may change between calls. */
  inputs?: Tree;
  /** State that the function changes: trees whose arrays are replaced after every call. */
  outputs?: Tree;
  /** One trace for all shapes of the same ranks. Operations that need exact shapes then fail. */
  shapeless?: boolean;
}

/**
 * `fn` traced once for each form of its arguments (shapes, dtypes, and values that are no arrays) and run as fused kernels. Random
 * draws inside differ from call to call: the global random state goes in and comes out. As Python's `mx.compile`.
 *
 * @example
 * const step = mx.compile((x: MxArray, y: MxArray) => { …; optimizer.update(model, gradients); return loss; },
 *   { inputs: [model, optimizer.state], outputs: [model, optimizer.state] });
 */
export function compile<A extends readonly unknown[], R>(
  fn: (...args: A) => R,
  options: CompileOptions = {},
): (...args: A) => R {
  mustBeFunction(fn, 'compile()');
  rejectUnknownKeys(options, ['inputs', 'outputs', 'shapeless'], 'compile()');
  const { inputs = [], outputs = [], shapeless = false } = options;
  const compiled = new Map<string, CompiledForm<A, R>>();
  return (...args) => {
    const form = `${treeForm(args)};${treeForm(inputs)}`;
    let one = compiled.get(form);
    if (one === undefined) compiled.set(form, (one = new CompiledForm(fn, inputs, outputs, shapeless)));
    return one.call(args);
  };
}

/** Trees whose arrays belong to them alone: what a compiled function replaces there is freed. */
const owners = new WeakSet<object>();

/** @internal Says that the arrays of a tree, an optimizer's state, belong to nobody else. */
export const ownsArrays = (tree: object): unknown => owners.add(tree);

/** The arrays of a tree that belong to it alone. */
function ownedLeaves(tree: Tree): MxArray[] {
  if (!isBranch(tree)) return [];
  if (owners.has(tree)) return treeLeaves(tree);
  const children: unknown[] = tree instanceof Map ? [...(tree as Map<unknown, unknown>).values()] : Object.values(tree);
  return children.flatMap(ownedLeaves);
}

/** The arrays that come into the compiled function that is being traced. */
let captured: ReadonlySet<MxArray> | undefined;

/** @internal What comes into the compiled function that is being traced; undefined outside: everything else is frozen by the trace. */
export const capturedByCompile = (): ReadonlySet<MxArray> | undefined => captured;

/** A compiled function for arguments of one form. */
class CompiledForm<A extends readonly unknown[], R> {
  readonly #native;
  #args: readonly Tree[] = [];
  #trace: Trace<[R, Tree[], MxArray]>;

  constructor(
    fn: (...args: A) => R,
    readonly inputs: Tree,
    readonly outputs: Tree,
    shapeless: boolean,
  ) {
    // In: arguments, state, key. Out: result, changed state, key.
    this.#trace = new Trace((arrays) => {
      const state = treeLeaves(this.inputs);
      const count = arrays.length - state.length - 1;
      const before = treeSnapshot([this.inputs, this.outputs]);
      const key = core.alias(randomState()) as ArrayHandle;
      const outer = captured;
      let done = false;
      try {
        captured = new Set(arrays);
        treeAssign(this.inputs, arrays.slice(count, -1));
        setRandomState(core.alias(handleOf(arrays.at(-1)!)) as ArrayHandle);
        const result = fn(...(fill(this.#args, arrays.slice(0, count)) as unknown as A));
        done = true;
        return [
          result,
          treeLeaves(this.outputs).map((leaf) => wrap(core.alias(handleOf(leaf)) as ArrayHandle)),
          wrap(core.alias(randomState()) as ArrayHandle),
        ];
      } finally {
        captured = outer;
        setRandomState(key);
        before.restore(!done);
      }
    });
    const { NativeCompiled } = native();
    this.#native = new NativeCompiled((handles) => this.#trace.run(handles), shapeless);
  }

  call(args: readonly Tree[]): R {
    const trace = this.#trace;
    this.#args = args;
    const leaves = [...treeLeaves(args), ...treeLeaves(this.inputs)].map(handleOf);
    const results = wrapAll(trace.through(() => this.#native.call([...leaves, randomState()])));
    const [value, state, key] = trace.rebuild(results);
    setRandomState(core.alias(handleOf(key)) as ArrayHandle);
    key.dispose();
    // Inside the trace of another compiled function the arrays are only stand-ins for a while.
    const replaced = captured === undefined ? ownedLeaves(this.outputs) : [];
    treeAssign(this.outputs, state as MxArray[]);
    for (const old of replaced) old.dispose();
    return value;
  }
}

/** Compiled functions run operation by operation, for debugging; returns to normal with `enableCompile`. */
export const disableCompile = (): void => transforms.setCompileEnabled(false);

export const enableCompile = (): void => transforms.setCompileEnabled(true);
