/** The caches of attention layers, under mlx-lm's names. */
import type { MxArray } from '../array/core.js';
import { known } from '../array/convert.js';
import { guard } from '../errors.js';
import { BatchCache, Held, LayerCache, merged, register, wrapCache } from './base.js';
import type { QuantizedArrays, QuantizeOptions } from './base.js';
import type { NativeCache } from '../native-types.js';

/** Keys and values of one attention layer, `[B, Hkv, T, D]`, in a buffer that grows in steps and is written in place. */
export class KVCache extends LayerCache {
  constructor();
  /** @internal */
  constructor(held: Held);
  constructor(held?: Held) {
    super(held instanceof Held ? held : { kind: 'KVCache' });
  }

  /** Appends keys and values and returns all filled slots. */
  updateAndFetch(keys: MxArray, values: MxArray): [MxArray, MxArray] {
    return this.appendPlain(keys, values);
  }

  /** The same slots in 4-bit codes, or as told. */
  toQuantized(options?: QuantizeOptions): QuantizedKVCache {
    return this.quantized(options) as QuantizedKVCache;
  }

  /** A batch of caches of one row each. */
  static merge(caches: readonly (KVCache | QuantizedKVCache)[]): BatchKVCache {
    return merged(caches) as BatchKVCache;
  }
}

/** Keys and values in codes of a few bits (affine, a scale and a bias per group), a quarter or half of half precision's memory. */
export class QuantizedKVCache extends LayerCache {
  constructor(options?: QuantizeOptions);
  /** @internal */
  constructor(held: Held);
  constructor(options?: QuantizeOptions | Held) {
    if (options instanceof Held) {
      super(options);
      return;
    }
    const { groupSize = 64, bits = 8 } = known(options, ['groupSize', 'bits'], 'QuantizedKVCache');
    super({ kind: 'KVCache', groupSize, bits });
  }

  /** Appends keys and values and returns all filled slots in codes, for `quantizedMatmul`; `attend` does the rest too. */
  updateAndFetch(keys: MxArray, values: MxArray): [QuantizedArrays, QuantizedArrays] {
    const parts = this.append(keys, values);
    return [parts.slice(0, 3) as QuantizedArrays, parts.slice(3) as QuantizedArrays];
  }

  /** A batch of caches of one row each. */
  static merge(caches: readonly (KVCache | QuantizedKVCache)[]): BatchKVCache {
    return merged(caches) as BatchKVCache;
  }
}

export interface RotatingOptions {
  /** How many of the first tokens stay, 0 unless told. */
  keep?: number;
}

/**
 * The latest `maxSize` slots, the first `keep` tokens among them (attention sinks). Every token sees just these, whether it comes alone or in
 * a chunk.
 */
export class RotatingKVCache extends LayerCache {
  constructor(maxSize: number, options?: RotatingOptions);
  /** @internal */
  constructor(held: Held);
  constructor(maxSize: number | Held, options?: RotatingOptions) {
    if (maxSize instanceof Held) {
      super(maxSize);
      return;
    }
    const { keep = 0 } = known(options, ['keep'], 'RotatingKVCache');
    super({ kind: 'RotatingKVCache', maxSize, keep });
  }

  get maxSize(): number {
    return this.native.maxSize!;
  }

  get keep(): number {
    return this.native.keep;
  }

  /** Appends keys and values and returns what attention sees: a single token's are in the order of the ring. */
  updateAndFetch(keys: MxArray, values: MxArray): [MxArray, MxArray] {
    return this.appendPlain(keys, values);
  }

  /** The same slots in 4-bit codes, or as told. */
  toQuantized(options?: QuantizeOptions): RotatingKVCache {
    return this.quantized(options) as RotatingKVCache;
  }

  /** A batch of caches of one row each, of one size and with as many kept tokens. */
  static merge(caches: readonly RotatingKVCache[]): BatchRotatingKVCache {
    return merged(caches) as BatchRotatingKVCache;
  }
}

/** Keys and values of rows of different lengths. `leftPadding` says with how much padding each row will begin. */
export class BatchKVCache extends BatchCache {
  constructor(leftPadding: readonly number[]);
  /** @internal */
  constructor(held: Held);
  constructor(leftPadding: readonly number[] | Held) {
    super(leftPadding instanceof Held ? leftPadding : { kind: 'BatchKVCache', leftPadding: [...leftPadding] });
  }

  /** Appends keys and values and returns all slots. */
  updateAndFetch(keys: MxArray, values: MxArray): [MxArray, MxArray] {
    return this.appendPlain(keys, values);
  }

  /** Adds the rows of another batch. Both are moved to the longer one's write position. */
  extend(other: BatchKVCache): void {
    guard(() => this.native.extend(other.native));
  }

  /** One row without its padding, as a copy. */
  extract(row: number): KVCache | QuantizedKVCache {
    return wrapCache(guard(() => this.native.extract(row))) as KVCache | QuantizedKVCache;
  }

  /** Replaces a row, right-aligned at the write position. No other row is copied unless the new one is longer than all. */
  putRow(row: number, cache: KVCache | QuantizedKVCache): void {
    guard(() => this.native.putRow(row, cache.native));
  }

  /** The same slots in 4-bit codes, or as told. */
  toQuantized(options?: QuantizeOptions): BatchKVCache {
    return this.quantized(options) as BatchKVCache;
  }

  /** A batch of caches of one row each, padded to the longest. */
  static merge(caches: readonly (KVCache | QuantizedKVCache)[]): BatchKVCache {
    return merged(caches) as BatchKVCache;
  }
}

/** The latest `maxSize` slots of rows of different lengths, each row's first `keep` tokens among them. */
export class BatchRotatingKVCache extends BatchCache {
  constructor(maxSize: number, leftPadding?: readonly number[], options?: RotatingOptions);
  /** @internal */
  constructor(held: Held);
  constructor(maxSize: number | Held, leftPadding: readonly number[] = [], options?: RotatingOptions) {
    if (maxSize instanceof Held) {
      super(maxSize);
      return;
    }
    const { keep = 0 } = known(options, ['keep'], 'BatchRotatingKVCache');
    super({ kind: 'BatchRotatingKVCache', maxSize, keep, leftPadding: [...leftPadding] });
  }

  /** First tokens of each row that stay. */
  get keep(): number {
    return this.native.keep;
  }

  get maxSize(): number {
    return this.native.maxSize!;
  }

  /** Appends keys and values and returns what attention sees: a single token's are in the order of the ring. */
  updateAndFetch(keys: MxArray, values: MxArray): [MxArray, MxArray] {
    return this.appendPlain(keys, values);
  }

  /** Adds the rows of another batch of the same size, which keeps as many tokens. */
  extend(other: BatchRotatingKVCache): void {
    guard(() => this.native.extend(other.native));
  }

  /** One row without its padding, as a copy. */
  extract(row: number): RotatingKVCache {
    return wrapCache(guard(() => this.native.extract(row))) as RotatingKVCache;
  }

  /** Replaces a row, right-aligned at the write position. */
  putRow(row: number, cache: RotatingKVCache): void {
    guard(() => this.native.putRow(row, cache.native));
  }

  /** The same slots in 4-bit codes, or as told. */
  toQuantized(options?: QuantizeOptions): BatchRotatingKVCache {
    return this.quantized(options) as BatchRotatingKVCache;
  }

  /** A batch of caches of one row each, of one size and without kept tokens. */
  static merge(caches: readonly RotatingKVCache[]): BatchRotatingKVCache {
    return merged(caches) as BatchRotatingKVCache;
  }
}

register(['KVCache'], (held) => new KVCache(held));
register(['QuantizedKVCache'], (held) => new QuantizedKVCache(held));
register(['RotatingKVCache', 'QuantizedRotatingKVCache'], (held) => new RotatingKVCache(held));
register(['BatchKVCache', 'BatchQuantizedKVCache'], (held) => new BatchKVCache(held));
register(['BatchRotatingKVCache', 'BatchQuantizedRotatingKVCache'], (held) => new BatchRotatingKVCache(held));

/** The class's instance for a native cache. From here, so that who asks has the classes. */
export const layerOf = (cache: NativeCache): LayerCache => wrapCache(cache);
