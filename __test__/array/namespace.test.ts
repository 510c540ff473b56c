import { expect, test } from 'vitest';
import { mx, type MlxError, type MxArray } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

test('what the namespace has from elsewhere', () => {
  const [a, b] = mx.tidy(() => {
    const keys = mx.random.split(mx.random.key(1), 2);
    return [keys.index(0), keys.index(1)] as const;
  });
  expect(a.toUint32()).not.toEqual(b.toUint32());
  const old = mx.setCacheLimit(1e6);
  expect(mx.setCacheLimit(old)).toBe(1e6);
  expect(mx.setWiredLimit(0)).toBeTypeOf('number');
  mx.clearCache();
  expect(mx.memoryStats().cache).toBe(0);
  mx.resetPeakMemory();
  expect(mx.memoryStats().peak).toBe(0);
  const tree = { layers: [{ w: a }, { w: b }] };
  const again = mx.treeUnflatten(mx.treeFlatten(tree)) as typeof tree;
  expect(again.layers[1]!.w).toBe(b);
});

test('trees: walked with paths, summed up, put together', () => {
  const [a, b] = [mx.array(1), mx.array(2)];
  expect(mx.treeMapWithPath((path, array) => `${path}=${array.item()}`, { x: [a, { y: b }] })).toEqual({
    x: ['x.0=1', { y: 'x.1.y=2' }],
  });
  expect(mx.treeReduce((sum, array) => sum + array.item(), { x: [a, b] }, 10)).toBe(13);
  expect(mx.treeReduce((sum, array) => sum.add(array), [a, [b, a]]).item()).toBe(4);
  expect(mx.treeReduce((sum, array) => sum + array.size, {}, 0)).toBe(0);
  const merged = mx.treeMerge({ x: [{ w: a }, {}], only: a }, { x: [{}, { w: b }, { w: a }] });
  expect(mx.treeFlatten(merged).map(([path, array]) => `${path}=${array.item()}`)).toEqual([
    'x.0.w=1',
    'x.1.w=2',
    'x.2.w=1',
    'only=1',
  ]);
  const summed = mx.treeMerge({ x: a }, { x: b }, (left, right) => (left as MxArray).add(right as MxArray));
  expect((summed as { x: MxArray }).x.item()).toBe(3);
  const refused: [() => unknown, RegExp][] = [
    [() => mx.treeMerge({ x: a }, { x: b }), /both trees have something at 'x'/],
    [() => mx.treeMerge({ x: [a] }, { x: { y: b } }, () => a), /both trees have something at 'x'/],
    [() => mx.treeReduce((sum) => sum, {}), /initial value/],
    [() => mx.treeMapWithPath(1 as never, {}), /takes a function/],
  ];
  for (const [act, text] of refused) expect((thrown(act) as MlxError).message).toMatch(text);
});

test('compilation can be turned off', () => {
  let calls = 0;
  const f = mx.compile((x: MxArray) => {
    calls += 1;
    return x.add(1);
  });
  mx.disableCompile();
  try {
    for (let i = 0; i < 3; i++) expect(f(mx.array([i])).item()).toBe(i + 1);
    expect(calls).toBe(3);
  } finally {
    mx.enableCompile();
  }
  // Also what was called for the first time while it was off.
  for (let i = 0; i < 3; i++) expect(f(mx.array([i])).item()).toBe(i + 1);
  expect(calls).toBe(4);
  mx.disableCompile();
  try {
    f(mx.array([1]));
    expect(calls).toBe(5);
  } finally {
    mx.enableCompile();
  }
});
