import { readFile } from 'node:fs/promises';
import { PrefixCache } from '../cache/prompt.js';
import { errorText, MlxError } from '../errors.js';
import { replaceFile, saveError } from '../files.js';
import { rejectUnknownKeys } from '../options.js';
import { generateKeys } from '../sampling.js';
import type { GenerateOptions } from '../sampling.js';
import type { GenerateChunk, GenerateResult } from '../stream.js';
import type { Tokenizer } from '../tokenizer.js';
import { contextError, contextShifts, turnsToDrop } from './context.js';
import type { ContextShift } from './context.js';
import { isRecord } from './json.js';
import { templateMessages } from './messages.js';
import type { ChatMessage } from './messages.js';
import { ChatParser } from './parser.js';
import { ChatStream } from './stream.js';
import type { ChatResult } from './stream.js';
import { functionOf } from './types.js';
import type { ChatDelta, Tool } from './types.js';

/** What a session needs of a model; every language model of this package has it. */
export interface ChatModel {
  readonly tokenizer: Tokenizer;
  /** Most tokens of prompt and answer together. */
  readonly contextLength: number;
  stream(prompt: readonly number[], options: GenerateOptions): ChatModelStream;
}

/** The part of a `GenerateStream` that a session uses. */
export interface ChatModelStream extends AsyncIterable<Pick<GenerateChunk, 'text'>> {
  /** The whole answer, once the stream has ended by itself. */
  readonly result: Pick<
    GenerateResult,
    'text' | 'tokens' | 'finishReason' | 'usage' | 'timings' | 'speculation'
  > | null;
}

/** Options of one answer. `maxTokens` defaults to what the context has room for. */
export interface SendOptions extends Omit<GenerateOptions, 'raw' | 'tools' | 'n' | 'promptCache' | 'prefixCache'> {
  /** Functions that the model may call. */
  tools?: readonly Tool[];
  /** 'none': the model is not told of the tools, and calls are text. Default 'auto'. */
  toolChoice?: 'auto' | 'none';
}

export interface ChatSessionOptions extends Omit<SendOptions, 'signal'> {
  /** First message of the conversation, of role 'system'. */
  systemPrompt?: string;
  /** An earlier conversation to go on with, `systemPrompt` not included. */
  messages?: readonly ChatMessage[];
  /** Most tokens of prompt and answer together. Default: the model's context. */
  maxContext?: number;
  /** What to do when the conversation outgrows that. Default 'error'. */
  contextShift?: ContextShift;
  /**
   * Keeps what the model remembers of the conversation, so that a turn reads only what is new. Default true; a {@link PrefixCache} is shared
   * with whoever else has it. A `draftModel` reads every prompt as a whole.
   */
  prefixCache?: boolean | PrefixCache;
}

// A session has one answer to a message.
const sendKeys = [
  ...generateKeys.filter((key) => !['raw', 'n', 'promptCache', 'prefixCache'].includes(key)),
  'toolChoice',
];
const sessionKeys = [
  ...sendKeys.filter((key) => key !== 'signal'),
  'systemPrompt',
  'messages',
  'maxContext',
  'contextShift',
  'prefixCache',
];

/** So many branches of a conversation (regenerated answers, forks) are remembered. */
const branches = 4;

const format = 'mlx-node chat';

/** True for an option that JSON can hold. */
const plain = (key: string, value: unknown): boolean =>
  key !== 'draftModel' &&
  !(value instanceof PrefixCache) &&
  typeof value !== 'function' &&
  !(Array.isArray(value) && value.some((item) => typeof item === 'function'));

interface Seen {
  text: string;
  ids: readonly number[];
}

/**
 * A conversation with a model: it keeps the history, renders the prompt, and takes the answers apart into content, reasoning and calls
 * of tools. One answer at a time.
 *
 * @example
 * const session = new ChatSession(model, { systemPrompt: 'Be brief.' });
 * const { content } = await session.send('Why is the sky blue?');
 * for await (const part of session.send('And at dusk?')) if (part.type === 'content') process.stdout.write(part.text);
 */
export class ChatSession {
  readonly model: ChatModel;
  #options: Omit<ChatSessionOptions, 'messages' | 'systemPrompt'>;
  #messages: ChatMessage[];
  /** Indices of messages that the context had no room for. */
  #dropped: ReadonlySet<number> = new Set();
  #busy = false;
  /** The last prompt and its answer: the tokens that the model has seen and made, and their text. */
  #seen: Seen | null = null;
  /** What the model remembers of the conversation. */
  #prefixCache: PrefixCache | undefined;

  constructor(model: ChatModel, options: ChatSessionOptions = {}) {
    rejectUnknownKeys(options, sessionKeys, 'ChatSession');
    const { systemPrompt, messages = [], ...rest } = options;
    checkOptions(rest, model.contextLength);
    this.model = model;
    this.#options = rest;
    const { prefixCache = true } = rest;
    this.#prefixCache = prefixCache === true ? new PrefixCache({ maxEntries: branches }) : prefixCache || undefined;
    this.#messages = [
      ...(systemPrompt === undefined ? [] : [{ role: 'system', content: systemPrompt }]),
      ...structuredClone(messages),
    ];
    if (this.#messages.length > 0) templateMessages(this.#messages);
  }

  /** The history: a copy, in OpenAI's form, the system message included. */
  get messages(): ChatMessage[] {
    return structuredClone(this.#messages);
  }

  /** Most tokens of prompt and answer together. */
  get maxContext(): number {
    return this.#options.maxContext ?? this.model.contextLength;
  }

  /**
   * Sends a user's message, or messages of any kind, such as the results of tools, and returns the answer, to be awaited or iterated.
   * When it has ended, and not before, the history holds the messages and the answer.
   *
   * @throws ERR_MLX_CONTEXT_LENGTH when the conversation has outgrown the context and `contextShift` does not help.
   */
  send(input: string | ChatMessage | readonly ChatMessage[], options: SendOptions = {}): ChatStream {
    const added: ChatMessage[] =
      typeof input === 'string'
        ? [{ role: 'user', content: input }]
        : structuredClone(Array.isArray(input) ? input : [input]);
    if (added.length === 0) throw new MlxError('ERR_MLX_ARGUMENT', 'send() needs a message: the list is empty');
    templateMessages(added);
    if (added.at(-1)!.role === 'assistant')
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        "send() asks for an answer: the last message must not be of role 'assistant'",
      );
    return this.#answer(() => [...this.#messages, ...added], options, 'send()');
  }

  /** Answers the last message once more; the new answer takes the place of the old one when it is complete. */
  regenerate(options: SendOptions = {}): ChatStream {
    if (this.#messages.at(-1)?.role !== 'assistant')
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        'regenerate() needs an answer to replace: the history does not end with one',
      );
    return this.#answer(() => this.#messages.slice(0, -1), options, 'regenerate()');
  }

  /** Another session with the same history and options, which goes its own way from here. */
  fork(): ChatSession {
    const copy = new ChatSession(this.model, { ...this.#options, messages: this.#messages });
    copy.#dropped = new Set(this.#dropped);
    copy.#seen = this.#seen;
    copy.#prefixCache = this.#prefixCache;
    return copy;
  }

  /** Forgets the conversation but for the system message at its beginning. */
  reset(): void {
    this.#requireIdle();
    const [first] = this.#messages;
    this.#messages = first?.role === 'system' ? [first] : [];
    this.#dropped = new Set();
    this.#seen = null;
    this.dispose();
  }

  /** Frees what the model remembers of the conversation, unless others share it. The session goes on; its next turn reads all of it. */
  dispose(): void {
    if (!(this.#options.prefixCache instanceof PrefixCache)) this.#prefixCache?.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** History and options, for JSON. Options that are functions or models have to be given again to {@link ChatSession.load}. */
  toJSON(): object {
    return {
      format,
      version: 1,
      options: Object.fromEntries(Object.entries(this.#options).filter(([key, value]) => plain(key, value))),
      messages: this.messages,
      dropped: [...this.#dropped],
    };
  }

  /** Writes the session to a file that is the old one or complete at any moment. */
  async save(path: string): Promise<void> {
    try {
      await replaceFile(path, `${JSON.stringify(this, null, 2)}\n`);
    } catch (error) {
      throw saveError(path, error);
    }
  }

  /** The session of a file that {@link ChatSession.save} wrote, with `options` in place of what it says. */
  static async load(
    model: ChatModel,
    path: string,
    options: Omit<ChatSessionOptions, 'messages' | 'systemPrompt'> = {},
  ): Promise<ChatSession> {
    let saved: unknown;
    try {
      saved = JSON.parse(await readFile(path, 'utf8'));
    } catch (error) {
      throw new MlxError('ERR_MLX_LOAD', `${path}: cannot be read: ${errorText(error)}`, { cause: error });
    }
    if (
      !isRecord(saved) ||
      saved['format'] !== format ||
      !Array.isArray(saved['messages']) ||
      !isRecord(saved['options'])
    )
      throw new MlxError('ERR_MLX_LOAD', `${path}: this is not a session that ChatSession.save() wrote`);
    if (saved['version'] !== 1)
      throw new MlxError(
        'ERR_MLX_LOAD',
        `${path}: a session of version ${String(saved['version'])}, which this version does not know`,
      );
    const session = new ChatSession(model, {
      ...(saved['options'] as ChatSessionOptions),
      ...options,
      messages: saved['messages'] as ChatMessage[],
    });
    if (Array.isArray(saved['dropped'])) session.#dropped = new Set(saved['dropped'] as number[]);
    return session;
  }

  #requireIdle(): void {
    if (this.#busy)
      throw new MlxError('ERR_MLX_ARGUMENT', 'this session is answering; wait for the answer, or fork() the session');
  }

  #answer(conversation: () => ChatMessage[], options: SendOptions, where: string): ChatStream {
    rejectUnknownKeys(options, sendKeys, where);
    const merged = { ...this.#options, ...options };
    checkOptions(merged, this.model.contextLength);
    return new ChatStream(() => this.#generate(conversation, merged));
  }

  async *#generate(
    conversation: () => ChatMessage[],
    { toolChoice, contextShift, signal, ...options }: Omit<ChatSessionOptions, 'messages'> & SendOptions,
  ): AsyncGenerator<ChatDelta, ChatResult, undefined> {
    this.#requireIdle();
    this.#busy = true;
    try {
      signal?.throwIfAborted();
      const tools = toolChoice === 'none' ? [] : (options.tools ?? []);
      const messages = conversation();
      const prompt = await this.#prompt(messages, { ...options, tools }, contextShift ?? 'error');
      const room = this.maxContext - prompt.ids.length;
      const {
        tools: _t,
        enableThinking: _e,
        chatTemplateOptions: _c,
        maxContext: _m,
        prefixCache: _p,
        ...sampling
      } = options;
      const stream = this.model.stream(prompt.ids, {
        ...sampling,
        ...(this.#prefixCache === undefined ? {} : { prefixCache: this.#prefixCache }),
        maxTokens: Math.min(options.maxTokens ?? room, room),
        ...(signal === undefined ? {} : { signal }),
      });
      const parser = new ChatParser({ tools, insideThinking: /<think>\s*$/.test(prompt.text) });
      for await (const chunk of stream) yield* parser.push(chunk.text);
      yield* parser.finish();

      const { text, tokens, finishReason, usage, timings, speculation } = stream.result!;
      const { content, reasoning, toolCalls } = parser.answer;
      const message: ChatMessage = {
        role: 'assistant',
        content: content === '' && toolCalls.length > 0 ? null : content,
      };
      if (reasoning !== '') message.reasoning_content = reasoning;
      if (toolCalls.length > 0) message.tool_calls = structuredClone(toolCalls);
      this.#messages = [...messages, message];
      this.#dropped = prompt.dropped;
      this.#seen = this.#seenAfter(prompt, tokens);
      return {
        content,
        reasoning,
        toolCalls,
        finishReason: finishReason === 'stop' && toolCalls.length > 0 ? 'tool_calls' : finishReason,
        message: structuredClone(message),
        text,
        tokens,
        usage,
        timings,
        ...(speculation === undefined ? {} : { speculation }),
        droppedMessages: prompt.droppedMessages,
      };
    } finally {
      this.#busy = false;
    }
  }

  /** The prompt of a conversation, shortened as `policy` says where it does not fit. */
  async #prompt(
    messages: readonly ChatMessage[],
    options: SendOptions & { tools: readonly Tool[] },
    policy: ContextShift,
  ): Promise<Seen & { dropped: ReadonlySet<number>; droppedMessages: number }> {
    const { maxContext } = this;
    const render = (list: readonly ChatMessage[]): Seen => this.#render(list, options);
    const count = (list: readonly ChatMessage[]): number => render(list).ids.length;
    const kept = (out: ReadonlySet<number>): ChatMessage[] => messages.filter((_, i) => !out.has(i));
    let dropped = this.#dropped;
    let prompt = render(kept(dropped));
    let droppedMessages = dropped.size;
    // An answer of one token is none: a policy that can make room makes room for a quarter of the context, or for all that is asked for.
    const reserve =
      policy === 'error' ? 1 : Math.max(1, Math.min(options.maxTokens ?? Infinity, Math.floor(maxContext / 4)));
    const limit = maxContext - reserve;
    if (prompt.ids.length > limit && policy !== 'error') {
      if (typeof policy === 'function') {
        const request = {
          messages: structuredClone(messages),
          promptTokens: prompt.ids.length,
          maxPromptTokens: limit,
          countTokens: count,
        };
        const shorter = await policy(request);
        prompt = render(shorter);
        droppedMessages = Math.max(0, messages.length - shorter.length);
      } else {
        const out = turnsToDrop(messages, dropped, policy === 'truncate-middle', limit, count);
        if (out !== null) {
          dropped = out;
          droppedMessages = out.size;
          prompt = render(kept(out));
        }
      }
    }
    if (prompt.ids.length >= maxContext) throw contextError(prompt.ids.length, maxContext, policy !== 'error');
    return { ...prompt, dropped, droppedMessages };
  }

  #render(
    messages: readonly ChatMessage[],
    { tools, enableThinking, chatTemplateOptions }: SendOptions & { tools: readonly Tool[] },
  ): Seen {
    const { tokenizer } = this.model;
    const text = tokenizer.applyChatTemplate(templateMessages(messages), {
      ...chatTemplateOptions,
      ...(enableThinking === undefined ? {} : { enableThinking }),
      ...(tools.length === 0 ? {} : { tools }),
    });
    const seen = this.#seen;
    // The tokens that the model made itself, where the prompt goes on from them: a text may be split into tokens in several ways, and
    // what has been computed for its beginning holds only for the same ones. Before an end-of-turn token nothing can merge.
    if (seen !== null && text.startsWith(seen.text)) {
      const rest = text.slice(seen.text.length);
      const ends = tokenizer.eosTokenIds.map((id) => tokenizer.decode([id], { skipSpecialTokens: false }));
      if (ends.some((end) => end !== '' && rest.startsWith(end)))
        return { text, ids: [...seen.ids, ...tokenizer.encode(rest, { addSpecialTokens: false })] };
    }
    return { text, ids: tokenizer.encode(text, { addSpecialTokens: false }) };
  }

  /** The prompt and the answer to it, without the token that ended it. */
  #seenAfter(prompt: Seen, tokens: readonly number[]): Seen {
    const { tokenizer } = this.model;
    const ended = tokenizer.eosTokenIds.includes(tokens.at(-1) ?? -1);
    const answer = ended ? tokens.slice(0, -1) : tokens;
    return {
      text: prompt.text + tokenizer.decode(answer, { skipSpecialTokens: false }),
      ids: [...prompt.ids, ...answer],
    };
  }
}

const wrong = (text: string): MlxError => new MlxError('ERR_MLX_CONFIG', text);

function checkOptions(
  { maxContext, contextShift, tools, toolChoice, prefixCache }: ChatSessionOptions,
  contextLength: number,
): void {
  if (prefixCache !== undefined && typeof prefixCache !== 'boolean' && !(prefixCache instanceof PrefixCache))
    throw wrong(`prefixCache must be true, false or a PrefixCache, got ${JSON.stringify(prefixCache)}`);
  if (maxContext !== undefined && (!Number.isInteger(maxContext) || maxContext < 1 || maxContext > contextLength))
    throw wrong(
      `maxContext must be a whole number from 1 to the model's context of ${contextLength}, got ${String(maxContext)}`,
    );
  if (contextShift !== undefined && typeof contextShift !== 'function' && !contextShifts.includes(contextShift))
    throw wrong(
      `contextShift must be ${contextShifts.map((name) => `'${name}'`).join(', ')} or a function, got ${JSON.stringify(contextShift)}`,
    );
  if (toolChoice !== undefined && toolChoice !== 'auto' && toolChoice !== 'none')
    throw wrong(
      `toolChoice must be 'auto' or 'none', got ${JSON.stringify(toolChoice)}; a model cannot be made to call a tool here`,
    );
  if (tools === undefined) return;
  if (!Array.isArray(tools))
    throw wrong('tools must be an array of { type: "function", function: { name, description, parameters } }');
  (tools as readonly unknown[]).forEach((tool, i) => {
    if (!isRecord(tool) || typeof functionOf(tool as unknown as Tool).name !== 'string')
      throw wrong(
        `tools[${i}] must be { type: "function", function: { name, description, parameters } }, got ${JSON.stringify(tool)}`,
      );
  });
}
