/** The part of the addon's surface that the TypeScript layer calls. The generated `index.d.cts` is the full description. */

export interface NativeCancel {
  cancel(): void;
}

export interface NativeArray {
  readonly shape: number[];
  readonly ndim: number;
  readonly size: number;
  readonly dtype: string;
  toFloat32(): Float32Array;
  toInt32(): Int32Array;
  dispose(): void;
}

export interface BuildInfo {
  flavour: string;
  device: 'cpu' | 'gpu';
  mlxVersion: string;
  blas: string;
  /** False when `compile` cannot work: on CPU it needs `g++` at run time. */
  compileAvailable: boolean;
}

export interface MemoryStats {
  /** Bytes held by live arrays. */
  active: number;
  /** Bytes kept for reuse. */
  cache: number;
  /** Largest `active` since the last reset. */
  peak: number;
  limit: number;
}

export interface NativeTokenizer {
  encode(text: string, addSpecialTokens?: boolean): number[];
  decode(ids: number[], skipSpecialTokens?: boolean): string;
  applyChatTemplate(messagesJson: string, optionsJson: string): string;
  decodeStream(skipSpecialTokens?: boolean): NativeDecodeStream;
  readonly eosTokenIds: number[];
  readonly padTokenId: number | null;
  readonly vocabSize: number;
  readonly hasChatTemplate: boolean;
}

export interface NativeDecodeStream {
  push(id: number): string;
  finish(): string;
}

export interface NativeGenerateOptions {
  maxTokens: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  repetitionContextSize?: number;
  seed?: number;
  stopTokenIds?: number[];
  ignoreEos?: boolean;
}

export type FinishReason = 'stop' | 'length';

export interface NativeGeneration {
  next(cancel?: NativeCancel): Promise<{ tokens: number[]; logprobs: number[]; finishReason?: FinishReason | null }>;
  stats(): { promptTokens: number; promptMs: number; generatedTokens: number; decodeMs: number };
  close(): void;
}

export interface NativeBatchResult {
  tokens: number[][];
  logprobs: number[][];
  finishReasons: FinishReason[];
  promptTokens: number;
  generatedTokens: number;
  steps: number;
  prefillMs: number;
  decodeMs: number;
}

export interface BatchProgress {
  step: number;
  maxTokens: number;
  rowsLeft: number;
  tokens: number;
}

export interface LoraOptions {
  rank: number;
  alpha: number;
  targetModules?: string[];
  seed?: number;
  useRslora?: boolean;
}

export interface NativeModel {
  readonly modelType: string;
  readonly dtype: string;
  readonly configJson: string;
  readonly generationConfigJson: string;
  readonly numParameters: number;
  readonly numTrainable: number;
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly eosTokenIds: number[];
  forward(inputIds: NativeArray): NativeArray;
  parameterNames(): string[];
  parameter(name: string): NativeArray;
  startGeneration(promptIds: number[], options: NativeGenerateOptions): NativeGeneration;
  generateBatch(
    promptIds: number[][],
    options: NativeGenerateOptions & { numGenerations: number },
    cancel?: NativeCancel,
    onProgress?: (progress: BatchProgress) => void,
  ): Promise<NativeBatchResult>;
  applyLora(options: LoraOptions): void;
  loadAdapter(dir: string): Promise<void>;
  saveAdapter(dir: string, baseModel: string): Promise<void>;
  save(dir: string): Promise<void>;
  dispose(): void;
}

export interface TrainRow {
  promptIds: number[];
  completionIds: number[];
}

export interface NativeTrainerOptions {
  learningRate: number;
  adamBeta1?: number;
  adamBeta2?: number;
  adamEpsilon?: number;
  weightDecay?: number;
  maxGradNorm?: number;
  beta?: number;
  gradientCheckpointing?: boolean;
}

export interface NativeLossOptions {
  lossType: string;
  importanceSamplingLevel: string;
  epsilon: number;
  epsilonHigh?: number;
  delta?: number;
  beta: number;
  useBiasCorrectionKl: boolean;
  temperature: number;
  maxCompletionLength: number;
  numItemsInBatch: number;
  gradientAccumulationSteps: number;
  stepsPerGeneration: number;
  topEntropyQuantile: number;
  entropyCoef: number;
  offPolicyMaskThreshold?: number;
  sapoTemperatureNeg: number;
  sapoTemperaturePos: number;
  vespoKPos: number;
  vespoLambdaPos: number;
  vespoKNeg: number;
  vespoLambdaNeg: number;
}

export interface GrpoMicroBatch {
  rows: TrainRow[];
  advantages: number[];
  oldLogprobs?: number[][];
  refLogprobs?: number[][];
  completionMask?: number[][];
}

export interface NativeTrainer {
  logprobs(
    rows: TrainRow[],
    options: { temperature: number; reference?: boolean; entropy?: boolean; tokenBudget?: number },
    cancel?: NativeCancel,
  ): Promise<{ logprobs: number[][]; entropies?: number[][] }>;
  grpoMicroStep(
    batch: GrpoMicroBatch,
    options: NativeLossOptions,
    cancel?: NativeCancel,
  ): Promise<{ loss: number; tokens: number; metrics: Record<string, number> }>;
  sftMicroStep(
    rows: { ids: number[]; mask: number[] }[],
    options: { numItemsInBatch: number },
    cancel?: NativeCancel,
  ): Promise<{ loss: number; tokens: number }>;
  optimizerStep(
    options: { learningRate: number },
    cancel?: NativeCancel,
  ): Promise<{ gradNorm: number; skipped: boolean }>;
  save(dir: string): Promise<void>;
  load(dir: string): Promise<void>;
  discardGradients(): void;
  dispose(): void;
}

export interface AdvantageOptions {
  numGenerations: number;
  rewardWeights?: number[];
  scaleRewards?: 'group' | 'batch' | 'none';
  multiObjectiveAggregation?: 'sum_then_normalize' | 'normalize_then_sum';
}

export interface NativeModule {
  Cancel: new () => NativeCancel;
  buildInfo(): BuildInfo;
  memoryStats(): MemoryStats;
  resetPeakMemory(): void;
  clearCache(): void;
  setCacheLimit(bytes: number): void;
  setMemoryLimit(bytes: number): void;
  NativeTokenizer: { load(dir: string): Promise<NativeTokenizer> };
  NativeModel: {
    load(
      dir: string,
      options: { dtype?: string },
      cancel?: NativeCancel,
      onProgress?: (loadedBytes: number, totalBytes: number) => void,
    ): Promise<NativeModel>;
  };
  NativeTrainer: new (model: NativeModel, options: NativeTrainerOptions) => NativeTrainer;
  computeAdvantages(rewards: number[][], options: AdvantageOptions): { advantages: number[] };
}
