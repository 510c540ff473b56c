import { guard, MlxError, wrapNativeError } from '../errors.js';
import { native } from '../native.js';
import type { ArrayHandle, Dtype } from '../native-types.js';
import { describe, fromTyped, typedDtypes } from './create.js';
import { indexed, indexUpdate } from './indexing.js';
import type { ArrayIndex, UpdateMode } from './indexing.js';
import { elementText, nested } from './nested.js';
import type { NestedValues } from './nested.js';
import { collecting, openScopes } from './scope.js';

const core = native().core;

export type { Dtype };

/** Arrays nest: `[[1, 2], [3, 4]]` has shape [2, 2]. */
export type NestedArray = readonly (number | boolean | bigint | Complex | NestedArray)[];

/** A complex number. */
export interface Complex {
  re: number;
  im: number;
}

/** What the element constructors of JavaScript make. */
export type TypedArray =
  | Uint8Array
  | Uint8ClampedArray
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array;

/** Half-precision elements, where JavaScript has them (Node 24 and later). */
export interface HalfArray extends ArrayBufferView {
  readonly length: number;
  readonly [Symbol.toStringTag]: 'Float16Array';
}

/** What an operation takes for an array. A number does not widen the other operand's dtype. */
export type ArrayLike = MxArray | number | boolean | bigint | Complex | NestedArray | TypedArray | HalfArray;

/** Handles of arrays that the garbage collector found unreachable, on their way to the addon: many at once. */
const unreachable = new Int32Array(1024);
let unreachableCount = 0;

function releaseUnreachable(): void {
  const count = unreachableCount;
  unreachableCount = 0;
  if (count > 0) core.releaseAll(unreachable, count);
}

const registry = new FinalizationRegistry<ArrayHandle>((handle) => {
  if (unreachableCount === 0) queueMicrotask(releaseUnreachable);
  unreachable[unreachableCount++] = handle;
  if (unreachableCount === unreachable.length) releaseUnreachable();
});

/** @internal The handle of an array; throws where it is none or has been disposed. */
export let handleOf: (array: MxArray) => ArrayHandle;

/** @internal Hands an array that no scope looks after any longer to the garbage collector. */
export let leaveToCollector: (array: MxArray) => void;

const none = 0 as ArrayHandle;

const bytesOf: Readonly<Record<Dtype, number>> = {
  bool: 1,
  uint8: 1,
  uint16: 2,
  uint32: 4,
  uint64: 8,
  int8: 1,
  int16: 2,
  int32: 4,
  int64: 8,
  float16: 2,
  bfloat16: 2,
  float32: 4,
  float64: 8,
  complex64: 8,
};

/**
 * A lazy n-dimensional array. Operations build a graph; `eval()` and reading values run it on the device.
 *
 * Every operation is a method (`a.add(b)`) and a function (`mx.add(a, b)`). Shapes are row-major; negative axes count from the end.
 * Memory is freed by the garbage collector, or at once by `dispose()`, `using` and `tidy()`.
 */
export class MxArray {
  /** With a minus where a scope frees the array: then the registry does not know it. */
  #handle: ArrayHandle;

  static {
    handleOf = (array) => {
      if (typeof array !== 'object' || array === null || !(#handle in array)) throw notAnArray(array);
      const handle = array.#handle;
      if (handle > none) return handle;
      if (handle === none) throw disposedArray();
      return -handle as ArrayHandle;
    };
    leaveToCollector = (array) => {
      if (array.#handle >= none) return;
      array.#handle = -array.#handle as ArrayHandle;
      registry.register(array, array.#handle);
    };
  }

  /** @internal Use `mx.array(…)`, `MxArray.fromFloat32(…)` or an operation. */
  constructor(handle: ArrayHandle) {
    if (typeof handle !== 'number') {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        "arrays are made by mx.array(data, dtype?), mx.zeros(shape) and the like, not by 'new'",
      );
    }
    // A scope frees its arrays itself: only what leaves it needs the garbage collector's attention.
    const scope = openScopes > 0 ? collecting() : undefined;
    if (scope === undefined) {
      this.#handle = handle;
      registry.register(this, handle);
    } else {
      this.#handle = -handle as ArrayHandle;
      scope.made.push(this);
    }
  }

  /** Row-major elements of `shape`. */
  static fromFloat32(data: Float32Array, shape: readonly number[]): MxArray {
    return fromTyped(data, shape, 'float32');
  }

  /** Row-major elements of `shape`. */
  static fromInt32(data: Int32Array, shape: readonly number[]): MxArray {
    return fromTyped(data, shape, 'int32');
  }

  /** Row-major elements of `shape`. */
  static fromUint32(data: Uint32Array, shape: readonly number[]): MxArray {
    return fromTyped(data, shape, 'uint32');
  }

  get shape(): number[] {
    return core.shape(handleOf(this));
  }

  /** The number of axes. */
  get ndim(): number {
    return core.ndim(handleOf(this));
  }

  /** The number of elements. */
  get size(): number {
    return core.size(handleOf(this));
  }

  /** Bytes of all elements. */
  get nbytes(): number {
    return core.nbytes(handleOf(this));
  }

  get dtype(): Dtype {
    return core.dtype(handleOf(this)) as Dtype;
  }

  /** Bytes of one element. */
  get itemsize(): number {
    return bytesOf[this.dtype];
  }

  /** All axes in reverse. */
  get T(): MxArray {
    return this.transpose();
  }

  /** The last two axes exchanged. */
  get mT(): MxArray {
    return this.matrixTranspose();
  }

  get disposed(): boolean {
    return this.#handle === none;
  }

  /** Runs the graph behind this array and waits for it. */
  eval(): this {
    guard(() => core.eval([handleOf(this)]));
    return this;
  }

  /** Runs the graph behind this array without blocking the event loop. */
  async evalAsync(): Promise<this> {
    await evalAsync(this);
    return this;
  }

  /**
   * All elements, row-major, waiting for the graph: the typed array of this dtype; bool as 0 and 1, float16 and bfloat16 as
   * float32, complex64 as pairs of float32.
   */
  toTypedArray(): Exclude<TypedArray, Uint8ClampedArray> {
    return guard(() => core.elements(handleOf(this)));
  }

  /** All elements converted to float32, row-major. */
  toFloat32(): Float32Array {
    return guard(() => core.toFloat32(handleOf(this)));
  }

  /** All elements converted to int32, row-major. */
  toInt32(): Int32Array {
    return guard(() => core.toInt32(handleOf(this)));
  }

  /** All elements converted to uint32, row-major. */
  toUint32(): Uint32Array {
    return guard(() => core.toUint32(handleOf(this)));
  }

  /** The bytes of all elements, row-major and little-endian; the way to raw half-precision numbers. */
  toBytes(): Uint8Array {
    return guard(() => core.bytes(handleOf(this)));
  }

  /**
   * Copies all elements, row-major, into a typed array of this dtype and as many elements, and returns it: several times faster than
   * `toTypedArray()` where the same memory is filled again and again. bool fills a Uint8Array, complex64 a Float32Array of twice
   * as many numbers; bfloat16 has no typed array, `astype('float32')` has one.
   */
  readInto<T extends TypedArray | HalfArray>(target: T): T {
    guard(() => readInto(this, target));
    return target;
  }

  /**
   * The elements as nested lists, waiting for the graph; a 0-dimensional array gives its element. Booleans are booleans, complex
   * numbers `{ re, im }`. Whole numbers of 64 bits are numbers, but bigints where a number could not hold them exactly
   * (2^53 and more).
   */
  toArray(): NestedValues {
    return nested(this.toTypedArray(), this.shape, this.dtype);
  }

  /** `toArray()`, under its name in Python. */
  tolist(): NestedValues {
    return this.toArray();
  }

  /** For `JSON.stringify`: nested lists, with bigints as text. What JSON does not have (NaN, Infinity) it writes as null. */
  toJSON(): unknown {
    return nested(this.toTypedArray(), this.shape, this.dtype, String);
  }

  /** As Python's MLX prints it: large arrays are abridged. */
  toString(): string {
    return guard(() => core.text(handleOf(this)));
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    if (this.disposed) return 'array(disposed)';
    try {
      return this.toString();
    } catch {
      // Inside a traced function there are no values.
      return `array(shape=[${this.shape.join(', ')}], dtype=${this.dtype})`;
    }
  }

  /** The only element as a number; where text is wanted (`${a}`), a 0-dimensional array's element, or the text of `toString()`. */
  [Symbol.toPrimitive](hint: string): number | string {
    if (hint !== 'string') return this.item();
    return this.ndim === 0 ? elementText(this.toArray()) : this.toString();
  }

  /**
   * The only element, as a number; booleans are 0 and 1. Complex numbers and whole numbers of 2^53 and more, which a number cannot
   * hold, are ERR_MLX_DTYPE: `toArray()` reads them.
   */
  item(): number {
    return guard(() => core.item(handleOf(this)));
  }

  /** The size of the first axis. */
  get length(): number {
    const [length] = this.shape;
    if (length === undefined) throw scalarHasNone('a length');
    return length;
  }

  /** The slices along the first axis, one after the other. */
  *[Symbol.iterator](): Generator<MxArray, void, undefined> {
    if (this.ndim === 0) throw scalarHasNone('slices to iterate over');
    const { length } = this;
    for (let i = 0; i < length; i++) yield indexed(this, [i]);
  }

  /** One slice of the first axis; negative indices count from the end. An index outside is ERR_MLX_SHAPE. */
  at(index: number): MxArray {
    return indexed(this, [index]);
  }

  /**
   * What an index expression selects, as in Python's MLX: `a[1, ::2, ..., None]` is `a.index(1, '::2', '...', null)`. Entries are
   * numbers, slices as text, `null` (a new axis), `'...'`, and whole numbers in an array or list; see `mx.index`.
   */
  index(...indices: ArrayIndex[]): MxArray {
    return indexed(this, indices);
  }

  /**
   * A copy in which what an index expression selects is changed: `a[i] = v` in Python is `a = a.indexUpdate([i], v)`, and
   * `a.at[i].add(v)` is `a.indexUpdate([i], v, 'add')`; see `mx.indexUpdate`.
   */
  indexUpdate(indices: readonly ArrayIndex[], values: ArrayLike, mode: UpdateMode = 'set'): MxArray {
    return indexUpdate(this, indices, values, mode);
  }

  /** Frees the array now instead of when the garbage collector comes by. Using it afterwards is ERR_MLX_DISPOSED. */
  dispose(): void {
    const handle = this.#handle;
    this.#handle = none;
    // The registry will call with a handle that it knows: it must not be another array's by then.
    if (handle > none) core.empty(handle);
    else if (handle < none) core.release(-handle as ArrayHandle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Elements lie in a typed array as they do in one of that dtype. */
const storedAs: Readonly<Partial<Record<Dtype, Dtype>>> = { bool: 'uint8', complex64: 'float32' };

function readInto(array: MxArray, target: TypedArray | HalfArray): void {
  const { dtype, nbytes } = array;
  if (!ArrayBuffer.isView(target) || typedDtypes[target[Symbol.toStringTag]] !== (storedAs[dtype] ?? dtype))
    throw new MlxError(
      'ERR_MLX_DTYPE',
      `readInto() takes a typed array of the elements' own type; ${dtype} does not fit ${describe(target)}; astype() makes another one`,
    );
  if (target.byteLength !== nbytes)
    throw new MlxError(
      'ERR_MLX_SHAPE',
      `readInto() fills a typed array; one of ${target.byteLength} bytes does not hold shape [${array.shape.join(', ')}] of ${nbytes}`,
    );
  core.readInto(handleOf(array), new Uint8Array(target.buffer, target.byteOffset, target.byteLength));
}

const scalarHasNone = (what: string): MlxError =>
  new MlxError('ERR_MLX_SHAPE', `a 0-dimensional array does not have ${what}; item() gives its element`);

function notAnArray(value: unknown): MlxError {
  const what =
    value === null
      ? 'null'
      : typeof value === 'object'
        ? `a ${value.constructor?.name ?? 'object'}`
        : `${typeof value}`;
  return new MlxError(
    'ERR_MLX_ARGUMENT',
    `an MxArray was expected, not ${what}. Plain data becomes an array by mx.array(data); arrays cannot be sent between workers, their toTypedArray() can.`,
  );
}

const disposedArray = (): MlxError =>
  new MlxError(
    'ERR_MLX_DISPOSED',
    'this array has been disposed (by dispose(), using or tidy()); keep it by returning it from tidy()',
  );

/** @internal An array around a handle. */
export const wrap = (handle: ArrayHandle): MxArray => new MxArray(handle);

/** @internal */
export const wrapAll = (handles: readonly ArrayHandle[]): MxArray[] => handles.map(wrap);

/** Runs the graphs behind arrays, together, and waits. */
export function evalAll(...arrays: readonly MxArray[]): void {
  guard(() => core.eval(arrays.map(handleOf)));
}

/** Runs the graphs behind arrays, together, without blocking the event loop. */
export async function evalAsync(...arrays: readonly MxArray[]): Promise<void> {
  try {
    await core.evalAsync(arrays.map(handleOf));
  } catch (error) {
    throw wrapNativeError(error);
  }
}
