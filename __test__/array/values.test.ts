import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { mx, MxArray } from '../../lib/index.ts';
import type { MlxError } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

const code = (action: () => unknown): unknown => (thrown(action) as MlxError).code;
const big = 2n ** 60n + 1n;

describe('nested lists', () => {
  test('out, for each dtype', () => {
    const a = mx.array([
      [0, 1],
      [2, 3],
    ]);
    const dtypes: MxArray['dtype'][] = ['int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64'];
    const floats: MxArray['dtype'][] = ['float16', 'bfloat16', 'float32', 'float64'];
    for (const dtype of [...dtypes, ...floats]) {
      expect(a.astype(dtype).toArray(), dtype).toEqual([
        [0, 1],
        [2, 3],
      ]);
    }
    expect(a.astype('bool').tolist()).toEqual([
      [false, true],
      [true, true],
    ]);
    expect(mx.array([{ re: 1, im: -2 }]).toArray()).toEqual([{ re: 1, im: -2 }]);
    expect(a.transpose().toArray()).toEqual([
      [0, 2],
      [1, 3],
    ]);
    expect(mx.array(2.5).toArray()).toBe(2.5);
    expect(mx.zeros([2, 0, 3]).toArray()).toEqual([[], []]);
    expect(mx.zeros([0, 3]).toArray()).toEqual([]);
  });

  test('whole numbers that a number cannot hold are bigints, text in JSON', () => {
    const a = mx.array([1n, big, -big]);
    expect(a.toArray()).toEqual([1, big, -big]);
    expect(JSON.stringify({ a })).toBe(`{"a":[1,"${big}","${-big}"]}`);
    expect(JSON.stringify(mx.array([[1.5], [NaN]]))).toBe('[[1.5],[null]]');
    expect(code(() => mx.array(big).item())).toBe('ERR_MLX_DTYPE');
    expect(mx.array(2n ** 53n - 1n).item()).toBe(2 ** 53 - 1);
  });

  test('in: dtypes keep their values', () => {
    expect(mx.array([4_000_000_001], 'uint32').toArray()).toEqual([4_000_000_001]);
    expect(mx.array([2 ** 52 + 1], 'int64').toArray()).toEqual([2 ** 52 + 1]);
    expect(mx.array([2n ** 64n - 1n], 'uint64').toArray()).toEqual([2n ** 64n - 1n]);
    expect(mx.array([1.9, -1.9], 'int32').toArray()).toEqual([1, -1]);
    expect(mx.array([0, 2, -0.5], 'bool').toArray()).toEqual([false, true, true]);
    expect(mx.array([true, 2]).toArray()).toEqual([1, 2]);
    expect(mx.array([true, 2.5]).dtype).toBe('float32');
    expect(mx.array([0.1], 'float64').toArray()).toEqual([0.1]);
    expect(mx.array([1, { re: 0, im: 1 }]).toArray()).toEqual([
      { re: 1, im: 0 },
      { re: 0, im: 1 },
    ]);
    expect(mx.array(3n).dtype).toBe('int64');
    expect(code(() => mx.array([NaN], 'int64'))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.array([[1], 2] as never))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.array([1, [2]] as never))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.array([{}] as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.array(new DataView(new ArrayBuffer(4)) as never))).toBe('ERR_MLX_ARGUMENT');
  });

  test('the half-precision arrays of newer versions of Node', () => {
    // 1.5 and -2 in half precision; where Node has no such arrays, one that looks like them.
    const bits = Uint16Array.of(0x3e00, 0xc000);
    const Half = (globalThis as { Float16Array?: new (buffer: ArrayBufferLike) => never }).Float16Array;
    class Stand extends Uint16Array {
      override get [Symbol.toStringTag](): never {
        return 'Float16Array' as never;
      }
    }
    const a = mx.array(Half === undefined ? (new Stand(bits) as never) : new Half(bits.buffer));
    expect(a.dtype).toBe('float16');
    expect(a.toArray()).toEqual([1.5, -2]);
  });
});

describe('text', () => {
  test('as Python prints it, large arrays abridged', () => {
    expect(String(mx.array([1, 2]))).toBe('array([1, 2], dtype=int32)');
    expect(mx.array(2.5).toString()).toBe('array(2.5, dtype=float32)');
    expect(mx.array([1.5, 2]).astype('bfloat16').toString()).toBe('array([1.5, 2], dtype=bfloat16)');
    expect(inspect(mx.array([{ re: 1, im: 2 }]))).toBe('array([1+2j], dtype=complex64)');
    const large = inspect(mx.zeros([1000, 1000]));
    expect(large).toContain('...');
    expect(large.length).toBeLessThan(1000);
  });

  test('scalars are numbers where numbers are wanted, and read as numbers in text', () => {
    const a = mx.array(2.5);
    expect(+a + 1).toBe(3.5);
    expect(`${a}`).toBe('2.5');
    expect(`${mx.array(true)} ${mx.array(big)} ${mx.array({ re: 1, im: -1 })}`).toBe(`true ${big} 1-1j`);
    expect(Math.max(mx.array([[3]]) as never, 1)).toBe(3);
    expect(code(() => mx.array({ re: 1, im: 2 }).item())).toBe('ERR_MLX_DTYPE');
    expect(code(() => Number(mx.zeros([2])))).toBe('ERR_MLX_SHAPE');
  });

  test('disposed and traced arrays', () => {
    const a = mx.array(1);
    a.dispose();
    expect(inspect(a)).toBe('array(disposed)');
    expect(code(() => String(a))).toBe('ERR_MLX_DISPOSED');
    expect(code(() => JSON.stringify(a))).toBe('ERR_MLX_DISPOSED');
    let inside = '';
    const traced = mx.compile((x: MxArray) => {
      inside = inspect(x);
      return x.add(1);
    });
    expect(traced(mx.array([1, 2])).toArray()).toEqual([2, 3]);
    expect(inside).toBe('array(shape=[2], dtype=int32)');
  });
});

describe('the first axis', () => {
  test('length, at, iteration', () => {
    const a = mx.array([
      [1, 2],
      [3, 4],
      [5, 6],
    ]);
    expect(a.length).toBe(3);
    expect(a.at(-1).toArray()).toEqual([5, 6]);
    expect([...a].map((row) => row.toArray())).toEqual([
      [1, 2],
      [3, 4],
      [5, 6],
    ]);
    const [first, second] = a;
    expect([first!.at(0).item(), second!.at(1).item()]).toEqual([1, 4]);
    expect([...mx.zeros([0, 2])]).toEqual([]);
  });

  test('errors', () => {
    const scalar = mx.array(1);
    expect(code(() => scalar.length)).toBe('ERR_MLX_SHAPE');
    expect(code(() => [...scalar])).toBe('ERR_MLX_SHAPE');
    expect(code(() => scalar.at(0))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.array([1]).at(1))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.array([1]).at(0.5))).toBe('ERR_MLX_ARGUMENT');
  });
});
