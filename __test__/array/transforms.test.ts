import { describe, expect, test } from 'vitest';
import { MlxError, mx, MxArray } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

const code = (action: () => unknown): unknown => (thrown(action) as MlxError).code;
const numbers = (value: MxArray): number[] => [...value.toFloat32()];
const cubes = (x: MxArray): MxArray => x.multiply(x).multiply(x).sum();
const squares = (x: MxArray): MxArray => x.square();

const several = (parameters: { w: MxArray; layers: { b: MxArray }[] }, x: MxArray, name: string) => ({
  loss: parameters.w.multiply(x).add(parameters.layers[0]!.b).sum(),
  aux: [x.add(1)],
  name,
});

describe('grad and valueAndGrad', () => {
  test('a closed form', () => {
    const x = mx.array([1, 2, 3], 'float32');
    expect(numbers(mx.grad(cubes)(x))).toEqual([3, 12, 27]);
    const [value, gradient] = mx.valueAndGrad(cubes)(x);
    expect(value.item()).toBe(36);
    expect(numbers(gradient)).toEqual([3, 12, 27]);
    // The second derivative, 6x.
    expect(numbers(mx.grad((y: MxArray) => mx.grad(cubes)(y).sum())(x))).toEqual([6, 12, 18]);
    const three = mx.array(3, 'float32');
    expect(
      mx
        .grad((y: MxArray) => y.square())(three)
        .item(),
    ).toBe(6);
  });

  test('several arguments, trees and auxiliary results', () => {
    const parameters = { w: mx.array([2, 3], 'float32'), layers: [{ b: mx.array([1, 1], 'float32') }] };
    const x = mx.array([5, 7], 'float32');
    const [result, [gradient, forX]] = mx.valueAndGrad(several, [0, 1])(parameters, x, 'n');
    expect(result.loss.item()).toBe(33);
    expect(numbers(result.aux[0]!)).toEqual([6, 8]);
    expect(result.name).toBe('n');
    expect(numbers(gradient.w)).toEqual([5, 7]);
    expect(numbers(gradient.layers[0]!.b)).toEqual([1, 1]);
    expect(numbers(forX)).toEqual([2, 3]);
  });

  test('a function that throws surfaces as that error and leaves MLX usable', () => {
    const x = mx.array([1], 'float32');
    class Mine extends Error {}
    const mine = new Mine('mine');
    const failing = (): MxArray => {
      mx.random.normal([2]);
      throw mine;
    };
    for (const transformed of [mx.grad(failing), mx.compile(failing), mx.vmap(failing), mx.checkpoint(failing)]) {
      expect(thrown(() => (transformed as (a: MxArray) => unknown)(x))).toBe(mine);
      expect(numbers(mx.grad((y: MxArray) => y.square().sum())(x))).toEqual([2]);
      expect(mx.random.normal([2]).toFloat32()).toHaveLength(2);
      expect(
        mx
          .compile((y: MxArray) => y.add(1))(x)
          .item(),
      ).toBe(2);
    }
    // A shape error inside keeps its code.
    expect(code(() => mx.grad((y: MxArray) => y.matmul(mx.zeros([3, 3])).sum())(mx.zeros([2, 2])))).toBe(
      'ERR_MLX_SHAPE',
    );
  });

  test('wrong use is a typed error', async () => {
    const x = mx.array([1, 2], 'float32');
    expect(code(() => mx.grad((y: MxArray) => y.square())(x))).toMatch(/SHAPE|ARGUMENT/);
    expect(code(() => mx.grad((_y: MxArray) => 3)(x))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.grad((y: MxArray) => y.sum(), 1)(x))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.grad((y: MxArray) => y.sum(), -1))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.grad(async (y: MxArray) => y.sum())(x))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.grad('f' as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.grad((o: { a: number }) => o.a)({ a: 1 }))).toBe('ERR_MLX_ARGUMENT');
  });

  test('arrays made inside live on only when returned or kept', () => {
    let stolen: MxArray | undefined;
    let kept: MxArray | undefined;
    mx.grad((y: MxArray) => {
      stolen = y.add(1);
      kept = mx.keep(y.add(2));
      return stolen.sum();
    })(mx.array([1], 'float32'));
    expect(stolen!.disposed).toBe(true);
    expect(kept!.item()).toBe(3);
  });

  test('values can be read inside', () => {
    let seen = 0;
    const g = mx.grad((y: MxArray) => {
      seen = y.item();
      return y.square();
    })(mx.array(3, 'float32'));
    expect([seen, g.item()]).toEqual([3, 6]);
  });
});

describe('vjp, jvp, vmap', () => {
  test('products with the Jacobian', () => {
    const [[value], [product]] = mx.vjp(squares, [mx.array([1, 2], 'float32')], [mx.array([10, 100], 'float32')]);
    expect(numbers(value!)).toEqual([1, 4]);
    expect(numbers(product!)).toEqual([20, 400]);
    const [, [forward]] = mx.jvp(squares, [mx.array([1, 2], 'float32')], [mx.array([1, 0.5], 'float32')]);
    expect(numbers(forward!)).toEqual([2, 2]);
    expect(code(() => mx.vjp(squares, [mx.zeros([2])], [mx.zeros([3])]))).toBe('ERR_MLX_SHAPE');
  });

  test('vmap over rows, with a whole argument and a tree', () => {
    const matrix = mx.array(
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
      'float32',
    );
    const w = mx.array([10, 1], 'float32');
    expect(
      numbers(mx.vmap((row: MxArray, v: MxArray) => row.multiply(v).sum(), { inAxes: [0, null] })(matrix, w)),
    ).toEqual([12, 34, 56]);
    expect(mx.vmap((row: MxArray) => row.add(1), { outAxes: 1 })(matrix).shape).toEqual([2, 3]);
    const tree = mx.vmap((o: { a: MxArray; b: MxArray }) => ({ sum: o.a.add(o.b) }), { inAxes: [{ a: 0, b: null }] });
    expect(tree({ a: matrix, b: w }).sum.shape).toEqual([3, 2]);
    const perExample = mx.vmap(mx.grad((row: MxArray) => row.square().sum()));
    expect(numbers(perExample(matrix))).toEqual([2, 4, 6, 8, 10, 12]);
    expect(code(() => mx.vmap((a: MxArray) => a, { inAxes: [0, 1] })(matrix))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.vmap((a: MxArray) => a, { axes: 0 } as never))).toBe('ERR_MLX_CONFIG');
  });
});

describe('checkpoint and customVjp', () => {
  test('checkpoint computes the same and runs again for the gradient', () => {
    let runs = 0;
    const block = mx.checkpoint((x: MxArray) => {
      runs += 1;
      return x.sin().exp();
    });
    const x = mx.array([0.5], 'float32');
    const got = mx
      .grad((y: MxArray) => block(y).sum())(x)
      .item();
    expect(got).toBeCloseTo(Math.cos(0.5) * Math.exp(Math.sin(0.5)), 5);
    expect(runs).toBe(2);
  });

  test('a custom gradient, and its error', () => {
    const clipped = mx.customVjp(
      (x: MxArray) => x.multiply(2),
      (_primals, [cotangent]) => [cotangent!.multiply(100)],
    );
    const x = mx.array([1], 'float32');
    expect(clipped(x).item()).toBe(2);
    expect(
      mx
        .grad((y: MxArray) => clipped(y).sum())(x)
        .item(),
    ).toBe(100);
    const mine = new Error('mine');
    const failing = mx.customVjp(
      (y: MxArray) => y,
      () => {
        throw mine;
      },
    );
    expect(thrown(() => mx.grad((y: MxArray) => failing(y).sum())(x))).toBe(mine);
    const few = mx.customVjp(
      (y: MxArray, z: MxArray) => y.add(z),
      ([, z]) => [z!],
    );
    expect(code(() => mx.grad((y: MxArray) => few(y, x).sum())(x))).toBeDefined();
  });
});

describe('compile', () => {
  test('traces once per form of the arguments', () => {
    let traces = 0;
    const f = mx.compile((x: MxArray, { scale }: { scale: number }) => {
      traces += 1;
      return { y: x.multiply(scale) };
    });
    const x = mx.array([1, 2], 'float32');
    expect(numbers(f(x, { scale: 3 }).y)).toEqual([3, 6]);
    expect(numbers(f(x.add(1), { scale: 3 }).y)).toEqual([6, 9]);
    expect(traces).toBe(1);
    expect(numbers(f(x, { scale: 4 }).y)).toEqual([4, 8]);
    expect(traces).toBe(2);
    expect(f(mx.zeros([3]), { scale: 3 }).y.shape).toEqual([3]);
    expect(traces).toBe(3);
    const shapeless = mx.compile(
      (y: MxArray) => {
        traces += 1;
        return y.exp().add(1);
      },
      { shapeless: true },
    );
    shapeless(mx.zeros([2]));
    expect(shapeless(mx.zeros([5])).shape).toEqual([5]);
    expect(traces).toBe(4);
  });

  test('random numbers are not frozen, and a seed fixes them', () => {
    const noise = mx.compile((x: MxArray) => x.add(mx.random.normal([3])));
    const x = mx.zeros([3]);
    const [a, b] = [numbers(noise(x)), numbers(noise(x))];
    expect(a).not.toEqual(b);
    mx.random.seed(5);
    const plain = [numbers(mx.random.normal([3])), numbers(mx.random.normal([3]))];
    mx.random.seed(5);
    // The same draws; fused arithmetic rounds a few units in the last place differently.
    for (const row of plain) {
      numbers(noise(x)).forEach((value, i) =>
        expect(Math.abs(value - row[i]!)).toBeLessThan(1e-5 * Math.max(1, Math.abs(row[i]!))),
      );
    }
  });

  test('captured state goes in and comes out', () => {
    const state = { weights: [mx.array([1], 'float32')], extra: {} as Record<string, MxArray> };
    const step = mx.compile(
      (x: MxArray) => {
        state.weights[0] = state.weights[0]!.add(x);
        state.extra['last'] = x.multiply(2);
        return state.weights[0].multiply(10);
      },
      { inputs: state, outputs: state },
    );
    expect(step(mx.array([1], 'float32')).item()).toBe(20);
    expect(state.weights[0]!.item()).toBe(2);
    expect(step(mx.array([5], 'float32')).item()).toBe(70);
    expect(state.weights[0]!.item()).toBe(7);
    expect(state.extra['last']!.item()).toBe(10);
    // A failing trace leaves the state as it was.
    const failing = mx.compile(
      (x: MxArray) => {
        state.weights[0] = x;
        state.extra['new'] = x;
        throw new Error('late');
      },
      { inputs: state, outputs: state },
    );
    expect(() => failing(mx.zeros([1]))).toThrow('late');
    expect(state.weights[0]!.item()).toBe(7);
    expect(Object.keys(state.extra)).toEqual(['last']);
  });

  test('a gradient inside', () => {
    const step = mx.compile((w: MxArray, x: MxArray) => {
      const [loss, gradient] = mx.valueAndGrad((v: MxArray) => v.multiply(x).square().sum())(w);
      return { loss, next: w.subtract(gradient.multiply(0.1)) };
    });
    const { loss, next } = step(mx.array([1, 2], 'float32'), mx.array([1, 1], 'float32'));
    expect(loss.item()).toBe(5);
    expect(numbers(next)).toEqual([0.8, 1.6].map(Math.fround));
  });
});
