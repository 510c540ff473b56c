import { getEventListeners } from 'node:events';
import { describe, expect, it } from 'vitest';
import { abortable, linkedController, pause } from '../../lib/hub/abort.ts';

describe('signals of a download', () => {
  it('end a wait for what never comes, as a read of an aborted fetch may, and leave no listener', async () => {
    const controller = new AbortController();
    const reading = abortable(new Promise<never>(() => undefined), controller.signal);
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(1);
    controller.abort('enough');
    await expect(reading).rejects.toBe('enough');
    await expect(abortable(Promise.resolve(1), controller.signal)).rejects.toBe('enough');
    const { signal } = new AbortController();
    expect(await abortable(Promise.resolve(1), signal)).toBe(1);
    await expect(abortable(Promise.reject(new RangeError('mine')), signal)).rejects.toThrow(RangeError);
    expect(getEventListeners(signal, 'abort')).toHaveLength(0);
  });

  it('are passed on until released', () => {
    const outer = new AbortController();
    const first = linkedController(outer.signal);
    const second = linkedController(outer.signal);
    second.release();
    outer.abort('enough');
    expect([first.controller.signal.reason, second.controller.signal.aborted]).toEqual(['enough', false]);
    expect(linkedController(outer.signal).controller.signal.reason).toBe('enough');
    expect(linkedController(undefined).controller.signal.aborted).toBe(false);
  });

  it('end a pause', async () => {
    const controller = new AbortController();
    const pausing = pause(60_000, controller.signal);
    controller.abort('enough');
    await expect(pausing).rejects.toBe('enough');
    await expect(pause(1, controller.signal)).rejects.toBe('enough');
  });
});
