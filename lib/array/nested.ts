/** Elements as nested lists. */
import type { Complex, Dtype, TypedArray } from './core.js';

/** What `toArray()` gives: lists nested as deep as the array has axes, or the one element of a 0-dimensional array. */
export type NestedValues = number | boolean | bigint | Complex | NestedValues[];

type Element = (index: number) => unknown;

/** Row-major `data` of `shape` as nested lists. `wide` stands for whole numbers that a number cannot hold exactly. */
export function nested(
  data: TypedArray,
  shape: readonly number[],
  dtype: Dtype,
  wide?: (value: bigint) => unknown,
): NestedValues {
  const element = elements(data, dtype, wide);
  let next = 0;
  const level = (axis: number): unknown => {
    if (axis === shape.length) return element(next++);
    const length = shape[axis]!;
    const list: unknown[] = Array.from({ length });
    if (axis < shape.length - 1) for (let i = 0; i < length; i++) list[i] = level(axis + 1);
    else for (let i = 0; i < length; i++) list[i] = element(next++);
    return list;
  };
  return level(0) as NestedValues;
}

function elements(data: TypedArray, dtype: Dtype, wide: (value: bigint) => unknown = (value) => value): Element {
  if (dtype === 'bool') return (index) => data[index] !== 0;
  if (dtype === 'complex64') return (index) => ({ re: data[2 * index], im: data[2 * index + 1] });
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) {
    return (index) => {
      const value = Number(data[index]);
      return Number.isSafeInteger(value) ? value : wide(data[index]!);
    };
  }
  return (index) => data[index];
}

/** One element as text. */
export function elementText(value: NestedValues): string {
  if (typeof value !== 'object' || Array.isArray(value)) return String(value);
  const { re, im } = value;
  return `${re}${im < 0 || Object.is(im, -0) ? '-' : '+'}${Math.abs(im)}j`;
}
