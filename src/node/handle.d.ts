/** Generated from the Rust code by napi. Arrays are numbers here; `MxArray` wraps them. */

/** Names an array of this thread. */
export type ArrayHandle = number & { readonly __array: unique symbol };
/** The key of a random draw. */
export type RandomKey = ArrayHandle;
/** A dtype by name. */
export type DtypeName =
  | 'bool'
  | 'uint8'
  | 'uint16'
  | 'uint32'
  | 'uint64'
  | 'int8'
  | 'int16'
  | 'int32'
  | 'int64'
  | 'float16'
  | 'bfloat16'
  | 'float32'
  | 'float64'
  | 'complex64';
/** The elements of an array. */
export type Elements =
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array;
/** A function from arrays to arrays, as TypeScript hands it to a transform; `null` when it threw. */
export type ArrayFunction = (inputs: Array<ArrayHandle>) => Array<ArrayHandle> | null;
/** An array, or a number below 0 that names the place of one in the scratch memory. */
export type Operand = ArrayHandle;
/** An axis; null stands for the elements in row-major order. */
export type FlatAxis = number | null | undefined;
/** An array of indices; that of plain data has a minus. */
export type Indices = ArrayHandle;
/** An array, or a number in a list of its own. */
export type NumberOrArray = ArrayHandle | [number];
