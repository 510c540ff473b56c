/** Layers over packed weights. Gradients flow to their inputs, not to codes, which are always frozen. */
import { known } from '../array/convert.js';
import type { ArrayLike, MxArray } from '../array/core.js';
import { guard, MlxError } from '../errors.js';
import * as native from '../generated/nn.js';
import { dequantize, quantize as pack, zeros } from '../generated/ops.js';
import { normal, uniform } from '../generated/random.js';
import { native as addon } from '../native.js';
import { size } from './check.js';
import { Embedding } from './embedding.js';
import { Linear } from './linear.js';
import { isContainer, membersOf, Module } from './module.js';
import type { ModuleTree } from './module.js';
import { SwitchLinear } from './switch.js';

export type QuantizationMode = 'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4';

export interface QuantizationOptions {
  /** Weights that share a scale: 64 for 'affine', 32 for 'mxfp4' and 'mxfp8', 16 for 'nvfp4' unless told. */
  groupSize?: number;
  /** Bits of a weight: 4, or 8 for 'mxfp8', unless told. */
  bits?: number;
  /** 'affine' unless told. */
  mode?: QuantizationMode;
}

/** @internal Group size and bits of a mode, checked, with its own where they are not given. */
export const quantizationShape = (mode: QuantizationMode, groupSize?: number, bits?: number): [number, number] =>
  guard(() => addon().core.quantizationShape(mode, groupSize, bits)) as [number, number];

const quantizationKeys = ['groupSize', 'bits', 'mode'] as const;
const codes = ['weight', 'scales', 'biases'] as const;

/** What all packed layers hold. */
abstract class Packed extends Module {
  /** uint32, `32 / bits` weights in each. */
  weight!: MxArray;
  scales!: MxArray;
  /** 'affine' only. */
  declare biases?: MxArray;
  readonly groupSize: number;
  readonly bits: number;
  readonly mode: QuantizationMode;

  constructor(options: QuantizationOptions) {
    super();
    const { mode = 'affine', groupSize, bits } = options;
    [this.groupSize, this.bits] = quantizationShape(mode, groupSize, bits);
    this.mode = mode;
  }

  /** Packs numbers and holds the codes. */
  protected hold(numbers: MxArray): void {
    const { weight, scales, biases } = pack(numbers, { groupSize: this.groupSize, bits: this.bits, mode: this.mode });
    this.weight = weight;
    this.scales = scales;
    if (biases !== undefined) this.biases = biases;
    this.freeze({ recurse: false });
  }

  protected override unfreezeOwn(keys: readonly string[] | undefined, strict: boolean): void {
    super.unfreezeOwn(keys, strict);
    this.freeze({ recurse: false, keys: codes });
  }

  /** The numbers that the codes stand for. */
  dequantized(): MxArray {
    const { groupSize, bits, mode } = this;
    return dequantize(this.weight, this.scales, this.biases, { groupSize, bits, mode });
  }

  protected get packing(): string {
    return `groupSize=${this.groupSize}, bits=${this.bits}, mode=${this.mode}`;
  }
}

export interface QuantizedLinearOptions extends QuantizationOptions {
  /** A bias; true unless told. */
  bias?: boolean;
}

/** A linear layer over a packed weight `[outputDims, inputDims]`. */
export class QuantizedLinear extends Packed {
  declare bias?: MxArray;

  constructor(inputDims: number, outputDims: number, options?: QuantizedLinearOptions) {
    const { bias = true, ...how } = known(options, ['bias', ...quantizationKeys], 'nn.QuantizedLinear');
    super(how);
    const scale = Math.sqrt(1 / size('nn.QuantizedLinear', 'inputDims', inputDims));
    const shape = [size('nn.QuantizedLinear', 'outputDims', outputDims), inputDims];
    if (bias) this.bias = zeros([outputDims]);
    this.hold(uniform(-scale, scale, shape));
  }

  /** `linear` with its weight packed. */
  static fromLinear(linear: Linear, options?: QuantizationOptions): QuantizedLinear {
    const how = known(options, quantizationKeys, 'nn.QuantizedLinear.fromLinear()');
    const [outputs, inputs] = linear.weight.shape as [number, number];
    const packed = new QuantizedLinear(inputs, outputs, { bias: false, ...how });
    if (linear.bias !== undefined) packed.bias = linear.bias;
    packed.hold(linear.weight);
    return packed;
  }

  override extraRepr(): string {
    const [outputs, words] = this.weight.shape as [number, number];
    return `inputDims=${(words * 32) / this.bits}, outputDims=${outputs}, bias=${this.bias !== undefined}, ${this.packing}`;
  }

  forward(x: MxArray): MxArray {
    const { weight, scales, biases = null, bias = null, groupSize, bits, mode } = this;
    return native.quantizedLinear(x, weight, scales, biases, bias, groupSize, bits, mode);
  }
}

/** An embedding whose table `[numEmbeddings, dims]` is packed. */
export class QuantizedEmbedding extends Packed {
  constructor(numEmbeddings: number, dims: number, options?: QuantizationOptions) {
    super(known(options, quantizationKeys, 'nn.QuantizedEmbedding'));
    const scale = Math.sqrt(1 / size('nn.QuantizedEmbedding', 'dims', dims));
    this.hold(normal([size('nn.QuantizedEmbedding', 'numEmbeddings', numEmbeddings), dims], { scale }));
  }

  /** `embedding` with its table packed. */
  static fromEmbedding(embedding: Embedding, options?: QuantizationOptions): QuantizedEmbedding {
    const packed = new QuantizedEmbedding(...(embedding.weight.shape as [number, number]), options);
    packed.hold(embedding.weight);
    return packed;
  }

  override extraRepr(): string {
    const [rows, words] = this.weight.shape as [number, number];
    return `${rows}, ${(words * 32) / this.bits}, ${this.packing}`;
  }

  /** Integers of any shape to vectors in a new last axis. */
  forward(indices: ArrayLike): MxArray {
    const { weight, scales, biases = null, groupSize, bits, mode } = this;
    return native.quantizedEmbedding(indices, weight, scales, biases, groupSize, bits, mode);
  }

  /** The table as a linear layer without bias: logits from hidden states. */
  asLinear(x: MxArray): MxArray {
    const { weight, scales, biases = null, groupSize, bits, mode } = this;
    return native.quantizedLinear(x, weight, scales, biases, null, groupSize, bits, mode);
  }
}

/** Linear layers of several experts over packed weights `[numExperts, outputDims, inputDims]`. */
export class QuantizedSwitchLinear extends Packed {
  declare bias?: MxArray;

  constructor(inputDims: number, outputDims: number, numExperts: number, options?: QuantizedLinearOptions) {
    const { bias = true, ...how } = known(options, ['bias', ...quantizationKeys], 'nn.QuantizedSwitchLinear');
    super(how);
    const scale = Math.sqrt(1 / size('nn.QuantizedSwitchLinear', 'inputDims', inputDims));
    const experts = size('nn.QuantizedSwitchLinear', 'numExperts', numExperts);
    const shape = [experts, size('nn.QuantizedSwitchLinear', 'outputDims', outputDims), inputDims];
    if (bias) this.bias = zeros([experts, outputDims]);
    this.hold(uniform(-scale, scale, shape));
  }

  /** `linear` with its weights packed. */
  static fromSwitchLinear(linear: SwitchLinear, options?: QuantizationOptions): QuantizedSwitchLinear {
    const how = known(options, quantizationKeys, 'nn.QuantizedSwitchLinear.fromSwitchLinear()');
    const [experts, outputs, inputs] = linear.weight.shape as [number, number, number];
    const packed = new QuantizedSwitchLinear(inputs, outputs, experts, { bias: false, ...how });
    if (linear.bias !== undefined) packed.bias = linear.bias;
    packed.hold(linear.weight);
    return packed;
  }

  override extraRepr(): string {
    const [experts, outputs, words] = this.weight.shape as [number, number, number];
    return `inputDims=${(words * 32) / this.bits}, outputDims=${outputs}, numExperts=${experts}, bias=${this.bias !== undefined}, ${this.packing}`;
  }

  /** As `SwitchLinear`'s. */
  forward(x: MxArray, indices: MxArray, sortedIndices = false): MxArray {
    const { weight, scales, biases = null, bias = null, groupSize, bits, mode } = this;
    return native.quantizedSwitchLinear(x, weight, scales, biases, bias, indices, groupSize, bits, mode, sortedIndices);
  }
}

export interface QuantizeOptions extends QuantizationOptions {
  /** Which layers, by path and module: true, false, or how. All that can be unless told. */
  classPredicate?: (path: string, module: Module) => boolean | QuantizationOptions;
}

/** The packed layer in the place of one, or nothing for a layer without one. */
function packedLayer(module: Module, how: QuantizationOptions): Module | undefined {
  if (module instanceof Linear) return QuantizedLinear.fromLinear(module, how);
  if (module instanceof Embedding) return QuantizedEmbedding.fromEmbedding(module, how);
  if (module instanceof SwitchLinear) return QuantizedSwitchLinear.fromSwitchLinear(module, how);
  return undefined;
}

const isPackable = (module: Module): boolean =>
  module instanceof Linear || module instanceof Embedding || module instanceof SwitchLinear;

/** Replaces the linear layers, embeddings and experts inside a module by packed ones, or none of them after an error. As Python's `nn.quantize`. */
export function quantize<M extends Module>(module: M, options?: QuantizeOptions): M {
  const given = known(options, [...quantizationKeys, 'classPredicate'], 'nn.quantize()');
  const { classPredicate = (_, child) => isPackable(child), ...how } = given;
  const pick = (child: Module, path: string): Module => {
    const chosen = classPredicate(path, child);
    if (chosen === false || chosen === undefined) return child;
    const packed = packedLayer(child, chosen === true ? how : chosen);
    if (packed !== undefined) return packed;
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `nn.quantize() has no packed layer for '${path}', a ${child.constructor.name}`,
    );
  };
  const walk = (branch: object, path: string): unknown => {
    const entries = membersOf(branch).map(([name, value]) => {
      const own = path === '' ? name : `${path}.${name}`;
      if (value instanceof Module) return [name, pick(value, own)] as const;
      return [name, isContainer(value) ? walk(value, own) : value] as const;
    });
    return Array.isArray(branch) ? entries.map(([, value]) => value) : Object.fromEntries(entries);
  };
  return module.updateModules(walk(module.leafModules(), '') as ModuleTree);
}
