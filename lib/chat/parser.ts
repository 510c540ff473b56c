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

/** How many line breaks `text` begins with. */
function leadingBreaks(text: string): number {
  let count = 0;
  while (text[count] === '\n') count += 1;
  return count;
}

/** How many line breaks `text` ends with. */
function trailingBreaks(text: string): number {
  let count = 0;
  while (text[text.length - 1 - count] === '\n') count += 1;
  return count;
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
  /** White space that is the form's if a part follows, and text if text does. */
  #space = '';
  #reader: BlockReader | undefined;
  /** The calls of the block that have been reported. */
  #drafts: { id: string; name: string; reported: number }[] = [];
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
    if (last && this.#space !== '') this.#emit('content', this.#space);
    if (last) this.#space = '';
    return this.#deltas;
  }

  /** Each step returns true when it changed the state and there may be more to do. */
  #opening(last: boolean): boolean {
    const trimmed = this.#buffer.trimStart();
    if (!this.#dropSpace) this.#space += this.#buffer.slice(0, this.#buffer.length - trimmed.length);
    this.#buffer = trimmed;
    if (trimmed === '') return false;
    if (this.#mayThink && trimmed.startsWith(thinkStart)) {
      this.#buffer = trimmed.slice(thinkStart.length);
      this.#space = '';
      this.#dropSpace = true;
      this.#state = 'reasoning';
      return true;
    }
    if (this.#mayThink && !last && thinkStart.startsWith(trimmed)) return false;
    this.#dropSpace = false;
    this.#state = 'content';
    return true;
  }

  #content(last: boolean): boolean {
    const found = this.#markers.map((marker) => this.#buffer.indexOf(marker)).filter((at) => at !== -1);
    if (found.length > 0) {
      const at = Math.min(...found);
      this.#text(this.#buffer.slice(0, at));
      this.#buffer = this.#buffer.slice(at);
      this.#state = 'call';
      return true;
    }
    const held = last || this.#markers.length === 0 ? 0 : partialMarker(this.#buffer, this.#markers);
    this.#text(this.#buffer.slice(0, this.#buffer.length - held));
    this.#buffer = this.#buffer.slice(this.#buffer.length - held);
    return false;
  }

  /** Content, but for white space at its end, which belongs to the form if a call follows. */
  #text(text: string): void {
    const certain = this.#markers.length > 0 ? text.trimEnd() : text;
    if (certain !== '') {
      this.#emit('content', this.#space + certain);
      this.#space = '';
    }
    this.#space += text.slice(certain.length);
  }

  #reasoning(last: boolean): boolean {
    const at = this.#buffer.indexOf(thinkEnd);
    const held = at !== -1 || last ? 0 : partialMarker(this.#buffer, [thinkEnd]);
    const certain = this.#buffer.slice(0, at === -1 ? this.#buffer.length - held : at);
    const text = certain.slice(this.#dropSpace ? leadingBreaks(certain) : 0);
    const end = text.length - trailingBreaks(text);
    if (end > 0) {
      this.#emit('reasoning', this.#space + text.slice(0, end));
      this.#space = '';
      this.#dropSpace = false;
    }
    this.#space += text.slice(end);
    this.#buffer = this.#buffer.slice(at === -1 ? this.#buffer.length - held : at + thinkEnd.length);
    if (at === -1 && !last) return false;
    this.#space = '';
    this.#mayThink = false;
    this.#dropSpace = true;
    this.#state = 'opening';
    return at !== -1;
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
    for (const [i, draft] of calls.entries()) this.#report(i, draft);
    for (const [i, draft] of calls.entries()) {
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
    this.#drafts[i] ??= { id: newId(), name: '', reported: 0 };
    const known = this.#drafts[i];
    if (known.name === draft.name && known.reported === draft.arguments.length) return;
    const index = this.#answer.toolCalls.length + i;
    const piece = draft.arguments.slice(known.reported);
    this.#deltas.push({ type: 'toolCallDelta', index, id: known.id, name: draft.name, arguments: piece });
    known.name = draft.name;
    known.reported = draft.arguments.length;
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
