import { expect } from 'vitest';
import type { MxArray } from '../../lib/index.ts';
import { thrown } from './thrown.ts';

/** All elements, row-major. */
export const numbers = (array: MxArray): number[] => Array.from(array.toTypedArray(), Number);

/** The same shape, and elements within `atol + rtol · |want|`. */
export function expectNear(got: MxArray, want: MxArray, atol: number, rtol = 0): void {
  expect(got.shape).toEqual(want.shape);
  expectNumbers(got, numbers(want), atol, rtol);
}

/** Elements within `atol + rtol · |want|`; NaN only where NaN is wanted. */
export function expectNumbers(got: MxArray, want: readonly number[], atol = 0, rtol = 0): void {
  const found = numbers(got);
  expect(found.length).toBe(want.length);
  const wrong = found.flatMap((value, i) => {
    const wanted = want[i]!;
    const close =
      Object.is(value, wanted) || value === wanted || Math.abs(value - wanted) <= atol + rtol * Math.abs(wanted);
    return close ? [] : [`[${i}] ${value}, not ${wanted}`];
  });
  expect(wrong).toEqual([]);
}

/** The code of what `action` throws. */
export const codeOf = (action: () => unknown): unknown => thrown(action).code;
