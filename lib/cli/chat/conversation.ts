import { ChatSession } from '../../chat/index.js';
import type { ChatMessage, ChatModel, ChatSessionOptions, ChatStream, ContextShift } from '../../chat/index.js';
import { PrefixCache } from '../../cache/index.js';
import type { KvCacheOptions } from '../../cache/index.js';
import { templateMessages } from '../../chat/messages.js';
import { MlxError } from '../../errors.js';
import type { RequestOptions, SpeculationOptions } from '../../request-options.js';
import type { ChatTemplateOptions } from '../../tokenizer.js';
import { UsageError } from '../io.js';
import { settingNames } from '../sampling.js';
import type { Settings } from '../sampling.js';

export interface ConversationOptions
  extends SpeculationOptions, KvCacheOptions, Pick<RequestOptions, 'responseFormat' | 'formatAfterThinking'> {
  system?: string;
  maxContext?: number;
  contextShift: ContextShift;
  chatTemplateOptions?: ChatTemplateOptions;
  /** Of sampling. */
  settings: Settings;
}

/** A session that a person can change: settings, system message, turns taken back. */
export class Conversation {
  readonly #model: ChatModel;
  readonly #options: Omit<ChatSessionOptions, 'systemPrompt' | 'messages'>;
  readonly #known = new PrefixCache({ maxEntries: 4 });
  #session: ChatSession;
  settings: Settings;

  constructor(model: ChatModel, { system, settings, ...options }: ConversationOptions) {
    this.#model = model;
    // One for all sessions, which are made anew when something is taken back.
    this.#options = { ...options, prefixCache: this.#known };
    this.settings = settings;
    this.#session = this.#start(system === undefined ? [] : [{ role: 'system', content: system }]);
  }

  get messages(): ChatMessage[] {
    return this.#session.messages;
  }

  get maxContext(): number {
    return this.#session.maxContext;
  }

  /** The system message; undefined without one. */
  get system(): string | undefined {
    const [first] = this.messages;
    return first?.role === 'system' ? (first.content as string) : undefined;
  }

  /** Puts a system message in place of the present one; '' removes it. The turns stay. */
  set system(content: string) {
    const turns = this.messages.filter(({ role }, i) => i > 0 || role !== 'system');
    this.#session = this.#start([...(content === '' ? [] : [{ role: 'system', content }]), ...turns]);
  }

  /** A message to be answered; without one, the last message is answered anew. */
  answer(message: string | undefined, signal: AbortSignal): ChatStream {
    const options = { ...this.settings, signal };
    if (message !== undefined) return this.#session.send(message, options);
    if (this.messages.at(-1)?.role !== 'assistant') throw new UsageError('there is no answer yet to be written anew');
    return this.#session.regenerate(options);
  }

  /** Keeps the beginning of an answer that was stopped, with the message it answers, or in place of the last answer. */
  keep(message: string | undefined, content: string, reasoning: string): void {
    const before = this.messages;
    const turns: ChatMessage[] =
      message === undefined ? before.slice(0, -1) : [...before, { role: 'user', content: message }];
    const answer: ChatMessage = { role: 'assistant', content };
    if (reasoning !== '') answer.reasoning_content = reasoning;
    this.#session = this.#start([...turns, answer]);
  }

  /** Takes the last message and its answer back; the message. */
  undo(): string {
    const { messages } = this;
    const at = messages.findLastIndex(({ role }) => role === 'user');
    if (at < 0) throw new UsageError('there is nothing to undo');
    this.#session = this.#start(messages.slice(0, at));
    const { content } = messages[at]!;
    return typeof content === 'string' ? content : '';
  }

  clear(): void {
    this.#session.reset();
    this.#known.clear();
  }

  /** Writes messages and settings to a file. */
  async save(path: string): Promise<void> {
    const session = new ChatSession(this.#model, { ...this.#options, ...this.settings, messages: this.messages });
    await session.save(path);
  }

  /** Takes messages and settings of a file. */
  async load(path: string): Promise<void> {
    const loaded = await ChatSession.load(this.#model, path, this.#options);
    const { options } = loaded.toJSON() as { options: Record<string, unknown> };
    this.#session = this.#start(loaded.messages);
    this.settings = Object.fromEntries(
      settingNames.map((name) => [name, options[name]]).filter(([, v]) => v !== undefined),
    );
  }

  /** Tokens of the conversation so far, as a prompt. */
  get tokens(): number {
    const { messages } = this;
    if (messages.length === 0) return 0;
    try {
      return this.#model.tokenizer.encodeChat(templateMessages(messages), this.#options.chatTemplateOptions).length;
    } catch (error) {
      // Some templates want a user's message.
      if (MlxError.isInstance(error, 'ERR_MLX_TEMPLATE')) return 0;
      throw error;
    }
  }

  #start(messages: readonly ChatMessage[]): ChatSession {
    return new ChatSession(this.#model, { ...this.#options, messages });
  }
}
