import { setImmediate as tick } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { dispose, keep, mx, MxArray, tidy } from '../../lib/index.ts';
import { native } from '../../lib/native.ts';
import { thrown } from '../helpers/thrown.ts';

const told = (): number => native().core.accountedMemory();
const live = (): number => native().core.liveArrays();

/** How many more arrays are held after `body`. */
function growth(body: () => unknown): number {
  const before = live();
  body();
  return live() - before;
}

describe('tidy', () => {
  test('frees all but what it returns', () => {
    const a = mx.array([1, 2, 3]);
    let inner: MxArray | undefined;
    let result: MxArray | undefined;
    expect(
      growth(() => {
        result = tidy(() => {
          inner = a.add(1);
          return inner.multiply(a).sum();
        });
      }),
    ).toBe(1);
    expect(result!.item()).toBe(20);
    expect(inner!.disposed).toBe(true);
    expect(a.disposed).toBe(false);
  });

  test('results may lie in lists, Maps, Sets, objects, modules, and more than once', () => {
    class Layer {
      weight = mx.zeros([2]);
      bias: MxArray | null = mx.zeros([1]);
      children = [{ scale: mx.ones([3]) }];
    }
    const result = tidy(() => {
      mx.ones([5]).add(1);
      const shared = mx.array(1);
      const value = {
        list: [shared, [mx.array(2)]],
        map: new Map<unknown, unknown>([
          ['x', mx.array(3)],
          [mx.array(4), 1],
        ]),
        set: new Set([mx.array(5)]),
        layer: new Layer(),
        again: shared,
        text: 'x',
        bytes: new Uint8Array(4),
        nothing: null,
        itself: undefined as unknown,
      };
      value.itself = value;
      return value;
    });
    const keys = [...result.map.keys()];
    const { layer } = result;
    const all = [result.again, (result.list[1] as MxArray[])[0], result.map.get('x'), keys[1], [...result.set][0]];
    expect(all.map((one) => (one as MxArray).item())).toEqual([1, 2, 3, 4, 5]);
    expect([layer.weight, layer.bias!, layer.children[0]!.scale].map((one) => one.size)).toEqual([2, 1, 3]);
    expect(growth(() => dispose(result))).toBe(-8);
  });

  test('nested, the results of the inner belong to the outer', () => {
    const seen: MxArray[] = [];
    const grew = growth(() => {
      const result = tidy(() => {
        const middle = tidy(() => {
          seen.push(mx.array(1));
          return seen[0]!.add(1);
        });
        seen.push(middle);
        expect([seen[0]!.disposed, middle.disposed]).toEqual([true, false]);
        return middle.add(1);
      });
      expect(result.item()).toBe(3);
      expect(seen[1]!.disposed).toBe(true);
    });
    expect(grew).toBe(1);
  });

  test('an exception frees everything', () => {
    const grew = growth(() => {
      const error = thrown(() =>
        tidy(() => {
          const a = mx.array([1, 2]);
          tidy(() => a.add(1));
          return a.reshape([3]);
        }),
      );
      expect(error).toMatchObject({ code: 'ERR_MLX_SHAPE' });
    });
    expect(grew).toBe(0);
  });

  test('what is kept lives on, through several scopes', () => {
    let a: MxArray | undefined;
    let b: MxArray | undefined;
    expect(
      growth(() =>
        tidy(() =>
          tidy(() => {
            a = keep(mx.array(1));
            [b] = keep([mx.array(2)]);
            mx.array(3);
          }),
        ),
      ),
    ).toBe(2);
    expect(a!.item() + b!.item()).toBe(3);
    dispose([a, b]);
  });

  test('using frees at the end of the block', () => {
    const grew = growth(() => {
      using a = mx.array([1, 2]);
      using b = a.add(1);
      expect(b.toInt32()).toEqual(Int32Array.of(2, 3));
    });
    expect(grew).toBe(0);
  });

  test('gradients inside: only the results are left', () => {
    const x = mx.array([1, 2, 3]).astype('float32');
    let gradient: MxArray | undefined;
    const grew = growth(() => {
      gradient = tidy(() => mx.grad((a: MxArray) => a.square().sum())(x));
    });
    expect(grew).toBe(1);
    expect(gradient!.toFloat32()).toEqual(Float32Array.of(2, 4, 6));
  });
});

const later = async (): Promise<MxArray> => {
  await tick();
  await tick();
  return mx.array(3);
};

describe('async tidy', () => {
  test('frees what is made after an await too', async () => {
    const before = live();
    const seen: MxArray[] = [];
    const result = await tidy(async () => {
      seen.push(mx.array([1, 2]));
      await tick();
      seen.push(seen[0]!.add(1));
      await mx.evalAsync(seen[1]!);
      seen.push(await tidy(async () => (await seen[1]!.evalAsync()).multiply(2)));
      return seen[2]!.add(1);
    });
    expect(result.toInt32()).toEqual(Int32Array.of(5, 7));
    expect(seen.map((one) => one.disposed)).toEqual([true, true, true]);
    expect(live() - before).toBe(1);
  });

  test('a rejection frees everything', async () => {
    const before = live();
    const failing = tidy(async () => {
      mx.array(1);
      await tick();
      mx.array(2);
      throw new Error('mine');
    });
    await expect(failing).rejects.toThrow('mine');
    expect(live() - before).toBe(0);
  });

  test('code that runs meanwhile keeps its arrays', async () => {
    const others: MxArray[] = [];
    const other = async (): Promise<void> => {
      for (let i = 0; i < 5; i++) {
        others.push(mx.array(i));
        await tick();
      }
    };
    const running = other();
    const mine = tidy(async () => {
      for (let i = 0; i < 5; i++) {
        mx.array(-1);
        await tick();
      }
      return mx.array(7);
    });
    const theirs = tidy(async () => {
      await tick();
      return mx.array(8);
    });
    await running;
    expect([(await mine).item(), (await theirs).item()]).toEqual([7, 8]);
    expect(others.map((one) => one.item())).toEqual([0, 1, 2, 3, 4]);
  });

  test('work that is not awaited belongs to the scope around, and lives without one', async () => {
    let late: Promise<MxArray> | undefined;
    tidy(() => {
      late = later();
    });
    expect((await late!).item()).toBe(3);
    const inner = await tidy(async () => {
      tidy(() => {
        late = later();
      });
      return { array: await late!, copy: (await late!).add(1) };
    });
    expect(inner.copy.item()).toBe(4);
    expect((await late!).disposed).toBe(false);
  });
});

test('what the garbage collector is told does not drift', () => {
  const before = told();
  const data = new Float32Array(1000);
  const one = mx.array(data);
  expect(told() - before).toBeGreaterThanOrEqual(4000);
  one.dispose();
  for (let i = 0; i < 50_000; i++) mx.array(data).dispose();
  for (let i = 0; i < 500; i++) {
    tidy(() => {
      for (let j = 0; j < 100; j++) mx.array(data);
    });
  }
  expect(told() - before).toBe(0);
});

test('collecting arrays, disposed ones among them, takes no other with it', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const settled = async (): Promise<void> => {
    collect();
    // The registry's calls come as a task of their own.
    for (let i = 0; i < 3; i++) await tick();
  };
  await settled();
  const before = live();
  const kept: MxArray[] = [];
  // A function of its own: a suspended one may hold the last array that its loop made.
  const make = (): void => {
    // More of each than go to the addon in one call.
    for (let i = 0; i < 6000; i++) {
      const made = mx.array(kept.length);
      if (i % 3 === 0) made.dispose();
      if (i % 3 === 1) kept.push(made);
      if (i % 100 === 0) kept.push(tidy(() => mx.array(kept.length).add(0)));
    }
  };
  for (let round = 0; round < 5; round++) {
    make();
    await settled();
  }
  expect(kept.every((array, i) => array.item() === i)).toBe(true);
  expect(live() - before).toBe(kept.length);
  dispose(kept);
  dispose(kept);
  await settled();
  expect(live()).toBe(before);
});
