/** Random arrays for the property tests, and comparison with what plain JavaScript computes. */
import * as fc from 'fast-check';
import { expect } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { normal, sizeOf } from './reference.ts';
import type { Plain } from './reference.ts';

/** Failures print the seed and the smallest case; another seed: MLX_NODE_PROPERTY_SEED. */
const seed = Number(process.env['MLX_NODE_PROPERTY_SEED'] ?? 20_261_124);

/** Checks a property on random cases; on `count` of them. */
export function check<T>(cases: fc.Arbitrary<T>, property: (value: T) => void, count = 150): void {
  fc.assert(fc.property(cases, property), { seed, numRuns: count });
}

export type Dtype = mx.Dtype;

/** The distance from 1 to the next number. */
const epsilons: Partial<Record<Dtype, number>> = { float32: 2 ** -23, float16: 2 ** -10, bfloat16: 2 ** -7 };

export const epsilon = (dtype: Dtype): number => epsilons[dtype] ?? 0;

export const floats: readonly Dtype[] = ['float32', 'float16', 'bfloat16'];
export const integers: readonly Dtype[] = ['int32', 'int8', 'uint8', 'int64'];

export const dtypes = (of: readonly Dtype[]): fc.Arbitrary<Dtype> => fc.constantFrom(...of);

/** Sizes 0 and 1 come often. */
export const sizes = fc.constantFrom(0, 1, 1, 2, 3, 4, 5);

export const shapes = (min = 0, max = 4): fc.Arbitrary<number[]> => fc.array(sizes, { minLength: min, maxLength: max });

export interface Sample extends Plain {
  dtype: Dtype;
}

/** Elements that every dtype of its kind holds exactly: whole numbers up to 6, and halves for floats. */
export function sample(shape: readonly number[], dtype: Dtype): fc.Arbitrary<Sample> {
  const element = dtype.startsWith('uint')
    ? fc.integer({ min: 0, max: 6 })
    : dtype === 'bool'
      ? fc.integer({ min: 0, max: 1 })
      : fc.integer({ min: -6, max: 6 }).map((value) => (epsilon(dtype) > 0 ? value / 2 : value));
  const count = sizeOf(shape);
  return fc.array(element, { minLength: count, maxLength: count }).map((data) => ({ shape, data, dtype }));
}

export const samples = (of: readonly Dtype[], min = 0, max = 4): fc.Arbitrary<Sample> =>
  fc.tuple(shapes(min, max), dtypes(of)).chain(([shape, dtype]) => sample(shape, dtype));

/** Any axis, from the front or from the end. */
export const axisOf = (ndim: number): fc.Arbitrary<number> =>
  fc.integer({ min: -Math.max(ndim, 1), max: Math.max(ndim, 1) - 1 });

/** Some axes, each once; null for all. */
export function axesOf(ndim: number): fc.Arbitrary<{ given: number | number[] | null; axes: number[] }> {
  const all = Array.from({ length: ndim }, (_, axis) => axis);
  const every = fc.constant({ given: null, axes: all });
  if (ndim === 0) return every;
  const several = fc
    .tuple(fc.shuffledSubarray(all), fc.array(fc.boolean(), { minLength: ndim, maxLength: ndim }))
    .map(([axes, back]) => axes.map((axis) => (back[axis]! ? axis - ndim : axis)))
    .map((axes) => ({ given: axes, axes: axes.map((axis) => normal(axis, ndim)) }));
  const one = axisOf(ndim).map((axis) => ({ given: axis, axes: [normal(axis, ndim)] }));
  return fc.oneof(every, several, one);
}

export const toMx = ({ shape, data, dtype }: Sample): MxArray => mx.array([...data], dtype).reshape(shape);

export function toPlain(array: MxArray): Plain {
  return { shape: array.shape, data: Array.from(array.toTypedArray(), Number) };
}

/** Exactly these elements, unless a bound for the difference is given (an element of it, or for each). */
export function expectSame(got: MxArray, want: Plain, bound: number | readonly number[] = 0): void {
  const { shape, data } = toPlain(got);
  expect(shape).toEqual([...want.shape]);
  const wrong = data.flatMap((value, i) => {
    const wanted = want.data[i]!;
    const allowed = typeof bound === 'number' ? bound : bound[i]!;
    const same = Object.is(value, wanted) || value === wanted || Math.abs(value - wanted) <= allowed;
    return same ? [] : [`[${i}] ${value}, not ${wanted}`];
  });
  expect(wrong).toEqual([]);
}
