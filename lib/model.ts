import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { resolveLora } from './adapters.js';
import type { AdapterFormat, LoraOptions } from './adapters.js';
import { handleOf, MxArray, wrap } from './array/core.js';
import type { ArrayLike } from './array/core.js';
import { array } from './array/create.js';
import { nativeCaches } from './cache/base.js';
import type { LayerCache } from './cache/base.js';
import type { PrefixCache } from './cache/prompt.js';
import { templateMessages } from './chat/messages.js';
import type { ChatMessage } from './chat/messages.js';
import { errorText, guard, MlxError, wrapNativeError } from './errors.js';
import { copyTokenizerFiles, isGguf, tokenizerFiles, writeFolder } from './files.js';
import { isRepoId } from './hub/repo.js';
import { resolveModel } from './hub/resolve.js';
import type { DownloadProgress } from './hub/progress.js';
import { hubKeys } from './hub/snapshot.js';
import type { HubOptions } from './hub/snapshot.js';
import { EngineCore } from './engine.js';
import { native } from './native.js';
import type {
  BatchProgress,
  NativeEngineOptions,
  NativeGenerateOptions,
  NativeModel,
  QuantizeReport,
} from './native-types.js';
import { calibrationRows, methodOf } from './calibration.js';
import { quantizationOf, quantizeKeys, resolveQuantization } from './quantization.js';
import type { ModelQuantization, QuantizationInfo, QuantizeModelOptions, QuantizeProgress } from './quantization.js';
import { rejectUnknownKeys } from './options.js';
import {
  checkCaching,
  resolveCache,
  resolveLimits,
  resolveRequest,
  resolveSpeculation,
  speculationKeys,
} from './request-options.js';
import type { SpeculationOptions } from './request-options.js';
import { generateKeys, resolveSampling, samplingDefaults } from './sampling.js';
import type { GenerateOptions } from './sampling.js';
import { withSignal } from './signal.js';
import { GenerateStream, summarize } from './stream.js';
import type { Completion, GenerateChunk, GenerateResult, Timings, Totals, Usage } from './stream.js';
import { Tokenizer } from './tokenizer.js';
import type { Message, TokenizerLoadOptions } from './tokenizer.js';

/** A text, a conversation in OpenAI's form, or token ids. */
export type Prompt = string | readonly Message[] | readonly ChatMessage[] | readonly number[];

export type Dtype = 'auto' | 'float32' | 'bfloat16' | 'float16';

/** How far loading is: first bytes that come from the hub, where any do, then bytes read from the disk. */
export interface LoadProgress {
  phase: 'download' | 'load';
  /** Bytes so far and in all, of this phase. */
  loaded: number;
  total: number;
  /** While downloading: the file that moved. */
  file?: string;
  /** While downloading. */
  bytesPerSecond?: number;
}

/** The options of {@link HubOptions} matter for models of the hub only. */
export interface LoadOptions extends HubOptions {
  /** 'auto' (default): bfloat16 on a GPU, float32 on CPU, where half-precision products are slow. */
  dtype?: Dtype;
  /** Packs the layers while they are read, so that the unpacked model is never in memory. For checkpoints that are not packed. */
  quantize?: ModelQuantization;
  /** An adapter of PEFT or mlx-lm to put on top: a folder, or its name on the hub. */
  adapter?: string;
  onProgress?: (progress: LoadProgress) => void;
  signal?: AbortSignal;
}

export interface ForwardOptions {
  /** One cache per layer, which get the new tokens. */
  cache?: readonly LayerCache[];
  /** [B, T], 1 for tokens and 0 for padding, which stands on the left of rows. Without a cache: a batch cache knows its rows' padding. */
  attentionMask?: ArrayLike;
  /** Give the logits of the routers too; only for models with experts. */
  outputRouterLogits?: boolean;
}

/** What `forward()` gives with `outputRouterLogits`. */
export interface ForwardResult {
  /** [B, T, V] */
  logits: MxArray;
  /** Of each layer that has experts, in their order: [B, T, experts]. Their `logSoftmax` are the router's log-probs. */
  routerLogits: MxArray[];
}

/** How many zeros each row of a mask begins with; there are no others. */
function leftPaddingOf(attentionMask: ArrayLike, shape: readonly number[]): number[] {
  const mask = array(attentionMask).astype('int32');
  if (mask.ndim !== 2 || mask.shape.some((size, axis) => size !== shape[axis])) {
    const [found, wanted] = [mask.shape.join(', '), shape.join(', ')];
    throw new MlxError(
      'ERR_MLX_SHAPE',
      `an attention mask has the shape of the token ids, [${wanted}], not [${found}]`,
    );
  }
  return (mask.toArray() as number[][]).map((row, i) => {
    const first = row.indexOf(1);
    if (first < 0 || row.some((value, at) => value !== (at < first ? 0 : 1))) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `row ${i} of the attention mask must be zeros and then ones, padding on the left of at least one token`,
      );
    }
    return first;
  });
}

export interface GenerateBatchOptions extends Omit<
  GenerateOptions,
  'n' | 'onProgress' | 'logitsProcessors' | keyof SpeculationOptions | 'promptCache'
> {
  /** Answers for each prompt. Default 1. */
  numGenerations?: number;
  /** The most answers that are decoded together. Default: all. */
  completionBatchSize?: number;
  /** The most prompts that are read together. Default: all. */
  prefillBatchSize?: number;
  onProgress?: (progress: BatchProgress) => void;
}

export interface GenerateBatchResult {
  /** `completions[i]` are the answers to prompt i. */
  completions: Completion[][];
  usage: Usage;
  timings: Timings;
}

const batchKeys = [
  ...generateKeys.filter((key) => !['n', 'logitsProcessors', 'promptCache', ...speculationKeys].includes(key)),
  'numGenerations',
  'completionBatchSize',
  'prefillBatchSize',
];

const layerProgress = (
  onProgress: ((progress: QuantizeProgress) => void) | undefined,
): ((done: number, total: number) => void) | undefined =>
  onProgress === undefined ? undefined : (done, total) => onProgress({ done, total });

/** A language model with its tokenizer. Made by {@link loadModel}; freed by `dispose()` or `using`. */
export class LanguageModel {
  #native: NativeModel | null;
  readonly #tokenizer: Tokenizer | null;
  /** Folder the weights were read from. */
  readonly path: string;
  /** Name on the hub, when it was loaded by that. */
  readonly repoId: string | undefined;
  #adapters: string[] = [];
  #activeAdapter: string | null = null;

  /** @internal */
  constructor(handle: NativeModel, tokenizer: Tokenizer | null, path: string, repoId?: string) {
    this.#native = handle;
    this.#tokenizer = tokenizer;
    this.path = path;
    this.repoId = repoId;
  }

  /** @internal The native model; throws ERR_MLX_DISPOSED after `dispose()`. */
  get handle(): NativeModel {
    if (this.#native === null) {
      throw new MlxError(
        'ERR_MLX_DISPOSED',
        `this ${this.constructor.name} has been disposed; load it again with loadModel('${this.repoId ?? this.path}')`,
      );
    }
    return this.#native;
  }

  /** @internal Puts freshly loaded weights in place of the present ones, for resuming a training run. */
  replaceHandle(handle: NativeModel): void {
    const old = this.handle;
    this.#native = handle;
    this.#adapters = [];
    this.#activeAdapter = null;
    old.dispose();
  }

  get tokenizer(): Tokenizer {
    if (this.#tokenizer === null) {
      throw new MlxError(
        'ERR_MLX_LOAD',
        `${this.path}: the checkpoint has no tokenizer, so only token ids can go in and out`,
      );
    }
    return this.#tokenizer;
  }

  /** 'qwen3', 'qwen2', as in config.json. */
  get modelType(): string {
    return this.handle.modelType;
  }

  get dtype(): string {
    return this.handle.dtype;
  }

  /** Experts that each token uses in the layers that have them; null for a model without experts. */
  get numExpertsPerTok(): number | null {
    return this.handle.numExpertsPerTok;
  }

  /** The checkpoint's config.json. */
  get config(): Record<string, unknown> {
    return JSON.parse(this.handle.configJson) as Record<string, unknown>;
  }

  /** How the layers are packed; null where none is. */
  get quantization(): QuantizationInfo | null {
    return quantizationOf(this.handle);
  }

  /** Numbers that the weights stand for, packed or not. */
  get numParameters(): number {
    return this.handle.numParameters;
  }

  /** Parameters that a trainer would change: all of them, or the adapter's. */
  get numTrainable(): number {
    return this.handle.numTrainable;
  }

  get vocabSize(): number {
    return this.handle.vocabSize;
  }

  get contextLength(): number {
    return this.handle.contextLength;
  }

  get eosTokenIds(): number[] {
    return this.handle.eosTokenIds;
  }

  /** True when an adapter counts. */
  get hasAdapter(): boolean {
    return this.#activeAdapter !== null;
  }

  /** The names of the adapters on the model, in the order in which they came. */
  get adapters(): string[] {
    return [...this.#adapters];
  }

  /** The name of the adapter that counts, and that a trainer would change; null while the base model computes. */
  get activeAdapter(): string | null {
    return this.#activeAdapter;
  }

  get disposed(): boolean {
    return this.#native === null;
  }

  /** Token ids of a prompt: a conversation goes through the chat template, and so does a string unless `raw` is set. */
  encodePrompt(
    prompt: Prompt,
    options: Pick<GenerateOptions, 'raw' | 'enableThinking' | 'tools' | 'chatTemplateOptions'> = {},
  ): number[] {
    if (typeof prompt === 'string') {
      if (options.raw === true || !this.tokenizer.hasChatTemplate) return this.tokenizer.encode(prompt);
      return this.encodePrompt([{ role: 'user', content: prompt }], options);
    }
    if (!Array.isArray(prompt) || prompt.length === 0) {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        'a prompt is a string, a list of messages, or a list of token ids, and must not be empty',
      );
    }
    if (typeof prompt[0] === 'number') return [...(prompt as readonly number[])];
    const { enableThinking, tools, chatTemplateOptions } = options;
    return this.tokenizer.encodeChat(templateMessages(prompt as readonly ChatMessage[]), {
      ...chatTemplateOptions,
      ...(enableThinking === undefined ? {} : { enableThinking }),
      ...(tools === undefined ? {} : { tools }),
    });
  }

  /**
   * Logits [B, T, V] of `inputIds` [B, T]. With a `cache` (see `makePromptCache`) the tokens follow those that it holds and are added to it.
   *
   * @example
   * const cache = makePromptCache(model);
   * model.forward([promptIds], { cache });
   * const next = model.forward([[token]], { cache });
   * const { logits, routerLogits } = model.forward([promptIds], { outputRouterLogits: true }); // of a model with experts
   */
  forward(inputIds: ArrayLike, options?: ForwardOptions & { outputRouterLogits?: false }): MxArray;
  forward(inputIds: ArrayLike, options: ForwardOptions & { outputRouterLogits: true }): ForwardResult;
  forward(inputIds: ArrayLike, options?: ForwardOptions): MxArray | ForwardResult;
  forward(inputIds: ArrayLike, options?: ForwardOptions): MxArray | ForwardResult {
    const { cache, attentionMask, outputRouterLogits = false } = options ?? {};
    if (options !== undefined) {
      rejectUnknownKeys(options, ['cache', 'attentionMask', 'outputRouterLogits'], 'forward()');
    }
    const layers = cache === undefined ? null : nativeCaches(cache, 'forward()');
    const ids = inputIds instanceof MxArray ? inputIds : array(inputIds);
    const padding = attentionMask === undefined ? null : leftPaddingOf(attentionMask, ids.shape);
    return guard(() => {
      const { logits, routerLogits } = this.handle.forward(handleOf(ids), layers, padding, outputRouterLogits);
      return outputRouterLogits ? { logits: wrap(logits), routerLogits: routerLogits.map(wrap) } : wrap(logits);
    });
  }

  /**
   * Answers one prompt.
   *
   * @example
   * const { text } = await model.generate('Why is the sky blue?', { maxTokens: 200 });
   */
  async generate(prompt: Prompt, options: GenerateOptions = {}): Promise<GenerateResult> {
    return await this.#stream(prompt, options, 'generate()').collect();
  }

  /**
   * Answers one prompt piece by piece.
   *
   * @example
   * for await (const { text } of model.stream('Tell me a story')) process.stdout.write(text);
   */
  stream(prompt: Prompt, options: GenerateOptions = {}): GenerateStream {
    return this.#stream(prompt, options, 'stream()');
  }

  #stream(prompt: Prompt, options: GenerateOptions, where: string): GenerateStream {
    const { ids, sampling } = this.request(prompt, options, where);
    const { n = 1, prefillStepSize } = options;
    const speculation = resolveSpeculation(options, where);
    checkCaching(options, where);
    const limits = {
      ...resolveLimits({ maxBatchSize: n, prefillStepSize }, where),
      ...resolveCache(options, where),
      ...speculation.limits,
      alone: true,
    };
    return new GenerateStream(() => this.#answer(ids, sampling, options, limits, speculation.draft), options.signal);
  }

  /** One request in an engine of its own. */
  async *#answer(
    ids: number[],
    sampling: NativeGenerateOptions,
    options: GenerateOptions,
    limits: NativeEngineOptions,
    draft: NativeModel | undefined,
  ): AsyncGenerator<GenerateChunk, Totals, undefined> {
    const engine = this.startEngine(limits, draft, options.prefixCache);
    try {
      return yield* engine.submit(ids, sampling, options).read();
    } finally {
      engine.close();
    }
  }

  /** @internal */
  startEngine(limits: NativeEngineOptions, draft?: NativeModel, prefixCache?: PrefixCache): EngineCore {
    return new EngineCore(
      guard(() => this.handle.createEngine(limits, draft, prefixCache?.native)),
      this.#tokenizer,
      draft !== undefined || limits.promptLookup !== undefined || limits.fastForward === true,
    );
  }

  /** @internal What the addon needs for a prompt. */
  request(prompt: Prompt, options: GenerateOptions, where: string): { ids: number[]; sampling: NativeGenerateOptions } {
    const handle = this.handle;
    const sampling = resolveSampling(options, samplingDefaults(handle.generationConfigJson), where, this.#tokenizer);
    return { ids: this.encodePrompt(prompt, options), sampling: { ...sampling, ...resolveRequest(options, where) } };
  }

  /** Answers all prompts, each `numGenerations` times, in one batch; a prompt is read once for all its answers. */
  async generateBatch(prompts: readonly Prompt[], options: GenerateBatchOptions = {}): Promise<GenerateBatchResult> {
    const where = 'generateBatch()';
    rejectUnknownKeys(options, batchKeys, where);
    const { numGenerations = 1, completionBatchSize, prefillBatchSize, prefillStepSize, onProgress, ...rest } = options;
    const handle = this.handle;
    checkCaching(options, where);
    const limits = {
      ...resolveLimits({ maxBatchSize: completionBatchSize, prefillBatchSize, prefillStepSize }, where),
      ...resolveCache(options, where),
    };
    const sampling = {
      ...resolveSampling(rest, samplingDefaults(handle.generationConfigJson), where, this.#tokenizer),
      ...resolveRequest(rest, where),
      n: numGenerations,
    };
    const ids = prompts.map((prompt) => this.encodePrompt(prompt, options));
    await this.#tokenizer?.prepareNative(sampling.responseFormat);
    const batch = await withSignal(options.signal, (cancel) =>
      handle.generateBatch(
        ids,
        sampling,
        cancel,
        onProgress,
        this.#tokenizer?.handle,
        limits,
        options.prefixCache?.native,
      ),
    );
    const rows = batch.tokens.map((tokens, i) => ({
      text: batch.texts?.[i] ?? '',
      tokens,
      logprobs: batch.logprobs[i]!,
      ...(batch.topLogprobs === undefined ? {} : { topLogprobs: batch.topLogprobs[i]! }),
      finishReason: batch.finishReasons[i]!,
    }));
    return {
      completions: ids.map((_, i) => rows.slice(i * numGenerations, (i + 1) * numGenerations)),
      ...summarize(batch.promptTokens, batch.cachedTokens, batch.generatedTokens, batch.prefillMs, batch.decodeMs),
    };
  }

  /** Names and arrays of all parameters, under the checkpoint's names. */
  parameters(): Map<string, MxArray> {
    return guard(() => new Map(this.handle.parameterNames().map((name) => [name, wrap(this.handle.parameter(name))])));
  }

  /**
   * Packs the layers' weights into codes of a few bits, embedding and head included, with mlx-lm's modes and recipes. Layers whose width
   * the groups do not divide stay as they are, and the report names them; so do layers that are packed already. Routers of experts get
   * 8 bits. One layer at a time is in memory twice. Stopped by `signal`, what is done stays done, and another call goes on.
   *
   * With `method` 'gptq' or 'awq' codes are fitted to what texts give each layer to read, block by block: the report's `layers` say what
   * that gains. Then a stopped run leaves its blocks packed, and the rest can be packed with 'rtn' only.
   *
   * Codes cannot be trained: put a LoRA adapter on the model for that.
   *
   * @example
   * const { bitsPerWeight, left } = await model.quantize({ bits: 4, groupSize: 64, rules: { embed_tokens: { bits: 6 } } });
   * await model.save('Qwen3-0.6B-4bit'); // mlx-lm's layout
   *
   * @example
   * const { layers } = await model.quantize({ bits: 3, method: 'gptq', calibration: { data: text, numSamples: 64 } });
   */
  async quantize(options: QuantizeModelOptions = {}): Promise<QuantizeReport> {
    const where = 'quantize()';
    const { onProgress, signal, method: given = 'rtn', calibration, damping, scaleDtype, ...rest } = options;
    const handle = this.handle;
    const method = methodOf(given, where);
    const settings = resolveQuantization(
      rest,
      () => guard(() => handle.layers()).filter(({ packed }) => !packed),
      where,
      quantizeKeys,
    );
    for (const [name, value] of Object.entries({ calibration, scaleDtype, damping })) {
      if (value !== undefined && (method === 'rtn' || (name === 'damping' && method !== 'gptq')))
        throw new MlxError('ERR_MLX_CONFIG', `${where}: ${name} does not go with method '${method}'`);
    }
    if (damping !== undefined && !(Number.isFinite(damping) && damping > 0))
      throw new MlxError('ERR_MLX_CONFIG', `${where}: damping must be above 0, got ${String(damping)}`);
    if (method !== 'rtn') {
      if (calibration === undefined)
        throw new MlxError(
          'ERR_MLX_CONFIG',
          `${where}: method '${method}' fits codes to texts: give calibration: { data }, texts like what the model is going to read`,
        );
      const { rows, batchSize } = calibrationRows(calibration, () => this.tokenizer, `${where}'s calibration`);
      const settled = { method, rows, batchSize, damping: damping ?? 0.01, ...(scaleDtype ? { scaleDtype } : {}) };
      return await withSignal(signal, (cancel) =>
        handle.calibrate(settings, settled, cancel, layerProgress(onProgress)),
      );
    }
    return await withSignal(signal, (cancel) => handle.quantize(settings, cancel, layerProgress(onProgress)));
  }

  /** Unpacks what is packed, in the model's dtype, layer by layer. */
  async dequantize(
    options: { onProgress?: (progress: QuantizeProgress) => void; signal?: AbortSignal } = {},
  ): Promise<void> {
    rejectUnknownKeys(options, ['onProgress', 'signal'], 'dequantize()');
    const { onProgress, signal } = options;
    const handle = this.handle;
    await withSignal(signal, (cancel) => handle.dequantize(cancel, layerProgress(onProgress)));
  }

  /**
   * Puts a fresh adapter on the model: it changes nothing until it is trained, and only it is trained from then on. The base may be
   * quantised (QLoRA).
   *
   * @example
   * model.applyLora({ rank: 16, alpha: 32, targetModules: 'all-linear', dropout: 0.05 });
   */
  applyLora(options: LoraOptions = {}): void {
    const { name, native: lora } = resolveLora(options, 'applyLora()');
    guard(() => this.handle.applyLora(lora, name));
    this.#activate(name);
  }

  /**
   * Loads an adapter of PEFT or mlx-lm, a folder or its name on the hub, in place of one of the same `name` ('default'). It counts from then
   * on; the others stay, and {@link setAdapter} goes back to them.
   */
  async loadAdapter(pathOrId: string, options: { name?: string } = {}): Promise<void> {
    rejectUnknownKeys(options, ['name'], 'loadAdapter()');
    const { name = 'default' } = options;
    const dir = await adapterFolder(pathOrId);
    try {
      await this.handle.loadAdapter(dir, name);
    } catch (error) {
      throw wrapNativeError(error);
    }
    this.#activate(name);
  }

  #activate(name: string): void {
    if (!this.#adapters.includes(name)) this.#adapters.push(name);
    this.#activeAdapter = name;
  }

  /**
   * Lets another adapter count, or with null the base model alone. No weight is read or copied. Running generations go on with it from
   * their next token.
   */
  setAdapter(name: string | null): void {
    guard(() => this.handle.setAdapter(name));
    this.#activeAdapter = name;
  }

  /** Takes an adapter off the model. Was it the one that counted, the base model computes. */
  deleteAdapter(name: string): void {
    guard(() => this.handle.deleteAdapter(name));
    this.#adapters = this.#adapters.filter((other) => other !== name);
    if (this.#activeAdapter === name) this.#activeAdapter = null;
  }

  /** Off: the base model computes although an adapter is active, for a comparison. On: it counts again. */
  setAdapterEnabled(enabled: boolean): void {
    guard(() => this.handle.setAdapterEnabled(enabled));
  }

  /**
   * Merges the active adapter into the weights and takes it off. Quantised weights are unpacked, changed and quantised again as they were;
   * `dequantize` leaves all weights of the model unpacked. Other adapters have to be deleted before.
   */
  async fuse(options: { dequantize?: boolean } = {}): Promise<void> {
    rejectUnknownKeys(options, ['dequantize'], 'fuse()');
    try {
      await this.handle.fuse(options.dequantize ?? false);
    } catch (error) {
      throw wrapNativeError(error);
    }
    this.#adapters = [];
    this.#activeAdapter = null;
  }

  /**
   * Writes the model in the Hugging Face layout, tokenizer files included, so that transformers and mlx-lm can read it. `dir` is
   * complete or untouched, whatever happens. A folder that already holds a checkpoint is replaced. `dtype` is that of numbers and scales
   * in the files; by default the model's.
   */
  async save(dir: string, options: { dtype?: 'float32' | 'bfloat16' | 'float16' } = {}): Promise<void> {
    rejectUnknownKeys(options, ['dtype'], 'save()');
    await writeFolder(dir, (temporary) => this.writeTo(temporary, options.dtype));
  }

  /** Writes only the active adapter, in PEFT's layout or in mlx-lm's. */
  async saveAdapter(dir: string, options: { format?: AdapterFormat } = {}): Promise<void> {
    rejectUnknownKeys(options, ['format'], 'saveAdapter()');
    await writeFolder(dir, (temporary) => this.#writeAdapter(temporary, options.format));
  }

  /** @internal Writes what training changes, the adapter or the whole model, and the tokenizer into an existing folder. */
  async writeTrained(dir: string): Promise<void> {
    if (this.hasAdapter) await this.#writeAdapter(dir);
    else await this.writeTo(dir);
  }

  /** @internal */
  async writeTo(dir: string, dtype?: 'float32' | 'bfloat16' | 'float16'): Promise<void> {
    await this.handle.save(dir, dtype);
    await this.#writeTokenizer(dir);
  }

  async #writeTokenizer(dir: string): Promise<void> {
    if (this.#tokenizer === null) await copyTokenizerFiles(this.path, dir);
    else await this.#tokenizer.writeTo(dir, this.path);
  }

  async #writeAdapter(dir: string, format: AdapterFormat = 'peft'): Promise<void> {
    await this.handle.saveAdapter(dir, this.repoId ?? resolve(this.path), format);
    await this.#writeTokenizer(dir);
  }

  /** Frees the weights. Safe to call twice; using the model afterwards throws ERR_MLX_DISPOSED. */
  dispose(): void {
    this.#native?.dispose();
    this.#native = null;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

export class Qwen2Model extends LanguageModel {}

export class Qwen3Model extends LanguageModel {}
/** Qwen2 with experts, of which a router chooses a few for every token, and one that all tokens share. */
export class Qwen2MoeModel extends LanguageModel {}
/** Qwen3 with experts, of which a router chooses a few for every token. */
export class Qwen3MoeModel extends LanguageModel {}

const modelClasses: Record<string, typeof LanguageModel> = {
  qwen2: Qwen2Model,
  qwen2_moe: Qwen2MoeModel,
  qwen3: Qwen3Model,
  qwen3_moe: Qwen3MoeModel,
};

/** What {@link loadModel} and {@link createModel} give, by the model_type of `config.json`. */
export type AnyModel = Qwen2Model | Qwen2MoeModel | Qwen3Model | Qwen3MoeModel;

/** The class of the model's type, with the folder's tokenizer where it has one. */
async function withTokenizer(handle: NativeModel, path: string, repoId?: string): Promise<LanguageModel> {
  try {
    const tokenizer = await Tokenizer.loadIfThere(path);
    return new (modelClasses[handle.modelType] ?? LanguageModel)(handle, tokenizer, path, repoId);
  } catch (error) {
    handle.dispose();
    throw error;
  }
}

/** The folder of an adapter, from the hub where that is what its name says. */
async function adapterFolder(pathOrId: string, hub: Parameters<typeof resolveModel>[1] = {}): Promise<string> {
  const path = isRepoId(pathOrId) ? (await resolveModel(pathOrId, hub)).path : pathOrId;
  if (!existsSync(join(path, 'adapter_config.json'))) {
    throw new MlxError(
      'ERR_MLX_LOAD',
      `${pathOrId}: there is no adapter_config.json, so this is no adapter folder of PEFT or mlx-lm`,
    );
  }
  return path;
}

/** @internal Loads only the weights of a folder. */
export async function loadNativeModel(path: string, options: LoadOptions): Promise<NativeModel> {
  const { onProgress, quantize } = options;
  const settings =
    quantize === undefined
      ? {}
      : {
          quantize: resolveQuantization(
            quantize,
            () => guard(() => native().NativeModel.layersOf(path)),
            "loadModel()'s quantize",
          ),
        };
  return await withSignal(options.signal, (cancel) =>
    native().NativeModel.load(
      path,
      { dtype: options.dtype ?? 'auto', ...settings },
      cancel,
      onProgress === undefined ? undefined : (loaded, total) => onProgress({ phase: 'load', loaded, total }),
    ),
  );
}

export interface CreateOptions extends TokenizerLoadOptions {
  /** Of the weights. Default 0. */
  seed?: number;
  /** Default 'float32'. */
  dtype?: 'float32' | 'bfloat16' | 'float16';
}

/**
 * A model of random weights, to be trained from nothing: `pathOrId` is a folder with a config.json and a tokenizer, as a checkpoint folder
 * is, but no weights, or the name of a model on the hub, of which config and tokenizer are fetched.
 */
export async function createModel(pathOrId: string, options: CreateOptions = {}): Promise<AnyModel> {
  const { seed = 0, dtype = 'float32', ...hub } = options;
  rejectUnknownKeys(options, ['seed', 'dtype', 'onProgress', 'signal', ...hubKeys], 'createModel()');
  const { path, repoId } = await resolveModel(pathOrId, { ...hub, allowPatterns: ['config.json', ...tokenizerFiles] });
  const config = await readFile(join(path, 'config.json'), 'utf8').catch((error: unknown) => {
    throw new MlxError('ERR_MLX_LOAD', `${path}: config.json cannot be read: ${errorText(error)}`, { cause: error });
  });
  hub.signal?.throwIfAborted();
  return withTokenizer(
    guard(() => native().NativeModel.create(config, seed, dtype)),
    path,
    repoId,
  );
}

/**
 * Loads a checkpoint in the Hugging Face layout: config.json, safetensors weights and, unless only token ids will be used,
 * tokenizer.json. `pathOrId` is a folder, a .gguf file of llama.cpp, or the name of a model on the hub, which is taken from the cache
 * that Python's tools use too, and downloaded into it where that is needed and allowed. The blocks of a .gguf file that MLX computes
 * with (Q4_0, Q4_1, Q8_0) stay packed; others become `dtype`, which is then float16 on a GPU unless it is given.
 *
 * @example
 * using model = await loadModel('Qwen/Qwen3-0.6B');         // Node 24; on Node 20 and 22 call model.dispose() when done
 * const { text } = await model.generate('Hello!');
 */
export async function loadModel(pathOrId: string, options: LoadOptions = {}): Promise<AnyModel> {
  rejectUnknownKeys(options, ['dtype', 'quantize', 'adapter', 'onProgress', 'signal', ...hubKeys], 'loadModel()');
  const { onProgress, signal } = options;
  signal?.throwIfAborted();
  const hub = {
    ...Object.fromEntries(hubKeys.map((key) => [key, options[key]])),
    ...(signal === undefined ? {} : { signal }),
    ...(onProgress === undefined
      ? {}
      : { onProgress: (progress: DownloadProgress) => onProgress({ phase: 'download', ...progress }) }),
  };
  const { path, repoId } = await resolveModel(pathOrId, hub);
  if (!isGguf(path) && !existsSync(join(path, 'config.json'))) {
    throw new MlxError(
      'ERR_MLX_LOAD',
      existsSync(join(path, 'adapter_config.json'))
        ? `${pathOrId}: this is an adapter; load its base model with loadModel(base, { adapter: '${pathOrId}' })`
        : `${pathOrId}: there is no config.json, so this is not a Hugging Face checkpoint folder`,
    );
  }
  // The revision is the model's own.
  const adapter =
    options.adapter === undefined ? undefined : await adapterFolder(options.adapter, { ...hub, revision: 'main' });
  const model = await withTokenizer(await loadNativeModel(path, options), path, repoId);
  if (adapter !== undefined) {
    try {
      await model.loadAdapter(adapter);
    } catch (error) {
      model.dispose();
      throw error;
    }
  }
  return model;
}
