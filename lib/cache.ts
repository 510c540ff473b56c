/** What attention layers remember of the tokens they have read. */
import { handleOf, MxArray, wrapAll } from './array/core.js';
import { guard } from './errors.js';
import { native } from './native.js';
import type { ArrayHandle } from './native-types.js';

/** Keys and values of one attention layer, `[B, Hkv, T, D]`, in a buffer that grows in steps and is written in place. */
export class KVCache {
  readonly #native = new (native().NativeKvCache)();

  /** Filled slots per row. */
  get offset(): number {
    return this.#native.offset;
  }

  /** Bytes of the buffers. */
  get nbytes(): number {
    return this.#native.nbytes;
  }

  /** Appends keys and values and returns all filled slots. On an error the cache is as before. */
  updateAndFetch(keys: MxArray, values: MxArray): [MxArray, MxArray] {
    const handles = guard(() => this.#native.updateAndFetch(handleOf(keys), handleOf(values)));
    return wrapAll(handles) as [MxArray, MxArray];
  }

  get isTrimmable(): boolean {
    return true;
  }

  /** Forgets the last `n` slots; returns how many there were to forget. */
  trim(n: number): number {
    return guard(() => this.#native.trim(n));
  }

  /** Forgets everything. */
  reset(): void {
    this.#native.reset();
  }

  /** Keys and values of the filled slots; an empty list when nothing was read. */
  get state(): MxArray[] {
    return wrapAll(guard(() => this.#native.state()) as ArrayHandle[]);
  }

  set state(arrays: readonly MxArray[]) {
    this.reset();
    if (arrays.length === 2) this.updateAndFetch(arrays[0]!, arrays[1]!);
  }
}
