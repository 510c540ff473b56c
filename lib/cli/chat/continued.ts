import type { ModelCache } from '../../cache/index.js';
import type { ChatModel, ChatModelStream } from '../../chat/index.js';
import type { LanguageModel } from '../../model.js';
import type { GenerateOptions } from '../../sampling.js';
import type { GenerateResult } from '../../stream.js';
import type { Tokenizer } from '../../tokenizer.js';
import { UsageError } from '../io.js';
import { beforeMessage } from '../prompt.js';

/** So many branches of a conversation are remembered. */
const most = 4;

/** What was read behind the beginning, and the caches that have read it. */
interface Branch {
  ids: readonly number[];
  caches: ModelCache;
}

/**
 * A model that has read the beginning of a conversation, whose last message was left open: a conversation's first message goes on from there.
 * What comes behind is remembered, so that each turn reads only what is new.
 */
export class ContinuedModel implements ChatModel {
  readonly #model: LanguageModel;
  readonly #beginning: Branch;
  /** The latest is the last. */
  readonly #branches: Branch[] = [];

  constructor(model: LanguageModel, caches: ModelCache) {
    this.#model = model;
    this.#beginning = { ids: [], caches };
  }

  get tokenizer(): Tokenizer {
    return this.#model.tokenizer;
  }

  /** What the beginning leaves of the model's context. */
  get contextLength(): number {
    return Math.max(1, this.#model.contextLength - this.#beginning.caches[0]!.offset);
  }

  stream(prompt: readonly number[], given: GenerateOptions): ChatModelStream {
    // What is remembered here takes the place of the session's own memory.
    const { prefixCache: _, ...options } = given;
    const ids = this.#rest(prompt, options);
    const { caches, known } = this.#begin(ids);
    const stream = this.#model.stream(ids.slice(known), { ...options, promptCache: caches });
    let result: GenerateResult | null = null;
    const iterate = async function* (this: ContinuedModel) {
      yield* stream;
      const whole = stream.result!;
      const usage = { ...whole.usage, promptTokens: ids.length, cachedTokens: known };
      result = { ...whole, usage };
      this.#remember([...ids, ...whole.tokens], caches);
    };
    const chunks = iterate.call(this);
    return {
      [Symbol.asyncIterator]: () => chunks,
      get result() {
        return result;
      },
    };
  }

  /** Tokens of a prompt behind what stands before the first message. */
  #rest(prompt: readonly number[], options: GenerateOptions): number[] {
    const { tokenizer } = this;
    const before = beforeMessage(tokenizer, options);
    const ids = tokenizer.encode(before, { addSpecialTokens: false });
    if (ids.every((id, i) => id === prompt[i])) return prompt.slice(ids.length);
    const text = tokenizer.decode([...prompt], { skipSpecialTokens: false });
    if (text.startsWith(before)) return tokenizer.encode(text.slice(before.length), { addSpecialTokens: false });
    throw new UsageError(
      'a system message cannot be combined with --prompt-cache-file, which holds the beginning of the conversation; /system "" removes it',
    );
  }

  /** Caches that have read most of what `ids` begin with, to be appended to, and how much that is; the last is left to read. */
  #begin(ids: readonly number[]): { caches: ModelCache; known: number } {
    let best: { branch: Branch; known: number } = { branch: this.#beginning, known: 0 };
    for (const branch of this.#branches) {
      let known = 0;
      while (known < Math.min(ids.length - 1, branch.ids.length) && ids[known] === branch.ids[known]) known += 1;
      const whole = known === branch.ids.length;
      if (known > best.known && (whole || branch.caches.every((layer) => layer.isTrimmable))) best = { branch, known };
    }
    const caches = best.branch.caches.map((layer) => layer.copy());
    const extra = best.branch.ids.length - best.known;
    if (extra > 0) for (const layer of caches) layer.trim(extra);
    return { caches, known: best.known };
  }

  #remember(ids: readonly number[], caches: ModelCache): void {
    const read = caches[0]!.offset - this.#beginning.caches[0]!.offset;
    this.#branches.push({ ids: ids.slice(0, read), caches });
    if (this.#branches.length > most) this.#branches.shift();
  }
}
