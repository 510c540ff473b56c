import { guard, MlxError } from '../errors.js';
import { native } from '../native.js';
import type { ArrayHandle } from '../native-types.js';
import { handleOf, MxArray, wrap } from './core.js';
import type { ArrayLike, Dtype, TypedArray } from './core.js';

const core = native().core;

/** The element type of each kind of typed array. */
const typedDtypes: readonly (readonly [abstract new (...args: never[]) => TypedArray, Dtype])[] = [
  [Float32Array, 'float32'],
  [Int32Array, 'int32'],
  [Uint32Array, 'uint32'],
  [Uint8Array, 'uint8'],
  [Uint8ClampedArray, 'uint8'],
  [Float64Array, 'float64'],
  [BigInt64Array, 'int64'],
  [BigUint64Array, 'uint64'],
  [Int8Array, 'int8'],
  [Int16Array, 'int16'],
  [Uint16Array, 'uint16'],
];

/** Row-major elements as they lie in memory. */
export function fromTyped(data: TypedArray, shape: readonly number[], dtype: Dtype): MxArray {
  if (!ArrayBuffer.isView(data))
    throw new MlxError('ERR_MLX_ARGUMENT', `a typed array was expected, not ${describe(data)}`);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return wrap(guard(() => core.fromBytes(bytes, shape as number[], dtype) as ArrayHandle));
}

const describe = (value: unknown): string =>
  value === null ? 'null' : Array.isArray(value) ? 'a list' : `a ${typeof value}`;

/**
 * An array from plain data, as Python's `mx.array`: whole numbers give int32 and others float32, booleans bool, bigints int64, a
 * typed array its own dtype (but a Float64Array float32, unless `dtype` says 'float64').
 *
 * @example mx.array([[1, 2], [3, 4]], 'float32')
 */
export function array(data: ArrayLike, dtype?: Dtype): MxArray {
  if (data instanceof MxArray) return convert(wrap(guard(() => core.alias(handleOf(data)) as ArrayHandle)), dtype);
  if (ArrayBuffer.isView(data)) {
    const own = typedDtypes.find(([type]) => data instanceof type)?.[1];
    if (own === undefined)
      throw new MlxError('ERR_MLX_ARGUMENT', `a ${describe(data)} of this kind has no dtype in MLX`);
    return convert(fromTyped(data, [data.length], own), dtype ?? (own === 'float64' ? 'float32' : undefined));
  }
  const shape: number[] = [];
  for (let level: unknown = data; Array.isArray(level); level = level[0]) shape.push(level.length);
  const size = shape.reduce((product, length) => product * length, 1);
  const values: (number | boolean | bigint)[] = [];
  flatten(data, shape, 0, values);
  if (values.length !== size) throw ragged(shape);
  return fromValues(values, shape, dtype);
}

function flatten(data: unknown, shape: readonly number[], depth: number, values: (number | boolean | bigint)[]): void {
  if (Array.isArray(data)) {
    if (depth === shape.length || data.length !== shape[depth]) throw ragged(shape);
    for (let i = 0; i < data.length; i++) flatten(data[i], shape, depth + 1, values);
    return;
  }
  if (depth !== shape.length) throw ragged(shape);
  if (typeof data !== 'number' && typeof data !== 'boolean' && typeof data !== 'bigint') {
    throw new MlxError('ERR_MLX_ARGUMENT', `an array holds numbers, booleans or bigints, not ${describe(data)}`);
  }
  values.push(data);
}

const ragged = (shape: readonly number[]): MlxError =>
  new MlxError(
    'ERR_MLX_SHAPE',
    `nested lists must be rectangular; the first ones give shape [${shape.join(', ')}], others differ`,
  );

function fromValues(
  values: readonly (number | boolean | bigint)[],
  shape: readonly number[],
  dtype: Dtype | undefined,
): MxArray {
  if (values.some((value) => typeof value === 'bigint')) {
    const wide = dtype === 'uint64' ? BigUint64Array : BigInt64Array;
    const data = wide.from(values.map((value) => BigInt(value)));
    return convert(fromTyped(data, shape, dtype === 'uint64' ? 'uint64' : 'int64'), dtype);
  }
  if (values.length > 0 && values.every((value) => typeof value === 'boolean')) {
    return convert(fromTyped(Uint8Array.from(values, Number), shape, 'bool'), dtype);
  }
  const numbers = values.map(Number);
  const whole = numbers.length > 0 && numbers.every((value) => Number.isInteger(value) && Math.abs(value) < 2 ** 31);
  if (dtype === undefined ? whole : dtype === 'int32') {
    if (whole) return fromTyped(Int32Array.from(numbers), shape, 'int32');
  }
  if (dtype === undefined || dtype === 'float32') return fromTyped(Float32Array.from(numbers), shape, 'float32');
  if (dtype === 'float64') return fromTyped(Float64Array.from(numbers), shape, 'float64');
  return convert(
    fromTyped(whole ? Int32Array.from(numbers) : Float32Array.from(numbers), shape, whole ? 'int32' : 'float32'),
    dtype,
  );
}

/** Of another dtype, without leaving the intermediate array to the garbage collector. */
function convert(made: MxArray, dtype: Dtype | undefined): MxArray {
  if (dtype === undefined || made.dtype === dtype) return made;
  try {
    return wrap(guard(() => native().ops.astype(handleOf(made), dtype) as ArrayHandle));
  } finally {
    made.dispose();
  }
}
