import * as fc from 'fast-check';
import { describe, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import {
  axesOf,
  axisOf,
  check,
  dtypes,
  epsilon,
  expectSame,
  floats,
  integers,
  sample,
  samples,
  shapes,
  toMx,
} from './arbitrary.ts';
import type { Dtype, Sample } from './arbitrary.ts';
import { lines, map, reduce, zip } from './reference.ts';

/** Two arrays whose shapes broadcast: each may lack leading axes, and have size 1 on others. */
function pairs(of: readonly Dtype[]): fc.Arbitrary<[Sample, Sample]> {
  const side = (shape: number[], dtype: Dtype): fc.Arbitrary<Sample> =>
    fc
      .tuple(
        fc.integer({ min: 0, max: shape.length }),
        fc.array(fc.boolean(), { minLength: shape.length, maxLength: shape.length }),
      )
      .map(([skip, ones]) => shape.map((size, axis) => (ones[axis]! ? 1 : size)).slice(skip))
      .chain((own) => sample(own, dtype));
  return fc.tuple(shapes(), dtypes(of)).chain(([shape, dtype]) => fc.tuple(side(shape, dtype), side(shape, dtype)));
}

type Pair = readonly [name: string, call: (a: MxArray, b: MxArray) => MxArray, want: (x: number, y: number) => number];

const flag = (holds: boolean): number => Number(holds);

/** Halves up to 3 and their products are exact in every float dtype, so the results are too. */
const exact: readonly Pair[] = [
  ['add', mx.add, (x, y) => x + y],
  ['multiply', mx.multiply, (x, y) => x * y],
  ['minimum', mx.minimum, Math.min],
  ['maximum', mx.maximum, Math.max],
  ['equal', mx.equal, (x, y) => flag(x === y)],
  ['notEqual', mx.notEqual, (x, y) => flag(x !== y)],
  ['less', mx.less, (x, y) => flag(x < y)],
  ['lessEqual', mx.lessEqual, (x, y) => flag(x <= y)],
  ['greater', mx.greater, (x, y) => flag(x > y)],
  ['greaterEqual', mx.greaterEqual, (x, y) => flag(x >= y)],
  ['logicalAnd', mx.logicalAnd, (x, y) => flag(x !== 0 && y !== 0)],
  ['logicalOr', mx.logicalOr, (x, y) => flag(x !== 0 || y !== 0)],
  ['logicalXor', mx.logicalXor, (x, y) => flag((x !== 0) !== (y !== 0))],
];

const wholeOnly: readonly Pair[] = [
  ['floorDivide', mx.floorDivide, (x, y) => (y === 0 ? 0 : Math.floor(x / y))],
  ['remainder', mx.remainder, (x, y) => (y === 0 ? 0 : x - y * Math.floor(x / y))],
  ['divmod, first', (a, b) => mx.divmod(a, b)[0], (x, y) => (y === 0 ? 0 : Math.floor(x / y))],
  ['divmod, second', (a, b) => mx.divmod(a, b)[1], (x, y) => (y === 0 ? 0 : x - y * Math.floor(x / y))],
  ['bitwiseAnd', mx.bitwiseAnd, (x, y) => x & y],
  ['bitwiseOr', mx.bitwiseOr, (x, y) => x | y],
  ['bitwiseXor', mx.bitwiseXor, (x, y) => x ^ y],
];

describe('two operands', () => {
  test.each(exact)('%s broadcasts', (_, call, want) => {
    check(pairs([...floats, ...integers]), ([a, b]) => expectSame(call(toMx(a), toMx(b)), zip(a, b, want)));
  });

  test.each(wholeOnly)('%s of whole numbers broadcasts', (_, call, want) => {
    check(pairs(integers), ([a, b]) => expectSame(call(toMx(a), toMx(b)), zip(a, b, want)));
  });

  test('shifts', () => {
    check(pairs(['int32', 'uint8']), ([a, b]) => {
      const places = { ...b, data: b.data.map(Math.abs) };
      const wrap = (value: number): number => (a.dtype === 'uint8' ? value & 255 : value);
      expectSame(
        mx.leftShift(toMx(a), toMx(places)),
        zip(a, places, (x, y) => wrap(x << y)),
      );
      expectSame(
        mx.rightShift(toMx(a), toMx(places)),
        zip(a, places, (x, y) => x >> y),
      );
    });
  });

  test('a choice by condition', () => {
    check(fc.tuple(pairs(floats), fc.boolean()), ([[a, b], flipped]) => {
      const condition = mx.less(toMx(a), toMx(b));
      const want = zip(a, b, (x, y) => (x < y !== flipped ? x : y));
      expectSame(mx.where(flipped ? condition.logicalNot() : condition, toMx(a), toMx(b)), want);
    });
  });

  test('closeness', () => {
    check(pairs(['float32']), ([a, b]) => {
      expectSame(
        mx.isclose(toMx(a), toMx(b), 0.5, 0.25),
        zip(a, b, (x, y) => flag(Math.abs(x - y) <= 0.25 + 0.5 * Math.abs(y))),
      );
    });
  });
});

describe('one operand', () => {
  test('clip, sign, rounding and other exact functions', () => {
    check(samples(floats), (a) => {
      const array = toMx(a);
      expectSame(
        mx.clip(array, -1, 1.5),
        map(a, (x) => Math.min(1.5, Math.max(-1, x))),
      );
      expectSame(
        mx.clip(array, null, 0),
        map(a, (x) => Math.min(0, x)),
      );
      expectSame(array.abs(), map(a, Math.abs));
      expectSame(array.sign(), map(a, Math.sign));
      expectSame(array.floor(), map(a, Math.floor));
      expectSame(array.ceil(), map(a, Math.ceil));
      expectSame(array.trunc(), map(a, Math.trunc));
      expectSame(
        array.square(),
        map(a, (x) => x * x),
      );
      expectSame(
        array.negative(),
        map(a, (x) => -x),
      );
    });
  });
});

/** Sums may be rounded once for each element, relative to the sum of sizes. */
const sumBound = (a: Sample, values: number): number => epsilon(a.dtype) * Math.max(1, a.data.length) * values;

const withAxes = (
  of: readonly Dtype[],
  filled = false,
): fc.Arbitrary<readonly [Sample, { given: number | number[] | null; axes: number[] }, boolean]> =>
  samples(of)
    .filter((a) => !filled || a.data.length > 0)
    .chain((a) => fc.tuple(fc.constant(a), axesOf(a.shape.length), fc.boolean()));

describe('reductions', () => {
  test('sum and mean', () => {
    check(withAxes([...floats, 'int32', 'int64']), ([a, { given, axes }, keepdims]) => {
      const total = (values: number[]): number => values.reduce((sum, value) => sum + value, 0);
      const bound = sumBound(a, 3 * Math.max(1, a.data.length));
      expectSame(toMx(a).sum(given, keepdims), reduce(a, axes, keepdims, total), bound);
      if (!floats.includes(a.dtype)) return;
      expectSame(
        toMx(a).mean(given, keepdims),
        reduce(a, axes, keepdims, (values) => total(values) / values.length),
        bound,
      );
    });
  });

  test('largest, smallest, their places, all, any, counts', () => {
    check(withAxes([...floats, ...integers]), ([a, { given, axes }, keepdims]) => {
      const array = toMx(a);
      const nonzero = (values: number[]): number => values.filter((value) => value !== 0).length;
      expectSame(array.countNonzero(given, keepdims), reduce(a, axes, keepdims, nonzero));
      expectSame(
        array.all(given, keepdims),
        reduce(a, axes, keepdims, (values) => flag(values.every((value) => value !== 0))),
      );
      expectSame(
        array.any(given, keepdims),
        reduce(a, axes, keepdims, (values) => flag(nonzero(values) > 0)),
      );
    });
    check(withAxes([...floats, ...integers], true), ([a, { given, axes }, keepdims]) => {
      const array = toMx(a);
      const [largest, smallest] = [
        reduce(a, axes, keepdims, (v) => Math.max(...v)),
        reduce(a, axes, keepdims, (v) => Math.min(...v)),
      ];
      expectSame(array.max(given, keepdims), largest);
      expectSame(array.min(given, keepdims), smallest);
      const [low, high] = array.minmax(given, keepdims);
      expectSame(low, smallest);
      expectSame(high, largest);
      if (given !== null && axes.length !== 1) return;
      const axis = given === null ? null : axes[0]!;
      expectSame(
        array.argmax(axis, keepdims),
        reduce(a, axes, keepdims, (v) => v.indexOf(Math.max(...v))),
      );
      expectSame(
        array.argmin(axis, keepdims),
        reduce(a, axes, keepdims, (v) => v.indexOf(Math.min(...v))),
      );
    });
  });

  test('variance, standard deviation and median', () => {
    check(withAxes(['float32'], true), ([a, { given, axes }, keepdims]) => {
      const variance = (values: number[], ddof: number): number => {
        const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
        return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(0, values.length - ddof);
      };
      // The squares are at most 36, and each may be rounded.
      const bound = sumBound(a, 36);
      expectSame(
        toMx(a).var(given, keepdims),
        reduce(a, axes, keepdims, (v) => variance(v, 0)),
        bound,
      );
      const counts = reduce(a, axes, keepdims, (v) => v.length).data;
      if (counts.every((count) => count > 1))
        expectSame(
          toMx(a).var(given, keepdims, 1),
          reduce(a, axes, keepdims, (v) => variance(v, 1)),
          bound,
        );
      // The root of a variance near 0 has no more than half of its digits.
      expectSame(
        toMx(a).std(given, keepdims),
        reduce(a, axes, keepdims, (v) => Math.sqrt(variance(v, 0))),
        Math.sqrt(bound),
      );
      if (axes.length === 0) return;
      const middle = (values: number[]): number => {
        const sorted = values.toSorted((x, y) => x - y);
        return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
      };
      expectSame(toMx(a).median(given, keepdims), reduce(a, axes, keepdims, middle));
    });
  });

  test('logsumexp and softmax', () => {
    check(withAxes(floats, true), ([a, { given, axes }, keepdims]) => {
      const log = (values: number[]): number => Math.log(values.reduce((sum, value) => sum + Math.exp(value), 0));
      // A few roundings of numbers up to 3 + log(625).
      const bound = 16 * epsilon(a.dtype) * 10;
      expectSame(toMx(a).logsumexp(given, keepdims), reduce(a, axes, keepdims, log), bound);
      if (axes.length === 0) return;
      const sums = reduce(a, axes, true, log);
      const want = zip(a, sums, (x, y) => Math.exp(x - y));
      expectSame(toMx(a).softmax(given, { precise: true }), want, bound);
    });
  });
});

describe('along an axis', () => {
  const cases = samples([...floats, 'int32'], 1).chain((a) => fc.tuple(fc.constant(a), axisOf(a.shape.length)));

  test('running sums, products and extremes, from both ends, with and without the element', () => {
    const options = fc.record({ reverse: fc.boolean(), inclusive: fc.boolean() });
    check(fc.tuple(cases, options), ([[a, axis], { reverse, inclusive }]) => {
      const scan =
        (start: number, call: (x: number, y: number) => number) =>
        (line: number[]): number[] => {
          const run = reverse ? line.toReversed() : line;
          let state = start;
          const out = run.map((value) => {
            const before = state;
            state = call(state, value);
            return inclusive ? state : before;
          });
          return reverse ? out.toReversed() : out;
        };
      // At most five numbers of up to 3: sums are exact even in bfloat16.
      expectSame(
        toMx(a).cumsum(axis, { reverse, inclusive }),
        lines(
          a,
          axis,
          scan(0, (x, y) => x + y),
        ),
      );
      if (a.dtype === 'float32' || a.dtype === 'int32')
        expectSame(
          toMx(a).cumprod(axis, { reverse, inclusive }),
          lines(
            a,
            axis,
            scan(1, (x, y) => x * y),
          ),
        );
      if (!inclusive) return;
      expectSame(toMx(a).cummax(axis, { reverse }), lines(a, axis, scan(-Infinity, Math.max)));
      expectSame(toMx(a).cummin(axis, { reverse }), lines(a, axis, scan(Infinity, Math.min)));
    });
  });

  test('sorting, stably, and its indices', () => {
    check(cases, ([a, axis]) => {
      const order = (line: number[]): number[] =>
        line.map((_, i) => i).toSorted((i, j) => line[i]! - line[j]! || i - j);
      expectSame(
        mx.sort(toMx(a), axis),
        lines(a, axis, (line) => line.toSorted((x, y) => x - y)),
      );
      const sorted = lines(a, axis, (line) => order(line).map((i) => line[i]!));
      if (a.data.length > 0) expectSame(toMx(a).takeAlongAxis(toMx(a).argsort(axis), axis), sorted);
      expectSame(mx.sort(toMx(a), null), { shape: [a.data.length], data: a.data.toSorted((x, y) => x - y) });
    });
  });

  test('the largest, parts, and places in order', () => {
    const filled = cases.filter(([a]) => a.data.length > 0);
    check(fc.tuple(filled, fc.nat()), ([[a, axis], random]) => {
      const size = a.shape.at(axis)!;
      const kth = random % size;
      const ascending = (line: number[]): number[] => line.toSorted((x, y) => x - y);
      expectSame(
        mx.sort(toMx(a).topk(kth + 1, axis), axis),
        lines(a, axis, (line) => ascending(line).slice(size - kth - 1)),
      );
      const part = toMx(a).partition(kth, axis);
      const place = kth - size;
      expectSame(
        part.take([place], axis),
        lines(a, axis, (line) => [ascending(line)[kth]!]),
      );
      expectSame(mx.sort(part, axis), lines(a, axis, ascending));
      const by = toMx(a).takeAlongAxis(toMx(a).argpartition(kth, axis), axis);
      expectSame(
        by.take([place], axis),
        lines(a, axis, (line) => [ascending(line)[kth]!]),
      );
    });
  });

  test('where values go in a sorted vector', () => {
    check(
      fc.tuple(
        shapes(1, 1).chain((shape) => sample(shape, 'float32')),
        samples(['float32']),
      ),
      ([line, values]) => {
        const sorted = line.data.toSorted((x, y) => x - y);
        const vector = toMx({ ...line, data: sorted });
        expectSame(
          vector.searchsorted(toMx(values)),
          map(values, (x) => sorted.filter((y) => y < x).length),
        );
        expectSame(
          vector.searchsorted(toMx(values), 'right'),
          map(values, (x) => sorted.filter((y) => y <= x).length),
        );
      },
    );
  });

  test('differences of neighbours', () => {
    check(fc.tuple(cases, fc.integer({ min: 0, max: 3 })), ([[a, axis], n]) => {
      if (a.dtype !== 'float32' && a.dtype !== 'int32') return;
      const once = (line: number[]): number[] => line.slice(1).map((value, i) => value - line[i]!);
      const repeated = (line: number[]): number[] =>
        Array.from({ length: n }).reduce((rest: number[]) => once(rest), line);
      expectSame(toMx(a).diff(n, axis), lines(a, axis, repeated));
    });
  });
});
