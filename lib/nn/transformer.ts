/** Blocks of transformers. */
import { known } from '../array/convert.js';
import type { MxArray } from '../array/core.js';
import type { LayerCache } from '../cache/base.js';
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

  forward(x: MxArray, mask?: AttentionMask, cache?: LayerCache | null): MxArray {
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
const stackKeys = [...layerKeys, 'checkpoint'];

/** What the layers of encoders and decoders share: parts that a norm precedes or follows, and whose results are added to what came in. */
abstract class TransformerLayer extends Module {
  declare ln1: Module;
  declare ln2: Module;
  declare linear1: Module;
  declare linear2: Module;
  declare dropout1: Module;
  declare dropout2: Module;
  readonly activation: (x: MxArray) => MxArray;
  readonly normFirst: boolean;

  /** Makes the attentions of these names, and then the rest: a norm and a dropout for each of them and for the feed-forward part. */
  constructor(name: string, attentions: readonly string[], dims: number, numHeads: number, options: unknown) {
    super();
    const given = known(options as TransformerLayerOptions | undefined, layerKeys, name);
    const { mlpDims = 4 * dims, dropout = 0, activation = relu, normFirst = true } = given;
    const members = this as unknown as Record<string, Module>;
    const places = Array.from({ length: attentions.length + 1 }, (_, i) => i + 1);
    for (const attention of attentions) members[attention] = new MultiHeadAttention(dims, numHeads);
    for (const i of places) members[`ln${i}`] = new LayerNorm(dims);
    this.linear1 = new Linear(dims, mlpDims);
    this.linear2 = new Linear(mlpDims, dims);
    for (const i of places) members[`dropout${i}`] = new Dropout(dropout);
    this.activation = activation;
    this.normFirst = normFirst;
  }

  protected added(x: MxArray, norm: Module, part: (y: MxArray) => MxArray): MxArray {
    return this.normFirst ? add(x, part(norm.forward(x))) : (norm.forward(add(x, part(x))) as MxArray);
  }

  protected feed(x: MxArray, dropout: Module): MxArray {
    return this.linear2.forward(dropout.forward(this.activation(this.linear1.forward(x)))) as MxArray;
  }
}

/** Layers one after the other, and a norm. */
abstract class TransformerStack extends Module {
  readonly layers: Module[];
  ln: Module;
  readonly checkpoint: boolean;

  constructor(
    name: string,
    numLayers: number,
    dims: number,
    options: TransformerOptions | undefined,
    make: (options: TransformerLayerOptions) => Module,
  ) {
    super();
    const { checkpoint = false, ...layer } = known(options, stackKeys, name);
    this.layers = Array.from({ length: size(name, 'numLayers', numLayers) }, () => make(layer));
    this.ln = new LayerNorm(dims);
    this.checkpoint = checkpoint;
  }

  /** Through all layers; `rest` goes into each of them as it is. */
  protected through(x: MxArray, ...rest: unknown[]): MxArray {
    for (const layer of this.layers) x = this.checkpoint ? recomputed(layer)(x, ...rest) : layer.forward(x, ...rest);
    return this.ln.forward(x) as MxArray;
  }
}

/** One layer of an encoder (Vaswani et al. 2017, arXiv:1706.03762). */
export class TransformerEncoderLayer extends TransformerLayer {
  declare attention: Module;

  constructor(dims: number, numHeads: number, options?: TransformerLayerOptions) {
    super('nn.TransformerEncoderLayer', ['attention'], dims, numHeads, options);
  }

  forward(x: MxArray, mask?: AttentionMask): MxArray {
    const attended = this.added(x, this.ln1, (y) => this.dropout1.forward(this.attention.forward(y, y, y, mask)));
    return this.added(attended, this.ln2, (y) => this.feed(y, this.dropout2));
  }
}

/** Layers of an encoder and a norm. */
export class TransformerEncoder extends TransformerStack {
  constructor(numLayers: number, dims: number, numHeads: number, options?: TransformerOptions) {
    const make = (layer: TransformerLayerOptions): Module => new TransformerEncoderLayer(dims, numHeads, layer);
    super('nn.TransformerEncoder', numLayers, dims, options, make);
  }

  forward(x: MxArray, mask?: AttentionMask): MxArray {
    return this.through(x, mask);
  }
}

/** One layer of a decoder (Vaswani et al. 2017, arXiv:1706.03762). */
export class TransformerDecoderLayer extends TransformerLayer {
  declare selfAttention: Module;
  declare crossAttention: Module;
  declare ln3: Module;
  declare dropout3: Module;

  constructor(dims: number, numHeads: number, options?: TransformerLayerOptions) {
    super('nn.TransformerDecoderLayer', ['selfAttention', 'crossAttention'], dims, numHeads, options);
  }

  forward(x: MxArray, memory: MxArray, xMask?: AttentionMask, memoryMask?: AttentionMask): MxArray {
    x = this.added(x, this.ln1, (y) => this.dropout1.forward(this.selfAttention.forward(y, y, y, xMask)));
    x = this.added(x, this.ln2, (y) =>
      this.dropout2.forward(this.crossAttention.forward(y, memory, memory, memoryMask)),
    );
    return this.added(x, this.ln3, (y) => this.feed(y, this.dropout3));
  }
}

/** Layers of a decoder and a norm. */
export class TransformerDecoder extends TransformerStack {
  constructor(numLayers: number, dims: number, numHeads: number, options?: TransformerOptions) {
    const make = (layer: TransformerLayerOptions): Module => new TransformerDecoderLayer(dims, numHeads, layer);
    super('nn.TransformerDecoder', numLayers, dims, options, make);
  }

  forward(x: MxArray, memory: MxArray, xMask?: AttentionMask, memoryMask?: AttentionMask): MxArray {
    return this.through(x, memory, xMask, memoryMask);
  }
}

export interface EncoderDecoderOptions extends TransformerOptions {
  /** Layers of the encoder, 6. */
  numEncoderLayers?: number;
  /** Layers of the decoder, 6. */
  numDecoderLayers?: number;
  /** In place of the encoder; called with a source and its mask. */
  customEncoder?: Module;
  /** In place of the decoder; called with a target, the encoder's result and the masks of both. */
  customDecoder?: Module;
}

/** An encoder, and a decoder that attends to what it makes (Vaswani et al. 2017, arXiv:1706.03762). */
export class Transformer extends Module {
  encoder: Module;
  decoder: Module;

  constructor(dims = 512, numHeads = 8, options?: EncoderDecoderOptions) {
    super();
    const own = ['numEncoderLayers', 'numDecoderLayers', 'customEncoder', 'customDecoder'];
    const given = known(options, [...stackKeys, ...own], 'nn.Transformer');
    const { numEncoderLayers = 6, numDecoderLayers = 6, customEncoder, customDecoder, ...stack } = given;
    this.encoder = customEncoder ?? new TransformerEncoder(numEncoderLayers, dims, numHeads, stack);
    this.decoder = customDecoder ?? new TransformerDecoder(numDecoderLayers, dims, numHeads, stack);
  }

  /** A source `[B, S, dims]` and a target `[B, T, dims]` to `[B, T, dims]`; the mask of the memory is between targets and sources. */
  forward(
    source: MxArray,
    target: MxArray,
    sourceMask?: AttentionMask,
    targetMask?: AttentionMask,
    memoryMask?: AttentionMask,
  ): MxArray {
    const memory = this.encoder.forward(source, sourceMask) as MxArray;
    return this.decoder.forward(target, memory, targetMask, memoryMask) as MxArray;
  }
}
