import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MlxError } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';
import { axisOf, check, expectSame, sample, samples, shapes, toMx, toPlain } from './arbitrary.ts';
import type { Dtype, Sample } from './arbitrary.ts';
import { at, broadcastTo, concatenate, normal, pad, pick, plain, places, sizeOf, transpose } from './reference.ts';
import type { Plain } from './reference.ts';

const all: readonly Dtype[] = ['float32', 'bfloat16', 'int32', 'int8', 'uint8', 'int64', 'bool'];
const code = (act: () => unknown): string => (thrown(act) as MlxError).code;
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const withAxis = (min = 1): fc.Arbitrary<readonly [Sample, number]> =>
  samples(all, min).chain((a) => fc.tuple(fc.constant(a), axisOf(a.shape.length)));

describe('shapes', () => {
  test('reshape, flatten and unflatten keep the order of elements', () => {
    check(fc.tuple(samples(all), fc.boolean()), ([a, open]) => {
      const shape = a.shape.toReversed();
      const given = open && shape.length > 0 && a.data.length > 0 ? shape.with(0, -1) : shape;
      expectSame(toMx(a).reshape(given), { shape, data: a.data });
      if (a.shape.length === 0) return;
      expectSame(toMx(a).flatten(), { shape: [a.data.length], data: a.data });
      expectSame(
        toMx(a)
          .flatten()
          .unflatten(0, [...a.shape]),
        a,
      );
    });
  });

  test('transpose, swapaxes and moveaxis', () => {
    const orders = samples(all).chain((a) =>
      fc.tuple(fc.constant(a), fc.shuffledSubarray(range(a.shape.length), { minLength: a.shape.length })),
    );
    check(orders, ([a, order]) => {
      expectSame(toMx(a).transpose(order), transpose(a, order));
      expectSame(toMx(a).transpose(), transpose(a, range(a.shape.length).toReversed()));
      // A view of a view, and reading through it.
      expectSame(toMx(a).transpose(order).transpose(), transpose(a, order.toReversed()));
    });
    check(fc.tuple(withAxis(), fc.nat()), ([[a, axis], random]) => {
      const ndim = a.shape.length;
      const [from, to] = [normal(axis, ndim), random % ndim];
      expectSame(toMx(a).swapaxes(axis, to), transpose(a, range(ndim).with(from, to).with(to, from)));
      expectSame(toMx(a).moveaxis(axis, to), transpose(a, range(ndim).toSpliced(from, 1).toSpliced(to, 0, from)));
    });
  });

  test('expandDims and squeeze undo each other', () => {
    check(
      withAxis(0).map(([a]) => a),
      (a) => {
        for (const axis of range(a.shape.length + 1)) {
          const wide = toMx(a).expandDims(axis);
          expectSame(wide, { shape: a.shape.toSpliced(axis, 0, 1), data: a.data });
          expectSame(wide.squeeze(axis), a);
        }
        expectSame(toMx(a).squeeze(), { shape: a.shape.filter((size) => size !== 1), data: a.data });
      },
    );
  });

  test('broadcastTo', () => {
    check(fc.tuple(samples(all), shapes(0, 2), fc.integer({ min: 0, max: 3 })), ([a, more, size]) => {
      const shape = [...more, ...a.shape.map((own) => (own === 1 ? size : own))];
      expectSame(toMx(a).broadcastTo(shape), broadcastTo(a, shape));
      expect(mx.broadcastShapes([[...a.shape], shape])).toEqual(shape);
      expectSame(mx.broadcastArrays([toMx(a), mx.zeros(shape)])[0]!, broadcastTo(a, shape));
    });
  });
});

describe('copies of elements', () => {
  test('flip, roll and repeat along an axis', () => {
    check(fc.tuple(withAxis(), fc.integer({ min: -9, max: 9 })), ([[a, axis], number]) => {
      const size = a.shape.at(axis)!;
      expectSame(toMx(a).flip(axis), pick(a, axis, range(size).toReversed()));
      const back = (i: number): number => (((i - number) % size) + size) % size;
      expectSame(toMx(a).roll(number, axis), pick(a, axis, range(size).map(back)));
      const count = Math.abs(number) % 4;
      expectSame(
        toMx(a).repeat(count, axis),
        pick(
          a,
          axis,
          range(size * count).map((i) => Math.floor(i / count)),
        ),
      );
      const { length } = a.data;
      const flat = range(length).map((i) => a.data[(((i - number) % length) + length) % length]!);
      expectSame(toMx(a).roll(number), { shape: a.shape, data: flat });
    });
  });

  test('tile', () => {
    check(fc.tuple(samples(all, 0, 3), fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 4 })), ([a, reps]) => {
      const ndim = Math.max(a.shape.length, reps.length);
      const fill = (list: readonly number[]): number[] => [...range(ndim - list.length).fill(1), ...list];
      const [own, counts] = [fill(a.shape), fill(reps)];
      const source: Plain = { shape: own, data: a.data };
      const want = plain(
        own.map((size, i) => size * counts[i]!),
        (place) =>
          at(
            source,
            place.map((where, i) => where % own[i]!),
          ),
      );
      expectSame(toMx(a).tile(reps), want);
    });
  });

  test('pad, in its modes', () => {
    const widths = fc.tuple(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 3 }));
    const modes: Record<string, (where: number, size: number) => number> = {
      constant: (where, size) => (where < 0 || where >= size ? -1 : where),
      edge: (where, size) => Math.min(size - 1, Math.max(0, where)),
      // To and fro, the ends once.
      reflect: (where, size) => {
        const period = Math.max(1, 2 * (size - 1));
        const forth = ((where % period) + period) % period;
        return size === 1 ? 0 : Math.min(forth, period - forth);
      },
      // To and fro, the ends twice.
      symmetric: (where, size) => {
        const forth = ((where % (2 * size)) + 2 * size) % (2 * size);
        return Math.min(forth, 2 * size - 1 - forth);
      },
    };
    const cases = samples(all, 0, 3).chain((a) =>
      fc.tuple(
        fc.constant(a),
        fc.array(widths, { minLength: a.shape.length, maxLength: a.shape.length }),
        fc.constantFrom('constant', 'edge', 'reflect', 'symmetric'),
      ),
    );
    check(cases, ([a, given, mode]) => {
      if (a.data.length === 0 && mode !== 'constant') return;
      const value = mode === 'constant' ? 1 : 0;
      expectSame(mx.pad(toMx(a), given, mode, value), pad(a, given, value, modes[mode]!));
    });
    check(fc.tuple(samples(all, 1, 3), widths), ([a, pair]) => {
      const every = a.shape.map(() => pair);
      expectSame(mx.pad(toMx(a), pair), pad(a, every, 0, modes['constant']!));
      expectSame(
        mx.pad(toMx(a), pair[0]),
        pad(
          a,
          every.map(() => [pair[0], pair[0]] as const),
          0,
          modes['constant']!,
        ),
      );
    });
  });

  test('concatenate, split, stack and unstack', () => {
    check(fc.tuple(withAxis(), fc.array(fc.nat({ max: 5 }), { maxLength: 3 })), ([[a, axis], cuts]) => {
      const size = a.shape.at(axis)!;
      const ascending = cuts.map((cut) => Math.min(cut, size)).toSorted((x, y) => x - y);
      const parts = toMx(a).split(ascending, axis);
      const bounds = [0, ...ascending, size];
      const want = range(bounds.length - 1).map((i) => pick(a, axis, range(size).slice(bounds[i]!, bounds[i + 1]!)));
      for (const [i, part] of parts.entries()) expectSame(part, want[i]!);
      expectSame(mx.concatenate(parts, axis), concatenate(want, axis));
      expectSame(mx.concatenate(parts, null), { shape: [a.data.length], data: want.flatMap((part) => part.data) });
      const slices = toMx(a).unstack(axis);
      expect(slices.length).toBe(size);
      if (size > 0) expectSame(mx.stack(slices, axis), a);
    });
  });
});

/** Valid places along an axis of `size`, from the front and from the end; none where there is nothing. */
const placesOf = (size: number): fc.Arbitrary<number[]> =>
  size === 0 ? fc.constant([]) : fc.array(fc.integer({ min: -size, max: size - 1 }), { maxLength: 5 });

const withPlaces = withAxis().chain(([a, axis]) =>
  fc.tuple(fc.constant(a), fc.constant(axis), placesOf(a.shape.at(axis)!)),
);

const numeric: readonly Dtype[] = ['float32', 'int32', 'bfloat16'];

describe('places', () => {
  test('take, of plain numbers and of arrays', () => {
    check(withPlaces, ([a, axis, chosen]) => {
      const size = a.shape.at(axis)!;
      const want = pick(
        a,
        axis,
        chosen.map((place) => normal(place, size)),
      );
      expectSame(toMx(a).take(chosen, axis), want);
      expectSame(toMx(a).take(mx.array(chosen, 'int32'), axis), want);
      if (chosen.length === 0) return;
      // One number takes the axis away.
      expectSame(toMx(a).take(chosen[0]!, axis).expandDims(axis), pick(a, axis, [normal(chosen[0]!, size)]));
      // Places of an axis are not places of the elements where another axis is empty.
      if (a.data.length === 0) expect(code(() => toMx(a).take(chosen))).toBe('ERR_MLX_SHAPE');
      else
        expectSame(toMx(a).take(chosen), {
          shape: [chosen.length],
          data: chosen.map((place) => a.data.at(place)!),
        });
    });
  });

  test('numbers outside throw, arrays move to the nearest place', () => {
    check(fc.tuple(withAxis(), fc.integer({ min: 1, max: 2 ** 31 - 10 })), ([[a, axis], beyond]) => {
      const size = a.shape.at(axis)!;
      for (const place of [size - 1 + beyond, -size - beyond].map((where) =>
        Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, where)),
      )) {
        expect(code(() => toMx(a).take([place], axis))).toBe('ERR_MLX_SHAPE');
        if (size === 0) continue;
        expectSame(toMx(a).take(mx.array([place], 'int32'), axis), pick(a, axis, [place < 0 ? 0 : size - 1]));
      }
    });
  });

  const along = samples(numeric, 1, 3)
    .filter((a) => a.data.length > 0)
    .chain((a) => fc.tuple(fc.constant(a), axisOf(a.shape.length), fc.integer({ min: 1, max: 4 })))
    .chain(([a, axis, count]) => {
      const shape = a.shape.with(normal(axis, a.shape.length), count);
      const size = a.shape.at(axis)!;
      const index = fc.array(fc.integer({ min: -size, max: size - 1 }), {
        minLength: sizeOf(shape),
        maxLength: sizeOf(shape),
      });
      return fc.tuple(
        fc.constant(a),
        fc.constant(axis),
        index.map((data): Sample => ({ shape, data, dtype: 'int32' })),
        sample(shape, a.dtype),
      );
    });

  test('takeAlongAxis, putAlongAxis and scatterAddAxis', () => {
    check(along, ([a, axis, index, values]) => {
      const place = normal(axis, a.shape.length);
      const size = a.shape[place]!;
      const target = (where: number[]): number[] => where.with(place, normal(at(index, where), size));
      expectSame(
        toMx(a).takeAlongAxis(toMx(index), axis),
        plain(index.shape, (where) => at(a, target(where))),
      );
      const added = new Map<string, number>();
      const written = new Map<string, Set<number>>();
      for (const where of places(index.shape)) {
        const key = String(target(where));
        added.set(key, (added.get(key) ?? 0) + at(values, where));
        written.set(key, (written.get(key) ?? new Set()).add(at(values, where)));
      }
      // At most four more halves: exact.
      expectSame(
        toMx(a).scatterAddAxis(toMx(index), toMx(values), axis),
        plain(a.shape, (where) => at(a, where) + (added.get(String(where)) ?? 0)),
      );
      // Of several values any may win.
      const got = toPlain(toMx(a).putAlongAxis(toMx(index), toMx(values), axis));
      for (const where of places(a.shape))
        expect([...(written.get(String(where)) ?? [at(a, where)])]).toContain(at(got, where));
    });
  });

  const blocks = samples(numeric, 1, 3)
    .filter((a) => a.data.length > 0)
    .chain((a) => {
      const lengths = fc.tuple(...a.shape.map((size) => fc.integer({ min: 1, max: size })));
      return fc.tuple(fc.constant(a), axisOf(a.shape.length), lengths as fc.Arbitrary<number[]>);
    })
    .chain(([a, axis, lengths]) => {
      const last = a.shape.at(axis)! - lengths[normal(axis, a.shape.length)]!;
      const starts = fc.array(fc.integer({ min: 0, max: last }), { minLength: 1, maxLength: 4 });
      return fc.tuple(fc.constant(a), fc.constant(axis), fc.constant(lengths), starts);
    });

  test('gather, scatterAdd, scatterMax, slice and sliceUpdate', () => {
    check(blocks, ([a, axis, lengths, starts]) => {
      const place = normal(axis, a.shape.length);
      const moved = (where: number[], start: number): number[] => where.with(place, where[place]! + start);
      const want = plain([starts.length, ...lengths], ([which, ...where]) => at(a, moved(where, starts[which!]!)));
      expectSame(toMx(a).gather([starts], [axis], lengths), want);
      const ones = mx.ones([starts.length, ...lengths], a.dtype);
      const covered = new Map<string, number>();
      for (const start of starts)
        for (const where of places(lengths)) {
          const key = String(moved(where, start));
          covered.set(key, (covered.get(key) ?? 0) + 1);
        }
      const times = (where: number[]): number => covered.get(String(where)) ?? 0;
      expectSame(
        toMx(a).scatterAdd([starts], ones, [axis]),
        plain(a.shape, (where) => at(a, where) + times(where)),
      );
      expectSame(
        toMx(a).scatterMax([starts], ones, [axis]),
        plain(a.shape, (where) => (times(where) > 0 ? Math.max(1, at(a, where)) : at(a, where))),
      );
      expectSame(
        toMx(a).scatterMin([starts], ones, [axis]),
        plain(a.shape, (where) => (times(where) > 0 ? Math.min(1, at(a, where)) : at(a, where))),
      );
      expectSame(
        toMx(a).scatter([starts], ones, [axis]),
        plain(a.shape, (where) => (times(where) > 0 ? 1 : at(a, where))),
      );
      expectSame(
        toMx(a).scatterProd([starts], ones.add(ones), [axis]),
        plain(a.shape, (where) => at(a, where) * 2 ** times(where)),
      );
      const start = starts[0]!;
      expectSame(
        toMx(a).slice([start], [axis], lengths),
        plain(lengths, (where) => at(a, moved(where, start))),
      );
      const once = new Set(Array.from(places(lengths), (where) => String(moved(where, start))));
      expectSame(
        toMx(a).sliceUpdate(mx.ones(lengths, a.dtype), [start], [axis]),
        plain(a.shape, (where) => (once.has(String(where)) ? 1 : at(a, where))),
      );
    });
  });

  test('maskedScatter takes the source in order', () => {
    const cases = samples(numeric).chain((a) =>
      fc.tuple(fc.constant(a), sample(a.shape, 'bool'), sample([130], a.dtype)),
    );
    check(cases, ([a, mask, source]) => {
      let next = 0;
      const want = a.data.map((value, i) => (mask.data[i] === 1 ? source.data[next++ % 130]! : value));
      if (next > 130) return;
      expectSame(toMx(a).maskedScatter(toMx(mask), toMx(source)), { shape: a.shape, data: want });
    });
  });

  test('slices in index expressions', () => {
    const bound = fc.option(fc.integer({ min: -7, max: 7 }));
    const step = fc.option(fc.integer({ min: -3, max: 3 }).filter((value) => value !== 0));
    check(fc.tuple(withAxis(), bound, bound, step), ([[a, axis], start, stop, stride]) => {
      const place = normal(axis, a.shape.length);
      const size = a.shape[place]!;
      const chosen = range(size).slice();
      const picked: number[] = [];
      const by = stride ?? 1;
      const inside = (value: number): number => {
        const where = value < 0 ? value + size : value;
        return by > 0 ? Math.min(size, Math.max(0, where)) : Math.min(size - 1, Math.max(-1, where));
      };
      const first = start === null ? (by > 0 ? 0 : size - 1) : inside(start);
      const end = stop === null ? (by > 0 ? size : -1) : inside(stop);
      for (let i = first; by > 0 ? i < end : i > end; i += by) picked.push(chosen[i]!);
      const text = `${start ?? ''}:${stop ?? ''}:${stride ?? ''}`;
      const expression = [...range(place).map(() => ':'), text];
      expectSame(toMx(a).index(...expression), pick(a, axis, picked));
      if (a.dtype === 'bool') return;
      const touched = new Set(picked);
      expectSame(
        toMx(a).indexUpdate(expression, 1),
        plain(a.shape, (where) => (touched.has(where[place]!) ? 1 : at(a, where))),
      );
    });
  });
});
