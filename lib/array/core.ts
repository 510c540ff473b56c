import { guard, MlxError, wrapNativeError } from '../errors.js';
import { native } from '../native.js';
import type { ArrayHandle, Dtype } from '../native-types.js';
import { fromTyped } from './create.js';

const core = native().core;

export type { Dtype };

/** Arrays nest: `[[1, 2], [3, 4]]` has shape [2, 2]. */
export type NestedArray = readonly (number | boolean | bigint | NestedArray)[];

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

/** What an operation takes for an array. A number does not widen the other operand's dtype. */
export type ArrayLike = MxArray | number | boolean | NestedArray | TypedArray;

/** Frees the slots of arrays that the garbage collector found unreachable. */
const registry = new FinalizationRegistry<ArrayHandle>((handle) => core.release(handle));

/** Arrays made inside the innermost running `tidy`. */
let scope: MxArray[] | null = null;

/** @internal The handle of an array; throws where it is none or has been disposed. */
export let handleOf: (array: MxArray) => ArrayHandle;

const none = 0 as ArrayHandle;

/**
 * A lazy n-dimensional array. Operations build a graph; `eval()` and reading values run it on the device.
 *
 * Every operation is a method (`a.add(b)`) and a function (`mx.add(a, b)`). Shapes are row-major; negative axes count from the end.
 * Memory is freed by the garbage collector, or at once by `dispose()`, `using` and `tidy()`.
 */
export class MxArray {
  #handle: ArrayHandle;

  static {
    handleOf = (array) => {
      if (typeof array !== 'object' || array === null || !(#handle in array)) throw notAnArray(array);
      if (array.#handle === none) throw disposedArray();
      return array.#handle;
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
    this.#handle = handle;
    registry.register(this, handle);
    scope?.push(this);
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

  /** As Python's MLX prints it. */
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

  /** The only element as a number, or the text. */
  [Symbol.toPrimitive](hint: string): number | string {
    return hint === 'string' ? this.toString() : this.item();
  }

  /** The only element, as a number. */
  item(): number {
    return guard(() => core.item(handleOf(this)));
  }

  /** Frees the array now instead of when the garbage collector comes by. Using it afterwards is ERR_MLX_DISPOSED. */
  dispose(): void {
    const handle = this.#handle;
    this.#handle = none;
    core.release(handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

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

/** @internal Runs `body` and returns the arrays made meanwhile, in order. */
export function collectArrays<T>(body: () => T): { value: T; made: MxArray[] } {
  const outer = scope;
  const made: MxArray[] = [];
  scope = made;
  try {
    return { value: body(), made };
  } catch (error) {
    for (const array of made) array.dispose();
    throw error;
  } finally {
    scope = outer;
  }
}

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
