import { describe, expect, test } from 'vitest';
import {
  buildInfo,
  clearCache,
  memoryStats,
  mx,
  resetPeakMemory,
  setCacheLimit,
  setMemoryLimit,
  setWiredLimit,
} from '../../lib/index.ts';
import type { MlxError } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

const code = (action: () => unknown): unknown => (thrown(action) as MlxError).code;

function outcome(action: () => unknown): unknown {
  try {
    action();
    return 'done';
  } catch (error) {
    return (error as MlxError).code;
  }
}

const gpu = buildInfo().device === 'gpu';

describe('devices', () => {
  test('the default is the device of the build', () => {
    expect(mx.defaultDevice()).toBe(buildInfo().device);
    expect(mx.device()).toBe(mx.defaultDevice());
    expect([mx.isAvailable('cpu'), mx.isAvailable('gpu')]).toEqual([true, gpu]);
    expect(Object.keys(mx.deviceInfo()).length).toBeGreaterThan(0);
  });

  test('set and restored; operations compute on either', () => {
    const old = mx.setDefaultDevice('cpu');
    expect(mx.defaultDevice()).toBe('cpu');
    expect(mx.setDefaultDevice(old)).toBe('cpu');
    expect(mx.withDevice('cpu', () => [mx.defaultDevice(), mx.ones([3]).sum().item()])).toEqual(['cpu', 3]);
    expect(
      (
        thrown(() =>
          mx.withDevice('cpu', () => {
            throw new Error('mine');
          }),
        ) as Error
      ).message,
    ).toBe('mine');
    expect(mx.defaultDevice()).toBe(old);
    const mixed = mx.withDevice('cpu', () => mx.ones([4]).add(1)).sum();
    expect(mixed.item()).toBe(8);
  });

  test('what is not there is a typed error that leaves the default', () => {
    expect(code(() => mx.setDefaultDevice('tpu' as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.deviceInfo(1 as never))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.withDevice('cpu', async () => 1))).toBe('ERR_MLX_ARGUMENT');
    const outcomes = [
      () => mx.setDefaultDevice('gpu'),
      () => mx.withDevice('gpu', () => 1),
      () => mx.deviceInfo('gpu'),
    ].map(outcome);
    expect(outcomes).toEqual(outcomes.map(() => (gpu ? 'done' : 'ERR_MLX_ARGUMENT')));
    expect(mx.defaultDevice()).toBe(buildInfo().device);
  });

  test('synchronize waits; its async form leaves the event loop free', async () => {
    const a = mx.random.normal([700, 700], { key: mx.random.key(1) });
    let ticks = 0;
    const timer = setInterval(() => (ticks += 1), 1);
    let product = a;
    for (let i = 0; i < 20; i++) product = product.matmul(a).multiply(0.01);
    const evaluated = product.evalAsync();
    await mx.synchronizeAsync();
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(0);
    await evaluated;
    mx.synchronize();
  });
});

describe('memory', () => {
  test('limits return the old one', () => {
    for (const set of [setCacheLimit, setMemoryLimit]) {
      const old = set(123_456_789);
      expect(set(old)).toBe(123_456_789);
      expect(set(old)).toBe(old);
    }
    // Without Metal there is none.
    expect(setWiredLimit(setWiredLimit(0))).toBe(0);
    expect(mx.setMemoryLimit).toBe(setMemoryLimit);
    expect(mx.memoryStats).toBe(memoryStats);
    for (const set of [setCacheLimit, setMemoryLimit, setWiredLimit]) {
      for (const bad of [-1, NaN, Infinity, '1' as never, undefined as never])
        expect(code(() => set(bad))).toBe('ERR_MLX_ARGUMENT');
    }
  });

  test('what is active, its peak, and the cache', () => {
    clearCache();
    const before = memoryStats().active;
    using a = mx.zeros([1024, 1024]).add(1).eval();
    expect(memoryStats().active - before).toBeGreaterThanOrEqual(4 << 20);
    a.dispose();
    expect(memoryStats().peak - before).toBeGreaterThanOrEqual(4 << 20);
    resetPeakMemory();
    expect(memoryStats().peak - before).toBeLessThan(4 << 20);
    clearCache();
    expect(memoryStats().cache).toBe(0);
  });
});
