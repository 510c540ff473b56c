import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type {
  EngineEvents,
  NativeGrpoBatch,
  NativeBatchResult,
  NativeCancel,
  NativeEngineOptions,
  NativeGenerateOptions,
  NativeLossOptions,
  NativeModule,
  TrainRow,
} from '../../lib/native-types.ts';

/** Calls that the fake has seen, for tests to look at; cleared by `resetFake`. */
export const calls: {
  microSteps: { batch: NativeGrpoBatch; options: NativeLossOptions }[];
  logprobs: boolean[];
  closed: number;
  engines: { limits: NativeEngineOptions; draft: FakeModel | undefined }[];
} = {
  microSteps: [],
  logprobs: [],
  closed: 0,
  engines: [],
};

/** Faults that a test can switch on. */
export const faults: { microStep?: Error; save?: Error; gradNorm?: number } = {};

export function resetFake(): void {
  calls.microSteps = [];
  calls.logprobs = [];
  calls.closed = 0;
  calls.engines = [];
  delete faults.microStep;
  delete faults.save;
  delete faults.gradNorm;
}

class Cancel implements NativeCancel {
  cancelled = false;
  cancel(): void {
    this.cancelled = true;
  }
}

const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function throwIfCancelled(cancel: NativeCancel | undefined): void {
  if ((cancel as Cancel | undefined)?.cancelled === true)
    throw Object.assign(new Error('cancelled'), { code: 'ERR_MLX_CANCELLED' });
}

/** A "model" of four numbers; it writes letters that depend on them, on the seed, and on the prompt. */
export class FakeModel {
  modelType = 'qwen3';
  dtype = 'float32';
  configJson = '{"model_type":"qwen3"}';
  generationConfigJson = '{}';
  numParameters = 4;
  numTrainable = 4;
  vocabSize = 128;
  contextLength = 64;
  eosTokenIds = [0];
  disposed = false;
  weights: number[];

  constructor(weights: number[]) {
    this.weights = weights;
  }

  forward(): never {
    throw Object.assign(new Error('inputIds must have two dimensions, got shape [3]'), { code: 'ERR_MLX_SHAPE' });
  }

  parameterNames(): string[] {
    return ['w'];
  }

  parameter(): never {
    throw new Error('not in the fake');
  }

  createEngine(limits: NativeEngineOptions = {}, draft?: FakeModel) {
    calls.engines.push({ limits, draft });
    const guesses = draft !== undefined || limits.promptLookup !== undefined;
    const requests = new Map<number, { promptTokens: number; maxTokens: number; made: number }>();
    let submitted = 0;
    return {
      submit(promptIds: number[], { maxTokens = 256 }: NativeGenerateOptions) {
        requests.set(submitted, { promptTokens: promptIds.length, maxTokens, made: 0 });
        return submitted++;
      },
      cancel: (request: number) => void requests.delete(request),
      async next(): Promise<EngineEvents> {
        await pause();
        const events: EngineEvents = { prefills: [], tokens: [], finished: [], failed: [], unprocessed: [] };
        for (const [request, state] of requests) {
          state.made += 1;
          const last = state.made >= state.maxTokens;
          const [token, text] = [96 + state.made, String.fromCharCode(96 + state.made)];
          const end = last ? ({ finishReason: 'length' } as const) : {};
          events.tokens.push({ request, sample: 0, token, logprob: -1, text, ...end });
          if (!last) continue;
          requests.delete(request);
          const { promptTokens, made: generatedTokens } = state;
          const guessed = guesses
            ? { draftTokens: 8, acceptedTokens: 6, plainTokens: 0 }
            : { draftTokens: 0, acceptedTokens: 0, plainTokens: 0 };
          const counts = { promptTokens, cachedTokens: 0, generatedTokens };
          events.finished.push({ request, ...counts, promptMs: 10, decodeMs: 20, ...guessed });
        }
        return events;
      },
      close: () => void (calls.closed += 1),
    };
  }

  async generateBatch(
    promptIds: number[][],
    options: NativeGenerateOptions & { maxTokens: number },
    cancel?: NativeCancel,
  ): Promise<NativeBatchResult> {
    await pause();
    throwIfCancelled(cancel);
    const tokens: number[][] = [];
    let state = (options.seed ?? 0) + Math.round((this.weights[0] ?? 0) * 1e6);
    for (const ids of promptIds) {
      for (let g = 0; g < (options.n ?? 1); g++) {
        state = (Math.imul(state, 1103515245) + 12345 + (ids[0] ?? 0)) >>> 0;
        const length = 1 + ((state >>> 8) % options.maxTokens);
        const row = Array.from({ length }, (_, i) => 97 + ((state >>> (i % 16)) % 26));
        if (length < options.maxTokens) row[length - 1] = 0;
        tokens.push(row);
      }
    }
    return {
      tokens,
      logprobs: tokens.map((row) => row.map(() => -1)),
      finishReasons: tokens.map((row) => (row.at(-1) === 0 ? 'stop' : 'length')),
      promptTokens: promptIds.flat().length,
      cachedTokens: 0,
      generatedTokens: tokens.flat().length,
      steps: options.maxTokens,
      prefillMs: 1,
      decodeMs: 2,
    };
  }

  applyLora(): void {
    this.numTrainable = 1;
  }

  async loadAdapter(dir: string): Promise<void> {
    this.weights = readWeights(join(dir, 'adapter_model.safetensors'));
  }

  async saveAdapter(dir: string): Promise<void> {
    writeFileSync(join(dir, 'adapter_config.json'), '{}');
    writeFileSync(join(dir, 'adapter_model.safetensors'), JSON.stringify(this.weights));
  }

  async save(dir: string): Promise<void> {
    writeFileSync(join(dir, 'config.json'), this.configJson);
    writeFileSync(join(dir, 'model.safetensors'), JSON.stringify(this.weights));
    if (faults.save !== undefined) throw faults.save;
  }

  dispose(): void {
    this.disposed = true;
  }
}

function readWeights(path: string): number[] {
  return JSON.parse(readFileSync(path, 'utf8')) as number[];
}

class FakeTrainer {
  readonly #model: FakeModel;
  #gradient = 0;
  #momentum = 0;

  constructor(model: FakeModel) {
    this.#model = model;
  }

  async logprobs(rows: TrainRow[], options: { reference?: boolean }) {
    calls.logprobs.push(options.reference ?? false);
    return { logprobs: rows.map((row) => row.completionIds.map((id) => -id / 100)) };
  }

  async grpoMicroStep(batch: NativeGrpoBatch, options: NativeLossOptions, cancel?: NativeCancel) {
    await pause();
    throwIfCancelled(cancel);
    if (faults.microStep !== undefined) throw faults.microStep;
    calls.microSteps.push({ batch, options });
    const gradient = batch.rows.reduce((sum, row, i) => sum + batch.advantages[i]! * (row.completionIds[0] ?? 0), 0);
    this.#gradient += gradient / options.gradientAccumulationSteps;
    return { loss: gradient, tokens: 1, metrics: { entropy: 2 } };
  }

  async sftMicroStep(rows: { ids: number[]; mask: number[] }[], { numItemsInBatch }: { numItemsInBatch: number }) {
    this.#gradient += rows.length;
    const tokens = rows.reduce((sum, { mask }) => sum + mask.reduce((a, b) => a + b, 0), 0);
    return { loss: tokens / numItemsInBatch, tokens, metrics: {} };
  }

  async optimizerStep({ learningRate }: { learningRate: number }) {
    const gradNorm = faults.gradNorm ?? Math.abs(this.#gradient);
    const skipped = !Number.isFinite(gradNorm);
    if (!skipped) {
      this.#momentum = 0.9 * this.#momentum + this.#gradient;
      this.#model.weights = this.#model.weights.map((w) => w - learningRate * this.#momentum);
    }
    this.#gradient = 0;
    return { gradNorm, skipped };
  }

  async save(dir: string): Promise<void> {
    writeFileSync(join(dir, 'optimizer.safetensors'), JSON.stringify([this.#momentum]));
  }

  async load(dir: string): Promise<void> {
    this.#momentum = readWeights(join(dir, 'optimizer.safetensors'))[0]!;
  }

  async discardGradients(): Promise<void> {
    this.#gradient = 0;
  }

  dispose(): void {}
}

const tokenizer = {
  encode: (text: string) => [...text].map((c) => c.charCodeAt(0)),
  decode: (ids: number[]) => String.fromCharCode(...ids.filter((id) => id !== 0)),
  applyChatTemplate: (messagesJson: string, optionsJson: string) => {
    const messages = JSON.parse(messagesJson) as { role: string; content: string }[];
    const { add_generation_prompt: open } = JSON.parse(optionsJson) as { add_generation_prompt: boolean };
    return messages.map(({ role, content }) => `<${role}>${content}`).join('') + (open ? '<assistant>' : '');
  },
  prepareFormat: async () => undefined,
  decodeStream: () => ({ push: (id: number) => (id === 0 ? '' : String.fromCharCode(id)), finish: () => '' }),
  eosTokenIds: [0],
  padTokenId: null,
  vocabSize: 128,
  hasChatTemplate: true,
};

const fake = {
  Cancel,
  buildInfo: () => ({ flavour: 'cpu', device: 'cpu', mlxVersion: '0.0', blas: 'fake', compileAvailable: true }),
  memoryStats: () => ({ active: 0, cache: 0, peak: 2e9, limit: 4e9 }),
  resetPeakMemory: () => {},
  clearCache: () => {},
  setCacheLimit: () => {},
  setMemoryLimit: () => {},
  NativeTokenizer: {
    load: async () => tokenizer,
    loadIfThere: async (path: string) => (existsSync(join(path, 'tokenizer.json')) ? tokenizer : null),
  },
  NativeModel: {
    load: async (dir: string) => {
      const file = join(dir, 'model.safetensors');
      return new FakeModel(existsSync(file) ? readWeights(file) : [1, 2, 3, 4]);
    },
  },
  NativeTrainer: FakeTrainer,
  NativePrefixCache: class {
    size = 0;
    nbytes = 0;
    clear(): void {}
  },
  core: { fromBytes: () => 1, release: () => undefined },
  ops: {},
  random: {},
  rl: {},
  loss: {},
  transforms: {},
  computeAdvantages: (rewards: number[][], { numGenerations }: { numGenerations: number }) => {
    const sums = rewards.map((row) => row.reduce((a, b) => a + (Number.isNaN(b) ? 0 : b), 0));
    const advantages = sums.map((value, i) => {
      const start = i - (i % numGenerations);
      const group = sums.slice(start, start + numGenerations);
      return value - group.reduce((a, b) => a + b, 0) / numGenerations;
    });
    return { advantages };
  },
};

export const native = (): NativeModule => fake as unknown as NativeModule;
