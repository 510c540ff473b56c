/** What the caches of attention layers have in common. */
import { known } from '../array/convert.js';
import { handleOf, MxArray, wrap, wrapAll } from '../array/core.js';
import { guard, MlxError } from '../errors.js';
import { transpose } from '../generated/ops.js';
import { native } from '../native.js';
import type { ArrayHandle, CacheSpec, NativeCache } from '../native-types.js';

/** Codes, scales and biases of quantised keys or values. */
export type QuantizedArrays = [weight: MxArray, scales: MxArray, biases: MxArray];

/** Which keys a query sees: those before it, those that an array (boolean, true = visible, or additive) lets it, or all. */
export type CacheMask = 'causal' | MxArray | null;

export interface MakeMaskOptions {
  /** How many of the latest tokens each token sees, itself among them. */
  windowSize?: number;
  /** An array also where 'causal' or null say the same. */
  returnArray?: boolean;
}

export interface AttendOptions {
  /** Multiplies the products of queries and keys; 1 / √D unless told. */
  scale?: number;
  /** What the tokens see; `makeMask` of them unless told. */
  mask?: CacheMask;
}

export interface QuantizeOptions {
  /** Numbers that share a scale: 32, 64 (default) or 128. */
  groupSize?: number;
  /** Bits per number, 4 or 8 most of all. */
  bits?: number;
}

/** A native cache on its way into a class. */
export class Held {
  constructor(readonly cache: NativeCache) {}
}

const makers = new Map<string, (held: Held) => LayerCache>();

/** Says which class stands for a kind of native cache. */
export function register(kinds: readonly string[], make: (held: Held) => LayerCache): void {
  for (const kind of kinds) makers.set(kind, make);
}

/** The class's instance for a native cache. */
export function wrapCache(cache: NativeCache): LayerCache {
  const make = makers.get(cache.kind);
  if (make === undefined)
    throw new MlxError('ERR_MLX_INTERNAL', `there is no class for a cache of kind '${cache.kind}'`);
  return make(new Held(cache));
}

/** The native caches of layers, each there once. */
export function nativeCaches(caches: readonly LayerCache[], where: string): NativeCache[] {
  if (!Array.isArray(caches) || !caches.every((cache) => cache instanceof LayerCache)) {
    throw new MlxError('ERR_MLX_ARGUMENT', `${where} takes a list of caches, one per layer`);
  }
  if (new Set(caches).size !== caches.length) {
    throw new MlxError('ERR_MLX_ARGUMENT', `${where}: each layer needs a cache of its own, and one is there twice`);
  }
  return caches.map((cache) => cache.native);
}

/** One attention layer's cache. A failed call leaves it as it was. */
export abstract class LayerCache {
  /** @internal */
  readonly native: NativeCache;

  /** @internal */
  constructor(made: CacheSpec | Held) {
    this.native = made instanceof Held ? made.cache : guard(() => new (native().NativeCache)(made));
  }

  /** Tokens seen, and so the position of the next one; the furthest row's of a batch. */
  get offset(): number {
    return this.native.offset;
  }

  /** Slots that the next token sees beside its own, padding included. */
  get size(): number {
    return this.native.size;
  }

  get empty(): boolean {
    return this.native.size === 0;
  }

  /** Bytes of the buffers. */
  get nbytes(): number {
    return this.native.nbytes;
  }

  /** Bits per number where keys and values are quantised. */
  get bits(): number | undefined {
    return this.native.bits ?? undefined;
  }

  /** Numbers that share a scale where keys and values are quantised. */
  get groupSize(): number | undefined {
    return this.native.groupSize ?? undefined;
  }

  get isTrimmable(): boolean {
    return this.native.isTrimmable;
  }

  /** Appends keys and values and returns what attention reads, as handles: two, or six of codes. @internal */
  protected append(keys: MxArray, values: MxArray): MxArray[] {
    return wrapAll(guard(() => this.native.updateAndFetch(handleOf(keys), handleOf(values))));
  }

  /** Appends to numbers and returns numbers. @internal */
  protected appendPlain(keys: MxArray, values: MxArray): [MxArray, MxArray] {
    if (this.bits !== undefined) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `this cache holds ${this.bits}-bit codes, which updateAndFetch() does not return as arrays of numbers: use attend()`,
      );
    }
    return this.append(keys, values) as [MxArray, MxArray];
  }

  /**
   * Appends keys and values `[B, Hkv, T, D]` and attends to all that is held: queries `[B, H, T, D]` to the same shape. The way to use
   * any cache, quantised ones included.
   */
  attend(queries: MxArray, keys: MxArray, values: MxArray, options?: AttendOptions): MxArray {
    const { scale, mask } = known(options, ['scale', 'mask'], 'attend()');
    const seen = mask === undefined ? this.makeMask(queries.shape[2] ?? 1) : mask;
    if (seen !== null && seen !== 'causal' && !(seen instanceof MxArray)) {
      throw new MlxError('ERR_MLX_ARGUMENT', `an attention mask is 'causal', an array or null, not ${String(seen)}`);
    }
    const attended = guard(() =>
      this.native.attend(
        handleOf(queries),
        handleOf(keys),
        handleOf(values),
        scale ?? 1 / Math.sqrt(queries.shape[3] ?? 1),
        seen === 'causal',
        seen instanceof MxArray ? handleOf(seen) : null,
      ),
    );
    return transpose(wrap(attended), [0, 2, 1, 3]);
  }

  /** What the next `tokens` tokens see: null where that is all, 'causal', or a boolean array that attention broadcasts to [B, H, T, K]. */
  makeMask(tokens: number, options?: MakeMaskOptions): CacheMask {
    const { windowSize, returnArray = false } = known(options, ['windowSize', 'returnArray'], 'makeMask()');
    const { causal, array } = guard(() => this.native.makeMask(tokens, windowSize, returnArray));
    return causal ? 'causal' : array === undefined || array === null ? null : wrap(array);
  }

  /** Forgets the last `n` tokens; returns how many there were to forget: none where `isTrimmable` is false. */
  trim(n: number): number {
    return guard(() => this.native.trim(n));
  }

  /** Keeps the rows of these numbers, in this order. */
  filter(indices: readonly number[]): void {
    guard(() => this.native.filter([...indices]));
  }

  /** Each row `times` times in a row. */
  repeatRows(times: number): void {
    guard(() => this.native.repeatRows(times));
  }

  /** A cache that shares the buffers: they are copied once, by the first of the two that is appended to. */
  copy(): this {
    return wrapCache(this.native.copy()) as this;
  }

  /** Forgets everything. */
  reset(): void {
    this.native.reset();
  }

  /** Keys and values of the filled slots in order of time (codes, scales and biases of both where quantised); an empty list when nothing was read. */
  get state(): MxArray[] {
    return wrapAll(guard(() => this.native.state()) as ArrayHandle[]);
  }

  set state(arrays: readonly MxArray[]) {
    guard(() => this.native.setState(arrays.map((array) => handleOf(array))));
  }

  /** @internal */
  protected quantized(options: QuantizeOptions | undefined): LayerCache {
    const { groupSize = 64, bits = 4 } = known(options, ['groupSize', 'bits'], 'toQuantized()');
    return wrapCache(guard(() => this.native.toQuantized(groupSize, bits)));
  }
}

const listOf = (numbers?: readonly number[]): number[] | null => (numbers === undefined ? null : [...numbers]);

/** A cache of several rows of different lengths, padded on the left to a common write position. */
export abstract class BatchCache extends LayerCache {
  /** The write position: slots per row, padding included. */
  getIdx(): number {
    return this.native.writePosition;
  }

  /** Each row's position: its tokens so far, negative while its padding is not filled. */
  getOffsets(): number[] {
    return this.native.offsets;
  }

  /** How many of each row's slots are padding; negative in a rotating cache once that and tokens too were dropped. */
  getLeftPadding(): number[] {
    return this.native.leftPadding;
  }

  /**
   * Says how the next tokens are padded: on the left (of an empty cache, beside what it began with), or on the right until `finalize`.
   * `lengths` are the rows' tokens without padding on the right, which a rotating cache needs.
   */
  prepare(options: {
    leftPadding?: readonly number[];
    rightPadding?: readonly number[];
    lengths?: readonly number[];
  }): void {
    const given = known(options, ['leftPadding', 'rightPadding', 'lengths'], 'prepare()');
    guard(() => this.native.prepare(listOf(given.leftPadding), listOf(given.rightPadding), listOf(given.lengths)));
  }

  /** Moves padding from the right of rows to their left, so that all end at the write position. */
  finalize(): void {
    guard(() => this.native.finalizeRows());
  }

  /** Drops the padding that all rows have in common if that is at least `least` slots; returns how many went. It copies what stays. */
  dropPadding(least = 1): number {
    return guard(() => this.native.dropPadding(least));
  }
}

/** A batch of caches of one row each, all of one kind. */
export function merged(caches: readonly LayerCache[]): LayerCache {
  if (!Array.isArray(caches) || !caches.every((cache) => cache instanceof LayerCache)) {
    throw new MlxError('ERR_MLX_ARGUMENT', 'merge() takes a list of caches of one row each');
  }
  return wrapCache(guard(() => native().mergeCaches(caches.map((cache) => cache.native))));
}
