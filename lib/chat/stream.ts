import type { FinishReason } from '../native-types.js';
import type { Speculation, Timings, Usage } from '../stream.js';
import type { ChatMessage } from './messages.js';
import type { ChatDelta, ToolCall } from './types.js';

/** A whole answer. */
export interface ChatResult {
  content: string;
  /** What the model thought before; '' where it did not. */
  reasoning: string;
  toolCalls: ToolCall[];
  /** 'tool_calls': the model stopped after calls, and waits for messages of role 'tool'. */
  finishReason: FinishReason | 'tool_calls';
  /** The answer as the message that the session has added to its history. */
  message: ChatMessage;
  /** The answer as the model wrote it, markers and all. */
  text: string;
  tokens: number[];
  usage: Usage;
  timings: Timings;
  /** With `draftModel`, `promptLookup` or `fastForward`. */
  speculation?: Speculation;
  /** Messages that the context had no room for; they stay in the history. */
  droppedMessages: number;
}

/**
 * An answer of a {@link ChatSession}: await it for the whole, or iterate it for the parts as they come. It begins with either; left
 * early (`break`, an exception, an abort), the answer is stopped and the session is as it was before.
 */
export class ChatStream implements AsyncIterable<ChatDelta>, PromiseLike<ChatResult> {
  readonly #run: () => AsyncGenerator<ChatDelta, ChatResult, undefined>;
  readonly #done: Promise<ChatResult>;
  #resolve!: (result: ChatResult) => void;
  #reject!: (error: unknown) => void;
  #started = false;
  #result: ChatResult | null = null;

  /** @internal Use `session.send(…)`. */
  constructor(run: () => AsyncGenerator<ChatDelta, ChatResult, undefined>) {
    this.#run = run;
    this.#done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Who iterates sees a failure there.
    this.#done.catch(() => undefined);
  }

  /** The whole answer once it has ended by itself, else null. */
  get result(): ChatResult | null {
    return this.#result;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ChatDelta, void, undefined> {
    if (this.#started) throw new TypeError('an answer can be iterated once; call send() again');
    this.#started = true;
    try {
      this.#result = yield* this.#run();
      this.#resolve(this.#result);
    } catch (error) {
      this.#reject(error);
      throw error;
    } finally {
      if (this.#result === null) this.#reject(new Error('the answer was left before its end'));
    }
  }

  /** Runs to the end and returns the whole answer. */
  async collect(): Promise<ChatResult> {
    if (!this.#started) for await (const delta of this) void delta;
    return await this.#done;
  }

  // oxlint-disable-next-line unicorn/no-thenable -- an answer can be awaited as a whole
  then<A = ChatResult, B = never>(
    onFulfilled?: ((result: ChatResult) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.collect().then(onFulfilled, onRejected);
  }
}
