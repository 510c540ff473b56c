import { wrapNativeError } from './errors.js';
import { native } from './native.js';
import type { NativeCancel } from './native-types.js';

/**
 * Runs native work that `signal` can stop. An already aborted signal rejects at once; an abort during the work flips the native
 * cancel flag, and the promise rejects with `signal.reason` as soon as the work has stopped.
 */
export async function withSignal<T>(
  signal: AbortSignal | undefined,
  work: (cancel: NativeCancel | undefined) => Promise<T>,
): Promise<T> {
  if (signal === undefined) {
    try {
      return await work(undefined);
    } catch (error) {
      throw wrapNativeError(error);
    }
  }
  signal.throwIfAborted();
  const cancel = new (native().Cancel)();
  const onAbort = (): void => cancel.cancel();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await work(cancel);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw wrapNativeError(error);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
