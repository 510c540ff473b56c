/**
 * MLX for Node.js: arrays, layers and optimizers, and Qwen models that generate and learn by reinforcement.
 *
 * @module mlx-node
 * @document ../docs/install.md
 * @document ../docs/arrays.md
 * @document ../docs/generation.md
 * @document ../docs/hub.md
 * @document ../docs/gguf.md
 * @document ../docs/caches.md
 * @document ../docs/chat.md
 * @document ../docs/structured-output.md
 * @document ../docs/cli.md
 * @document ../docs/quantization.md
 * @document ../docs/sampling.md
 * @document ../docs/training.md
 * @document ../docs/moe.md
 * @document ../docs/adapters.md
 * @document ../docs/real-model.md
 * @document ../docs/cuda.md
 * @document ../docs/metal.md
 */
export { MlxError } from './errors.js';
export type { MlxErrorCode } from './errors.js';
export {
  createModel,
  LanguageModel,
  loadModel,
  Qwen2Model,
  Qwen2MoeModel,
  Qwen3Model,
  Qwen3MoeModel,
} from './model.js';
export type {
  AnyModel,
  CreateOptions,
  Dtype,
  ForwardOptions,
  ForwardResult,
  GenerateBatchOptions,
  GenerateBatchResult,
  LoadOptions,
  LoadProgress,
  Prompt,
} from './model.js';
export type {
  LayerQuantization,
  ModelQuantization,
  QuantizableLayer,
  QuantizationInfo,
  QuantizationMode,
  QuantizationRecipe,
  QuantizeModelOptions,
  QuantizeProgress,
} from './quantization.js';
export { convert } from './convert.js';
export { readCalibrationData } from './calibration.js';
export type { CalibrationOptions, QuantizationMethod } from './calibration.js';
export { perplexity } from './perplexity.js';
export type { PerplexityOptions, PerplexityResult } from './perplexity.js';
export type { ConvertOptions, ConvertProgress } from './convert.js';
export { findCached, planPrune, planRemoval, removeFromCache, scanCacheDir, snapshotDownload } from './hub/index.js';
export type {
  CachedRepo,
  CachedRevision,
  CacheInfo,
  DownloadProgress,
  HubOptions,
  Removal,
  SnapshotDownloadOptions,
} from './hub/index.js';
export type { GenerateOptions, SamplerSettings, SamplingOptions } from './sampling.js';
export { GenerateStream } from './stream.js';
export type { Completion, GenerateChunk, GenerateResult, Speculation, Timings, Usage } from './stream.js';
export { Engine, EngineRequest } from './engine.js';
export type { EngineOptions, SubmitOptions } from './engine.js';
export type {
  BatchLimits,
  CachingOptions,
  LogitsProcessor,
  PromptLookupOptions,
  PromptProgress,
  ResponseFormat,
  SpeculationOptions,
} from './request-options.js';
export { ChatParser, ChatSession, ChatStream, parseAnswer } from './chat/index.js';
export type {
  ChatDelta,
  ChatMessage,
  ChatModel,
  ChatModelStream,
  ChatParserOptions,
  ChatResult,
  ChatSessionOptions,
  ContentPart,
  ContextShift,
  ParsedAnswer,
  SendOptions,
  ShiftRequest,
  Tool,
  ToolCall,
  ToolFunction,
} from './chat/index.js';
export { Tokenizer } from './tokenizer.js';
export type { ChatTemplateOptions, DecodeStream, Message, TokenizerLoadOptions } from './tokenizer.js';
export { readJsonl } from './data.js';
export {
  computeAdvantages,
  computeEntropy,
  computeImportanceRatios,
  grpoLoss,
  grpoLossAndGrad,
  selectiveLogSoftmax,
} from './rl.js';
export type { AdvantageOptions, GrpoLossAndGradResult, GrpoLossInputs, GrpoLossResult, RatioInputs } from './rl.js';
export { expertLoad, loadBalancingLoss } from './router.js';
export type { RouterOptions } from './router.js';
export {
  applyBadWords,
  applyDry,
  applyFrequencyPenalty,
  applyLogitBias,
  applyMinP,
  applyNoRepeatNgram,
  applyPresencePenalty,
  applyRepetitionPenalty,
  applyTemperature,
  applyTopK,
  applyTopNSigma,
  applyTopP,
  applyTypicalP,
  applyXtc,
  sample,
} from './logits.js';
export type {
  DryOptions,
  PenaltyOptions,
  PerRow,
  Sample,
  SampleOptions,
  TemperatureOptions,
  TokenHistory,
  XtcOptions,
} from './logits.js';
export { MxArray } from './array/core.js';
export type { ArrayLike, Complex, HalfArray, NestedArray, TypedArray } from './array/core.js';
export type { ArrayIndex, UpdateMode } from './array/indexing.js';
export type { NestedValues } from './array/nested.js';
export { dispose, keep, tidy } from './array/tidy.js';
export type { DeviceName } from './device.js';
export { checkpoint, compile, grad, valueAndGrad, vjp } from './transforms.js';
export * as mx from './mx.js';
export * as nn from './nn/index.js';
export {
  BatchCache,
  BatchKVCache,
  BatchRotatingKVCache,
  canTrimPromptCache,
  KVCache,
  LayerCache,
  loadPromptCache,
  makePromptCache,
  PrefixCache,
  QuantizedKVCache,
  RotatingKVCache,
  savePromptCache,
  trimPromptCache,
} from './cache/index.js';
export type {
  AttendOptions,
  CacheMask,
  KvCacheOptions,
  LoadedPromptCache,
  MakeMaskOptions,
  ModelCache,
  PrefixCacheOptions,
  PrefixHit,
  PromptCacheOptions,
  QuantizedArrays,
  QuantizeOptions,
  RotatingOptions,
  SavePromptCacheOptions,
} from './cache/index.js';
export * as optim from './optim/index.js';
export { Adafactor, Adam, AdamW, Lion, Muon, RMSprop, SGD } from './optim/index.js';
export {
  buildInfo,
  clearCache,
  memoryStats,
  resetPeakMemory,
  setCacheLimit,
  setMemoryLimit,
  setWiredLimit,
} from './memory.js';
export type {
  AdvantageResult,
  BatchProgress,
  BuildInfo,
  CalibratedLayerReport,
  ConvertReport,
  EngineStats,
  FinishReason,
  LeftLayer,
  MemoryStats,
  QuantizeReport,
  RewardStatistics,
  TokenLogprob,
} from './native-types.js';
export type { AdapterFormat, LoraOptions } from './adapters.js';
export { Interrupted, stopOnSignals } from './interrupt.js';

export * from '../trainers/index.js';
