import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { guard, wrapNativeError } from './errors.js';
import { copyTokenizerFiles, isGguf, tokenizerFiles } from './files.js';
import type { DownloadProgress } from './hub/progress.js';
import { resolveModel } from './hub/resolve.js';
import { hubKeys } from './hub/snapshot.js';
import type { HubOptions } from './hub/snapshot.js';
import { native } from './native.js';
import type { NativeTokenizer } from './native-types.js';
import { rejectUnknownKeys } from './options.js';
import type { ResponseFormat } from './request-options.js';

/** One turn of a conversation in OpenAI's form. */
export interface Message {
  role: 'system' | 'user' | 'assistant' | 'tool' | (string & {});
  content: string | null;
  name?: string;
  reasoning_content?: string;
  tool_calls?: unknown[];
  tool_call_id?: string;
}

export interface ChatTemplateOptions {
  /** Tool descriptions in OpenAI's form. */
  tools?: readonly object[];
  /** End with the opening of the assistant's turn. Default true. */
  addGenerationPrompt?: boolean;
  /** Qwen3: false asks for an answer without a `<think>` part. */
  enableThinking?: boolean;
  /** Further variables of the template; `likeThis` reaches it as `like_this`. */
  [variable: string]: unknown;
}

/** The options of {@link HubOptions} matter for models of the hub only. */
export interface TokenizerLoadOptions extends HubOptions {
  onProgress?: (progress: DownloadProgress) => void;
  signal?: AbortSignal;
}

/** Text of tokens that come one by one. */
export interface DecodeStream {
  /** Takes the next token; the text that has become certain, often ''. */
  push(id: number): string;
  /** What is left at the end; an unfinished character becomes U+FFFD. */
  finish(): string;
}

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** Text to token ids and back, with the chat template of the checkpoint. */
export class Tokenizer {
  readonly #native: NativeTokenizer;

  /** @internal Use `Tokenizer.load(dir)`. */
  constructor(handle: NativeTokenizer) {
    this.#native = handle;
  }

  /** @internal */
  get handle(): NativeTokenizer {
    return this.#native;
  }

  /**
   * Loads `tokenizer.json` and `tokenizer_config.json` of a checkpoint folder, or of a model on the hub, of which it fetches only the files of
   * the tokenizer; or the tokenizer in a .gguf file.
   *
   * @example
   * const tokenizer = await Tokenizer.load('Qwen/Qwen3-0.6B');
   */
  static async load(pathOrId: string, options: TokenizerLoadOptions = {}): Promise<Tokenizer> {
    rejectUnknownKeys(options, ['onProgress', 'signal', ...hubKeys], 'Tokenizer.load()');
    const { path } = await resolveModel(pathOrId, { ...options, allowPatterns: tokenizerFiles });
    options.signal?.throwIfAborted();
    try {
      return new Tokenizer(await native().NativeTokenizer.load(path));
    } catch (error) {
      throw wrapNativeError(error);
    }
  }

  /** @internal The tokenizer of a folder or a .gguf file, null where there is none. */
  static async loadIfThere(path: string): Promise<Tokenizer | null> {
    try {
      const handle = await native().NativeTokenizer.loadIfThere(path);
      return handle === null ? null : new Tokenizer(handle);
    } catch (error) {
      throw wrapNativeError(error);
    }
  }

  /** @internal Puts the files of the tokenizer of a model at `from` into a folder. */
  async writeTo(dir: string, from: string): Promise<void> {
    if (!isGguf(from)) return await copyTokenizerFiles(from, dir);
    const files = guard(() => this.#native.files());
    for (let i = 0; i < files.length; i += 2) await writeFile(join(dir, files[i]!), `${files[i + 1]!}\n`);
  }

  /** Token ids of `text`. `addSpecialTokens` (default true) adds what the tokenizer's own post-processor adds; Qwen's adds nothing. */
  encode(text: string, options: { addSpecialTokens?: boolean } = {}): number[] {
    return guard(() => this.#native.encode(text, options.addSpecialTokens ?? true));
  }

  /** Text of `ids`. `skipSpecialTokens` defaults to true. */
  decode(ids: readonly number[], options: { skipSpecialTokens?: boolean } = {}): string {
    return guard(() => this.#native.decode([...ids], options.skipSpecialTokens ?? true));
  }

  /** The conversation as one string, through the checkpoint's chat template. */
  applyChatTemplate(messages: readonly Message[], options: ChatTemplateOptions = {}): string {
    const variables = Object.entries({ addGenerationPrompt: true, ...options }).map(([key, value]) => [
      snakeCase(key),
      value,
    ]);
    return guard(() =>
      this.#native.applyChatTemplate(JSON.stringify(messages), JSON.stringify(Object.fromEntries(variables))),
    );
  }

  /** Token ids of the conversation, ready to be continued by the model. */
  encodeChat(messages: readonly Message[], options: ChatTemplateOptions = {}): number[] {
    return this.encode(this.applyChatTemplate(messages, options), { addSpecialTokens: false });
  }

  /**
   * Compiles a format for answers, beside JavaScript. Requests do that by themselves: done ahead, the first one need not wait. The first
   * format also reads the whole vocabulary, which takes a second or two.
   */
  async prepareFormat(format: ResponseFormat): Promise<void> {
    await this.prepareNative(JSON.stringify(format) ?? 'null');
  }

  /** @internal The same, of the addon's option. */
  async prepareNative(format: string | undefined): Promise<void> {
    if (format === undefined) return;
    try {
      await this.#native.prepareFormat(format);
    } catch (error) {
      throw wrapNativeError(error);
    }
  }

  /** Decodes token by token; text is held back until it is whole characters. */
  decodeStream(options: { skipSpecialTokens?: boolean } = {}): DecodeStream {
    return guard(() => this.#native.decodeStream(options.skipSpecialTokens ?? true));
  }

  get eosTokenIds(): number[] {
    return this.#native.eosTokenIds;
  }

  get padTokenId(): number | null {
    return this.#native.padTokenId ?? null;
  }

  get vocabSize(): number {
    return this.#native.vocabSize;
  }

  get hasChatTemplate(): boolean {
    return this.#native.hasChatTemplate;
  }
}
