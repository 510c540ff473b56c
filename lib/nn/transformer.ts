/** Blocks of transformers. */
import { known } from '../array/convert.js';
import type { MxArray } from '../array/core.js';
import type { KVCache } from '../cache.js';
import { add } from '../generated/ops.js';
import * as native from '../generated/nn.js';
import { relu } from './activations.js';
import { Attention, MultiHeadAttention } from './attention.js';
import type { AttentionMask, AttentionOptions } from './attention.js';
import { size } from './check.js';
import { checkpoint as recomputed } from './checkpoint.js';
import { Dropout } from './dropout.js';
import { Linear } from './linear.js';
import type { LinearOptions } from './linear.js';
import { Module } from './module.js';
import { LayerNorm, RMSNorm } from './norm.js';

/** The gated feed-forward block `down(silu(gate(x)) · up(x))` (Shazeer 2020, arXiv:2002.05202). Without biases unless told. */
export class MLP extends Module {
  gateProj: Module;
  upProj: Module;
  downProj: Module;

  constructor(dims: number, hiddenDims: number, options?: LinearOptions) {
    super();
    const { bias = false } = known(options, ['bias'], 'nn.MLP');
    this.gateProj = new Linear(dims, hiddenDims, { bias });
    this.upProj = new Linear(dims, hiddenDims, { bias });
    this.downProj = new Linear(hiddenDims, dims, { bias });
  }

  forward(x: MxArray): MxArray {
    return this.downProj.forward(native.swiglu(this.gateProj.forward(x), this.upProj.forward(x))) as MxArray;
  }
}

export interface TransformerBlockOptions extends AttentionOptions {
  /** The epsilon of the block's norms, 1e-6. */
  normEps?: number;
}

/** The block of the Qwen and Llama models: attention and MLP, each after an RMSNorm and added to what came in. */
export class TransformerBlock extends Module {
  selfAttn: Module;
  mlp: Module;
  inputLayernorm: Module;
  postAttentionLayernorm: Module;

  constructor(dims: number, numHeads: number, mlpDims: number, options?: TransformerBlockOptions) {
    super();
    const { normEps: eps = 1e-6, ...attention } = options ?? {};
    this.selfAttn = new Attention(dims, numHeads, attention);
    this.mlp = new MLP(dims, mlpDims);
    this.inputLayernorm = new RMSNorm(dims, { eps });
    this.postAttentionLayernorm = new RMSNorm(dims, { eps });
  }

  forward(x: MxArray, mask?: AttentionMask, cache?: KVCache | null): MxArray {
    const attended = add(x, this.selfAttn.forward(this.inputLayernorm.forward(x), mask, cache));
    return add(attended, this.mlp.forward(this.postAttentionLayernorm.forward(attended)));
  }
}

export interface TransformerLayerOptions {
  /** Features inside the feed-forward part, 4 · dims. */
  mlpDims?: number;
  /** The probability of dropout, 0. */
  dropout?: number;
  /** `relu` unless told. */
  activation?: (x: MxArray) => MxArray;
  /** Norms before attention and MLP (true) or after. */
  normFirst?: boolean;
}

export interface TransformerOptions extends TransformerLayerOptions {
  /** Computes each layer again for its gradient instead of keeping what it made. */
  checkpoint?: boolean;
}

const layerKeys = ['mlpDims', 'dropout', 'activation', 'normFirst'];

/** One layer of an encoder (Vaswani et al. 2017, arXiv:1706.03762). */
export class TransformerEncoderLayer extends Module {
  attention: Module;
  ln1: Module;
  ln2: Module;
  linear1: Module;
  linear2: Module;
  dropout1: Module;
  dropout2: Module;
  readonly activation: (x: MxArray) => MxArray;
  readonly normFirst: boolean;

  constructor(dims: number, numHeads: number, options?: TransformerLayerOptions) {
    super();
    const given = known(options, layerKeys, 'nn.TransformerEncoderLayer');
    const { mlpDims = 4 * dims, dropout = 0, activation = relu, normFirst = true } = given;
    this.attention = new MultiHeadAttention(dims, numHeads);
    this.ln1 = new LayerNorm(dims);
    this.ln2 = new LayerNorm(dims);
    this.linear1 = new Linear(dims, mlpDims);
    this.linear2 = new Linear(mlpDims, dims);
    this.dropout1 = new Dropout(dropout);
    this.dropout2 = new Dropout(dropout);
    this.activation = activation;
    this.normFirst = normFirst;
  }

  forward(x: MxArray, mask?: AttentionMask): MxArray {
    const feed = (y: MxArray): MxArray =>
      this.linear2.forward(this.dropout2.forward(this.activation(this.linear1.forward(y))));
    if (this.normFirst) {
      const y = this.ln1.forward(x);
      const attended = add(x, this.dropout1.forward(this.attention.forward(y, y, y, mask)));
      return add(attended, feed(this.ln2.forward(attended)));
    }
    const attended = this.ln1.forward(add(x, this.dropout1.forward(this.attention.forward(x, x, x, mask))));
    return this.ln2.forward(add(attended, feed(attended))) as MxArray;
  }
}

/** Layers of an encoder and a norm. */
export class TransformerEncoder extends Module {
  readonly layers: Module[];
  ln: Module;
  readonly checkpoint: boolean;

  constructor(numLayers: number, dims: number, numHeads: number, options?: TransformerOptions) {
    super();
    const given = known(options, [...layerKeys, 'checkpoint'], 'nn.TransformerEncoder');
    const { checkpoint = false, ...layer } = given;
    size('nn.TransformerEncoder', 'numLayers', numLayers);
    this.layers = Array.from({ length: numLayers }, () => new TransformerEncoderLayer(dims, numHeads, layer));
    this.ln = new LayerNorm(dims);
    this.checkpoint = checkpoint;
  }

  forward(x: MxArray, mask?: AttentionMask): MxArray {
    for (const layer of this.layers) {
      x = this.checkpoint ? recomputed(layer)(x, mask) : layer.forward(x, mask);
    }
    return this.ln.forward(x) as MxArray;
  }
}

/** One layer of a decoder (Vaswani et al. 2017, arXiv:1706.03762). */
export class TransformerDecoderLayer extends Module {
  selfAttention: Module;
  crossAttention: Module;
  ln1: Module;
  ln2: Module;
  ln3: Module;
  linear1: Module;
  linear2: Module;
  dropout1: Module;
  dropout2: Module;
  dropout3: Module;
  readonly activation: (x: MxArray) => MxArray;
  readonly normFirst: boolean;

  constructor(dims: number, numHeads: number, options?: TransformerLayerOptions) {
    super();
    const given = known(options, layerKeys, 'nn.TransformerDecoderLayer');
    const { mlpDims = 4 * dims, dropout = 0, activation = relu, normFirst = true } = given;
    this.selfAttention = new MultiHeadAttention(dims, numHeads);
    this.crossAttention = new MultiHeadAttention(dims, numHeads);
    this.ln1 = new LayerNorm(dims);
    this.ln2 = new LayerNorm(dims);
    this.ln3 = new LayerNorm(dims);
    this.linear1 = new Linear(dims, mlpDims);
    this.linear2 = new Linear(mlpDims, dims);
    this.dropout1 = new Dropout(dropout);
    this.dropout2 = new Dropout(dropout);
    this.dropout3 = new Dropout(dropout);
    this.activation = activation;
    this.normFirst = normFirst;
  }

  forward(x: MxArray, memory: MxArray, xMask?: AttentionMask, memoryMask?: AttentionMask): MxArray {
    const feed = (y: MxArray): MxArray =>
      this.linear2.forward(this.dropout3.forward(this.activation(this.linear1.forward(y))));
    const own = (y: MxArray): MxArray => this.dropout1.forward(this.selfAttention.forward(y, y, y, xMask));
    const cross = (y: MxArray): MxArray =>
      this.dropout2.forward(this.crossAttention.forward(y, memory, memory, memoryMask));
    if (this.normFirst) {
      x = add(x, own(this.ln1.forward(x)));
      x = add(x, cross(this.ln2.forward(x)));
      return add(x, feed(this.ln3.forward(x)));
    }
    x = this.ln1.forward(add(x, own(x)));
    x = this.ln2.forward(add(x, cross(x)));
    return this.ln3.forward(add(x, feed(x))) as MxArray;
  }
}

/** Layers of a decoder and a norm. */
export class TransformerDecoder extends Module {
  readonly layers: Module[];
  ln: Module;
  readonly checkpoint: boolean;

  constructor(numLayers: number, dims: number, numHeads: number, options?: TransformerOptions) {
    super();
    const given = known(options, [...layerKeys, 'checkpoint'], 'nn.TransformerDecoder');
    const { checkpoint = false, ...layer } = given;
    size('nn.TransformerDecoder', 'numLayers', numLayers);
    this.layers = Array.from({ length: numLayers }, () => new TransformerDecoderLayer(dims, numHeads, layer));
    this.ln = new LayerNorm(dims);
    this.checkpoint = checkpoint;
  }

  forward(x: MxArray, memory: MxArray, xMask?: AttentionMask, memoryMask?: AttentionMask): MxArray {
    for (const layer of this.layers) {
      x = this.checkpoint
        ? recomputed(layer)(x, memory, xMask, memoryMask)
        : layer.forward(x, memory, xMask, memoryMask);
    }
    return this.ln.forward(x) as MxArray;
  }
}
