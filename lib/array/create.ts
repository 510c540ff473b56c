import { guard, MlxError } from '../errors.js';
import { native } from '../native.js';
import type { ArrayHandle } from '../native-types.js';
import { handleOf, MxArray, wrap } from './core.js';
import type { ArrayLike, Complex, Dtype } from './core.js';
import { list, text } from './guards.js';

const core = native().core;

/** @internal The element type of each kind of typed array, by its name: that holds in every realm. */
export const typedDtypes: Readonly<Record<string, Dtype>> = {
  Float16Array: 'float16',
  Float32Array: 'float32',
  Float64Array: 'float64',
  Int8Array: 'int8',
  Int16Array: 'int16',
  Int32Array: 'int32',
  BigInt64Array: 'int64',
  Uint8Array: 'uint8',
  Uint8ClampedArray: 'uint8',
  Uint16Array: 'uint16',
  Uint32Array: 'uint32',
  BigUint64Array: 'uint64',
};

/** Row-major elements as they lie in memory. */
export function fromTyped(data: ArrayBufferView, shape: readonly number[], dtype: Dtype): MxArray {
  if (!ArrayBuffer.isView(data))
    throw new MlxError('ERR_MLX_ARGUMENT', `a typed array was expected, not ${describe(data)}`);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return wrap(guard(() => core.fromBytes(bytes, list(shape) as number[], text(dtype)) as ArrayHandle));
}

/** @internal */
export const describe = (value: unknown): string =>
  value === null
    ? 'null'
    : Array.isArray(value)
      ? 'a list'
      : ArrayBuffer.isView(value)
        ? `a ${(value as Uint8Array)[Symbol.toStringTag] ?? 'DataView'}`
        : `a ${typeof value}`;

/**
 * An array from plain data, as Python's `mx.array`: whole numbers give int32 and others float32, booleans bool, bigints int64,
 * `{ re, im }` complex64, a typed array its own dtype (but a Float64Array float32, unless `dtype` says 'float64').
 *
 * @example mx.array([[1, 2], [3, 4]], 'float32')
 */
export function array(data: ArrayLike, dtype?: Dtype): MxArray {
  if (data instanceof MxArray) return convert(wrap(guard(() => core.alias(handleOf(data)) as ArrayHandle)), dtype);
  if (ArrayBuffer.isView(data)) {
    const kind = data[Symbol.toStringTag];
    const own = typedDtypes[kind];
    if (own === undefined) throw new MlxError('ERR_MLX_ARGUMENT', `a ${kind} has no dtype in MLX`);
    return convert(fromTyped(data, [data.length], own), dtype ?? (own === 'float64' ? 'float32' : undefined));
  }
  const shape: number[] = [];
  for (let level: unknown = data; Array.isArray(level); level = level[0]) shape.push(level.length);
  const elements: Elements = { numbers: [], booleans: 0, bigints: 0, complex: 0, whole: true };
  flatten(data, shape, 0, elements);
  const size = shape.reduce((product, length) => product * length, 1);
  if (elements.numbers.length !== size) throw ragged(shape);
  return fromElements(elements, data, shape, dtype);
}

interface Elements {
  /** Row-major; booleans as 0 and 1, bigints rounded, complex numbers by their real part. */
  numbers: number[];
  booleans: number;
  bigints: number;
  complex: number;
  /** All are whole numbers within int32. */
  whole: boolean;
}

function flatten(data: unknown, shape: readonly number[], depth: number, elements: Elements): void {
  if (!Array.isArray(data)) {
    if (depth !== shape.length) throw ragged(shape);
    return element(data, elements);
  }
  if (depth >= shape.length || data.length !== shape[depth]) throw ragged(shape);
  if (depth < shape.length - 1) {
    for (let i = 0; i < data.length; i++) flatten(data[i], shape, depth + 1, elements);
    return;
  }
  const { numbers } = elements;
  for (let i = 0; i < data.length; i++) {
    const value: unknown = data[i];
    if (typeof value === 'number') {
      numbers.push(value);
      if ((value | 0) !== value) elements.whole = false;
    } else if (Array.isArray(value)) throw ragged(shape);
    else element(value, elements);
  }
}

function element(value: unknown, elements: Elements): void {
  if (typeof value === 'boolean') elements.booleans += 1;
  else if (typeof value === 'bigint') elements.bigints += 1;
  else if (isComplex(value)) elements.complex += 1;
  else if (typeof value !== 'number') {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `an array holds numbers, booleans, bigints or complex numbers { re, im }, not ${describe(value)}`,
    );
  }
  const number = isComplex(value) ? value.re : Number(value);
  elements.numbers.push(number);
  if ((number | 0) !== number) elements.whole = false;
}

function isComplex(value: unknown): value is Complex {
  const { re, im } = (value ?? {}) as Partial<Complex>;
  return typeof re === 'number' && typeof im === 'number';
}

const ragged = (shape: readonly number[]): MlxError =>
  new MlxError(
    'ERR_MLX_SHAPE',
    `nested lists must be rectangular; the first ones give shape [${shape.join(', ')}], others differ`,
  );

function fromElements(elements: Elements, data: unknown, shape: readonly number[], dtype: Dtype | undefined): MxArray {
  const { numbers, booleans, bigints, complex, whole } = elements;
  if (complex > 0) return convert(fromTyped(pairs(flat(data)), shape, 'complex64'), dtype);
  if (dtype === 'int64' || dtype === 'uint64' || (dtype === undefined && bigints > 0))
    return wide(flat(data), shape, dtype);
  const own =
    dtype ?? (numbers.length === 0 ? 'float32' : booleans === numbers.length ? 'bool' : whole ? 'int32' : 'float32');
  switch (own) {
    case 'bool':
      return fromTyped(
        Uint8Array.from(numbers, (value) => Number(value !== 0)),
        shape,
        own,
      );
    case 'int8':
      return fromTyped(new Int8Array(numbers), shape, own);
    case 'int16':
      return fromTyped(new Int16Array(numbers), shape, own);
    case 'int32':
      return fromTyped(new Int32Array(numbers), shape, own);
    case 'uint8':
      return fromTyped(new Uint8Array(numbers), shape, own);
    case 'uint16':
      return fromTyped(new Uint16Array(numbers), shape, own);
    case 'uint32':
      return fromTyped(new Uint32Array(numbers), shape, own);
    case 'float64':
      return fromTyped(new Float64Array(numbers), shape, own);
    default:
      return convert(fromTyped(new Float32Array(numbers), shape, 'float32'), own);
  }
}

const flat = (data: unknown): unknown[] => (Array.isArray(data) ? (data.flat(Infinity) as unknown[]) : [data]);

function pairs(values: readonly unknown[]): Float32Array {
  const parts = new Float32Array(2 * values.length);
  for (const [i, value] of values.entries())
    parts.set(isComplex(value) ? [value.re, value.im] : [Number(value), 0], 2 * i);
  return parts;
}

/** Whole numbers of 64 bits: other numbers lose what is behind the point. */
function wide(values: readonly unknown[], shape: readonly number[], dtype: Dtype = 'int64'): MxArray {
  const whole = values.map((value) => {
    if (typeof value === 'bigint') return value;
    const number = Math.trunc(Number(value));
    if (!Number.isFinite(number)) throw new MlxError('ERR_MLX_ARGUMENT', `an array of ${dtype} cannot hold ${number}`);
    return BigInt(number);
  });
  return fromTyped(dtype === 'uint64' ? BigUint64Array.from(whole) : BigInt64Array.from(whole), shape, dtype);
}

/** Of another dtype, without leaving the intermediate array to the garbage collector. */
function convert(made: MxArray, dtype: Dtype | undefined): MxArray {
  if (dtype === undefined || made.dtype === dtype) return made;
  try {
    return wrap(guard(() => native().ops.astype(handleOf(made), text(dtype)) as ArrayHandle));
  } finally {
    made.dispose();
  }
}
