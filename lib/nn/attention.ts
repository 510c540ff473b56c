/** Attention layers. */
import { known } from '../array/convert.js';
import { MxArray } from '../array/core.js';
import type { Dtype } from '../array/core.js';
import { array } from '../array/create.js';
import { BatchCache } from '../cache/base.js';
import type { LayerCache } from '../cache/base.js';
import { MlxError } from '../errors.js';
import * as native from '../generated/nn.js';
import { reshape, transpose } from '../generated/ops.js';
import { size } from './check.js';
import { Linear } from './linear.js';
import { Module } from './module.js';
import { RMSNorm } from './norm.js';
import { RoPE } from './positional.js';
import type { RopeOptions } from './positional.js';

/** Which keys a query sees: those before it, those that an array (boolean, true = visible, or additive) lets it, or all. */
export type AttentionMask = 'causal' | MxArray | null | undefined;

function attend(queries: MxArray, keys: MxArray, values: MxArray, scale: number, mask: AttentionMask): MxArray {
  if (mask !== undefined && mask !== null && mask !== 'causal' && !(mask instanceof MxArray)) {
    throw new MlxError('ERR_MLX_ARGUMENT', `an attention mask is 'causal', an array or null, not ${String(mask)}`);
  }
  const [batch, heads, slots] = queries.shape as [number, number, number];
  const attended = native.attention(
    queries,
    keys,
    values,
    scale,
    mask === 'causal',
    mask instanceof MxArray ? mask : null,
  );
  return reshape(attended, [batch, slots, heads * values.shape[3]!]);
}

/** `[B, T, heads · D]` to `[B, heads, T, D]`. */
function splitHeads(x: MxArray, heads: number, norm?: Module): MxArray {
  const [batch, slots, features] = x.shape as [number, number, number];
  if (x.ndim !== 3) {
    throw new MlxError('ERR_MLX_SHAPE', `attention takes [B, T, features], not shape [${x.shape.join(', ')}]`);
  }
  const split = reshape(x, [batch, slots, heads, features / heads]);
  return transpose(norm === undefined ? split : (norm.forward(split) as MxArray), [0, 2, 1, 3]);
}

export interface AttentionOptions {
  /** Heads of keys and values, each shared by a group of query heads; as many as query heads unless told. */
  numKeyValueHeads?: number;
  /** Features of a head; dims / numHeads unless told. */
  headDim?: number;
  /** Biases on all four projections. */
  bias?: boolean;
  /** Biases on queries, keys and values. */
  qkvBias?: boolean;
  /** A bias on the output projection. */
  outputBias?: boolean;
  /** RMSNorm over each head's queries and keys: true, or its epsilon (1e-6). */
  qkNorm?: boolean | number;
  /** Rotary embeddings of queries and keys: options, a layer of its own, or false for none. */
  rope?: RopeOptions | RoPE | false;
}

const attentionKeys = ['numKeyValueHeads', 'headDim', 'bias', 'qkvBias', 'outputBias', 'qkNorm', 'rope'];

/**
 * Grouped-query attention with rotary embeddings (Ainslie et al. 2023, arXiv:2305.13245), as in the Qwen and Llama models, under the names of
 * their checkpoints.
 */
export class Attention extends Module {
  qProj: Module;
  kProj: Module;
  vProj: Module;
  oProj: Module;
  declare qNorm?: Module;
  declare kNorm?: Module;
  declare rope?: RoPE;
  readonly numHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;

  constructor(dims: number, numHeads: number, options?: AttentionOptions) {
    super();
    const given = known(options, attentionKeys, 'nn.Attention');
    size('nn.Attention', 'dims', dims);
    this.numHeads = size('nn.Attention', 'numHeads', numHeads);
    this.numKeyValueHeads = size('nn.Attention', 'numKeyValueHeads', given.numKeyValueHeads ?? numHeads);
    if (numHeads % this.numKeyValueHeads !== 0) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `nn.Attention cannot share ${this.numKeyValueHeads} key-value heads among ${numHeads} heads`,
      );
    }
    if (given.headDim === undefined && dims % numHeads !== 0) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `nn.Attention cannot split ${dims} features into ${numHeads} heads; name headDim`,
      );
    }
    this.headDim = size('nn.Attention', 'headDim', given.headDim ?? dims / numHeads);
    const { bias = false, qkvBias = bias, outputBias = bias, qkNorm = false, rope = {} } = given;
    const [queries, keys] = [numHeads * this.headDim, this.numKeyValueHeads * this.headDim];
    this.qProj = new Linear(dims, queries, { bias: qkvBias });
    this.kProj = new Linear(dims, keys, { bias: qkvBias });
    this.vProj = new Linear(dims, keys, { bias: qkvBias });
    this.oProj = new Linear(queries, dims, { bias: outputBias });
    if (qkNorm !== false) {
      const eps = qkNorm === true ? 1e-6 : qkNorm;
      this.qNorm = new RMSNorm(this.headDim, { eps });
      this.kNorm = new RMSNorm(this.headDim, { eps });
    }
    if (rope !== false) this.rope = rope instanceof RoPE ? rope : new RoPE(this.headDim, rope);
  }

  /**
   * `x` `[B, T, dims]` to the same shape; new keys and values go into the cache. Without a mask all keys are seen; `cache.makeMask(T)` is the
   * mask of the next T tokens.
   */
  forward(x: MxArray, mask?: AttentionMask, cache?: LayerCache | null): MxArray {
    let queries = splitHeads(this.qProj.forward(x), this.numHeads, this.qNorm);
    let keys = splitHeads(this.kProj.forward(x), this.numKeyValueHeads, this.kNorm);
    const values = splitHeads(this.vProj.forward(x), this.numKeyValueHeads);
    if (this.rope !== undefined) {
      const offset = cache instanceof BatchCache ? array(cache.getOffsets(), 'int32') : (cache?.offset ?? 0);
      [queries, keys] = [this.rope.forward(queries, offset), this.rope.forward(keys, offset)];
    }
    const scale = 1 / Math.sqrt(this.headDim);
    if (cache === undefined || cache === null) {
      return this.oProj.forward(attend(queries, keys, values, scale, mask)) as MxArray;
    }
    const attended = transpose(cache.attend(queries, keys, values, { scale, mask: mask ?? null }), [0, 2, 1, 3]);
    return this.oProj.forward(reshape(attended, [x.shape[0]!, x.shape[1]!, this.numHeads * this.headDim])) as MxArray;
  }
}

export interface MultiHeadAttentionOptions {
  /** Features of the queries, dims unless told. */
  queryInputDims?: number;
  keyInputDims?: number;
  valueInputDims?: number;
  /** Features of the values inside. */
  valueDims?: number;
  valueOutputDims?: number;
  /** Biases on all projections; false unless told. */
  bias?: boolean;
}

const multiHeadKeys = ['queryInputDims', 'keyInputDims', 'valueInputDims', 'valueDims', 'valueOutputDims', 'bias'];

/** Scaled dot-product attention of several heads (Vaswani et al. 2017, arXiv:1706.03762). */
export class MultiHeadAttention extends Module {
  queryProj: Module;
  keyProj: Module;
  valueProj: Module;
  outProj: Module;
  readonly numHeads: number;

  constructor(dims: number, numHeads: number, options?: MultiHeadAttentionOptions) {
    super();
    const given = known(options, multiHeadKeys, 'nn.MultiHeadAttention');
    size('nn.MultiHeadAttention', 'dims', dims);
    this.numHeads = size('nn.MultiHeadAttention', 'numHeads', numHeads);
    if (dims % numHeads !== 0) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `nn.MultiHeadAttention cannot split ${dims} features into ${numHeads} heads`,
      );
    }
    const {
      queryInputDims = dims,
      keyInputDims = dims,
      valueDims = dims,
      valueOutputDims = dims,
      bias = false,
    } = given;
    const { valueInputDims = keyInputDims } = given;
    this.queryProj = new Linear(queryInputDims, dims, { bias });
    this.keyProj = new Linear(keyInputDims, dims, { bias });
    this.valueProj = new Linear(valueInputDims, valueDims, { bias });
    this.outProj = new Linear(valueDims, valueOutputDims, { bias });
  }

  /** Queries `[B, T, …]` over keys and values `[B, K, …]`. */
  forward(queries: MxArray, keys: MxArray, values: MxArray, mask?: AttentionMask): MxArray {
    const q = splitHeads(this.queryProj.forward(queries), this.numHeads);
    const k = splitHeads(this.keyProj.forward(keys), this.numHeads);
    const v = splitHeads(this.valueProj.forward(values), this.numHeads);
    return this.outProj.forward(attend(q, k, v, Math.sqrt(1 / q.shape[3]!), mask)) as MxArray;
  }

  /** `[n, n]`: 0 where a query may look, the smallest number of the dtype where it may not. */
  static createAdditiveCausalMask(n: number, dtype: Dtype = 'float32'): MxArray {
    const least = smallest[dtype];
    if (least === undefined) {
      throw new MlxError('ERR_MLX_DTYPE', `an additive mask is of a floating dtype, not ${dtype}`);
    }
    const data = new Float32Array(n * n);
    for (let i = 0; i < n; i++) data.fill(least, i * n + i + 1, (i + 1) * n);
    return reshape(array(data, dtype), [n, n]);
  }
}

const smallest: { [name in Dtype]?: number } = {
  float32: -3.4028234663852886e38,
  bfloat16: -3.3895313892515355e38,
  float16: -65504,
};
