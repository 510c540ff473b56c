/** The addon's types under short names; `index.d.cts` is generated from the Rust code. */
import type * as addon from 'mlx-node/native';

export type NativeModule = typeof addon;
export type NativeCancel = addon.Cancel;
export type NativeModel = addon.NativeModel;
export type NativeQuantizeSettings = addon.QuantizeSettings;
export type NativeConvertSettings = addon.ConvertSettings;
export type NativeTokenizer = addon.NativeTokenizer;
export type NativeDecodeStream = addon.NativeDecodeStream;
export type NativeEngine = addon.NativeEngine;
export type NativeEngineOptions = addon.EngineOptions;
export type EngineEvents = addon.EngineEvents;
export type UnprocessedLogits = addon.UnprocessedLogits;
export type NativeGenerateOptions = addon.GenerateOptions;
export type NativeBatchResult = addon.BatchResult;
export type NativeLossResult = addon.GrpoLossHandles;
export type NativeOptimizer = addon.NativeOptimizer;
export type NativeTransformed = addon.Transformed;
export type NativeCache = addon.NativeCache;
export type NativePrefixCache = addon.NativePrefixCache;
export type CacheSpec = addon.CacheSpec;
export type NativeLoraOptions = addon.LoraOptions;
export type NativeTrainer = addon.NativeTrainer;
export type NativeTrainerOptions = addon.TrainerOptions;
export type NativeGrpoBatch = addon.NativeGrpoBatch;
export type ArrayHandle = addon.ArrayHandle;
// Under their own names: these are part of the public API.
export type {
  AdvantageResult,
  BatchProgress,
  BuildInfo,
  CalibratedLayerReport,
  ConvertReport,
  DtypeName as Dtype,
  EngineStats,
  LeftLayer,
  MemoryStats,
  QuantizeReport,
  RewardStatistics,
  TokenLogprob,
  TrainRow,
} from 'mlx-node/native';

/** Why an answer ended: by an end-of-text token or a stop string, or at `maxTokens`. */
export type FinishReason = 'stop' | 'length';
export type FileContents = addon.io.FileContents;
export type FileMetadata = addon.io.FileMetadata;
export type NumberOrArray = addon.NumberOrArray;

/** Options of the loss in one micro-step; the names are TRL's in camelCase. */
export interface NativeLossOptions {
  lossType: string;
  importanceSamplingLevel: string;
  epsilon: number;
  epsilonHigh?: number;
  delta?: number;
  beta: number;
  useBiasCorrectionKl: boolean;
  offPolicyMaskThreshold?: number;
  topEntropyQuantile: number;
  entropyCoef: number;
  sapoTemperatureNeg: number;
  sapoTemperaturePos: number;
  vespoKPos: number;
  vespoLambdaPos: number;
  vespoKNeg: number;
  vespoLambdaNeg: number;
  temperature: number;
  maxCompletionLength: number;
  numItemsInBatch: number;
  gradientAccumulationSteps: number;
  stepsPerGeneration: number;
  routerAuxLossCoef: number;
}
