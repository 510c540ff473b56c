/** Generated from the Rust code by napi. Arrays are numbers here; `MxArray` wraps them. */

/** Names an array of this thread. */
export type ArrayHandle = number & { readonly __array: unique symbol };
/** The key of a random draw. */
export type RandomKey = ArrayHandle;
/** A dtype by name. */
export type DtypeName =
  | 'bool'
  | 'uint8'
  | 'uint16'
  | 'uint32'
  | 'uint64'
  | 'int8'
  | 'int16'
  | 'int32'
  | 'int64'
  | 'float16'
  | 'bfloat16'
  | 'float32'
  | 'float64'
  | 'complex64';
/** The elements of an array. */
export type Elements =
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array;
/** A function from arrays to arrays, as TypeScript hands it to a transform; `null` when it threw. */
export type ArrayFunction = (inputs: Array<ArrayHandle>) => Array<ArrayHandle> | null;
/** An array, or a number below 0 that names the place of one in the scratch memory. */
export type Operand = ArrayHandle;
/** An axis; null stands for the elements in row-major order. */
export type FlatAxis = number | null | undefined;
/** An array of indices; that of plain data has a minus. */
export type Indices = ArrayHandle;
/** An array, or a number in a list of its own. */
export type NumberOrArray = ArrayHandle | [number];

/**
 * Which binding artifact the generated loader actually loaded: `'native'` for
 * a native addon, otherwise the `platformArchABI` of the WASI flavor. Every
 * flavor napi-rs can build is listed, because `NAPI_RS_NATIVE_LIBRARY_PATH`
 * can point the loader at a WASI artifact this package does not build itself.
 */
export declare const __napiBindingTarget: 'native' | 'wasm32-wasi' | 'wasm32-wasip1'

/** Stops the work it is handed to. */
export declare class Cancel {
  constructor()
  /** The work ends with `ERR_MLX_CANCELLED` before its next token or micro-batch. */
  cancel(): void
}

/** One attention layer's cache. */
export declare class NativeCache {
  constructor(spec: CacheSpec)
  /** The name of its class in mlx-lm, or one like them. */
  get kind(): string
  /** Tokens seen, the furthest row's of a batch. */
  get offset(): number
  /** Slots that the next token sees beside its own. */
  get size(): number
  get nbytes(): number
  get isTrimmable(): boolean
  get bits(): number | null
  get groupSize(): number | null
  get maxSize(): number | null
  get keep(): number
  /** Where the next token goes in the buffers of a batch. */
  get writePosition(): number
  /** Each row's position, of batches. */
  get offsets(): Array<number>
  get leftPadding(): Array<number>
  /** A cache that shares the buffers. */
  copy(): NativeCache
  /** Keys and values, or codes, scales and biases of both. */
  updateAndFetch(keys: ArrayHandle, values: ArrayHandle): Array<ArrayHandle>
  /** Appends and attends: `[B, T, H, D]`. `mask` matters where `causal` is false. */
  attend(queries: ArrayHandle, keys: ArrayHandle, values: ArrayHandle, scale: number, causal: boolean, mask?: ArrayHandle | undefined | null): ArrayHandle
  /** What the next tokens see. */
  makeMask(tokens: number, window: number | undefined | null, asArray: boolean): CacheMask
  trim(n: number): number
  filter(rows: Array<number>): void
  repeatRows(times: number): void
  extend(other: NativeCache): void
  extract(row: number): NativeCache
  putRow(row: number, cache: NativeCache): void
  prepare(leftPadding?: Array<number> | undefined | null, rightPadding?: Array<number> | undefined | null, lengths?: Array<number> | undefined | null): void
  finalizeRows(): void
  dropPadding(least: number): number
  toQuantized(groupSize: number, bits: number): NativeCache
  reset(): void
  /** The filled slots: keys and values, or codes, scales and biases of both, or nothing. */
  state(): Array<ArrayHandle>
  /** Takes what another one holds, and its kind. */
  becomeOther(other: NativeCache): void
  /** Replaces what it holds by arrays as `state` gives them. */
  setState(arrays: Array<ArrayHandle>): void
}

/** A function traced once per combination of shapes and dtypes. */
export declare class NativeCompiled {
  constructor(fn: ArrayFunction, shapeless: boolean)
  call(inputs: Array<ArrayHandle>): Array<ArrayHandle>
}

/** Streaming decode: `push` returns the text that has become certain. */
export declare class NativeDecodeStream {
  push(id: number): string
  /** What is left at the end; an unfinished character becomes U+FFFD. */
  finish(): string
}

/** Requests that share a batch: they join and leave it at any step. Ends with the model, or with `close`. */
export declare class NativeEngine {
  /**
   * Puts a request at the end of the queue and returns its number. Without a tokenizer its tokens come without text. It goes on from
   * `caches`, which stay as they are: what they become comes with its `FinishedEvent`.
   */
  submit(promptIds: Array<number>, options: GenerateOptions, tokenizer?: NativeTokenizer | undefined | null, caches?: Array<NativeCache> | undefined | null): number
  /** Ends a request without another event, before the next step. */
  cancel(request: number): void
  /**
   * Works until something has happened, or nothing is left to do. `rows` and `logits` answer the `unprocessed` logits of the call
   * before: a row without an answer ends its request. One call at a time.
   */
  next(rows?: Array<number> | undefined | null, logits?: Array<ArrayHandle> | undefined | null): Promise<EngineEvents>
  /** As of the last `next`. */
  stats(): EngineStats
  /** Frees the caches. A `next` under way ends first; later ones are refused. */
  close(): void
}

/** A checkpoint in memory, with or without a LoRA adapter. */
export declare class NativeModel {
  /** Loads a checkpoint folder (`config.json`, safetensors). `onProgress` gets bytes loaded and bytes in all. */
  static load(dir: string, options?: LoadModelOptions | undefined | null, cancel?: Cancel | undefined | null, onProgress?: (loaded: number, total: number) => void): Promise<NativeModel>
  /** A model of random weights from a `config.json` text, for training from scratch. */
  static create(configJson: string, seed?: number | undefined | null, dtype?: string | undefined | null): NativeModel
  get modelType(): string
  get dtype(): string
  /** `config.json` as it was read. */
  get configJson(): string
  /** `generation_config.json` as it was read, `{}` without one. */
  get generationConfigJson(): string
  get numParameters(): number
  /** Parameters that training changes: the adapter's, or all. */
  get numTrainable(): number
  /** Layers with a weight matrix, in the order of the checkpoint's weights. */
  layers(): Array<LayerInfo>
  /** The layers of a checkpoint folder, from its `config.json` alone. */
  static layersOf(dir: string): Array<LayerInfo>
  /** The block `quantization` of `config.json` for the model as it is, as JSON; undefined where no layer is packed. */
  get quantizationJson(): string | null
  /**
   * Packs layers, one in memory twice at a time. `onProgress` gets layers done and layers in all. Stopped, the layers done so far stay
   * packed.
   */
  quantize(settings: QuantizeSettings, cancel?: Cancel | undefined | null, onProgress?: (done: number, total: number) => void): Promise<QuantizeReport>
  /** Packs all layers, fitted to the inputs that texts give them. `onProgress` gets layers done and layers in all. */
  calibrate(settings: QuantizeSettings, calibration: CalibrationSettings, cancel?: Cancel | undefined | null, onProgress?: (done: number, total: number) => void): Promise<QuantizeReport>
  /**
   * Log-probs of every token but the first of each row, after those before it. Rows of one length that follow each other are computed
   * together, `batch_size` at most. `onProgress` gets rows done and rows in all.
   */
  tokenLogprobs(rows: Array<Array<number>>, batchSize: number, cancel?: Cancel | undefined | null, onProgress?: (done: number, total: number) => void): Promise<Float32Array[]>
  /** Unpacks what is packed. */
  dequantize(cancel?: Cancel | undefined | null, onProgress?: (done: number, total: number) => void): Promise<void>
  get vocabSize(): number
  get contextLength(): number
  /** Experts that each token uses in the layers that have them; null where no layer has. */
  get numExpertsPerTok(): number | null
  /** Weight of the load-balancing loss by the model's own configuration; null where no layer has experts. */
  get routerAuxLossCoef(): number | null
  get eosTokenIds(): Array<number>
  /**
   * Logits `[B, T, V]` of token ids `[B, T]`, after what the caches hold, of which there is one per layer. Without caches rows may
   * begin with padding. On an error the caches are as before. `outputRouterLogits` gives those of the layers with experts too. Waits
   * while training holds the model.
   */
  forward(inputIds: ArrayHandle, caches?: Array<NativeCache> | undefined | null, leftPadding?: Array<number> | undefined | null, outputRouterLogits?: boolean | undefined | null): ForwardHandles
  /** One empty cache per layer: for one row, or for as many as numbers of padding. */
  newCaches(options: ModelCacheOptions, leftPadding?: Array<number> | undefined | null): Array<NativeCache>
  /** Names as in the checkpoint. */
  parameterNames(): Array<string>
  parameter(name: string): ArrayHandle
  /**
   * An engine that decodes requests together; see `NativeEngine`. With a draft model or prompt lookup it answers them one after
   * the other, checking several guessed tokens in each pass. Prompts are looked up in `prefix_cache`, where there is one, and put in.
   */
  createEngine(options?: EngineOptions | undefined | null, draftModel?: NativeModel | undefined | null, prefixCache?: NativePrefixCache | undefined | null): NativeEngine
  /** Every prompt `n` times, all rows decoded together unless `limits` say otherwise; a prompt is prefilled once. Rows in group order. */
  generateBatch(promptIds: Array<Array<number>>, options: GenerateOptions, cancel?: Cancel | undefined | null, onProgress?: (progress: BatchProgress) => void, tokenizer?: NativeTokenizer | undefined | null, limits?: EngineOptions | undefined | null, prefixCache?: NativePrefixCache | undefined | null): Promise<BatchResult>
  /** Adds the parts of an adapter, which counts from now on, and freezes everything else. */
  applyLora(options: LoraOptions, name?: string | undefined | null): void
  /** Reads an adapter of PEFT or mlx-lm, in place of one of the same name; it counts from now on. */
  loadAdapter(dir: string, name?: string | undefined | null): Promise<void>
  /** Writes the active adapter into an existing folder, in the layout of `peft` (default) or `mlx-lm`. */
  saveAdapter(dir: string, baseModel: string, format?: 'peft' | 'mlx-lm'): Promise<void>
  /** The adapter that counts from now on; with null the base model computes. */
  setAdapter(name?: string | undefined | null): void
  deleteAdapter(name: string): void
  /** The names of all adapters, in the order in which they came. */
  get adapterNames(): Array<string>
  get activeAdapter(): string | null
  /** Off: the base model computes. On: the active adapter counts. */
  setAdapterEnabled(enabled: boolean): void
  /** Merges the active adapter into the weights and takes it off. `dequantize` leaves all weights unpacked. */
  fuse(dequantize?: boolean | undefined | null): Promise<void>
  /**
   * Writes the weights and configuration in the Hugging Face layout into an existing folder, numbers and scales in `dtype`, or else as
   * they are.
   */
  save(dir: string, dtype?: string | undefined | null): Promise<void>
  /**
   * Frees the weights as soon as the work that uses them pauses, and gives their memory back to the system. Running
   * generations end with `ERR_MLX_DISPOSED` at their next token.
   */
  dispose(): void
}

/** Rules and the parameters that they apply to. */
export declare class NativeOptimizer {
  /** Groups as `{ optimizer, options, learningRateScale?, decayedParameters? }`. */
  constructor(groups: object[])
  /** Which groups take a learning rate rather than make their own. */
  takeLearningRates(): Array<boolean>
  /** Makes a parameter known, if it is not yet. */
  add(group: number, name: string, parameter: ArrayHandle): ParameterState
  /** Forgets all but the first parameters. */
  truncate(count: number): void
  /** Refuses an array that does not fit a known parameter. */
  checkParameter(index: number, parameter: ArrayHandle): void
  /** Refuses arrays that cannot be a parameter's state. */
  checkState(index: number, state: Array<ArrayHandle>): void
  /** The learning rates of the step after `taken` ones, by group. */
  rates(taken: number): Array<number>
  /** The same where the step is part of a graph. */
  lazyRates(taken: ArrayHandle): Array<ArrayHandle>
  /** New parameters, then the new state of each, in the order of the given ones. `number` is the step's, counted from 1. */
  update(indices: Array<number>, parameters: Array<ArrayHandle>, gradients: Array<ArrayHandle>, state: Array<ArrayHandle>, number: number, rates: Array<number>): Array<ArrayHandle>
  /** The same where the step's number and the learning rates are part of a graph. */
  lazyUpdate(indices: Array<number>, parameters: Array<ArrayHandle>, gradients: Array<ArrayHandle>, state: Array<ArrayHandle>, number: ArrayHandle, rates: Array<ArrayHandle>): Array<ArrayHandle>
}

/** Caches of a model's layers by the tokens they have read. */
export declare class NativePrefixCache {
  constructor(maxEntries?: number | undefined | null, maxBytes?: number | undefined | null)
  get size(): number
  get nbytes(): number
  fetch(tokens: Array<number>, leave: number): NativePrefixHit | null
  insert(tokens: Array<number>, caches: Array<NativeCache>, segment: string): boolean
  trimTo(entries?: number | undefined | null, bytes?: number | undefined | null): void
  clear(): void
}

/** Rotary position embeddings with their tables. */
export declare class NativeRope {
  /** `config` has the keys of `config.json` that speak of rotary embeddings. */
  constructor(dims: number, traditional: boolean, scale: number, config: any)
  /** Rotates `x`, whose first slot stands at `offset`, or at `offsets[b]` in row `b`. */
  forward(x: ArrayHandle, offset: number, offsets?: ArrayHandle | undefined | null): ArrayHandle
}

/** Text to token ids and back. */
export declare class NativeTokenizer {
  /** Reads `tokenizer.json` and its companions from a checkpoint folder, or the tokenizer in a GGUF file. */
  static load(dir: string): Promise<NativeTokenizer>
  /** The same where a folder or a GGUF file has a tokenizer, else null. */
  static loadIfThere(dir: string): Promise<NativeTokenizer | null>
  /** The files that describe a tokenizer that was not read from such files (but from GGUF): names and texts in turn. */
  files(): Array<string>
  encode(text: string, addSpecialTokens?: boolean | undefined | null): Array<number>
  decode(ids: Array<number>, skipSpecialTokens?: boolean | undefined | null): string
  /**
   * Renders messages (JSON array) with options (JSON object: tools, add_generation_prompt, enable_thinking and others that
   * the template knows).
   */
  applyChatTemplate(messagesJson: string, optionsJson: string): string
  /**
   * Compiles a format (OpenAI's `response_format` as JSON), and before the first reads the vocabulary for it. Requests that ask for
   * the format then begin at once.
   */
  prepareFormat(format: string): Promise<void>
  /** Decodes ids one at a time without ever releasing half a character. */
  decodeStream(skipSpecialTokens?: boolean | undefined | null): NativeDecodeStream
  /** Ids that end a reply. */
  get eosTokenIds(): Array<number>
  get padTokenId(): number | null
  get vocabSize(): number
  get hasChatTemplate(): boolean
}

/** One optimizer over a model's trainable parameters. */
export declare class NativeTrainer {
  constructor(model: NativeModel, options?: TrainerOptions | undefined | null)
  /** Per-token log-probs of completions under `logits / temperature`, in float32. */
  logprobs(rows: Array<TrainRow>, options: LogprobOptions, cancel?: Cancel | undefined | null): Promise<LogprobResult>
  /**
   * Forward and backward of one micro-batch; gradients add up until `optimizerStep`. `options` are those of `grpoLoss` and
   * `temperature` (1): log-probs are of `logits / temperature`.
   */
  grpoMicroStep(batch: NativeGrpoBatch, options: object, cancel?: Cancel): Promise<MicroStepResult>
  /**
   * Forward and backward of supervised rows: summed cross-entropy of the marked tokens over `numItemsInBatch`, and the routers'
   * load-balancing loss times its coefficient.
   */
  sftMicroStep(rows: Array<SftRow>, options: SftOptions, cancel?: Cancel | undefined | null): Promise<MicroStepResult>
  /** Clips, updates and starts gathering anew. Gradients that are not finite change nothing and say `skipped`. */
  optimizerStep(options: OptimizerStepOptions, cancel?: Cancel | undefined | null): Promise<OptimizerStepResult>
  /** Writes optimizer state (and reference weights) as `optimizer.safetensors` into an existing folder. */
  save(dir: string): Promise<void>
  /** Takes over what `save` wrote. */
  load(dir: string): Promise<void>
  /** Forgets gradients gathered since the last `optimizerStep`. */
  discardGradients(): Promise<void>
  /** Frees the optimizer's state. */
  dispose(): void
}

/** Of `addmm`. */
export interface AddmmOptions {
  /** Factor of the product, 1. */
  alpha?: number
  /** Factor of `c`, 1. */
  beta?: number
}

/** What `computeAdvantages` returns. */
export interface AdvantageResult {
  advantages: Array<number>
  /** The weighted sum per row; NaN where no function gave a score. */
  rewards: Array<number>
  /** Mean of `rewards`. */
  reward: number
  /** Standard deviation of `rewards` over the batch. */
  rewardStd: number
  /** Share of rows whose group (or batch) has no variance. */
  fracRewardZeroStd: number
  /** Per reward function, over the rows it scored. */
  perFunction: Array<RewardStatistics>
  /** Rows without any score. */
  numUnscorable: number
}

/** How far a rollout is. */
export interface BatchProgress {
  step: number
  maxTokens: number
  rowsLeft: number
  tokens: number
}

/** A finished rollout; rows in group order. */
export interface BatchResult {
  /** The stop token is included where one ended the row, and the tokens of a stop string. */
  tokens: Array<Array<number>>
  /** Of the sampled tokens, under `logits / temperature`. */
  logprobs: Array<Array<number>>
  /** Where asked for. */
  topLogprobs?: Array<Array<Array<TokenLogprob>>>
  /** Where a tokenizer was given. */
  texts?: Array<string>
  finishReasons: Array<'stop' | 'length'>
  promptTokens: number
  /** Those of them that the prefix cache knew. */
  cachedTokens: number
  generatedTokens: number
  steps: number
  prefillMs: number
  decodeMs: number
}

/** Of `bernoulli`. */
export interface BernoulliOptions {
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** Of `bits`. */
export interface BitsOptions {
  /** Bytes of a number: 1, 2 or 4 (default) for uint8, uint16 or uint32. */
  width?: number
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** Of `blockMaskedMm`. A mask is boolean (false leaves a block out) or floating (a factor of the block). */
export interface BlockMaskedMmOptions {
  /** 32 or 64 (default). */
  blockSize?: number
  /** For blocks of the result, `[.., M / blockSize, N / blockSize]`, rounded up. */
  maskOut?: ArrayHandle
  /** For blocks of `a`, `[.., M / blockSize, K / blockSize]`. */
  maskLhs?: ArrayHandle
  /** For blocks of `b`, `[.., K / blockSize, N / blockSize]`. */
  maskRhs?: ArrayHandle
}

/** Versions, device and libraries of this process. */
export declare function buildInfo(): BuildInfo

/** How this build of MLX runs. */
export interface BuildInfo {
  /** The package's version. */
  version: string
  /** The loaded MLX's version. */
  mlxVersion: string
  /** `cpu`, `metal`, `cuda12` or `cuda13`: what the addon was built for. */
  flavour: string
  /** `cpu` or `gpu`: where arrays are computed. */
  device: string
  /** The library behind CPU matrix products. */
  blas: string
  /** Whether `compile` works here (on the CPU it needs g++ at run time). */
  compileAvailable: boolean
}

/** A mask: causal, or an array, or none. */
export interface CacheMask {
  causal: boolean
  array?: ArrayHandle
}

/** What a cache is made of. */
export interface CacheSpec {
  /** KVCache, RotatingKVCache, BatchKVCache or BatchRotatingKVCache. */
  kind: string
  maxSize?: number
  keep?: number
  leftPadding?: Array<number>
  groupSize?: number
  /** Codes keys and values. */
  bits?: number
}

/**
 * What calibrating has made of a layer. Errors are squared errors of its outputs over the calibration inputs, in parts of the squared
 * outputs.
 */
export interface CalibratedLayerReport {
  name: string
  /** 'rtn' where the method had nothing to go by, or was no better. */
  method: string
  error: number
  /** What rounding to the nearest would cost. */
  rtnError: number
  /** Inputs that it was fitted to. */
  tokens: number
  /** What is special about it. */
  note?: string
}

/** How a model is packed with the help of texts. */
export interface CalibrationSettings {
  method: string
  /** Token ids. */
  rows: Array<Array<number>>
  batchSize: number
  damping: number
  scaleDtype?: string
}

/** Of `categorical`: a shape or a number of samples, not both. */
export interface CategoricalOptions {
  /** The shape of the result, to which the logits without their axis broadcast. */
  shape?: Array<number>
  /** Draws per row, on a new last axis. */
  numSamples?: number
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** Gives buffers that MLX keeps for later back to the system. Waits for running work. */
export declare function clearCache(): void

/** Of `isclose` and `allclose`. */
export interface CloseOptions {
  /** Whether NaN equals NaN (false). */
  equalNan?: boolean
}

/** Advantages of rewards `[N][F]` (NaN: a function gave no score); `numGenerations` consecutive rows share a prompt. As TRL. */
export declare function computeAdvantages(rewards: number[][], options: { numGenerations: number, rewardWeights?: number[] | null, scaleRewards?: 'group' | 'batch' | 'none', multiObjectiveAggregation?: 'sum_then_normalize' | 'normalize_then_sum' }): AdvantageResult

/**
 * Writes a checkpoint as another one: configuration and weights, tensor by tensor, into `out`, where files of weights that an earlier,
 * interrupted call finished are kept. `onProgress` gets bytes written and bytes in all.
 */
export declare function convertCheckpoint(dir: string, out: string, settings: ConvertSettings, cancel?: Cancel | undefined | null, onProgress?: (written: number, total: number) => void): Promise<ConvertReport>

/** A checkpoint that a conversion writes, or would. */
export interface ConvertReport {
  dtype: string
  /** Of the weights. */
  bytes: number
  /** Numbers that they stand for. */
  parameters: number
  bitsPerWeight: number
  /** Names of the layers that it packs. */
  packed: Array<string>
  /** Layers that were to be packed and are not. */
  left: Array<LeftLayer>
}

export interface ConvertSettings {
  /** float32, float16 or bfloat16. */
  dtype?: string
  quantize?: QuantizeSettings
  dequantize?: boolean
  /** A file of weights is no larger, unless one weight is. */
  shardBytes?: number
}

/** Of `convGeneral`: a number for all spatial axes, or one each. */
export interface ConvGeneralOptions {
  /** Steps between windows, 1. */
  stride?: number | Array<number>
  /** Zeros on both sides of each axis, 0; two lists stand for those before and those after. */
  padding?: number | Array<number | Array<number>>
  /** Steps between elements of the kernel, 1. */
  kernelDilation?: number | Array<number>
  /** Steps between elements of the input, 1: more puts zeros between. */
  inputDilation?: number | Array<number>
  /** Groups of channels that do not see each other, 1. */
  groups?: number
  /** Whether the kernel is flipped: a convolution in the mathematical sense. */
  flip?: boolean
}

/** Of `conv1d`, `conv2d` and `conv3d`: a number for all spatial axes, or one each. */
export interface ConvolutionOptions {
  /** Steps between windows, 1. */
  stride?: number | Array<number>
  /** Zeros on both sides of each axis, 0. */
  padding?: number | Array<number>
  /** Steps between elements of the kernel, 1. */
  dilation?: number | Array<number>
  /** Groups of channels that do not see each other, 1. */
  groups?: number
}

/** Of `convTranspose1d`, `convTranspose2d` and `convTranspose3d`: a number for all spatial axes, or one each. */
export interface ConvTransposeOptions {
  /** Steps between windows, 1. */
  stride?: number | Array<number>
  /** Zeros on both sides that the convolution had, 0. */
  padding?: number | Array<number>
  /** Steps between elements of the kernel, 1. */
  dilation?: number | Array<number>
  /** Elements more at the end of each axis, 0. */
  outputPadding?: number | Array<number>
  /** Groups of channels that do not see each other, 1. */
  groups?: number
}

/** Of `cumsum` and `cumprod`. */
export interface CumulativeOptions {
  /** Runs from the end (false). */
  reverse?: boolean
  /** Counts the element itself (true). */
  inclusive?: boolean
  /** The dtype to compute in, that of `a` unless named; the running sum of booleans is int32. */
  dtype?: DtypeName
}

/** Where this thread places operations: `cpu` or `gpu`. */
export declare function defaultDevice(): string

/** Of `dequantize`. */
export interface DequantizeOptions {
  /** As it was packed. */
  globalScale?: ArrayHandle
  /** Unless named that of the scales (affine) or bfloat16. */
  dtype?: DtypeName
  /** Elements that share a scale: 64 (affine: also 32 and 128), 32 (mxfp4, mxfp8) or 16 (nvfp4). */
  groupSize?: number
  /** Bits of an element: 4 (affine: also 2, 3, 5, 6 and 8), 8 for mxfp8. */
  bits?: number
  /** How numbers are coded: `affine` unless named, `nvfp4` where both sides are packed. */
  mode?: 'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'
}

/** What MLX knows about a device. */
export declare function deviceInfo(device: string): Record<string, string | number>

/** What has happened since the last `next`. */
export interface EngineEvents {
  prefills: Array<PrefillEvent>
  tokens: Array<TokenEvent>
  finished: Array<FinishedEvent>
  failed: Array<FailedEvent>
  unprocessed: Array<UnprocessedLogits>
}

/** How much is taken on at a time. */
export interface EngineOptions {
  /** The most rows that decode together; 32 by default. */
  maxBatchSize?: number
  /** The most prompts that are read together; 8 by default. */
  prefillBatchSize?: number
  /** Tokens of a prompt that are read at a time, between two decoding steps; 512 by default. */
  prefillStepSize?: number
  /** The most tokens that are guessed for one pass: 4 with a draft model, 10 with prompt lookup by default. */
  numDraftTokens?: number
  /** Guesses come from what followed the last tokens earlier in the text. */
  promptLookup?: PromptLookup
  /** What a format leaves no choice about is read in one pass. */
  fastForward?: boolean
  /** The caches of rows: see `ModelCacheOptions`. */
  cache?: ModelCacheOptions
  /** Requests never share the batch; one may then bring its own caches. */
  alone?: boolean
}

export interface EngineStats {
  /** Requests that wait for admission. */
  waiting: number
  /** Requests whose prompts are being read. */
  prefilling: number
  /** Rows that decode. */
  running: number
  promptTokens: number
  /** Those of them that the prefix cache knew. */
  cachedTokens: number
  generatedTokens: number
  /** Decoding steps, of however many rows. */
  steps: number
  prefillMs: number
  decodeMs: number
  /** Entries of the prefix cache, and their bytes. */
  prefixEntries: number
  prefixBytes: number
}

/** A request has ended without a result. */
export interface FailedEvent {
  request: number
  code: string
  message: string
}

/** Of the transforms. */
export interface FftOptions {
  /** Where the factor `1 / n` goes: on the inverse (`backward`, default), on the transform (`forward`), its root on both (`ortho`). */
  norm?: 'backward' | 'ortho' | 'forward'
}

/** All samples of a request have finished. */
export interface FinishedEvent {
  request: number
  promptTokens: number
  /** Those of them that the prefix cache knew. */
  cachedTokens: number
  generatedTokens: number
  /** From the beginning of the prefill to the first token. */
  promptMs: number
  /** From the first token to the last. */
  decodeMs: number
  /** Tokens that were guessed, and how many of them were right. */
  draftTokens: number
  acceptedTokens: number
  /** Tokens for which nothing was guessed because a bounded cache was full. */
  plainTokens: number
  /** The request's own caches, where it brought some. */
  caches?: Array<NativeCache>
}

/** What one forward pass gives. */
export interface ForwardHandles {
  /** `[B, T, V]` */
  logits: ArrayHandle
  /** Of each layer with experts, `[B, T, experts]`; empty unless asked for. */
  routerLogits: Array<ArrayHandle>
}

/** Of `gatherMm`. Indices count the flattened leading axes; absent ones stand for all matrices in order. */
export interface GatherMmOptions {
  /** Which matrices of `a`. */
  lhsIndices?: ArrayHandle
  /** Which matrices of `b`. */
  rhsIndices?: ArrayHandle
  /** Whether the indices ascend, which is faster. */
  sortedIndices?: boolean
}

/** Of `gatherQmm`. Indices count the flattened leading axes; absent ones stand for all matrices in order. */
export interface GatherQmmOptions {
  /** Which matrices of `x`. */
  lhsIndices?: ArrayHandle
  /** Which matrices of `w`. */
  rhsIndices?: ArrayHandle
  /** Whether `x @ wᵀ` is wanted (default) instead of `x @ w`. */
  transpose?: boolean
  /** Whether the indices ascend, which is faster. */
  sortedIndices?: boolean
  /** Elements that share a scale: 64 (affine: also 32 and 128), 32 (mxfp4, mxfp8) or 16 (nvfp4). */
  groupSize?: number
  /** Bits of an element: 4 (affine: also 2, 3, 5, 6 and 8), 8 for mxfp8. */
  bits?: number
  /** How numbers are coded: `affine` unless named, `nvfp4` where both sides are packed. */
  mode?: 'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'
}

/** Of `gatherQqmm`. */
export interface GatherQqmmOptions {
  /** Of a packed `w`; without them `w` is floating and packed on the way. */
  scales?: ArrayHandle
  /** Which matrices of `x`. */
  lhsIndices?: ArrayHandle
  /** Which matrices of `w`. */
  rhsIndices?: ArrayHandle
  /** The largest absolute value of `x`; nvfp4 only. */
  globalScaleX?: ArrayHandle
  /** The largest absolute value of `w`; nvfp4 only. */
  globalScaleW?: ArrayHandle
  /** Whether the indices ascend, which is faster. */
  sortedIndices?: boolean
  /** Elements that share a scale: 64 (affine: also 32 and 128), 32 (mxfp4, mxfp8) or 16 (nvfp4). */
  groupSize?: number
  /** Bits of an element: 4 (affine: also 2, 3, 5, 6 and 8), 8 for mxfp8. */
  bits?: number
  /** How numbers are coded: `affine` unless named, `nvfp4` where both sides are packed. */
  mode?: 'mxfp4' | 'mxfp8' | 'nvfp4'
}

/** Of a request and of `generateBatch`, checked and explained by `lib/sampling.ts`. What is left out has the default. */
export interface GenerateOptions {
  maxTokens?: number
  /** Answers to a prompt, which is read once; 1 by default. */
  n?: number
  /** Texts that end the answer, which ends before them. */
  stop?: Array<string>
  /** What the answer must fit: OpenAI's `response_format` as JSON. */
  responseFormat?: string
  /** It begins after the model's thinking. */
  formatAfterThinking?: boolean
  /** Each step's logits go through processors in JavaScript. */
  processed?: boolean
  /** Tokens that end the text; the model's own by default. */
  stopTokenIds?: Array<number>
  /** Never end before `maxTokens`. */
  ignoreEos?: boolean
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  minTokensToKeep?: number
  xtcProbability?: number
  xtcThreshold?: number
  /** The tokens that end the text by default. */
  xtcSpecialTokens?: Array<number>
  typicalP?: number
  topNSigma?: number
  dynatempRange?: number
  dynatempExponent?: number
  filterOrder?: 'hf' | 'mlx'
  repetitionPenalty?: number
  /** Of context sizes 0 and Infinity are the whole history. */
  repetitionContextSize?: number
  presencePenalty?: number
  presenceContextSize?: number
  frequencyPenalty?: number
  frequencyContextSize?: number
  /** By token id. */
  logitBias?: Record<string, number>
  dryMultiplier?: number
  dryBase?: number
  dryAllowedLength?: number
  dryContextSize?: number
  drySequenceBreakers?: Array<number>
  noRepeatNgramSize?: number
  badWordsIds?: Array<Array<number>>
  minTokens?: number
  topLogprobs?: number
  seed?: number
  /** Tells rows of one seed apart. */
  row?: number
}

/** A loss (lazy scalar), its metrics and, from `grpoLossAndGrad`, its gradients. */
export interface GrpoLossHandles {
  loss: ArrayHandle
  /** TRL's names. */
  metricNames: Array<string>
  /** Lazy scalars in the order of the names. */
  metrics: Array<ArrayHandle>
  /** `[B, T]`. */
  gradPerTokenLogps?: ArrayHandle
  /** `[B, T]`, where entropies were given. */
  gradEntropies?: ArrayHandle
}

/** Inputs of the GRPO loss: `B` completions padded to `T` tokens. */
export interface GrpoLossInputs {
  /** `[B, T]`, under the current policy. */
  perTokenLogps: ArrayHandle
  /** `[B, T]`; absent on-policy. */
  oldPerTokenLogps?: ArrayHandle
  /** `[B, T]`; needed when `beta` is not 0. */
  refPerTokenLogps?: ArrayHandle
  /** `[B, T]`, NaN where unknown; for the off-policy mask. */
  samplingPerTokenLogps?: ArrayHandle
  /** `[B, T]` or `[B, 1]`. */
  importanceSamplingRatio?: ArrayHandle
  /** `[B, T]`, nats. */
  entropies?: ArrayHandle
  /** `[B, T]`, not 0 on completion tokens. */
  completionMask: ArrayHandle
  /** `[B, T]`, 0 on tokens that a tool wrote. */
  toolMask?: ArrayHandle
  /** `[B]` or `[B, T]`. */
  advantages: ArrayHandle
}

/** Of `gumbel`. */
export interface GumbelOptions {
  /** float32 unless named. */
  dtype?: DtypeName
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** Everything about a checkpoint folder as JSON, after all checks that loading makes; no weight is read. */
export declare function inspectCheckpoint(dir: string): string

/** Whether operations can be placed on a device. */
export declare function isAvailable(device: string): boolean

/** Of `istft`; as for `stft`, but that `onesided` is true unless told. */
export interface IstftOptions {
  /** Samples from one stretch to the next, `nFft / 4` unless given. */
  hopLength?: number
  /** Length of the window of ones that is used without a window, `nFft` unless given. */
  winLength?: number
  /** Factors `[at most nFft]` of each stretch, centred in it. */
  window?: ArrayHandle
  /** Whether a stretch is centred at its place, for which the signal is padded by `nFft / 2` at both ends (true). */
  center?: boolean
  /** The result is cut, or padded with zeros, to this many samples. */
  length?: number
  /** As for the other transforms. */
  norm?: 'backward' | 'ortho' | 'forward'
  /** Whether only the frequencies from 0 on are there. */
  onesided?: boolean
}

/** Of `laplace`. */
export interface LaplaceOptions {
  /** float32 unless named. */
  dtype?: DtypeName
  /** The mean, 0. */
  loc?: number
  /** The mean distance from the mean, 1. */
  scale?: number
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** A layer with a weight matrix. */
export interface LayerInfo {
  name: string
  /** `[out, in]`, with the experts in front where there are several. */
  shape: Array<number>
  packed: boolean
}

/** A layer that stays as it is. */
export interface LeftLayer {
  name: string
  reason: string
}

/** Of `linspace`. */
export interface LinspaceOptions {
  /** Whether `stop` is the last value (true), or comes one step after it. */
  endpoint?: boolean
  /** float32 unless named. */
  dtype?: DtypeName
}

export interface LoadModelOptions {
  /** `auto` (float32 on the CPU, bfloat16 on a GPU), `float32`, `bfloat16` or `float16`. */
  dtype?: string
  /** Packs layers while they are read. */
  quantize?: QuantizeSettings
}

/** Reads a prompt-cache file. */
export declare function loadPromptCache(path: string, cancel?: Cancel | undefined | null, onProgress?: (loaded: number, total: number) => void): Promise<PromptCacheFile>

export interface LogprobOptions {
  temperature: number
  /** Under the reference policy. */
  reference?: boolean
  /** Entropies too. */
  entropy?: boolean
  /** Padded tokens of one forward pass; 4096 by default. */
  tokenBudget?: number
}

/** One list per row, one number per completion token. */
export interface LogprobResult {
  logprobs: Array<Array<number>>
  entropies?: Array<Array<number>>
}

export interface LoraOptions {
  /** Size of the low-rank factors, 8 by default. */
  rank?: number
  /** The factors' product is scaled by `alpha / rank` (`alpha / sqrt(rank)` with `useRslora`); 16 by default. */
  alpha?: number
  /**
   * The layers to adapt: ends of their names such as `q_proj` or `mlp.gate`, in which `*` and `?` stand for anything but a dot and `**` for
   * anything; `'all-linear'`; or, as a single text, a regular expression of whole names. By default the projections of attention and of
   * MLPs that all tokens go through.
   */
  targetModules?: string | Array<string>
  /** Layers among these that get no adapter, named in the same way. */
  excludeModules?: string | Array<string>
  /** The blocks that get one, by number from 0; all by default. */
  layersToTransform?: Array<number>
  /** The same as a count from the last block, as in mlx-lm; -1 for all. */
  numLayers?: number
  /** Ranks of layers that differ, by regular expressions of the ends of their names, of which the first that fits counts. */
  rankPattern?: Record<string, any>
  /** The same of alpha. */
  alphaPattern?: Record<string, any>
  /** The share of the factors' inputs that training drops, 0 by default. */
  dropout?: number
  /** Scale by `alpha / sqrt(rank)`. */
  useRslora?: boolean
  /** DoRA: learn the length of each output apart from its direction. */
  useDora?: boolean
  /** Of the first values. */
  seed?: number
}

/** Memory held by MLX, in bytes. */
export declare function memoryStats(): MemoryStats

/** Memory held by MLX, in bytes. */
export interface MemoryStats {
  /** In live arrays. */
  active: number
  /** Freed by arrays and kept for the next ones. */
  cache: number
  /** The highest `active` since the start or `resetPeakMemory()`. */
  peak: number
  /** Above this MLX waits for running work before it allocates. */
  limit: number
}

/** A batch of caches of one row each. */
export declare function mergeCaches(caches: Array<NativeCache>): NativeCache

/** Of `meshgrid`. */
export interface MeshgridOptions {
  /** Leaves the results unbroadcast: each has size 1 on the axes of the others (false). */
  sparse?: boolean
  /** `xy` (the default; the first two axes are swapped, as for plots) or `ij`. */
  indexing?: string
}

export interface MicroStepResult {
  loss: number
  /** Tokens that counted. */
  tokens: number
  metrics: Record<string, number>
}

/** Options of a model's caches. */
export interface ModelCacheOptions {
  maxKvSize?: number
  keep?: number
  kvBits?: number
  kvGroupSize?: number
  quantizedKvStart?: number
}

/** Of `multivariateNormal`. */
export interface MultivariateNormalOptions {
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** A GRPO micro-batch. Lists per row have one number per completion token. */
export interface NativeGrpoBatch {
  rows: Array<TrainRow>
  advantages: Array<number>
  /** Absent on-policy. */
  oldLogprobs?: Array<Array<number>>
  refLogprobs?: Array<Array<number>>
  samplingLogprobs?: Array<Array<number>>
  /** 1 where a token counts; all by default. */
  completionMask?: Array<Array<number>>
}

/** Caches that hold the first `cached` tokens. */
export interface NativePrefixHit {
  caches: Array<NativeCache>
  cached: number
}

/** Of `normal`. */
export interface NormalOptions {
  /** float32 unless named. */
  dtype?: DtypeName
  /** The mean, 0; an array broadcasts to the shape. */
  loc?: NumberOrArray
  /** The standard deviation, 1; an array broadcasts to the shape. */
  scale?: NumberOrArray
  /** Without one, the next of the global state. */
  key: RandomKey
}

export interface OptimizerStepOptions {
  learningRate: number
}

export interface OptimizerStepResult {
  /** Before clipping. */
  gradNorm: number
  /** The gradients were not finite: nothing was changed. */
  skipped: boolean
}

/** What an optimizer keeps for a new parameter. */
export interface ParameterState {
  /** The parameter's number. */
  index: number
  /** Names in a saved state, such as `layers.0.weight.m`. */
  names: Array<string>
  /** Zeros. */
  arrays: Array<ArrayHandle>
}

/** Of `permutation`. */
export interface PermutationOptions {
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** What `convertCheckpoint` would write. */
export declare function planConversion(dir: string, settings: ConvertSettings): Promise<ConvertReport>

/** How much of a prompt has been read. */
export interface PrefillEvent {
  request: number
  processed: number
  total: number
}

/** What a prompt-cache file holds. */
export interface PromptCacheFile {
  caches: Array<NativeCache>
  keys: Array<string>
  texts: Array<string>
}

/** How many last tokens must have come before for what followed them to be guessed again. */
export interface PromptLookup {
  /** 3 by default. */
  maxNgramSize?: number
  /** 1 by default. */
  minNgramSize?: number
}

/** Of `qqmm`. */
export interface QqmmOptions {
  /** Of a packed `w`; without them `w` is floating and packed on the way. */
  scales?: ArrayHandle
  /** The largest absolute value of `x`; nvfp4 only. */
  globalScaleX?: ArrayHandle
  /** The largest absolute value of `w`; nvfp4 only. */
  globalScaleW?: ArrayHandle
  /** Elements that share a scale: 64 (affine: also 32 and 128), 32 (mxfp4, mxfp8) or 16 (nvfp4). */
  groupSize?: number
  /** Bits of an element: 4 (affine: also 2, 3, 5, 6 and 8), 8 for mxfp8. */
  bits?: number
  /** How numbers are coded: `affine` unless named, `nvfp4` where both sides are packed. */
  mode?: 'mxfp4' | 'mxfp8' | 'nvfp4'
}

/** Of `quantizedMatmul`. */
export interface QuantizedMatmulOptions {
  /** Whether `x @ wᵀ` is wanted (default) instead of `x @ w`. */
  transpose?: boolean
  /** Elements that share a scale: 64 (affine: also 32 and 128), 32 (mxfp4, mxfp8) or 16 (nvfp4). */
  groupSize?: number
  /** Bits of an element: 4 (affine: also 2, 3, 5, 6 and 8), 8 for mxfp8. */
  bits?: number
  /** How numbers are coded: `affine` unless named, `nvfp4` where both sides are packed. */
  mode?: 'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'
}

/** A packed weight. */
export interface QuantizedWeight {
  /** uint32 `[.., size · bits / 32]` */
  weight: ArrayHandle
  /** `[.., size / groupSize]`: the dtype of what was packed for affine, else uint8. */
  scales: ArrayHandle
  /** As the scales; affine only. */
  biases?: ArrayHandle
}

/** Of `quantize`. */
export interface QuantizeOptions {
  /** The largest absolute value of the tensor, one number; nvfp4 only. */
  globalScale?: ArrayHandle
  /** Elements that share a scale: 64 (affine: also 32 and 128), 32 (mxfp4, mxfp8) or 16 (nvfp4). */
  groupSize?: number
  /** Bits of an element: 4 (affine: also 2, 3, 5, 6 and 8), 8 for mxfp8. */
  bits?: number
  /** How numbers are coded: `affine` unless named, `nvfp4` where both sides are packed. */
  mode?: 'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'
}

/** What quantising has done. */
export interface QuantizeReport {
  /** Names of the layers that it packed. */
  packed: Array<string>
  /** Layers that stay as they are. */
  left: Array<LeftLayer>
  /** Of the whole model, adapter aside. */
  bytes: number
  bitsPerWeight: number
  /** Layer by layer, where a method was fitted to texts. */
  layers?: Array<CalibratedLayerReport>
}

/** How the layers whose names fit are packed, if at all. */
export interface QuantizeRule {
  /** The end of a layer's name, or a whole one in which `*` stands for anything. */
  pattern: string
  skip?: boolean
  bits?: number
  groupSize?: number
  mode?: string
}

export interface QuantizeSettings {
  bits?: number
  groupSize?: number
  mode?: string
  recipe?: string
  rules?: Array<QuantizeRule>
}

/** Of `randint`. */
export interface RandintOptions {
  /** int32 unless named. */
  dtype?: DtypeName
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** Of `computeImportanceRatios`. */
export interface RatioInputs {
  /** `[B, T]`, under the current policy. */
  perTokenLogps: ArrayHandle
  /** `[B, T]`; absent on-policy. */
  oldPerTokenLogps?: ArrayHandle
  /** `[B, T]`, not 0 on completion tokens. */
  completionMask: ArrayHandle
}

/** Starts the measurement of `peak` anew. */
export declare function resetPeakMemory(): void

export interface RewardStatistics {
  mean: number
  std: number
}

/** Of `rope`. */
export interface RopeOptions {
  /** Whether neighbours are rotated (default: the halves). */
  traditional?: boolean
  /** Of the wavelengths `base^(2i / dims)`, 10000 unless `freqs` are given. */
  base?: number
  /** Factor of the positions, 1. */
  scale?: number
  /** The position of the first slot, 0: a number, or an integer array with one per row, `[B]`. */
  offset?: NumberOrArray
  /** Wavelengths over 2π in place of `base`, `[dims / 2]`. */
  freqs?: ArrayHandle
}

/** How routers used their experts, as lazy arrays. */
export interface RouterUseHandles {
  /** A scalar. */
  loadBalancingLoss: ArrayHandle
  /** `[layers, experts]`; a layer's add up to 1. */
  load: ArrayHandle
}

/** What `sampleLogits` returns. */
export interface SampledHandles {
  /** int32 `[B]` */
  tokens: ArrayHandle
  /** float32 `[B]` */
  logprobs: ArrayHandle
  /** int32 `[B, K]` */
  topIds?: ArrayHandle
  /** float32 `[B, K]` */
  topLogprobs?: ArrayHandle
}

/** Writes the caches of a model's layers in mlx-lm's layout. */
export declare function savePromptCache(path: string, caches: Array<NativeCache>, keys: Array<string>, texts: Array<string>, cancel?: Cancel | undefined | null, onProgress?: (loaded: number, total: number) => void): Promise<void>

/** Of `scaledDotProductAttention`. */
export interface ScaledDotProductAttentionOptions {
  /** Factor of the scores, `1 / √D`. */
  scale?: number
  /** `causal`, or an array that broadcasts to `[B, H, T, K]`: boolean (true is seen) or added to the scores. */
  mask?: 'causal' | ArrayHandle
  /** Logits `[H]` that take weight and have no value. */
  sinks?: ArrayHandle
}

/** Of `cummax`, `cummin` and `logcumsumexp`. */
export interface ScanOptions {
  /** Runs from the end (false). */
  reverse?: boolean
  /** Counts the element itself (true). */
  inclusive?: boolean
}

/** Limits what MLX keeps after arrays are freed; returns the old limit. Bytes. */
export declare function setCacheLimit(bytes: number): number

/** Places this thread's later operations on a device; returns the one before. */
export declare function setDefaultDevice(device: string): string

/** Sets the memory limit; returns the old one. Bytes. */
export declare function setMemoryLimit(bytes: number): number

/** Sets how much memory Metal keeps resident; returns the old limit. Bytes. */
export declare function setWiredLimit(bytes: number): number

export interface SftOptions {
  /** Marked tokens of the whole accumulation window. */
  numItemsInBatch: number
  /** Weight of the routers' load-balancing loss in this micro-batch; 0, which is off, by default. */
  routerAuxLossCoef?: number
}

/** A text; the tokens whose mask is 1 are learnt. */
export interface SftRow {
  ids: Array<number>
  mask: Array<number>
}

/** Of `softmax`. */
export interface SoftmaxOptions {
  /** Accumulates half precision in float32 (false). */
  precise?: boolean
}

/** Of `stft`. */
export interface StftOptions {
  /** Samples from one stretch to the next, `nFft / 4` unless given. */
  hopLength?: number
  /** Length of the window of ones that is used without a window, `nFft` unless given. */
  winLength?: number
  /** Factors `[at most nFft]` of each stretch, centred in it. */
  window?: ArrayHandle
  /** Whether a stretch is centred at its place, for which the signal is padded by `nFft / 2` at both ends (true). */
  center?: boolean
  /** What the signal is padded with: itself in reverse (`reflect`, default), its ends (`edge`) or zeros (`constant`). */
  padMode?: 'reflect' | 'edge' | 'constant'
  /** As for the other transforms. */
  norm?: 'backward' | 'ortho' | 'forward'
  /** Whether only the frequencies from 0 on are there. */
  onesided?: boolean
}

/** Waits until everything that has been started is done. */
export declare function synchronize(): void

/** `synchronize` without blocking the event loop. */
export declare function synchronizeAsync(): Promise<void>

/** One more token of a sample, in order. */
export interface TokenEvent {
  request: number
  sample: number
  token: number
  /** Under `logits / temperature` (plain logits when greedy). */
  logprob: number
  /** Where asked for. */
  topLogprobs?: Array<TokenLogprob>
  /** Text that has become certain. */
  text: string
  /** With the last token. */
  finishReason?: 'stop' | 'length'
}

/** A token and its log-prob. */
export interface TokenLogprob {
  token: number
  logprob: number
}

export interface TrainerOptions {
  /** AdamW's settings; torch's defaults. */
  adamBeta1?: number
  adamBeta2?: number
  adamEpsilon?: number
  /** Decoupled, on matrices only; 0 by default. */
  weightDecay?: number
  /** Gradients are scaled down to this global norm; 1 by default, 0 is off. */
  maxGradNorm?: number
  /** Above 0 a reference policy is kept for the KL penalty: the adapter switched off, or a copy of the weights as they are now. */
  beta?: number
  /** Recompute layers in the backward pass: less memory, a third more time. */
  gradientCheckpointing?: boolean
  /** Tokens that go through the head at a time; by default it follows from the size of the vocabulary. */
  logitsChunkSize?: number
  /** Of an adapter's dropout, 0 by default. */
  seed?: number
}

/** A prompt and what was generated for it. */
export interface TrainRow {
  promptIds: Array<number>
  completionIds: Array<number>
}

/** Outputs of a transform and the arrays that belong to its inputs. */
export interface Transformed {
  outputs: Array<ArrayHandle>
  /** Gradients, products with the Jacobian or its transpose. */
  derivatives: Array<ArrayHandle>
}

/** Of `truncatedNormal`. */
export interface TruncatedNormalOptions {
  /** float32 unless named. */
  dtype?: DtypeName
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** Of `uniform`. */
export interface UniformOptions {
  /** float32 unless named. */
  dtype?: DtypeName
  /** Without one, the next of the global state. */
  key: RandomKey
}

/** Of `unique`. */
export interface UniqueOptions {
  /** What stands for values that are missing; the smallest one unless told. An array without elements needs it. */
  fillValue?: ArrayHandle
}

/** What `unique` finds. */
export interface UniqueResult {
  /** The distinct elements, ascending, of the array's dtype. */
  values: ArrayHandle
  /** Where each first stands among the elements in row-major order, uint32. */
  index: ArrayHandle
  /** The place of each element in `values`, uint32, of the array's shape: `values.take(inverse)` is the array again. */
  inverse: ArrayHandle
  /** How many elements have each value, int32; 0 for those that fill up. */
  counts: ArrayHandle
}

/** Logits `[1, V]` that go back, processed, with the following `next`. */
export interface UnprocessedLogits {
  row: number
  request: number
  sample: number
  /** The prompt and the tokens so far. */
  tokens: Array<number>
  logits: ArrayHandle
}

export declare namespace core {
  /** Bytes that the garbage collector of this thread is told that arrays and models hold outside its heap: small changes together. */
  export function accountedMemory(): number
  /** Another handle of the same array. */
  export function alias(array: ArrayHandle): ArrayHandle
  /** The bytes of all elements, row-major, little-endian. */
  export function bytes(array: ArrayHandle): Uint8Array
  export function dtype(array: ArrayHandle): string
  /** All elements, row-major: bool as bytes, half precision as float32, complex as pairs of float32. */
  export function elements(array: ArrayHandle): Elements
  /** Frees the array of a handle. The handle is not given out again before `release`. */
  export function empty(handle: ArrayHandle): void
  /** Runs the graphs behind several arrays and waits. */
  export function eval(arrays: Array<ArrayHandle>): void
  /** Runs the graphs behind several arrays without blocking the event loop. */
  export function evalAsync(arrays: Array<ArrayHandle>): Promise<void>
  /** Copies the bytes of elements of `dtype`, row-major, into a new array. */
  export function fromBytes(bytes: Uint8Array, shape: Array<number>, dtype: DtypeName): ArrayHandle
  /** What an index expression selects. */
  export function index(a: ArrayHandle, codes: Array<number>, arrays: Array<ArrayHandle>): ArrayHandle
  /** A copy in which what an index expression selects is changed. */
  export function indexUpdate(a: ArrayHandle, codes: Array<number>, arrays: Array<ArrayHandle>, values: ArrayHandle, mode: string): ArrayHandle
  /** The only element of an array, as a double. */
  export function item(array: ArrayHandle): number
  /** Arrays that this thread's JavaScript holds. */
  export function liveArrays(): number
  export function nbytes(array: ArrayHandle): number
  export function ndim(array: ArrayHandle): number
  /** The group size and the bits of a mode: those given, or its usual ones. */
  export function quantizationShape(mode: string, groupSize?: number | undefined | null, bits?: number | undefined | null): Array<number>
  /** Copies the bytes of all elements, row-major and little-endian, over those of `target`, of which there must be as many. */
  export function readInto(array: ArrayHandle, target: Uint8Array): void
  /** Frees the array of a handle and the handle itself; one that is not in use is left alone. */
  export function release(handle: ArrayHandle): void
  /** `release` of the first `count` handles of a list. */
  export function releaseAll(handles: Int32Array, count: number): void
  /** A 0-dimensional array. */
  export function scalar(value: number, dtype: DtypeName): ArrayHandle
  /** The doubles through which numbers beside arrays travel. */
  export function scratch(): Float64Array
  export function shape(array: ArrayHandle): Array<number>
  export function size(array: ArrayHandle): number
  /** Whether tokens are sorted by expert where there are this many pairs of both. */
  export function sortsTokens(pairs: number): boolean
  /** Two independent keys from one. */
  export function splitKey(key: ArrayHandle): Array<ArrayHandle>
  /** As Python's MLX prints it. */
  export function text(array: ArrayHandle): string
  /** All elements converted to float32, row-major. */
  export function toFloat32(array: ArrayHandle): Float32Array
  /** All elements converted to int32, row-major. */
  export function toInt32(array: ArrayHandle): Int32Array
  /** All elements converted to uint32, row-major. */
  export function toUint32(array: ArrayHandle): Uint32Array
  /** A number as an operand beside `like`, whose dtype it takes where that can hold it. */
  export function weakScalar(value: number, like: ArrayHandle): ArrayHandle
}

export declare namespace fast {
  /** `logsumexp(logits) - logits[target]` over the last axis, for integer targets of one rank less. */
  export function crossEntropy(logits: ArrayHandle, targets: ArrayHandle): ArrayHandle
  /**
   * `(x - mean(x)) / √(var(x) + eps) · weight + bias` over the last axis, accumulated in float32; `weight` and `bias` `[D]` may be
   * null.
   */
  export function layerNorm(x: ArrayHandle, weight: ArrayHandle | undefined | null, bias: ArrayHandle | undefined | null, eps: number): ArrayHandle
  /** `x / √(mean(x²) + eps) · weight` over the last axis, accumulated in float32; `weight` `[D]` may be null. */
  export function rmsNorm(x: ArrayHandle, weight: ArrayHandle | undefined | null, eps: number): ArrayHandle
  /** Rotates the first `dims` elements of the last axis of `x` `[B, .., T, D]` by position (Su et al. 2021, arXiv:2104.09864). */
  export function rope(x: ArrayHandle, dims: number, options: RopeOptions): ArrayHandle
  /**
   * `softmax(scale · q @ kᵀ + mask) @ v` for queries `[B, H, T, D]`, keys and values `[B, Hkv, K, D]`, where `H` is a multiple of
   * `Hkv`: `[B, H, T, D]`.
   */
  export function scaledDotProductAttention(q: ArrayHandle, k: ArrayHandle, v: ArrayHandle, options: ScaledDotProductAttentionOptions): ArrayHandle
}

export declare namespace fft {
  /** The transform of an axis (-1), cut or padded with zeros to size `n`: complex64. */
  export function fft(x: ArrayHandle, n: number | undefined | null, axis: number | undefined | null, options: FftOptions): ArrayHandle
  /** The transform over two axes (the last), cut or padded with zeros to sizes `s`: complex64. */
  export function fft2(x: ArrayHandle, s: Array<number> | undefined | null, axes: Array<number> | undefined | null, options: FftOptions): ArrayHandle
  /** The frequencies of `fft` of `n` samples that lie `d` (1) apart, `[n]`. */
  export function fftfreq(n: number, d?: number | undefined | null): ArrayHandle
  /** The transform over axes (all, or the last `s.length`), cut or padded with zeros to sizes `s`: complex64. */
  export function fftn(x: ArrayHandle, s: Array<number> | undefined | null, axes: Array<number> | undefined | null, options: FftOptions): ArrayHandle
  /** Frequency 0 to the middle of the axes (all). */
  export function fftshift(x: ArrayHandle, axes?: Array<number> | undefined | null): ArrayHandle
  /** The inverse of `fft`: complex64. */
  export function ifft(x: ArrayHandle, n: number | undefined | null, axis: number | undefined | null, options: FftOptions): ArrayHandle
  /** The inverse of `fft2`: complex64. */
  export function ifft2(x: ArrayHandle, s: Array<number> | undefined | null, axes: Array<number> | undefined | null, options: FftOptions): ArrayHandle
  /** The inverse of `fftn`: complex64. */
  export function ifftn(x: ArrayHandle, s: Array<number> | undefined | null, axes: Array<number> | undefined | null, options: FftOptions): ArrayHandle
  /** The inverse of `fftshift`. */
  export function ifftshift(x: ArrayHandle, axes?: Array<number> | undefined | null): ArrayHandle
  /** The inverse of `rfft`: `n` real numbers, `2 (m - 1)` for `m` frequencies unless given. */
  export function irfft(x: ArrayHandle, n: number | undefined | null, axis: number | undefined | null, options: FftOptions): ArrayHandle
  /** The inverse of `rfft2`: real numbers. */
  export function irfft2(x: ArrayHandle, s: Array<number> | undefined | null, axes: Array<number> | undefined | null, options: FftOptions): ArrayHandle
  /** The inverse of `rfftn`: real numbers. */
  export function irfftn(x: ArrayHandle, s: Array<number> | undefined | null, axes: Array<number> | undefined | null, options: FftOptions): ArrayHandle
  /**
   * The inverse of `stft`: `[.., frequencies, stretches]` to float32 `[.., samples]`. `nFft` is `2 (frequencies - 1)` (all frequencies where these are
   * not one-sided) unless given.
   */
  export function istft(x: ArrayHandle, nFft: number | undefined | null, options: IstftOptions): ArrayHandle
  /** The transform of real numbers: only the `n / 2 + 1` frequencies from 0 on. */
  export function rfft(x: ArrayHandle, n: number | undefined | null, axis: number | undefined | null, options: FftOptions): ArrayHandle
  /** `fft2` of real numbers: of the last axis only the frequencies from 0 on. */
  export function rfft2(x: ArrayHandle, s: Array<number> | undefined | null, axes: Array<number> | undefined | null, options: FftOptions): ArrayHandle
  /** The frequencies of `rfft` of `n` samples that lie `d` (1) apart, `[n / 2 + 1]`. */
  export function rfftfreq(n: number, d?: number | undefined | null): ArrayHandle
  /** `fftn` of real numbers: of the last axis only the frequencies from 0 on. */
  export function rfftn(x: ArrayHandle, s: Array<number> | undefined | null, axes: Array<number> | undefined | null, options: FftOptions): ArrayHandle
  /** The short-time transform: of overlapping stretches of `nFft` (2048) samples of the last axis, complex64 `[.., frequencies, stretches]`. */
  export function stft(x: ArrayHandle, nFft: number | undefined | null, options: StftOptions): ArrayHandle
}

export declare namespace io {
  /** What a file holds, in its order. */
  export interface FileContents {
    names: Array<string>
    arrays: Array<ArrayHandle>
    metadata: Array<io.FileMetadata>
  }
  /** A value beside the arrays; one of the three is there. */
  export interface FileMetadata {
    key: string
    text?: string
    texts?: Array<string>
    array?: ArrayHandle
  }
  /** Reads a file without blocking the event loop. `onProgress` gets bytes read and bytes in all. */
  export function load(path: string, options: io.LoadFileOptions, cancel?: Cancel | undefined | null, onProgress?: (loaded: number, total: number) => void): Promise<FileContents>
  /** What `load` is told besides the path. */
  export interface LoadFileOptions {
    /** npy, npz, safetensors or gguf; by the extension where it is missing. */
    format?: string
    /** Compressed files that would unpack to more bytes are refused. */
    maxBytes?: number
    /** Whether metadata come along. */
    returnMetadata?: boolean
  }
  /** Reads a file and waits for it. */
  export function loadSync(path: string, options: io.LoadFileOptions): io.FileContents
  /** Writes a file without blocking the event loop; it appears when it is complete. `onProgress` gets bytes written and bytes in all. */
  export function save(path: string, names: Array<string>, arrays: Array<ArrayHandle>, options: io.SaveFileOptions, cancel?: Cancel | undefined | null, onProgress?: (loaded: number, total: number) => void): Promise<void>
  /** What `save` is told besides the arrays. */
  export interface SaveFileOptions {
    /** npy, npz, safetensors or gguf. */
    format: string
    /** Whether the entries of an npz are deflated. */
    compressed?: boolean
    /** Texts, lists of texts, or arrays. */
    metadata?: Array<FileMetadata>
  }
  /** Writes a file and waits for it. */
  export function saveSync(path: string, names: Array<string>, arrays: Array<ArrayHandle>, options: io.SaveFileOptions): void
}

export declare namespace linalg {
  /** `L` with `L Lᵀ = x` for a symmetric positive definite `x`, or with `upper` `U` with `Uᵀ U = x`; NaN where there is none. */
  export function cholesky(x: ArrayHandle, upper?: boolean | undefined | null): ArrayHandle
  /** The inverse of `L Lᵀ` (`Uᵀ U` with `upper`) from a Cholesky factor. */
  export function choleskyInv(x: ArrayHandle, upper?: boolean | undefined | null): ArrayHandle
  /** Cross products of vectors with 2 or 3 elements along an axis (-1). */
  export function cross(x: ArrayHandle, y: ArrayHandle, axis?: number | undefined | null): ArrayHandle
  /** The determinant. */
  export function det(x: ArrayHandle): ArrayHandle
  /**
   * `[values, vectors]` of general matrices, complex64, vectors in columns. NaN or infinite elements give NaN, here and in the
   * other decompositions.
   */
  export function eig(x: ArrayHandle): [ArrayHandle, ArrayHandle]
  /** `[values, vectors]` of symmetric matrices, values ascending, vectors in columns; `uplo` names the half that is read, `L` or `U`. */
  export function eigh(x: ArrayHandle, uplo?: string | undefined | null): [ArrayHandle, ArrayHandle]
  /** Eigenvalues `[.., N]` of general matrices, complex64. */
  export function eigvals(x: ArrayHandle): ArrayHandle
  /** Eigenvalues of symmetric matrices, ascending; `uplo` names the half that is read, `L` or `U`. */
  export function eigvalsh(x: ArrayHandle, uplo?: string | undefined | null): ArrayHandle
  /** The inverse. A singular matrix is an error when the result is evaluated. */
  export function inv(x: ArrayHandle): ArrayHandle
  /** `[p, l, u]`: row indices (uint32) and triangles with `x = l[p] @ u`. */
  export function lu(x: ArrayHandle): [ArrayHandle, ArrayHandle, ArrayHandle]
  /** `[lu, pivots]` in LAPACK's compact form. */
  export function luFactor(x: ArrayHandle): [ArrayHandle, ArrayHandle]
  /**
   * A norm over one axis (vectors) or two (matrices), or of the whole array. `ord` is the p of vectors (2; 0 counts), of matrices
   * 1, -1, 2, -2, `Infinity`, `-Infinity`, `'fro'` (default) or `'nuc'`.
   */
  export function norm(x: ArrayHandle, ord?: number | string | undefined | null, axis?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** The Moore-Penrose pseudo-inverse. NaN or infinite elements give NaN. */
  export function pinv(x: ArrayHandle): ArrayHandle
  /** `[q, r]`: orthonormal columns and an upper triangle with `q @ r = x`. */
  export function qr(x: ArrayHandle): [ArrayHandle, ArrayHandle]
  /** `[sign, logabsdet]` of the determinant. */
  export function slogdet(x: ArrayHandle): [ArrayHandle, ArrayHandle]
  /** The solution of `matrix @ x = b` for `b` `[.., N]` or `[.., N, K]`. A singular matrix is an error when the result is evaluated. */
  export function solve(matrix: ArrayHandle, b: ArrayHandle): ArrayHandle
  /** The solution of `matrix @ x = b` for a triangular matrix: a lower one unless `upper`. */
  export function solveTriangular(matrix: ArrayHandle, b: ArrayHandle, upper?: boolean | undefined | null): ArrayHandle
  /** `[u, s, vt]` with `u diag(s) vt = x`: `u` and `vt` square, `s` descending. */
  export function svd(x: ArrayHandle): [ArrayHandle, ArrayHandle, ArrayHandle]
  /** Singular values `[.., min(M, N)]`, descending. */
  export function svdvals(x: ArrayHandle): ArrayHandle
  /** The inverse of a triangular matrix. */
  export function triInv(x: ArrayHandle, upper?: boolean | undefined | null): ArrayHandle
}

export declare namespace loss {
  /** The GRPO loss of one micro-batch. Options are TRL's names in camelCase, with TRL's defaults. */
  export function grpoLoss(inputs: GrpoLossInputs, options?: object): GrpoLossHandles
  /** `grpoLoss` with its gradients with respect to the log-probs and, where given, the entropies. */
  export function grpoLossAndGrad(inputs: GrpoLossInputs, options?: object): GrpoLossHandles
  /**
   * The load-balancing loss and the loads of experts of router logits `[.., experts]`, one array for each layer. `tokenWeights` `[..]` say
   * how much each token counts, 0 at padding.
   */
  export function routerUse(routerLogits: Array<ArrayHandle>, numExpertsPerTok: number, tokenWeights?: ArrayHandle | undefined | null): RouterUseHandles
}

export declare namespace nn {
  /** Biases of attention that grow with the distance, `[1, heads, queries - offset, keys]`. */
  export function alibi(queries: number, keys: number, numHeads: number, offset: number, dtype: DtypeName): ArrayHandle
  /**
   * Attention of queries `[B, H, T, D]` over keys and values `[B, Hkv, K, D]`, as `[B, T, H, D]`. The mask is boolean (true = visible) or
   * additive.
   */
  export function attention(queries: ArrayHandle, keys: ArrayHandle, values: ArrayHandle, scale: number, causal: boolean, mask?: ArrayHandle | undefined | null): ArrayHandle
  /** The mean of each window of `x` `[N, .., C]`. */
  export function avgPool(x: ArrayHandle, kernelSize: Array<number>, stride: Array<number>, padding: Array<number>): ArrayHandle
  /** `(x - mean) / √(variance + eps) · weight + bias`. */
  export function batchNorm(x: ArrayHandle, mean: ArrayHandle, variance: ArrayHandle, weight: ArrayHandle | undefined | null, bias: ArrayHandle | undefined | null, eps: number): ArrayHandle
  /** Mean, variance and unbiased variance of each feature of `x` `[N, .., C]`. */
  export function batchStatistics(x: ArrayHandle): Array<ArrayHandle>
  /** `x1 Wᵢ x2 + bᵢ` for each output `i`. */
  export function bilinear(x1: ArrayHandle, x2: ArrayHandle, weight: ArrayHandle, bias?: ArrayHandle | undefined | null): ArrayHandle
  /** Binary cross entropy of logits or probabilities. */
  export function binaryCrossEntropy(inputs: ArrayHandle, targets: ArrayHandle, weights: ArrayHandle | undefined | null, withLogits: boolean, reduction: string): ArrayHandle
  /** `max(x, 0) + min(0, alpha · (e^(x / alpha) - 1))` (1). */
  export function celu(x: ArrayHandle, alpha?: number | undefined | null): ArrayHandle
  /** Convolution of `x` `[N, .., C]`. */
  export function conv(x: ArrayHandle, weight: ArrayHandle, bias: ArrayHandle | undefined | null, stride: Array<number>, padding: Array<number>, dilation: Array<number>, groups: number): ArrayHandle
  /** Transposed convolution of `x` `[N, .., C]`. */
  export function convTranspose(x: ArrayHandle, weight: ArrayHandle, bias: ArrayHandle | undefined | null, stride: Array<number>, padding: Array<number>, dilation: Array<number>, outputPadding: Array<number>): ArrayHandle
  /** The cosine of the angle between `x1` and `x2`. */
  export function cosineSimilarityLoss(x1: ArrayHandle, x2: ArrayHandle, axis: number, eps: number, reduction: string): ArrayHandle
  /** Cross entropy of logits with class numbers or probabilities. */
  export function crossEntropy(logits: ArrayHandle, targets: ArrayHandle, weights: ArrayHandle | undefined | null, axis: number, labelSmoothing: number, reduction: string): ArrayHandle
  /** Each element 0 with probability `p`, else divided by `1 - p`; a mask of another shape is broadcast. */
  export function dropout(x: ArrayHandle, p: number, key: RandomKey): ArrayHandle
  /** `x` where positive, else `alpha · (e^x - 1)` (1). */
  export function elu(x: ArrayHandle, alpha?: number | undefined | null): ArrayHandle
  /** The rows of `weight` that `indices` name. */
  export function embedding(indices: ArrayHandle, weight: ArrayHandle): ArrayHandle
  /** Negative log-likelihood of a normal distribution. */
  export function gaussianNllLoss(inputs: ArrayHandle, targets: ArrayHandle, variances: ArrayHandle, full: boolean, eps: number, reduction: string): ArrayHandle
  /** Gaussian error linear unit: exact ('none'), through tanh ('precise' or 'tanh'), or through the sigmoid ('fast'). */
  export function gelu(x: ArrayHandle, approx?: 'none' | 'precise' | 'tanh' | 'fast'): ArrayHandle
  /** The first half of an axis (-1) times the sigmoid of the second. */
  export function glu(x: ArrayHandle, axis?: number | undefined | null): ArrayHandle
  /** `x` `[N, .., C]` normalised over groups of features and all positions. */
  export function groupNorm(x: ArrayHandle, groups: number, weight: ArrayHandle | undefined | null, bias: ArrayHandle | undefined | null, eps: number, pytorchCompatible: boolean): ArrayHandle
  /** The hidden states of a gated recurrent unit. */
  export function gru(x: ArrayHandle, inputWeight: ArrayHandle, hiddenWeight: ArrayHandle, bias?: ArrayHandle | undefined | null, newBias?: ArrayHandle | undefined | null, hidden?: ArrayHandle | undefined | null): ArrayHandle
  /** `x` where `|x| > lambda` (0.5), else 0. */
  export function hardShrink(x: ArrayHandle, lambda?: number | undefined | null): ArrayHandle
  /** `x · min(max(x + 3, 0), 6) / 6`. */
  export function hardswish(x: ArrayHandle): ArrayHandle
  /** `min(max(x, low), high)`, between -1 and 1. */
  export function hardTanh(x: ArrayHandle, low?: number | undefined | null, high?: number | undefined | null): ArrayHandle
  /** `max(1 - input · target, 0)`. */
  export function hingeLoss(inputs: ArrayHandle, targets: ArrayHandle, reduction: string): ArrayHandle
  /** Squared below `delta`, linear above. */
  export function huberLoss(inputs: ArrayHandle, targets: ArrayHandle, delta: number, reduction: string): ArrayHandle
  /** Each feature of each instance normalised over its positions. */
  export function instanceNorm(x: ArrayHandle, weight: ArrayHandle | undefined | null, bias: ArrayHandle | undefined | null, eps: number): ArrayHandle
  /** Kullback-Leibler divergence of log-probabilities. */
  export function klDivLoss(inputs: ArrayHandle, targets: ArrayHandle, axis: number, reduction: string): ArrayHandle
  /** `|input - target|`. */
  export function l1Loss(inputs: ArrayHandle, targets: ArrayHandle, reduction: string): ArrayHandle
  /** `(x - mean) / √(variance + eps) · weight + bias` over the last axis. */
  export function layerNorm(x: ArrayHandle, weight: ArrayHandle | undefined | null, bias: ArrayHandle | undefined | null, eps: number): ArrayHandle
  /** `x` where positive, else `negativeSlope · x` (0.01). */
  export function leakyRelu(x: ArrayHandle, negativeSlope?: number | undefined | null): ArrayHandle
  /** `x Wᵀ + b` with a weight `[out, in]`. */
  export function linear(x: ArrayHandle, weight: ArrayHandle, bias?: ArrayHandle | undefined | null): ArrayHandle
  /** `log cosh(input - target)`. */
  export function logCoshLoss(inputs: ArrayHandle, targets: ArrayHandle, reduction: string): ArrayHandle
  /** `log(sigmoid(x))`. */
  export function logSigmoid(x: ArrayHandle): ArrayHandle
  /** `x - log Σ e^x` over an axis (-1). */
  export function logSoftmax(x: ArrayHandle, axis?: number | undefined | null): ArrayHandle
  /** A linear layer's output `y` of `x`, corrected by `scale · x Aᵀ Bᵀ`, with factors `[rank, in]` and `[out, rank]`. */
  export function loraCorrect(x: ArrayHandle, y: ArrayHandle, loraA: ArrayHandle, loraB: ArrayHandle, scale: number): ArrayHandle
  /** `weight + scale · B A`. */
  export function loraMerge(weight: ArrayHandle, loraA: ArrayHandle, loraB: ArrayHandle, scale: number): ArrayHandle
  /** The hidden states and the cells of a long short-term memory. */
  export function lstm(x: ArrayHandle, inputWeight: ArrayHandle, hiddenWeight: ArrayHandle, bias?: ArrayHandle | undefined | null, hidden?: ArrayHandle | undefined | null, cell?: ArrayHandle | undefined | null): Array<ArrayHandle>
  /** `max(0, -target · (input1 - input2) + margin)`. */
  export function marginRankingLoss(inputs1: ArrayHandle, inputs2: ArrayHandle, targets: ArrayHandle, margin: number, reduction: string): ArrayHandle
  /** The largest element of each window of `x` `[N, .., C]`. */
  export function maxPool(x: ArrayHandle, kernelSize: Array<number>, stride: Array<number>, padding: Array<number>): ArrayHandle
  /** `x · tanh(softplus(x))`. */
  export function mish(x: ArrayHandle): ArrayHandle
  /** `(input - target)²`. */
  export function mseLoss(inputs: ArrayHandle, targets: ArrayHandle, reduction: string): ArrayHandle
  /** Minus the log-probability of each target. */
  export function nllLoss(inputs: ArrayHandle, targets: ArrayHandle, axis: number, reduction: string): ArrayHandle
  /** A part of a random orthogonal matrix times `gain`. */
  export function orthogonal(shape: Array<number>, gain: number, dtype: DtypeName, key: RandomKey): ArrayHandle
  /** `max(0, x) + alpha · min(0, x)`. */
  export function prelu(x: ArrayHandle, alpha: ArrayHandle): ArrayHandle
  /** Rows of a packed table. */
  export function quantizedEmbedding(indices: ArrayHandle, weight: ArrayHandle, scales: ArrayHandle, biases: ArrayHandle | undefined | null, groupSize: number, bits: number, mode: string): ArrayHandle
  /** `x wᵀ + bias` with a packed `w` `[out, in]`. */
  export function quantizedLinear(x: ArrayHandle, weight: ArrayHandle, scales: ArrayHandle, biases: ArrayHandle | undefined | null, bias: ArrayHandle | undefined | null, groupSize: number, bits: number, mode: string): ArrayHandle
  /** `switchLinear` with packed weights. */
  export function quantizedSwitchLinear(x: ArrayHandle, weight: ArrayHandle, scales: ArrayHandle, biases: ArrayHandle | undefined | null, bias: ArrayHandle | undefined | null, indices: ArrayHandle, groupSize: number, bits: number, mode: string, sorted: boolean): ArrayHandle
  /** The input's part of a recurrent layer at each time. */
  export function recurrentInputs(x: ArrayHandle, weight: ArrayHandle, bias?: ArrayHandle | undefined | null): Array<ArrayHandle>
  /** `max(x, 0)`. */
  export function relu(x: ArrayHandle): ArrayHandle
  /** `max(x, 0)²`. */
  export function relu2(x: ArrayHandle): ArrayHandle
  /** `min(max(x, 0), 6)`. */
  export function relu6(x: ArrayHandle): ArrayHandle
  /** Rows `[N · k, 1, out]` in the order of `sortTokens` to `[.., k, out]` in that of the tokens. */
  export function restoreTokens(y: ArrayHandle, places: ArrayHandle, shape: Array<number>): ArrayHandle
  /** `x / √(mean(x²) + eps) · weight` over the last axis. */
  export function rmsNorm(x: ArrayHandle, weight: ArrayHandle, eps: number): ArrayHandle
  /** ELU with the constants of self-normalising networks. */
  export function selu(x: ArrayHandle): ArrayHandle
  /** Sines and cosines of `x` times each frequency, in a new last axis. */
  export function sinusoidal(x: ArrayHandle, frequencies: ArrayHandle, scale: number, cosFirst: boolean): ArrayHandle
  /** Angular frequencies `[dims / 2]`. */
  export function sinusoidalFrequencies(dims: number, minFreq: number, maxFreq: number, fullTurns: boolean): ArrayHandle
  /** Squared below `beta`, linear above. */
  export function smoothL1Loss(inputs: ArrayHandle, targets: ArrayHandle, beta: number, reduction: string): ArrayHandle
  /** Softmax of `-x` over an axis (-1). */
  export function softmin(x: ArrayHandle, axis?: number | undefined | null): ArrayHandle
  /** `log(1 + e^x)`. */
  export function softplus(x: ArrayHandle): ArrayHandle
  /** `x` moved by `lambda` (0.5) towards 0, and 0 in between. */
  export function softshrink(x: ArrayHandle, lambda?: number | undefined | null): ArrayHandle
  /** `x / (1 + |x|)`. */
  export function softsign(x: ArrayHandle): ArrayHandle
  /** Tokens `[.., in]` in the order of their experts `[.., k]`: rows `[N · k, 1, in]`, experts, and the place of each pair. */
  export function sortTokens(x: ArrayHandle, indices: ArrayHandle): Array<ArrayHandle>
  /** Normal numbers, of which each row loses a share to zeros at random places. */
  export function sparse(shape: Array<number>, sparsity: number, mean: number, std: number, dtype: DtypeName, key: RandomKey): ArrayHandle
  /** 1 where `x >= threshold` (0), else 0, as int32. */
  export function step(x: ArrayHandle, threshold?: number | undefined | null): ArrayHandle
  /** `silu(gate) · x`. */
  export function swiglu(gate: ArrayHandle, x: ArrayHandle): ArrayHandle
  /** Rows `[.., 1, in]` with the weights `[experts, out, in]` of the experts at `indices`. */
  export function switchLinear(x: ArrayHandle, weight: ArrayHandle, bias: ArrayHandle | undefined | null, indices: ArrayHandle, sorted: boolean): ArrayHandle
  /** `max(distance to the positive - distance to the negative + margin, 0)`. */
  export function tripletLoss(anchors: ArrayHandle, positives: ArrayHandle, negatives: ArrayHandle, axis: number, p: number, margin: number, eps: number, reduction: string): ArrayHandle
  /** `x` `[N, .., C]` with each spatial axis multiplied by its factor. */
  export function upsample(x: ArrayHandle, scaleFactor: Array<number>, mode: 'nearest' | 'linear' | 'cubic', alignCorners: boolean, antialias: boolean): ArrayHandle
}

export declare namespace ops {
  /** The absolute value; of complex numbers the modulus. */
  export function abs(a: ArrayHandle): ArrayHandle
  /** `a + b`, broadcast. */
  export function add(a: Operand, b: Operand): ArrayHandle
  /** `alpha · a @ b + beta · c`, with `c` broadcast to the product. */
  export function addmm(c: ArrayHandle, a: ArrayHandle, b: ArrayHandle, options: AddmmOptions): ArrayHandle
  /** Whether all elements are true, over the given axes or all of them. */
  export function all(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** Whether `isclose` holds everywhere (bool scalar). */
  export function allclose(a: Operand, b: Operand, rtol?: number | undefined | null, atol?: number | undefined | null, options?: CloseOptions | undefined | null): ArrayHandle
  /** Whether any element is true, over the given axes or all of them. */
  export function any(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /**
   * `[start, stop)` in steps (1); `arange(stop)` starts at 0. Whole numbers give int32, or int64 where they need it, others float32,
   * unless a dtype is named.
   */
  export function arange(start: number, stop?: number | undefined | null, step?: number | undefined | null, dtype?: DtypeName | undefined | null): ArrayHandle
  /** The inverse cosine, in radians. */
  export function arccos(a: ArrayHandle): ArrayHandle
  /** The inverse hyperbolic cosine. */
  export function arccosh(a: ArrayHandle): ArrayHandle
  /** The inverse sine, in radians. */
  export function arcsin(a: ArrayHandle): ArrayHandle
  /** The inverse hyperbolic sine. */
  export function arcsinh(a: ArrayHandle): ArrayHandle
  /** The inverse tangent, in radians. */
  export function arctan(a: ArrayHandle): ArrayHandle
  /** The angle (radians, -π to π) of the point with the ordinate `a` and the abscissa `b`. */
  export function arctan2(a: Operand, b: Operand): ArrayHandle
  /** The inverse hyperbolic tangent. */
  export function arctanh(a: ArrayHandle): ArrayHandle
  /** The index (uint32) of the largest value along an axis, or of all elements in row-major order; the first of equals. */
  export function argmax(a: ArrayHandle, axis?: number | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** The index (uint32) of the smallest value along an axis, or of all elements in row-major order; the first of equals. */
  export function argmin(a: ArrayHandle, axis?: number | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** The indices (uint32) that partition along an axis (-1; null: all elements in row-major order). */
  export function argpartition(a: ArrayHandle, kth: number, axis: FlatAxis): ArrayHandle
  /** The indices (uint32) that sort along an axis (-1; null: all elements in row-major order). */
  export function argsort(a: ArrayHandle, axis: FlatAxis): ArrayHandle
  /** Whether shapes and elements are equal (bool scalar); with `equalNan` NaN equals NaN. */
  export function arrayEqual(a: Operand, b: Operand, equalNan?: boolean | undefined | null): ArrayHandle
  /**
   * A view of the elements in row-major order at `offset` (0) `+ Σ index · stride`, counted in elements. `shape` is that of `a` and the
   * strides are row-major unless given; every place that the view reaches must exist.
   */
  export function asStrided(a: ArrayHandle, shape?: Array<number> | undefined | null, strides?: Array<number> | undefined | null, offset?: number | undefined | null): ArrayHandle
  /** Another dtype, the values converted. */
  export function astype(a: ArrayHandle, dtype: DtypeName): ArrayHandle
  /** With one axis at least. */
  export function atleast1d(a: ArrayHandle): ArrayHandle
  /** With two axes at least: a vector becomes a row. */
  export function atleast2d(a: ArrayHandle): ArrayHandle
  /** With three axes at least: a vector becomes `[1, n, 1]`, a matrix `[m, n, 1]`. */
  export function atleast3d(a: ArrayHandle): ArrayHandle
  /** The Bartlett window of `count` points, a triangle: `1 - |2n / (count - 1) - 1|`; float32. */
  export function bartlett(count: number): ArrayHandle
  /** The bits that both have, broadcast. */
  export function bitwiseAnd(a: Operand, b: Operand): ArrayHandle
  /** All bits flipped. */
  export function bitwiseInvert(a: ArrayHandle): ArrayHandle
  /** The bits that one has, broadcast. */
  export function bitwiseOr(a: Operand, b: Operand): ArrayHandle
  /** The bits that exactly one has, broadcast. */
  export function bitwiseXor(a: Operand, b: Operand): ArrayHandle
  /** The Blackman window of `count` points: `0.42 - 0.5 cos(2πn / (count - 1)) + 0.08 cos(4πn / (count - 1))`; float32. */
  export function blackman(count: number): ArrayHandle
  /** `a @ b` in square blocks, of which masks leave some out. */
  export function blockMaskedMm(a: ArrayHandle, b: ArrayHandle, options: BlockMaskedMmOptions): ArrayHandle
  /** The arrays in the shape that all of them broadcast to. */
  export function broadcastArrays(arrays: Array<ArrayHandle>): Array<ArrayHandle>
  /** The shape that all of these shapes broadcast to. */
  export function broadcastShapes(shapes: Array<Array<number>>): Array<number>
  /** Repeated along axes of size 1 and new leading axes, without a copy. */
  export function broadcastTo(a: ArrayHandle, shape: number | Array<number>): ArrayHandle
  /** Rounded up. */
  export function ceil(a: ArrayHandle): ArrayHandle
  /** Values below `aMin` and above `aMax` become the bound; null leaves that side open. The bounds are broadcast. */
  export function clip(a: ArrayHandle, aMin?: ArrayHandle | undefined | null, aMax?: ArrayHandle | undefined | null): ArrayHandle
  /** Joined along an existing axis (0); null: the elements of all of them in row-major order. */
  export function concatenate(arrays: Array<ArrayHandle>, axis: FlatAxis): ArrayHandle
  /** The complex conjugate. */
  export function conj(a: ArrayHandle): ArrayHandle
  /** The complex conjugate. */
  export function conjugate(a: ArrayHandle): ArrayHandle
  /** The same elements in row-major order in memory; no copy where they already are. */
  export function contiguous(a: ArrayHandle): ArrayHandle
  /** Convolution of `[N, L, C_in]` with `[C_out, K, C_in / groups]` to `[N, L', C_out]`. */
  export function conv1d(input: ArrayHandle, weight: ArrayHandle, options: ConvolutionOptions): ArrayHandle
  /** Convolution of `[N, H, W, C_in]` with `[C_out, KH, KW, C_in / groups]` to `[N, H', W', C_out]`. */
  export function conv2d(input: ArrayHandle, weight: ArrayHandle, options: ConvolutionOptions): ArrayHandle
  /** Convolution of `[N, D, H, W, C_in]` with `[C_out, KD, KH, KW, C_in / groups]` to `[N, D', H', W', C_out]`. */
  export function conv3d(input: ArrayHandle, weight: ArrayHandle, options: ConvolutionOptions): ArrayHandle
  /** Convolution with everything that can vary: `[N, .., C_in]` and `[C_out, .., C_in / groups]` to `[N, .., C_out]`. */
  export function convGeneral(input: ArrayHandle, weight: ArrayHandle, options: ConvGeneralOptions): ArrayHandle
  /**
   * The discrete convolution of two floating vectors, as NumPy's. `mode` is `full` (default: where they overlap at all), `valid` (where they
   * overlap fully) or `same` (the middle of `full`, as long as the longer one).
   */
  export function convolve(a: ArrayHandle, v: ArrayHandle, mode?: string | undefined | null): ArrayHandle
  /** The gradient of `conv1d` with respect to its input: `[N, L, C_in]` and `[C_out, K, C_in / groups]` to `[N, L', C_out]`. */
  export function convTranspose1d(input: ArrayHandle, weight: ArrayHandle, options: ConvTransposeOptions): ArrayHandle
  /** The gradient of `conv2d` with respect to its input: `[N, H, W, C_in]` to `[N, H', W', C_out]`. */
  export function convTranspose2d(input: ArrayHandle, weight: ArrayHandle, options: ConvTransposeOptions): ArrayHandle
  /** The gradient of `conv3d` with respect to its input: `[N, D, H, W, C_in]` to `[N, D', H', W', C_out]`. */
  export function convTranspose3d(input: ArrayHandle, weight: ArrayHandle, options: ConvTransposeOptions): ArrayHandle
  /** The cosine of an angle in radians. */
  export function cos(a: ArrayHandle): ArrayHandle
  /** The hyperbolic cosine. */
  export function cosh(a: ArrayHandle): ArrayHandle
  /** The number (int32) of elements that are not 0, over the given axes, or all of them. */
  export function countNonzero(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** The largest value so far along an axis, or of the elements in row-major order. */
  export function cummax(a: ArrayHandle, axis?: number | undefined | null, options?: ScanOptions | undefined | null): ArrayHandle
  /** The smallest value so far along an axis, or of the elements in row-major order. */
  export function cummin(a: ArrayHandle, axis?: number | undefined | null, options?: ScanOptions | undefined | null): ArrayHandle
  /** The running product along an axis, or of the elements in row-major order. */
  export function cumprod(a: ArrayHandle, axis?: number | undefined | null, options?: CumulativeOptions | undefined | null): ArrayHandle
  /** The running sum along an axis, or of the elements in row-major order. */
  export function cumsum(a: ArrayHandle, axis?: number | undefined | null, options?: CumulativeOptions | undefined | null): ArrayHandle
  /** Radians in degrees. */
  export function degrees(a: ArrayHandle): ArrayHandle
  /** The same arrays, computed only after `dependencies`: for effects that must come first. */
  export function depends(inputs: Array<ArrayHandle>, dependencies: Array<ArrayHandle>): Array<ArrayHandle>
  /** The numbers of a packed weight, `[.., size]`. */
  export function dequantize(w: ArrayHandle, scales: ArrayHandle, biases: ArrayHandle | undefined | null, options: DequantizeOptions): ArrayHandle
  /** The `k`-th diagonal (0) of a matrix, or a matrix with this vector as its `k`-th diagonal. */
  export function diag(a: ArrayHandle, k?: number | undefined | null): ArrayHandle
  /** The diagonal, `offset` (0) beside the main one, of two axes (0 and 1); it becomes the last axis. */
  export function diagonal(a: ArrayHandle, offset?: number | undefined | null, axis1?: number | undefined | null, axis2?: number | undefined | null): ArrayHandle
  /** The `n`-th (1) difference of neighbours along an axis (-1), which becomes shorter by `n`. */
  export function diff(a: ArrayHandle, n?: number | undefined | null, axis?: number | undefined | null): ArrayHandle
  /** `a / b`, broadcast; integers give float32. */
  export function divide(a: Operand, b: Operand): ArrayHandle
  /** `[floorDivide(a, b), remainder(a, b)]`. */
  export function divmod(a: Operand, b: Operand): [ArrayHandle, ArrayHandle]
  /** Sums of products in Einstein's notation: `einsum('bij,bjk->bik', a, b)`. */
  export function einsum(subscripts: string, factors: Array<ArrayHandle>): ArrayHandle
  /** Where `a = b` (bool), broadcast. */
  export function equal(a: Operand, b: Operand): ArrayHandle
  /** The error function. */
  export function erf(a: ArrayHandle): ArrayHandle
  /** The inverse of the error function. */
  export function erfinv(a: ArrayHandle): ArrayHandle
  /** `e` to the power of `a`. */
  export function exp(a: ArrayHandle): ArrayHandle
  /** New axes of size 1, at these places of the result. */
  export function expandDims(a: ArrayHandle, axes: number | Array<number>): ArrayHandle
  /** `exp(a) - 1`, exact near 0. */
  export function expm1(a: ArrayHandle): ArrayHandle
  /** Ones on the `k`-th diagonal (0) of an `n` by `m` (`n`) matrix, float32 unless named; 0 elsewhere. */
  export function eye(n: number, m?: number | undefined | null, k?: number | undefined | null, dtype?: DtypeName | undefined | null): ArrayHandle
  /** The axes from `startAxis` (0) to `endAxis` (-1), both included, as one. */
  export function flatten(a: ArrayHandle, startAxis?: number | undefined | null, endAxis?: number | undefined | null): ArrayHandle
  /** Elements in reverse order along the given axes, or all of them. */
  export function flip(a: ArrayHandle, axes?: number | Array<number> | undefined | null): ArrayHandle
  /** Rounded down. */
  export function floor(a: ArrayHandle): ArrayHandle
  /** `a / b` rounded down, broadcast. Integers divided by 0 give 0. */
  export function floorDivide(a: Operand, b: Operand): ArrayHandle
  /** The numbers of 8-bit floats (e4m3, uint8), bfloat16 unless named. */
  export function fromFp8(a: ArrayHandle, dtype?: DtypeName | undefined | null): ArrayHandle
  /**
   * A shape (a number: a vector of that length) filled with a number, in float32 unless named, or with an array's values, broadcast,
   * in its dtype unless named.
   */
  export function full(shape: number | Array<number>, vals: Operand, dtype?: DtypeName | undefined | null): ArrayHandle
  /** An array's shape filled with a number or another array's values, broadcast; in the first array's dtype unless named. */
  export function fullLike(a: ArrayHandle, vals: Operand, dtype?: DtypeName | undefined | null): ArrayHandle
  /**
   * Slices of `sliceSizes` (one size for each axis of `a`) that begin at `indices[i]` on `axes[i]`, and at 0 on other axes. The result has
   * the shape that the indices broadcast to, then the slice sizes. Indices in plain numbers must fit; those in arrays are moved to
   * the nearest place.
   */
  export function gather(a: ArrayHandle, indices: Array<Indices>, axes: Array<number>, sliceSizes: Array<number>): ArrayHandle
  /** Products of chosen matrices of `a` `[.., M, K]` with chosen ones of `b` `[.., K, N]`; the two lists of indices broadcast. */
  export function gatherMm(a: ArrayHandle, b: ArrayHandle, options: GatherMmOptions): ArrayHandle
  /** `gatherMm` with a packed second operand `[E, out, in]`. */
  export function gatherQmm(x: ArrayHandle, w: ArrayHandle, scales: ArrayHandle, biases: ArrayHandle | undefined | null, options: GatherQmmOptions): ArrayHandle
  /** `qqmm` of chosen matrices of `x` with chosen ones of `w`. On a GPU. */
  export function gatherQqmm(x: ArrayHandle, w: ArrayHandle, options: GatherQqmmOptions): ArrayHandle
  /** Where `a > b` (bool), broadcast. */
  export function greater(a: Operand, b: Operand): ArrayHandle
  /** Where `a ≥ b` (bool), broadcast. */
  export function greaterEqual(a: Operand, b: Operand): ArrayHandle
  /** The Walsh-Hadamard transform of the last axis, whose size is `2^k` times 1, 12, 20 or 28, times `scale` (`1 / √size`). */
  export function hadamardTransform(a: ArrayHandle, scale?: number | undefined | null): ArrayHandle
  /** The Hamming window of `count` points: `0.54 - 0.46 cos(2πn / (count - 1))`; float32. */
  export function hamming(count: number): ArrayHandle
  /** The Hann window of `count` points: `0.5 - 0.5 cos(2πn / (count - 1))`; float32. */
  export function hanning(count: number): ArrayHandle
  /** The identity matrix `[n, n]`, float32 unless named. */
  export function identity(n: number, dtype?: DtypeName | undefined | null): ArrayHandle
  /** The imaginary part. */
  export function imag(a: ArrayHandle): ArrayHandle
  /** Sums of products over the last axes of both: `[.., K]` and `[.., K]` to the leading axes of one, then of the other. */
  export function inner(a: ArrayHandle, b: ArrayHandle): ArrayHandle
  /** Where `|a - b| ≤ atol + rtol · |b|` (bool), broadcast; `rtol` is 1e-5 and `atol` 1e-8 unless given. */
  export function isclose(a: Operand, b: Operand, rtol?: number | undefined | null, atol?: number | undefined | null, options?: CloseOptions | undefined | null): ArrayHandle
  /** Where `a` is neither infinite nor NaN (bool). */
  export function isfinite(a: ArrayHandle): ArrayHandle
  /** Where `a` is infinite (bool). */
  export function isinf(a: ArrayHandle): ArrayHandle
  /** Where `a` is NaN (bool). */
  export function isnan(a: ArrayHandle): ArrayHandle
  /** Where `a` is negative infinity (bool). */
  export function isneginf(a: ArrayHandle): ArrayHandle
  /** Where `a` is positive infinity (bool). */
  export function isposinf(a: ArrayHandle): ArrayHandle
  /** The Kronecker product: `b` times each element of `a`, in blocks. */
  export function kron(a: ArrayHandle, b: ArrayHandle): ArrayHandle
  /** Bits moved up by `b` places, broadcast; by less than 0 or by the width and more the result is not defined. */
  export function leftShift(a: Operand, b: Operand): ArrayHandle
  /** Where `a < b` (bool), broadcast. */
  export function less(a: Operand, b: Operand): ArrayHandle
  /** Where `a ≤ b` (bool), broadcast. */
  export function lessEqual(a: Operand, b: Operand): ArrayHandle
  /** `num` (50) values from `start` to `stop`, evenly spaced. */
  export function linspace(start: number, stop: number, num?: number | undefined | null, options?: LinspaceOptions | undefined | null): ArrayHandle
  /** The natural logarithm. */
  export function log(a: ArrayHandle): ArrayHandle
  /** The logarithm to base 10. */
  export function log10(a: ArrayHandle): ArrayHandle
  /** `log(1 + a)`, exact near 0. */
  export function log1p(a: ArrayHandle): ArrayHandle
  /** The logarithm to base 2. */
  export function log2(a: ArrayHandle): ArrayHandle
  /** `log(exp(a) + exp(b))`, broadcast. */
  export function logaddexp(a: Operand, b: Operand): ArrayHandle
  /** The logarithm of the running sum of exponentials along an axis, or of the elements in row-major order. */
  export function logcumsumexp(a: ArrayHandle, axis?: number | undefined | null, options?: ScanOptions | undefined | null): ArrayHandle
  /** Where both are not 0 (bool), broadcast. */
  export function logicalAnd(a: Operand, b: Operand): ArrayHandle
  /** Where `a` is 0 (bool). */
  export function logicalNot(a: ArrayHandle): ArrayHandle
  /** Where one is not 0 (bool), broadcast. */
  export function logicalOr(a: Operand, b: Operand): ArrayHandle
  /** Where exactly one is not 0 (bool), broadcast. */
  export function logicalXor(a: Operand, b: Operand): ArrayHandle
  /** `a - logsumexp(a)` over an axis (-1). */
  export function logSoftmax(a: ArrayHandle, axis?: number | undefined | null): ArrayHandle
  /** `log(sum(exp(a)))` over the given axes, or all of them. */
  export function logsumexp(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /**
   * A copy in which the elements where `mask` (bool, of the shape of `a` or of its first axes) holds are, in row-major order, those
   * of `source`; a source that is too short repeats its last element.
   */
  export function maskedScatter(a: ArrayHandle, mask: ArrayHandle, source: ArrayHandle): ArrayHandle
  /** Matrix product of the last two axes; the others are broadcast. */
  export function matmul(a: ArrayHandle, b: ArrayHandle): ArrayHandle
  /** The last two axes exchanged. */
  export function matrixTranspose(a: ArrayHandle): ArrayHandle
  /** The largest value over the given axes, or all of them. */
  export function max(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** The larger of two values, broadcast; NaN if one is. */
  export function maximum(a: Operand, b: Operand): ArrayHandle
  /** The mean over the given axes, or all of them. */
  export function mean(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** The middle value, or the mean of the two in the middle, over the given axes, or all of them. */
  export function median(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** Coordinate arrays of several vectors: one axis for each. */
  export function meshgrid(arrays: Array<ArrayHandle>, options?: MeshgridOptions | undefined | null): Array<ArrayHandle>
  /** The smallest value over the given axes, or all of them. */
  export function min(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** The smaller of two values, broadcast; NaN if one is. */
  export function minimum(a: Operand, b: Operand): ArrayHandle
  /** `[min, max]` over the given axes, or all of them. */
  export function minmax(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): [ArrayHandle, ArrayHandle]
  /** One axis moved to another place, the others in their order. */
  export function moveaxis(a: ArrayHandle, source: number, destination: number): ArrayHandle
  /** `a · b` element by element, broadcast. */
  export function multiply(a: Operand, b: Operand): ArrayHandle
  /** NaN becomes `nan` (0), the infinities `posinf` and `neginf` (the largest and smallest number of the dtype). */
  export function nanToNum(a: ArrayHandle, nan?: number | undefined | null, posinf?: number | undefined | null, neginf?: number | undefined | null): ArrayHandle
  /** `-a`. */
  export function negative(a: ArrayHandle): ArrayHandle
  /** Where `a ≠ b` (bool), broadcast. */
  export function notEqual(a: Operand, b: Operand): ArrayHandle
  /** Ones of a shape (a number: a vector of that length), float32 unless named. */
  export function ones(shape: number | Array<number>, dtype?: DtypeName | undefined | null): ArrayHandle
  /** Ones of an array's shape, in its dtype unless named. */
  export function onesLike(a: ArrayHandle, dtype?: DtypeName | undefined | null): ArrayHandle
  /** Every element times every element of `b`, both in row-major order: `[a.size, b.size]`. */
  export function outer(a: ArrayHandle, b: ArrayHandle): ArrayHandle
  /**
   * More elements around the array. `padWidth` is a width for every side, a pair `[before, after]` for every axis, or a pair for each
   * axis. `mode` is `constant` (with `constantValues`, 0), `edge` (the border repeated), `reflect` (mirrored at the border element) or
   * `symmetric` (mirrored beyond it).
   */
  export function pad(a: ArrayHandle, padWidth: number | Array<number | Array<number>>, mode?: string | undefined | null, constantValues?: ArrayHandle | undefined | null): ArrayHandle
  /** The `kth` smallest along an axis (-1; null: of all elements) in its sorted place, smaller ones before it, larger ones behind it. */
  export function partition(a: ArrayHandle, kth: number, axis: FlatAxis): ArrayHandle
  /** `a` itself; refuses bool. */
  export function positive(a: ArrayHandle): ArrayHandle
  /** `a` to the power of `b`, broadcast. An integer to a negative power is 0. */
  export function power(a: Operand, b: Operand): ArrayHandle
  /** The product over the given axes, or all of them. */
  export function prod(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /**
   * A copy with `values`, broadcast to `indices`, written at `indices` along an axis; without an axis at places in row-major order.
   * Of several values at one place any may win. Indices in plain numbers must exist; those in arrays are moved to the nearest place.
   */
  export function putAlongAxis(a: ArrayHandle, indices: Indices, values: ArrayHandle, axis?: number | undefined | null): ArrayHandle
  /** `x @ wᵀ` with both sides quantised, `x` on the way. On a GPU. */
  export function qqmm(x: ArrayHandle, w: ArrayHandle, options: QqmmOptions): ArrayHandle
  /** Packs a float matrix (or several) `[.., size]` row by row. */
  export function quantize(w: ArrayHandle, options: QuantizeOptions): QuantizedWeight
  /** `x @ wᵀ` for `x` `[.., in]` and a packed `w` `[out, in]`. */
  export function quantizedMatmul(x: ArrayHandle, w: ArrayHandle, scales: ArrayHandle, biases: ArrayHandle | undefined | null, options: QuantizedMatmulOptions): ArrayHandle
  /** Degrees in radians. */
  export function radians(a: ArrayHandle): ArrayHandle
  /** The real part. */
  export function real(a: ArrayHandle): ArrayHandle
  /** `1 / a`. */
  export function reciprocal(a: ArrayHandle): ArrayHandle
  /** The remainder of `floorDivide`, with the sign of `b`. Integers divided by 0 give 0. */
  export function remainder(a: Operand, b: Operand): ArrayHandle
  /** Each element `repeats` times in a row along an axis; of the elements in row-major order without one. */
  export function repeat(a: ArrayHandle, repeats: number, axis?: number | undefined | null): ArrayHandle
  /** Another shape of the same elements. One size may be -1: it takes what the others leave. */
  export function reshape(a: ArrayHandle, shape: Array<number>): ArrayHandle
  /** Bits moved down by `b` places, broadcast; signed numbers keep their sign. */
  export function rightShift(a: Operand, b: Operand): ArrayHandle
  /**
   * Elements shifted along axes, those that leave at the end come back at the start; in row-major order without an axis. Several
   * shifts go with as many axes, or all along one; one shift goes along each of several axes.
   */
  export function roll(a: ArrayHandle, shift: number | Array<number>, axes?: number | Array<number> | undefined | null): ArrayHandle
  /** Rounded to a number of decimals (0), halves to even. */
  export function round(a: ArrayHandle, decimals?: number | undefined | null): ArrayHandle
  /** `1 / sqrt(a)`. */
  export function rsqrt(a: ArrayHandle): ArrayHandle
  /** A copy with slices replaced: `updates` has the shape that the indices broadcast to, then a size for each axis of `a`; the slices begin at `indices[i]` on `axes[i]`. Of several at one place any may win. */
  export function scatter(a: ArrayHandle, indices: Array<Indices>, updates: ArrayHandle, axes: Array<number>): ArrayHandle
  /** As `scatter`, but the slices are added; what comes twice is added twice. */
  export function scatterAdd(a: ArrayHandle, indices: Array<Indices>, updates: ArrayHandle, axes: Array<number>): ArrayHandle
  /**
   * A copy with `values`, broadcast to `indices`, added at `indices` along an axis; what comes twice is added twice. Indices in plain
   * numbers must exist; those in arrays are moved to the nearest place.
   */
  export function scatterAddAxis(a: ArrayHandle, indices: Indices, values: ArrayHandle, axis: number): ArrayHandle
  /** As `scatter`, but the larger of old and new is kept. */
  export function scatterMax(a: ArrayHandle, indices: Array<Indices>, updates: ArrayHandle, axes: Array<number>): ArrayHandle
  /** As `scatter`, but the smaller of old and new is kept. */
  export function scatterMin(a: ArrayHandle, indices: Array<Indices>, updates: ArrayHandle, axes: Array<number>): ArrayHandle
  /** As `scatter`, but the slices are multiplied; what comes twice multiplies twice. */
  export function scatterProd(a: ArrayHandle, indices: Array<Indices>, updates: ArrayHandle, axes: Array<number>): ArrayHandle
  /**
   * Where each of `values` would be inserted (uint32, of their shape) into this sorted vector: before its equals, or after them with
   * `side` `right`.
   */
  export function searchsorted(a: ArrayHandle, values: ArrayHandle, side?: string | undefined | null): ArrayHandle
  /**
   * For each `[start, stop)` of `segments` `[.., 2]` the product of those columns of `a` `[M, K]` and rows of `b` `[K, N]`:
   * `[.., M, N]`.
   */
  export function segmentedMm(a: ArrayHandle, b: ArrayHandle, segments: ArrayHandle): ArrayHandle
  /** `1 / (1 + exp(-a))`. */
  export function sigmoid(a: ArrayHandle): ArrayHandle
  /** -1, 0 or 1. */
  export function sign(a: ArrayHandle): ArrayHandle
  /** `a · sigmoid(a)`. */
  export function silu(a: ArrayHandle): ArrayHandle
  /** The sine of an angle in radians. */
  export function sin(a: ArrayHandle): ArrayHandle
  /** The hyperbolic sine. */
  export function sinh(a: ArrayHandle): ArrayHandle
  /**
   * A slice of `sliceSize` (one size for each axis) that begins at `startIndices` (whole numbers `[axes]`) on `axes`, and at 0 on other axes.
   * Starts in plain numbers must fit; those in an array are moved to the nearest place.
   */
  export function slice(a: ArrayHandle, startIndices: Indices, axes: Array<number>, sliceSize: Array<number>): ArrayHandle
  /**
   * A copy with `update`, which has the rank of `a`, written from `startIndices` (whole numbers `[axes]`) on `axes`, from 0 on other axes.
   * Starts in plain numbers must fit; those in an array are moved to the nearest place.
   */
  export function sliceUpdate(a: ArrayHandle, update: ArrayHandle, startIndices: Indices, axes: Array<number>): ArrayHandle
  /** `exp(a) / sum(exp(a))` over the given axes, or all of them. */
  export function softmax(a: ArrayHandle, axes?: number | Array<number> | undefined | null, options?: SoftmaxOptions | undefined | null): ArrayHandle
  /** Ascending along an axis (-1; null: all elements in row-major order); equal values keep their order. */
  export function sort(a: ArrayHandle, axis: FlatAxis): ArrayHandle
  /** A number of equal parts along an axis (0), or the parts that begin at 0 and at each of the given places, which ascend. */
  export function split(a: ArrayHandle, indicesOrSections: number | Array<number>, axis?: number | undefined | null): Array<ArrayHandle>
  /** The square root. */
  export function sqrt(a: ArrayHandle): ArrayHandle
  /** `a · a`. */
  export function square(a: ArrayHandle): ArrayHandle
  /** Without the given axes, which have size 1, or without all axes of size 1. */
  export function squeeze(a: ArrayHandle, axes?: number | Array<number> | undefined | null): ArrayHandle
  /** Joined along a new axis (0). */
  export function stack(arrays: Array<ArrayHandle>, axis?: number | undefined | null): ArrayHandle
  /** The standard deviation over the given axes, or all of them; the divisor is the count less `ddof` (0). */
  export function std(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null, ddof?: number | undefined | null): ArrayHandle
  /** The same values, with no gradient flowing through. */
  export function stopGradient(a: ArrayHandle): ArrayHandle
  /** `a - b`, broadcast. */
  export function subtract(a: Operand, b: Operand): ArrayHandle
  /** The sum over the given axes, or all of them. */
  export function sum(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null): ArrayHandle
  /** Two axes exchanged. */
  export function swapaxes(a: ArrayHandle, axis1: number, axis2: number): ArrayHandle
  /**
   * Slices at `indices` along an axis, whose place their shape takes; of the elements in row-major order without an axis. Indices in
   * plain numbers must exist; those in arrays are moved to the nearest place.
   */
  export function take(a: ArrayHandle, indices: Indices, axis?: number | undefined | null): ArrayHandle
  /**
   * Elements at `indices` along an axis (-1; null: of both, in row-major order), one for each position; `indices` has the rank of
   * `a` and is broadcast with its other axes. Indices in plain numbers must exist; those in arrays are moved to the nearest place.
   */
  export function takeAlongAxis(a: ArrayHandle, indices: Indices, axis: FlatAxis): ArrayHandle
  /** The tangent of an angle in radians. */
  export function tan(a: ArrayHandle): ArrayHandle
  /** The hyperbolic tangent. */
  export function tanh(a: ArrayHandle): ArrayHandle
  /** Sums of products over axes: the last `axes` (2) of `a` with the first of `b`, or two lists of axes that belong together. */
  export function tensordot(a: ArrayHandle, b: ArrayHandle, axes?: number | Array<Array<number>> | undefined | null): ArrayHandle
  /** The whole array several times along its last axes; more numbers than axes add axes in front. */
  export function tile(a: ArrayHandle, reps: number | Array<number>): ArrayHandle
  /** The nearest 8-bit floats (e4m3), as uint8. What is beyond ±448, and NaN, becomes ±448. */
  export function toFp8(a: ArrayHandle): ArrayHandle
  /** The `k` largest values along an axis (-1; null: of all elements), in no defined order. */
  export function topk(a: ArrayHandle, k: number, axis: FlatAxis): ArrayHandle
  /** The sum of the diagonal, `offset` (0) beside the main one, of two axes (0 and 1); in `dtype`, or as `sum` chooses. */
  export function trace(a: ArrayHandle, offset?: number | undefined | null, axis1?: number | undefined | null, axis2?: number | undefined | null, dtype?: DtypeName | undefined | null): ArrayHandle
  /** All axes reversed, or in the order given. */
  export function transpose(a: ArrayHandle, axes?: Array<number> | undefined | null): ArrayHandle
  /** Ones on and below the `k`-th diagonal (0) of an `n` by `m` (`n`) matrix, float32 unless named; 0 above. */
  export function tri(n: number, m?: number | undefined | null, k?: number | undefined | null, dtype?: DtypeName | undefined | null): ArrayHandle
  /** What lies on and below the `k`-th diagonal (0) of the last two axes; 0 above. */
  export function tril(a: ArrayHandle, k?: number | undefined | null): ArrayHandle
  /** What lies on and above the `k`-th diagonal (0) of the last two axes; 0 below. */
  export function triu(a: ArrayHandle, k?: number | undefined | null): ArrayHandle
  /** Rounded towards 0. */
  export function trunc(a: ArrayHandle): ArrayHandle
  /** One axis as several of the given sizes, one of which may be -1. */
  export function unflatten(a: ArrayHandle, axis: number, shape: Array<number>): ArrayHandle
  /**
   * The smallest `size` distinct elements, ascending, with their first places, their counts and the way back; all lazy. The size
   * does not depend on the values: missing ones are filled up, and of more, those left out count as the last one in `inverse`. NaNs are
   * not equal to each other.
   */
  export function unique(a: ArrayHandle, size: number, options: UniqueOptions): UniqueResult
  /** The slices along an axis (0), without it. */
  export function unstack(a: ArrayHandle, axis?: number | undefined | null): Array<ArrayHandle>
  /** The variance over the given axes, or all of them; the divisor is the count less `ddof` (0). */
  export function var_(a: ArrayHandle, axes?: number | Array<number> | undefined | null, keepdims?: boolean | undefined | null, ddof?: number | undefined | null): ArrayHandle
  /** Sums of products along an axis (-1) of arrays that broadcast; `a` is conjugated where it is complex. */
  export function vecdot(a: ArrayHandle, b: ArrayHandle, axis?: number | undefined | null): ArrayHandle
  /** The same bytes read as another dtype. Where its size differs the last axis shrinks or grows. */
  export function view(a: ArrayHandle, dtype: DtypeName): ArrayHandle
  /** `x` where `condition` holds, else `y`; all broadcast. */
  export function where(condition: ArrayHandle, x: ArrayHandle, y: ArrayHandle): ArrayHandle
  /** Zeros of a shape (a number: a vector of that length), float32 unless named. */
  export function zeros(shape: number | Array<number>, dtype?: DtypeName | undefined | null): ArrayHandle
  /** Zeros of an array's shape, in its dtype unless named. */
  export function zerosLike(a: ArrayHandle, dtype?: DtypeName | undefined | null): ArrayHandle
}

export declare namespace optim {
  /** The arrays scaled so that their norm is at most `maxNorm`, then the norm before. */
  export function clipGradNorm(gradients: Array<ArrayHandle>, maxNorm: number): Array<ArrayHandle>
  /** The arrays with every element inside `[-clipValue, clipValue]`. */
  export function clipGradValue(gradients: Array<ArrayHandle>, clipValue: number): Array<ArrayHandle>
  /** The Euclidean norm over all elements of all arrays, a float32 scalar. */
  export function globalNorm(gradients: Array<ArrayHandle>): ArrayHandle
  /** The learning rate of a schedule, in JSON, at a step counted from 0. */
  export function scheduleRate(schedule: object | number, step: number): number
}

export declare namespace random {
  /** True with probability `p` (0.5). An array of them broadcasts to the shape, which is theirs by default. */
  export function bernoulli(p: NumberOrArray | undefined | null, shape: Array<number> | undefined | null, options: BernoulliOptions): ArrayHandle
  /** Uniform bits of a shape, as unsigned integers. */
  export function bits(shape: Array<number>, options: BitsOptions): ArrayHandle
  /** Indices (uint32) drawn from `softmax(logits)` along an axis (-1): one per row unless the options ask for more. */
  export function categorical(logits: ArrayHandle, axis: number | undefined | null, options: CategoricalOptions): ArrayHandle
  /** Numbers of the standard Gumbel distribution, of a shape (one number without it). */
  export function gumbel(shape: Array<number> | undefined | null, options: GumbelOptions): ArrayHandle
  /** A key (uint32 `[2]`) from a seed, a whole number of at least 0. */
  export function key(seed: number): ArrayHandle
  /** Numbers of the Laplace distribution, of a shape (one number without it). */
  export function laplace(shape: Array<number> | undefined | null, options: LaplaceOptions): ArrayHandle
  /**
   * Normal vectors `[...shape, n]` (float32) with mean `[.., n]` and covariance `[.., n, n]`, whose leading axes broadcast to the
   * shape, which is theirs by default.
   */
  export function multivariateNormal(mean: ArrayHandle, covariance: ArrayHandle, shape: Array<number> | undefined | null, options: MultivariateNormalOptions): ArrayHandle
  /** Normally distributed numbers of a shape (one number without it). */
  export function normal(shape: Array<number> | undefined | null, options: NormalOptions): ArrayHandle
  /** The numbers below `x` in random order (uint32), or the slices of an array along an axis (0). */
  export function permutation(x: NumberOrArray, axis: number | undefined | null, options: PermutationOptions): ArrayHandle
  /** Integers in `[low, high)`. Arrays as bounds broadcast to the shape, which is theirs by default. */
  export function randint(low: NumberOrArray, high: NumberOrArray, shape: Array<number> | undefined | null, options: RandintOptions): ArrayHandle
  /** Independent keys `[count, 2]` from one; 2 of them unless told. */
  export function split(key: ArrayHandle, count?: number | undefined | null): ArrayHandle
  /** Standard normal numbers within `[lower, upper]`. Arrays as bounds broadcast to the shape, which is theirs by default. */
  export function truncatedNormal(lower: NumberOrArray, upper: NumberOrArray, shape: Array<number> | undefined | null, options: TruncatedNormalOptions): ArrayHandle
  /** Uniform numbers in `[low, high)`, 0 and 1 unless given. Arrays as bounds broadcast to the shape, which is theirs by default. */
  export function uniform(low: NumberOrArray | undefined | null, high: NumberOrArray | undefined | null, shape: Array<number> | undefined | null, options: UniformOptions): ArrayHandle
}

export declare namespace rl {
  /** Entropy in nats of `softmax(logits / temperature)` over the last axis; float32. */
  export function computeEntropy(logits: ArrayHandle, temperature?: number | undefined | null): ArrayHandle
  /** `current / old` per token `[B, T]` or per sequence `[B, 1]`; log-probs and mask are `[B, T]`. */
  export function computeImportanceRatios(inputs: RatioInputs, level?: 'token' | 'sequence' | null): ArrayHandle
  /** Log-probs of `ids` `[B, T]` under `logits / temperature` `[B, T, V]`; float32 `[B, T]`. */
  export function selectiveLogSoftmax(logits: ArrayHandle, ids: ArrayHandle, temperature?: number | undefined | null): ArrayHandle
}

export declare namespace sampling {
  /** Logits `[.., V]` with the temperature and filters of the options applied. */
  export function filterLogits(logits: ArrayHandle, rows: Array<GenerateOptions>): ArrayHandle
  /** Logits `[.., V]` with the bias, penalties and bans of the options applied. One set of options, or one for each row. */
  export function processLogits(logits: ArrayHandle, history: ArrayHandle | undefined | null, rows: Array<GenerateOptions>): ArrayHandle
  /** A token for each row of logits `[B, V]`. */
  export function sampleLogits(logits: ArrayHandle, histories: Array<Array<number>>, step: number, rows: Array<GenerateOptions>): SampledHandles
}

export declare namespace transforms {
  /** `function`, computed again by a gradient instead of kept. */
  export function checkpoint(fn: ArrayFunction, inputs: Array<ArrayHandle>): Array<ArrayHandle>
  /** `function` with a gradient of its own: from inputs, cotangents and outputs, one array per input. */
  export function customVjp(fn: ArrayFunction, gradient: (primals: Array<ArrayHandle>, cotangents: Array<ArrayHandle>, outputs: Array<ArrayHandle>) => Array<ArrayHandle> | null, inputs: Array<ArrayHandle>): Array<ArrayHandle>
  /** Outputs of `function` and the products of its Jacobian with `tangents`. */
  export function jvp(fn: ArrayFunction, primals: Array<ArrayHandle>, tangents: Array<ArrayHandle>): Transformed
  /** Turns compilation on or off for this process, for debugging; compiled functions then run operation by operation. */
  export function setCompileEnabled(enabled: boolean): void
  /** Outputs of `function` and the gradients of its first output, a scalar, with respect to all inputs. */
  export function valueAndGrad(fn: ArrayFunction, inputs: Array<ArrayHandle>): Transformed
  /** Outputs of `function` and the products of `cotangents` with its Jacobian. */
  export function vjp(fn: ArrayFunction, primals: Array<ArrayHandle>, cotangents: Array<ArrayHandle>): Transformed
  /** `function` for every slice of the inputs along their axes (`null`: whole), results stacked along the output axes. */
  export function vmap(fn: ArrayFunction, inputs: Array<ArrayHandle>, inAxes: Array<number | null>, outAxes: Array<number>): Array<ArrayHandle>
}
