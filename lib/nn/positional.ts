/** Positions of tokens. */
import { known } from '../array/convert.js';
import { handleOf, MxArray, wrap } from '../array/core.js';
import type { ArrayLike, Dtype } from '../array/core.js';
import { guard } from '../errors.js';
import * as native from '../generated/nn.js';
import { add } from '../generated/ops.js';
import { native as addon } from '../native.js';
import { positive, size } from './check.js';
import { Module } from './module.js';
import { pythonName } from './weights.js';

/** The ways of stretching rotary embeddings, with the numbers and names of transformers in camelCase. */
export type RopeScaling =
  | { ropeType: 'default' }
  | { ropeType: 'linear'; factor: number }
  | { ropeType: 'dynamic'; factor: number }
  | {
      ropeType: 'yarn';
      factor: number;
      originalMaxPositionEmbeddings?: number;
      betaFast?: number;
      betaSlow?: number;
      truncate?: boolean;
      attentionFactor?: number;
      mscale?: number;
      mscaleAllDim?: number;
    }
  | {
      ropeType: 'longrope';
      shortFactor: readonly number[];
      longFactor: readonly number[];
      factor?: number;
      originalMaxPositionEmbeddings?: number;
      attentionFactor?: number;
    }
  | {
      ropeType: 'proportional';
      /** The part of the features that is rotated, 1. */
      partialRotaryFactor?: number;
      factor?: number;
    }
  | {
      ropeType: 'llama3';
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalMaxPositionEmbeddings?: number;
    };

export interface RopeOptions {
  /** Rotates neighbouring features instead of halves. */
  traditional?: boolean;
  /** The base of the wavelengths, 10000. */
  base?: number;
  /** Multiplies positions, 1. */
  scale?: number;
  scaling?: RopeScaling;
  /** The length that the model was trained for, where the scaling needs it: 32768. */
  maxPositionEmbeddings?: number;
}

/** Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) of the first `dims` features. */
export class RoPE extends Module {
  readonly dims: number;
  readonly traditional: boolean;
  readonly base: number;
  readonly scale: number;
  readonly #native;

  constructor(dims: number, options?: RopeOptions) {
    super();
    const keys = ['traditional', 'base', 'scale', 'scaling', 'maxPositionEmbeddings'];
    const given = known(options, keys, 'nn.RoPE');
    const { traditional = false, base = 10000, scale = 1, scaling, maxPositionEmbeddings } = given;
    this.dims = size('nn.RoPE', 'dims', dims);
    this.traditional = traditional;
    this.base = base;
    this.scale = positive('nn.RoPE', 'scale', scale);
    const config: Record<string, unknown> = { rope_theta: base };
    if (maxPositionEmbeddings !== undefined) config['max_position_embeddings'] = maxPositionEmbeddings;
    if (scaling !== undefined) {
      config['rope_scaling'] = Object.fromEntries(
        Object.entries(scaling).map(([key, value]) => [pythonName(key), value]),
      );
    }
    const { NativeRope } = addon();
    this.#native = guard(() => new NativeRope(dims, traditional, scale, config));
  }

  override extraRepr(): string {
    return `${this.dims}, traditional=${this.traditional}`;
  }

  /** Rotates `x` `[B, H, T, D]` (or `[.., T, D]`), whose first slot stands at `offset`: one number, or int32 `[B]`. */
  forward(x: MxArray, offset: number | MxArray = 0): MxArray {
    return guard(() =>
      wrap(
        offset instanceof MxArray
          ? this.#native.forward(handleOf(x), 0, handleOf(offset))
          : this.#native.forward(handleOf(x), offset),
      ),
    );
  }
}

export interface SinusoidalOptions {
  /** The lowest angular frequency, 0.0001. */
  minFreq?: number;
  /** The highest angular frequency, 1. */
  maxFreq?: number;
  /** Multiplies the encoding, √(2 / dims). */
  scale?: number;
  /** Cosines before sines. */
  cosFirst?: boolean;
  /** Frequencies in turns instead of radians. */
  fullTurns?: boolean;
}

/** Sines and cosines of positions (Vaswani et al. 2017, arXiv:1706.03762). */
export class SinusoidalPositionalEncoding extends Module {
  readonly _frequencies: MxArray;
  readonly scale: number;
  readonly cosFirst: boolean;

  constructor(dims: number, options?: SinusoidalOptions) {
    super();
    const keys = ['minFreq', 'maxFreq', 'scale', 'cosFirst', 'fullTurns'];
    const given = known(options, keys, 'nn.SinusoidalPositionalEncoding');
    const { minFreq = 0.0001, maxFreq = 1, scale, cosFirst = false, fullTurns = false } = given;
    this._frequencies = native.sinusoidalFrequencies(dims, minFreq, maxFreq, fullTurns);
    this.scale = scale ?? Math.sqrt(2 / dims);
    this.cosFirst = cosFirst;
  }

  /** Positions of any shape to encodings in a new last axis. */
  forward(x: ArrayLike): MxArray {
    return native.sinusoidal(x, this._frequencies, this.scale, this.cosFirst);
  }
}

/** Attention with linear biases (Press et al. 2022, arXiv:2108.12409). */
export class ALiBi extends Module {
  /** `-slope · |i - j|`, `[1, numHeads, queries - offset, keys]`. */
  static createAlibiMatrix(
    queries: number,
    keys: number,
    numHeads: number,
    options?: { offset?: number; dtype?: Dtype },
  ): MxArray {
    const { offset = 0, dtype = 'float32' } = known(options, ['offset', 'dtype'], 'nn.ALiBi.createAlibiMatrix()');
    return native.alibi(queries, keys, numHeads, offset, dtype);
  }

  /** Scores `[B, H, T, K]` with the biases, and an additive mask, added. */
  forward(scores: MxArray, offset = 0, mask?: MxArray | null): MxArray {
    const [, heads, queries, keys] = scores.shape as [number, number, number, number];
    const biases = ALiBi.createAlibiMatrix(queries + offset, keys, heads, { offset, dtype: scores.dtype });
    return add(scores, mask === undefined || mask === null ? biases : add(biases, mask));
  }
}
