export { MlxError } from './errors.js';
export type { MlxErrorCode } from './errors.js';
export { createModel, LanguageModel, loadModel, Qwen2Model, Qwen3Model } from './model.js';
export type { Completion, Dtype, GenerateBatchOptions, GenerateBatchResult, LoadOptions, Prompt } from './model.js';
export type { GenerateOptions, SamplingOptions } from './sampling.js';
export { GenerateStream } from './stream.js';
export type { GenerateChunk, GenerateResult, Timings, Usage } from './stream.js';
export { Tokenizer } from './tokenizer.js';
export type { ChatTemplateOptions, Message } from './tokenizer.js';
export { readJsonl } from './data.js';
export {
  applyMinP,
  applyRepetitionPenalty,
  applyTopK,
  applyTopP,
  computeAdvantages,
  computeEntropy,
  computeImportanceRatios,
  grpoLoss,
  grpoLossAndGrad,
  selectiveLogSoftmax,
} from './rl.js';
export type { GrpoLossAndGradResult, GrpoLossInputs, GrpoLossResult } from './rl.js';
export { MxArray } from './array/core.js';
export type { ArrayLike, NestedArray, TypedArray } from './array/core.js';
export * as mx from './mx.js';
export { buildInfo, clearCache, memoryStats, resetPeakMemory, setCacheLimit, setMemoryLimit } from './memory.js';
export type { BatchProgress, BuildInfo, FinishReason, LoraOptions, MemoryStats } from './native-types.js';
export { Interrupted, stopOnSignals } from './interrupt.js';

export * from '../trainers/index.js';
