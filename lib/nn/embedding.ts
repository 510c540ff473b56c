/** Vectors by number. */
import type { ArrayLike, MxArray } from '../array/core.js';
import * as native from '../generated/nn.js';
import { normal } from '../generated/random.js';
import { size } from './check.js';
import { Module } from './module.js';

/** Rows of a table `[numEmbeddings, dims]`, at first normal with the deviation 1/√dims. */
export class Embedding extends Module {
  weight: MxArray;

  constructor(numEmbeddings: number, dims: number) {
    super();
    const scale = Math.sqrt(1 / size('nn.Embedding', 'dims', dims));
    this.weight = normal([size('nn.Embedding', 'numEmbeddings', numEmbeddings), dims], { scale });
  }

  override extraRepr(): string {
    return this.weight.shape.join(', ');
  }

  /** Integers of any shape to vectors in a new last axis. Numbers must lie in the table: nothing checks them on the device. */
  forward(indices: ArrayLike): MxArray {
    return native.embedding(indices, this.weight);
  }

  /** The table as a linear layer without bias: logits from hidden states. */
  asLinear(x: MxArray): MxArray {
    return native.linear(x, this.weight);
  }
}
