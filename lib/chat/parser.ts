import { randomBytes } from 'node:crypto';
import { functionStart, MalformedCall, readerFor, toolCallStart } from './tool-block.js';
import type { BlockReader, DraftCall } from './tool-block.js';
import { functionOf } from './types.js';
import type { ChatDelta, Tool, ToolCall } from './types.js';

const thinkStart = '<think>';
const thinkEnd = '</think>';

export interface ChatParserOptions {
  /** The functions that the model may call; without any, calls are text like everything else. */
  tools?: readonly Tool[];
  /** The prompt ended with `<think>`, so that the answer begins inside. Default false. */
  insideThinking?: boolean;
}

/** What an answer consists of. */
export interface ParsedAnswer {
  content: string;
  reasoning: string;
  toolCalls: ToolCall[];
}

/** An id in OpenAI's form. */
const newId = (): string => `call_${randomBytes(12).toString('hex')}`;

/** How much of the end of `text` may be the beginning of one of `markers`. */
function partialMarker(text: string, markers: readonly string[]): number {
  const longest = Math.max(...markers.map((marker) => marker.length)) - 1;
  for (let length = Math.min(longest, text.length); length > 0; length--) {
    const tail = text.slice(-length);
    if (markers.some((marker) => marker.startsWith(tail))) return length;
  }
  return 0;
}

/**
 * Splits the text of an answer, which arrives in pieces, into reasoning, content and calls of tools: the forms of the Qwen families,
 * `<think>…</think>`, `<tool_call>{"name": …, "arguments": …}</tool_call>` and `<tool_call><function=…><parameter=…>…`. Whatever may
 * still become a marker is held back. A call that is malformed, or cut off, is content, markers and all.
 *
 * White space around the parts belongs to the form, as in the models' chat templates, and is dropped.
 */
export class ChatParser {
  readonly #tools: readonly Tool[];
  readonly #markers: readonly string[];
  #buffer = '';
  /** `opening`: before the first character of a part. */
  #state: 'opening' | 'content' | 'reasoning' | 'call';
  /** In `opening`: a `<think>` here begins reasoning. */
  #mayThink = true;
  /** In `opening`: white space here belongs to the form. */
  #dropSpace = false;
  /** White space before the block that is being read. */
  #space = '';
  #reader: BlockReader | undefined;
  /** The calls of the block that have been reported. */
  #drafts: { id: string; reported: string; name: string }[] = [];
  #deltas: ChatDelta[] = [];
  readonly #answer: ParsedAnswer = { content: '', reasoning: '', toolCalls: [] };

  constructor({ tools = [], insideThinking = false }: ChatParserOptions = {}) {
    this.#tools = tools;
    this.#markers =
      tools.length > 0 ? [toolCallStart, ...tools.map((tool) => `${functionStart}${functionOf(tool).name}>`)] : [];
    this.#state = insideThinking ? 'reasoning' : 'opening';
    this.#dropSpace = insideThinking;
  }

  /** All that has become certain so far. */
  get answer(): ParsedAnswer {
    return this.#answer;
  }

  /** Takes the next piece of text. */
  push(text: string): ChatDelta[] {
    this.#buffer += text;
    return this.#run(false);
  }

  /** There is no more text: what was held back is what it looks like. */
  finish(): ChatDelta[] {
    return this.#run(true);
  }

  #run(last: boolean): ChatDelta[] {
    this.#deltas = [];
    const steps = {
      opening: (): boolean => this.#opening(last),
      content: (): boolean => this.#content(last),
      reasoning: (): boolean => this.#reasoning(last),
      call: (): boolean => this.#call(last),
    };
    while (this.#buffer !== '' && steps[this.#state]());
    return this.#deltas;
  }

  /** Each step returns true when it changed the state and there may be more to do. */
  #opening(last: boolean): boolean {
    const trimmed = this.#buffer.trimStart();
    if (trimmed === '' && !last) return false;
    if (this.#mayThink && trimmed.startsWith(thinkStart)) {
      this.#buffer = trimmed.slice(thinkStart.length);
      this.#dropSpace = true;
      this.#state = 'reasoning';
      return true;
    }
    if (this.#mayThink && !last && thinkStart.startsWith(trimmed)) return false;
    if (this.#dropSpace) this.#buffer = trimmed;
    this.#dropSpace = false;
    this.#state = 'content';
    return true;
  }

  #content(last: boolean): boolean {
    const found = this.#markers.map((marker) => this.#buffer.indexOf(marker)).filter((at) => at !== -1);
    const at = found.length > 0 ? Math.min(...found) : -1;
    if (at !== -1) {
      const text = this.#buffer.slice(0, at).trimEnd();
      this.#emit('content', text);
      this.#space = this.#buffer.slice(text.length, at);
      this.#buffer = this.#buffer.slice(at);
      this.#state = 'call';
      return true;
    }
    let end = this.#buffer.length;
    if (!last && this.#markers.length > 0) {
      end -= partialMarker(this.#buffer, this.#markers);
      // White space before a call belongs to the form.
      end = this.#buffer.slice(0, end).trimEnd().length;
    }
    this.#emit('content', this.#buffer.slice(0, end));
    this.#buffer = this.#buffer.slice(end);
    return false;
  }

  #reasoning(last: boolean): boolean {
    if (this.#dropSpace) this.#buffer = this.#buffer.replace(/^\n+/, '');
    const at = this.#buffer.indexOf(thinkEnd);
    if (at !== -1) {
      this.#emit('reasoning', this.#buffer.slice(0, at).replace(/\n+$/, ''));
      this.#buffer = this.#buffer.slice(at + thinkEnd.length);
      this.#mayThink = false;
      this.#dropSpace = true;
      this.#state = 'opening';
      return true;
    }
    const certain = last ? this.#buffer.length : this.#buffer.length - partialMarker(this.#buffer, [thinkEnd]);
    const text = this.#buffer.slice(0, certain).replace(/\n+$/, '');
    if (text !== '') this.#dropSpace = false;
    this.#emit('reasoning', text);
    this.#buffer = last ? '' : this.#buffer.slice(text.length);
    return false;
  }

  #call(last: boolean): boolean {
    let end: number | undefined;
    try {
      this.#reader ??= readerFor(this.#buffer, this.#tools);
      end = this.#reader?.read(this.#buffer);
    } catch (error) {
      if (!(error instanceof MalformedCall)) throw error;
      return this.#discard();
    }
    const calls = this.#reader?.calls ?? [];
    if (end === undefined && !(last && this.#reader?.complete(this.#buffer) === true)) {
      if (last) return this.#discard();
      for (const [i, draft] of calls.entries()) this.#report(i, draft);
      return false;
    }
    for (const [i, draft] of calls.entries()) {
      this.#report(i, draft);
      const { id } = this.#drafts[i]!;
      const toolCall: ToolCall = { id, type: 'function', function: { name: draft.name, arguments: draft.arguments } };
      this.#deltas.push({ type: 'toolCall', index: this.#answer.toolCalls.length, toolCall });
      this.#answer.toolCalls.push(toolCall);
    }
    this.#reader = undefined;
    this.#drafts = [];
    this.#space = '';
    this.#buffer = end === undefined ? '' : this.#buffer.slice(end);
    this.#mayThink = true;
    this.#dropSpace = true;
    this.#state = 'opening';
    return true;
  }

  /** Reports what is new of a call. */
  #report(i: number, draft: DraftCall): void {
    this.#drafts[i] ??= { id: newId(), reported: '', name: '' };
    const known = this.#drafts[i];
    if (known.name === draft.name && known.reported === draft.arguments) return;
    const piece = draft.arguments.startsWith(known.reported) ? draft.arguments.slice(known.reported.length) : '';
    this.#deltas.push({
      type: 'toolCallDelta',
      index: this.#answer.toolCalls.length + i,
      id: known.id,
      name: draft.name,
      arguments: piece,
    });
    known.name = draft.name;
    known.reported = draft.arguments;
  }

  /** The block is no call: its marker is content, and what follows it is looked at anew. */
  #discard(): boolean {
    for (const i of this.#drafts.keys())
      this.#deltas.push({ type: 'toolCallDiscarded', index: this.#answer.toolCalls.length + i });
    // A function in it must not pass for one that came without <tool_call>.
    const wrapped = /^<tool_call>\s*<function=/.exec(this.#buffer)?.[0];
    const marker = wrapped ?? this.#markers.find((each) => this.#buffer.startsWith(each))!;
    this.#emit('content', `${this.#space}${marker}`);
    this.#reader = undefined;
    this.#drafts = [];
    this.#space = '';
    this.#buffer = this.#buffer.slice(marker.length);
    this.#state = 'content';
    return true;
  }

  #emit(type: 'content' | 'reasoning', text: string): void {
    if (text === '') return;
    this.#deltas.push({ type, text });
    this.#answer[type] += text;
  }
}

/** The parts of a whole answer. */
export function parseAnswer(text: string, options: ChatParserOptions = {}): ParsedAnswer {
  const parser = new ChatParser(options);
  parser.push(text);
  parser.finish();
  return parser.answer;
}
