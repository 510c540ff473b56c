import { expect, test } from 'vitest';
import { mx, type MxArray } from '../../lib/index.ts';

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
  // What was called for the first time while it was off stays as it is.
  const again = mx.compile((x: MxArray) => {
    calls += 1;
    return x.add(1);
  });
  for (let i = 0; i < 3; i++) again(mx.array([i]));
  expect(calls).toBe(4);
});
