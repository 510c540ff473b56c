/**
 * Seeded random numbers for orders and seeds. Streams are derived from names, so nothing has to be remembered between a
 * checkpoint and its resumption: the permutation of epoch 3 depends only on the seed and on "3".
 */
export class Random {
  #state: number;

  constructor(seed: number, ...stream: number[]) {
    let state = mix(seed >>> 0) ^ mix(Math.floor(seed / 2 ** 32) >>> 0);
    for (const part of stream) state = mix((state ^ mix((part + 0x9e3779b9) >>> 0)) >>> 0);
    this.#state = state >>> 0;
  }

  /** Uniform 32-bit integer (mulberry32). */
  uint32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** Uniform integer in [0, n), without modulo bias. */
  below(n: number): number {
    const limit = Math.floor(2 ** 32 / n) * n;
    for (;;) {
      const value = this.uint32();
      if (value < limit) return value % n;
    }
  }

  /** 0..n-1 in random order (Fisher-Yates). */
  permutation(n: number): number[] {
    const order = Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return order;
  }
}

/** The 32-bit finalizer of MurmurHash3. */
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}
