import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mx, MxArray } from '../../lib/index.ts';
import type { ArrayIndex, MlxError, UpdateMode } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

interface Read {
  shape: number[];
  index: (number | string | null | number[])[];
  result: number[];
  values: number[];
}

interface Update extends Omit<Read, 'result'> {
  mode: UpdateMode;
  given: number[];
  result: number[];
}

const folder = join(import.meta.dirname, '../fixtures/indexing');
const cases = JSON.parse(readFileSync(join(folder, 'cases.json'), 'utf8')) as { reads: Read[]; updates: Update[] };

const code = (action: () => unknown): unknown => (thrown(action) as MlxError).code;
const counted = (...shape: number[]): MxArray => {
  const size = shape.reduce((product, length) => product * length, 1);
  return mx.array(Int32Array.from({ length: size }, (_, i) => i)).reshape(shape);
};

describe("as Python's MLX", () => {
  test.each(['lists', 'arrays'])('reads, index arrays as %s', (form) => {
    expect(cases.reads.length).toBe(400);
    for (const { shape, index, result, values } of cases.reads) {
      const entries = index.map((one): ArrayIndex => (form === 'arrays' && Array.isArray(one) ? mx.array(one) : one));
      const read = counted(...shape).index(...entries);
      const where = JSON.stringify({ shape, index });
      expect(read.shape, where).toEqual(result);
      expect([...read.toInt32()], where).toEqual(values);
    }
  });

  test('updates', () => {
    expect(cases.updates.length).toBe(400);
    for (const { shape, index, mode, given, values, result } of cases.updates) {
      const array = counted(...shape);
      const updated = array.indexUpdate(index, mx.array(Int32Array.from(values)).reshape(given), mode);
      const where = JSON.stringify({ shape, index, mode, given });
      expect(updated.shape, where).toEqual(shape);
      expect([...updated.toInt32()], where).toEqual(result);
      expect([...array.toInt32()], where).toEqual([...counted(...shape).toInt32()]);
    }
  });
});

describe('index', () => {
  const a = counted(3, 4);

  test('numbers, slices, new axes, ellipsis, lists', () => {
    expect(a.index(1, -1).item()).toBe(7);
    expect(a.index('1:', '::-2').toArray()).toEqual([
      [7, 5],
      [11, 9],
    ]);
    expect(a.index(null, '...', 0).toArray()).toEqual([[0, 4, 8]]);
    expect(a.index([2, 0], ':2').toArray()).toEqual([
      [8, 9],
      [0, 1],
    ]);
    expect(mx.index(a, [[0, -1]], [1, 2]).toArray()).toEqual([[1, 10]]);
    expect(a.index().toArray()).toEqual(a.toArray());
    expect(a.index([]).shape).toEqual([0, 4]);
    expect(a.index(Uint8Array.of(1)).toArray()).toEqual([[4, 5, 6, 7]]);
    expect(a.index(`${-(2 ** 40)}:${2 ** 40}`).shape).toEqual([3, 4]);
  });

  test('index arrays outside the axis move to its nearest place', () => {
    expect(a.index(mx.array([99, -99]), 0).toArray()).toEqual([8, 0]);
  });

  test('gradients flow through', () => {
    const x = mx.array([1, 2, 3, 4]).astype('float32');
    const gradient = mx.grad((v: MxArray) => v.index([0, 0, -1]).square().sum())(x);
    expect(gradient.toArray()).toEqual([4, 0, 0, 8]);
    const sliced = mx.grad((v: MxArray) => v.index('::-2').multiply([10, 1]).sum())(x);
    expect(sliced.toArray()).toEqual([0, 1, 0, 10]);
    const updated = mx.grad((v: MxArray) => v.indexUpdate([0], 5).multiply(v).sum())(x);
    expect(updated.toArray()).toEqual([5, 4, 6, 8]);
  });

  test('bad entries are typed errors', () => {
    expect(code(() => a.index(3))).toBe('ERR_MLX_SHAPE');
    expect(code(() => a.index(0, -5))).toBe('ERR_MLX_SHAPE');
    expect((thrown(() => a.index('...', [0, 4])) as Error).message).toContain('index 4 is outside axis 1 of size 4');
    expect(code(() => a.index(0, 0, 0))).toBe('ERR_MLX_SHAPE');
    expect(code(() => a.index('...', '...'))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.index('1:2:0'))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.index('1;2'))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.index(1.5))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.index(NaN))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.index([0.5]))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.index(mx.array([0.5])))).toBe('ERR_MLX_DTYPE');
    expect(code(() => a.index(undefined as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.index({} as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.index([0, 1], [0, 1, 2]))).toBe('ERR_MLX_SHAPE');
    expect(code(() => a.index(a.greater(3)))).toBe('ERR_MLX_DTYPE');
    expect((thrown(() => a.index([true, false, true])) as Error).message).toContain('where(');
    expect(code(() => mx.array(1).index(0))).toBe('ERR_MLX_SHAPE');
    expect(mx.array(1).index('...').item()).toBe(1);
  });
});

describe('indexUpdate', () => {
  const a = counted(2, 3);

  test('numbers and lists as values; the dtype stays', () => {
    expect(a.indexUpdate([0, 1], 9).toArray()).toEqual([
      [0, 9, 2],
      [3, 4, 5],
    ]);
    expect(a.indexUpdate([':', [0, 0]], 10, 'add').toArray()).toEqual([
      [20, 1, 2],
      [23, 4, 5],
    ]);
    expect(mx.indexUpdate(a, [-1], [1.9, 2.9, 3.9]).toArray()).toEqual([
      [0, 1, 2],
      [1, 2, 3],
    ]);
    expect(a.indexUpdate(['5:'], 1).toArray()).toEqual(a.toArray());
  });

  test('masks', () => {
    const mask = a.greater(2);
    expect(a.indexUpdate([mask], -1).toArray()).toEqual([
      [0, 1, 2],
      [-1, -1, -1],
    ]);
    expect(a.indexUpdate([[true, false]], 2, 'multiply').toArray()).toEqual([
      [0, 2, 4],
      [3, 4, 5],
    ]);
    expect(a.indexUpdate([mask], [7, 8, 9]).toArray()).toEqual([
      [0, 1, 2],
      [7, 8, 9],
    ]);
    expect(code(() => a.indexUpdate([mask, 0], 1))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.indexUpdate([[true]], 1))).toBe('ERR_MLX_SHAPE');
    expect(code(() => a.indexUpdate([mask], [1, 2], 'add'))).toBe('ERR_MLX_SHAPE');
  });

  test('bad values and modes are typed errors', () => {
    expect(code(() => a.indexUpdate([0], [1, 2]))).toBe('ERR_MLX_SHAPE');
    expect(code(() => a.indexUpdate([0], 1, 'divide' as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.indexUpdate(0 as never, 1))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.indexUpdate([5], 1))).toBe('ERR_MLX_SHAPE');
  });
});
