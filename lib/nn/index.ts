/**
 * The layers of Python's `mlx.nn`, under its names in camelCase: equal weights give equal numbers.
 *
 * A model is a class that extends `Module`; `nn.valueAndGrad` gives the gradients that an optimizer of `optim` takes.
 *
 * @module nn
 */
export * from './activations.js';
export { Attention, MultiHeadAttention } from './attention.js';
export type { AttentionMask, AttentionOptions, MultiHeadAttentionOptions } from './attention.js';
export { checkpoint } from './checkpoint.js';
export { Sequential } from './containers.js';
export { Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d } from './conv.js';
export type { ConvOptions, ConvTransposeOptions, PerAxis } from './conv.js';
export { Dropout, Dropout2d, Dropout3d } from './dropout.js';
export { Embedding } from './embedding.js';
export * as init from './init.js';
export { Bilinear, Identity, Linear } from './linear.js';
export type { LinearOptions } from './linear.js';
export { LoRALinear } from './lora.js';
export type { LoRALinearOptions } from './lora.js';
export * as losses from './losses.js';
export { Module } from './module.js';
export type { FreezeOptions, LoadWeightsOptions, MemberFilter, ModuleTree, ParameterTree, Untyped } from './module.js';
export { BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm } from './norm.js';
export type { AffineNormOptions, BatchNormOptions, GroupNormOptions, LayerNormOptions, NormOptions } from './norm.js';
export { AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d, Upsample } from './pooling.js';
export type { PoolOptions, UpsampleMode, UpsampleOptions } from './pooling.js';
export { ALiBi, RoPE, SinusoidalPositionalEncoding } from './positional.js';
export type { RopeOptions, RopeScaling, SinusoidalOptions } from './positional.js';
export { QQLinear } from './qq-linear.js';
export type { QQLinearOptions } from './qq-linear.js';
export { quantize, QuantizedEmbedding, QuantizedLinear, QuantizedSwitchLinear } from './quantized.js';
export type { QuantizationMode, QuantizationOptions, QuantizedLinearOptions, QuantizeOptions } from './quantized.js';
export { GRU, LSTM, RNN } from './recurrent.js';
export type { RecurrentOptions, RNNOptions } from './recurrent.js';
export { SwitchGLU, SwitchLinear } from './switch.js';
export {
  MLP,
  Transformer,
  TransformerBlock,
  TransformerDecoder,
  TransformerDecoderLayer,
  TransformerEncoder,
  TransformerEncoderLayer,
} from './transformer.js';
export type {
  EncoderDecoderOptions,
  TransformerBlockOptions,
  TransformerLayerOptions,
  TransformerOptions,
} from './transformer.js';
export { valueAndGrad } from './value-and-grad.js';
export type { WeightEntries } from './weights.js';
