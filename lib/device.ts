/**
 * Where operations run. A build has one stream for each of its devices, all of them driven by one thread that evaluates for the
 * whole process; that is why there are no streams to make or choose here as in Python. Work on both devices overlaps where it does
 * not depend on one another, and `evalAsync` leaves JavaScript free meanwhile, which is what streams are for there.
 *
 * An operation runs on the device that was the default when it was called, whenever it is evaluated. The default belongs to the
 * thread: each worker has its own. Models, trainers and the key of random numbers stay on the device of the build.
 */
import { describeValue } from './array/describe.js';
import { mustBeFunction } from './array/guards.js';
import { guard, MlxError, wrapNativeError } from './errors.js';
import { native } from './native.js';

export type DeviceName = 'cpu' | 'gpu';

/** Where operations that are called now will run. The GPU, where the build has one. */
export function defaultDevice(): DeviceName {
  return native().defaultDevice() as DeviceName;
}

export {
  /** Under a shorter name. */
  defaultDevice as device,
};

/** Places the operations called from now on in this thread on a device; returns the one before. ERR_MLX_ARGUMENT where it is not there. */
export function setDefaultDevice(device: DeviceName): DeviceName {
  return guard(() => native().setDefaultDevice(named(device)) as DeviceName);
}

/**
 * Runs `body` with another default device and returns its result. Only for synchronous functions: what other code does while an
 * async one waits would run on that device too. In async code put it around the operations between two `await`.
 */
export function withDevice<T>(device: DeviceName, body: () => T): T {
  mustBeFunction(body, 'withDevice()');
  const old = setDefaultDevice(device);
  let result: T;
  try {
    result = body();
  } finally {
    setDefaultDevice(old);
  }
  if (result instanceof Promise) {
    result.catch(() => undefined);
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      'withDevice takes a synchronous function; in an async one put it around the operations between two awaits',
    );
  }
  return result;
}

/** Whether operations can be placed on a device. */
export function isAvailable(device: DeviceName): boolean {
  return guard(() => native().isAvailable(named(device)));
}

/** What MLX knows about a device (the default one), such as its name and memory; the names are MLX's. */
export function deviceInfo(device: DeviceName = defaultDevice()): Record<string, string | number> {
  return guard(() => native().deviceInfo(named(device)));
}

/** Waits until everything that has been started is done. */
export function synchronize(): void {
  guard(() => native().synchronize());
}

/** `synchronize` without blocking the event loop. */
export async function synchronizeAsync(): Promise<void> {
  try {
    await native().synchronizeAsync();
  } catch (error) {
    throw wrapNativeError(error);
  }
}

function named(device: DeviceName): DeviceName {
  if (device === 'cpu' || device === 'gpu') return device;
  throw new MlxError('ERR_MLX_ARGUMENT', `a device is 'cpu' or 'gpu', not ${describeValue(device)}`);
}
