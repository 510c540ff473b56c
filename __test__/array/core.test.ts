import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { MlxError, mx, MxArray } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

const code = (action: () => unknown): unknown => (thrown(action) as MlxError).code;

describe('making arrays', () => {
  test('whole numbers are int32, others float32, booleans bool, bigints int64', () => {
    expect(mx.array([1, 2]).dtype).toBe('int32');
    expect(mx.array([1, 2.5]).dtype).toBe('float32');
    expect(mx.array([true, false]).dtype).toBe('bool');
    expect(mx.array([1n]).dtype).toBe('int64');
    expect(mx.array(2 ** 40).dtype).toBe('float32');
    expect(
      mx.array(
        [
          [1, 2, 3],
          [4, 5, 6],
        ],
        'float16',
      ).shape,
    ).toEqual([2, 3]);
  });

  test('typed arrays keep their dtype, doubles only when asked', () => {
    expect(mx.array(Uint8Array.of(1, 255)).dtype).toBe('uint8');
    expect(mx.array(BigInt64Array.of(5n)).dtype).toBe('int64');
    expect(mx.array(Float64Array.of(0.1)).dtype).toBe('float32');
    expect(mx.array(Float64Array.of(0.1), 'float64').item()).toBe(0.1);
    expect([...mx.array(Int32Array.of(1, 2, 3).subarray(1)).toInt32()]).toEqual([2, 3]);
  });

  test('empty and ragged lists', () => {
    expect(mx.array([]).shape).toEqual([0]);
    expect(mx.array([[], []]).shape).toEqual([2, 0]);
    expect(code(() => mx.array([[1, 2], [3]]))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.array([1, [2]] as never))).toBe('ERR_MLX_SHAPE');
    expect(code(() => mx.array(['a'] as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.array([1], 'float31' as never))).toBe('ERR_MLX_DTYPE');
    expect(code(() => new MxArray('x' as never))).toBe('ERR_MLX_ARGUMENT');
  });
});

describe('operands', () => {
  test('a number takes the dtype of the array beside it', () => {
    expect(mx.array([1, 2]).add(1).dtype).toBe('int32');
    expect(mx.array([1, 2]).multiply(0.5).dtype).toBe('float32');
    expect(mx.array([1.5], 'bfloat16').multiply(0.1).dtype).toBe('bfloat16');
    expect(mx.subtract(1, mx.array([0.25])).item()).toBe(0.75);
    expect(mx.array([1, 2]).add([10, 20]).toInt32()).toEqual(Int32Array.of(11, 22));
    expect(mx.where(mx.array([true, false]), 1, mx.array([0.5, 0.5])).toFloat32()).toEqual(Float32Array.of(1, 0.5));
  });

  test('what is no array is refused', () => {
    const a = mx.array([1]);
    expect(code(() => a.add(undefined as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.add({} as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.add(structuredClone(a) as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.reshape([NaN]))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => a.matmul(a.reshape([1, 1]).add([[1, 2]])))).toMatch(/^ERR_MLX_(SHAPE|DTYPE)$/);
  });
});

describe('reading', () => {
  test('each dtype as its typed array', () => {
    const a = mx.array([0, 1, 2]);
    expect(a.astype('bool').toTypedArray()).toEqual(Uint8Array.of(0, 1, 1));
    expect(a.astype('int64').toTypedArray()).toEqual(BigInt64Array.of(0n, 1n, 2n));
    expect(a.astype('float64').toTypedArray()).toEqual(Float64Array.of(0, 1, 2));
    expect(a.astype('bfloat16').toTypedArray()).toEqual(Float32Array.of(0, 1, 2));
    expect(a.astype('bfloat16').toBytes()).toEqual(Uint8Array.of(0, 0, 0x80, 0x3f, 0, 0x40));
    expect(a.astype('complex64').toTypedArray()).toEqual(Float32Array.of(0, 0, 1, 0, 2, 0));
    expect(
      mx
        .array([
          [1, 2],
          [3, 4],
        ])
        .transpose()
        .toInt32(),
    ).toEqual(Int32Array.of(1, 3, 2, 4));
  });

  test('into a typed array that is there', () => {
    const a = mx.array([0, 1, 2]);
    const floats = new Float32Array(8).fill(9);
    expect(a.astype('float32').readInto(floats.subarray(1, 4))).toEqual(Float32Array.of(0, 1, 2));
    expect(floats).toEqual(Float32Array.of(9, 0, 1, 2, 9, 9, 9, 9));
    expect(a.astype('complex64').readInto(floats.subarray(0, 6))).toEqual(Float32Array.of(0, 0, 1, 0, 2, 0));
    expect(a.astype('bool').readInto(new Uint8Array(3))).toEqual(Uint8Array.of(0, 1, 1));
    expect(a.astype('int64').readInto(new BigInt64Array(3))).toEqual(BigInt64Array.of(0n, 1n, 2n));
    expect(a.reshape([3, 1]).add(a).transpose().readInto(new Int32Array(9))).toEqual(
      Int32Array.of(0, 1, 2, 1, 2, 3, 2, 3, 4),
    );
    expect(mx.zeros([0, 3]).readInto(new Float32Array(0))).toEqual(new Float32Array(0));
    expect(code(() => a.readInto(new Int32Array(4)))).toBe('ERR_MLX_SHAPE');
    for (const target of [
      new Float32Array(3),
      new Uint32Array(3),
      new DataView(new ArrayBuffer(12)),
      [0, 0, 0],
      null,
      3,
    ])
      expect(code(() => a.readInto(target as never))).toBe('ERR_MLX_DTYPE');
    expect(code(() => a.astype('bfloat16').readInto(new Uint16Array(3)))).toBe('ERR_MLX_DTYPE');
    a.dispose();
    expect(code(() => a.readInto(new Int32Array(3)))).toBe('ERR_MLX_DISPOSED');
  });

  test('as a number and as text', () => {
    const a = mx.array(2.5);
    expect(Number(a)).toBe(2.5);
    expect(`${mx.array([1, 2])}`).toBe('array([1, 2], dtype=int32)');
    expect(inspect(mx.array([true]))).toBe('array([true], dtype=bool)');
    expect(code(() => Number(mx.array([1, 2])))).toBe('ERR_MLX_SHAPE');
  });
});

describe('life', () => {
  test('a disposed array is an error, twice disposing is not', () => {
    const a = mx.array([1]);
    a.dispose();
    a.dispose();
    expect(a.disposed).toBe(true);
    expect(inspect(a)).toBe('array(disposed)');
    expect(code(() => a.add(1))).toBe('ERR_MLX_DISPOSED');
    expect(code(() => mx.array([1]).add(a))).toBe('ERR_MLX_DISPOSED');
    expect(code(() => a.shape)).toBe('ERR_MLX_DISPOSED');
  });

  test('evaluation in the background', async () => {
    const a = mx.random.normal([64, 64], { key: mx.random.key(1) });
    const product = await a.matmul(a).evalAsync();
    expect(product.shape).toEqual([64, 64]);
    await mx.evalAsync(product, a);
    mx.eval(product);
    // Trees: what a training loop evaluates once a step.
    const tree = { list: [a.add(1)], map: new Map([['b', a.add(2)]]), name: 'n' };
    mx.eval(tree, []);
    await mx.evalAsync(tree, product);
    expect(code(() => mx.eval(3))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.eval(undefined))).toBe('ERR_MLX_ARGUMENT');
    tree.list[0]!.dispose();
    expect(code(() => mx.eval(tree))).toBe('ERR_MLX_DISPOSED');
  });
});

const draw = (): number[] => [...mx.random.normal([4]).toFloat32()];

describe('random numbers', () => {
  test('a seed fixes them, a key too, and draws differ', () => {
    mx.random.seed(7);
    const [first, second] = [draw(), draw()];
    mx.random.seed(7);
    expect(draw()).toEqual(first);
    expect(draw()).toEqual(second);
    expect(first).not.toEqual(second);
    const key = mx.random.key(3);
    expect(mx.random.normal([2], { key }).toFloat32()).toEqual(mx.random.normal([2], { key }).toFloat32());
    expect(code(() => mx.random.seed(-1))).toBe('ERR_MLX_ARGUMENT');
    expect((thrown(() => mx.random.normal([1], { sigma: 1 } as never)) as MlxError).message).toContain(
      "unknown option 'sigma' of random.normal()",
    );
  });
});
