import { isRecord, JsonScanner, MalformedJson, parseJson } from './json.js';
import { functionOf } from './types.js';
import type { Tool } from './types.js';
import { valueToJson } from './values.js';

export const toolCallStart = '<tool_call>';
export const toolCallEnd = '</tool_call>';
export const functionStart = '<function=';
const functionEnd = '</function>';
const parameterStart = '<parameter=';
const parameterEnd = '</parameter>';

/** A call as it is written: `arguments` is JSON's text as far as it is known. */
export interface DraftCall {
  name: string;
  arguments: string;
}

/** Thrown for a block that is no call, whatever follows. */
export class MalformedCall extends Error {}

/** Reads the calls of one block, which arrives in pieces. */
export interface BlockReader {
  /** Reads on in `text`, which begins with the block and only grows. Returns the position after the block, or undefined. */
  read(text: string): number | undefined;
  /** The calls so far; of the last one perhaps only a part. */
  readonly calls: readonly DraftCall[];
  /** True when everything but the closing marker is there. */
  complete(text: string): boolean;
}

const isSpace = (text: string, at: number): boolean => /\s/.test(text[at]!);

/** Position of the first character from `at` on that is no white space. */
function skipSpace(text: string, at: number): number {
  let next = at;
  while (next < text.length && isSpace(text, next)) next += 1;
  return next;
}

/** True when `marker` stands at `at`; undefined when the text ends before that can be said. */
function stands(text: string, at: number, marker: string): boolean | undefined {
  const piece = text.slice(at, at + marker.length);
  if (piece === marker) return true;
  return marker.startsWith(piece) ? undefined : false;
}

/** The reader for a block that `text` begins with; undefined while its form cannot be told. Throws MalformedCall where it has none. */
export function readerFor(text: string, tools: readonly Tool[]): BlockReader | undefined {
  if (text.startsWith(functionStart)) return new XmlBlock(0, false, tools);
  const at = skipSpace(text, toolCallStart.length);
  if (at === text.length) return undefined;
  if (text[at] === '{' || text[at] === '[') return new JsonBlock(at);
  const xml = stands(text, at, functionStart);
  if (xml === false) throw new MalformedCall();
  return xml === undefined ? undefined : new XmlBlock(at, true, tools);
}

/** `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: one object, several, or an array of them. */
class JsonBlock implements BlockReader {
  readonly #done: DraftCall[] = [];
  #draft: DraftCall | undefined;
  #scanner: JsonScanner | undefined;
  /** Where the value that is being read begins, or the next one is looked for. */
  #at: number;

  constructor(start: number) {
    this.#at = start;
  }

  get calls(): readonly DraftCall[] {
    return this.#draft === undefined ? this.#done : [...this.#done, this.#draft];
  }

  read(text: string): number | undefined {
    for (;;) {
      if (this.#scanner === undefined) {
        this.#at = skipSpace(text, this.#at);
        if (this.#at === text.length) return undefined;
        if (text[this.#at] !== '{' && text[this.#at] !== '[') {
          const closed = stands(text, this.#at, toolCallEnd);
          if (closed === undefined) return undefined;
          if (!closed || this.#done.length === 0) throw new MalformedCall();
          return this.#at + toolCallEnd.length;
        }
        this.#scanner = new JsonScanner(this.#at);
      }
      const end = this.#scan(this.#scanner, text);
      if (end === undefined) {
        this.#draft = this.#partial(this.#scanner, text);
        return undefined;
      }
      this.#done.push(...this.#finished(text.slice(this.#at, end), this.#scanner, text));
      this.#draft = undefined;
      this.#scanner = undefined;
      this.#at = end;
    }
  }

  complete(text: string): boolean {
    return this.#done.length > 0 && this.#scanner === undefined && toolCallEnd.startsWith(text.slice(this.#at).trim());
  }

  #scan(scanner: JsonScanner, text: string): number | undefined {
    try {
      return scanner.scan(text);
    } catch (error) {
      if (error instanceof MalformedJson) throw new MalformedCall();
      throw error;
    }
  }

  /** What is known of a call before its end: its arguments as far as they are written, once its name is there. */
  #partial(scanner: JsonScanner, text: string): DraftCall | undefined {
    const at = scanner.values.get('name');
    const name: unknown = at?.end === undefined ? undefined : parseJson(text.slice(at.start, at.end));
    if (typeof name !== 'string' || name === '') return undefined;
    const value = scanner.values.get('arguments');
    // Arguments that are a string with JSON in it are only known as a whole.
    const known = value !== undefined && text[value.start] === '{' ? text.slice(value.start, value.end) : '';
    return { name, arguments: known };
  }

  #finished(json: string, scanner: JsonScanner, text: string): DraftCall[] {
    const value = parseJson(json);
    if (Array.isArray(value) && value.length > 0) return value.map((item) => draftOf(item));
    const draft = draftOf(value);
    const at = scanner.values.get('arguments');
    // As the model wrote it, with numbers of any length.
    if (at !== undefined && text[at.start] === '{') draft.arguments = text.slice(at.start, at.end);
    return [draft];
  }
}

/** A call of its JSON value. */
function draftOf(value: unknown): DraftCall {
  if (!isRecord(value) || typeof value['name'] !== 'string' || value['name'] === '') throw new MalformedCall();
  const { name, arguments: given = {} } = value as { name: string; arguments?: unknown };
  if (isRecord(given)) return { name, arguments: JSON.stringify(given) };
  // Some models put the arguments into a string once more.
  if (typeof given === 'string' && isRecord(parseJson(given))) return { name, arguments: given };
  if (given === null) return { name, arguments: '{}' };
  throw new MalformedCall();
}

/** `<function=name><parameter=key>value</parameter>…</function>`, several in a row, in `<tool_call>` or, as Qwen3-Coder at times, without. */
class XmlBlock implements BlockReader {
  readonly #calls: DraftCall[] = [];
  #at: number;
  #inside = false;
  /** Schemas of the arguments of the call that is being read. */
  #schema: Record<string, unknown> = {};
  /** In a value: no end of it is before here. */
  #searched = 0;

  constructor(
    start: number,
    private readonly wrapped: boolean,
    private readonly tools: readonly Tool[],
  ) {
    this.#at = start;
  }

  get calls(): readonly DraftCall[] {
    return this.#calls;
  }

  read(text: string): number | undefined {
    for (;;) {
      const at = skipSpace(text, this.#at);
      const step = this.#inside ? this.#parameter(text, at) : this.#function(text, at);
      if (step === undefined || step.end) return step?.next;
      this.#at = step.next;
    }
  }

  complete(text: string): boolean {
    return this.#calls.length > 0 && !this.#inside && toolCallEnd.startsWith(text.slice(this.#at).trim());
  }

  /** Between functions: another one, or the end of the block. */
  #function(text: string, at: number): { next: number; end: boolean } | undefined {
    const closed = stands(text, at, toolCallEnd);
    if (closed === true && this.#calls.length > 0) return { next: at + toolCallEnd.length, end: true };
    const opened = stands(text, at, functionStart);
    if (opened === undefined || closed === undefined) return undefined;
    if (!opened) {
      if (this.wrapped || this.#calls.length === 0) throw new MalformedCall();
      return { next: this.#at, end: true };
    }
    const start = at + functionStart.length;
    const end = text.indexOf('>', start);
    const name = text
      .slice(start, end === -1 ? undefined : end)
      .trim()
      .replace(/^(["'])(.*)\1$/, '$2');
    if (/[\n<]/.test(name)) throw new MalformedCall();
    if (end === -1) return undefined;
    if (name === '') throw new MalformedCall();
    const described = this.tools.map(functionOf).find((tool) => tool.name === name)?.parameters;
    const properties = isRecord(described) ? described['properties'] : undefined;
    this.#schema = isRecord(properties) ? properties : {};
    this.#calls.push({ name, arguments: '{' });
    this.#inside = true;
    return { next: end + 1, end: false };
  }

  /** In a function: another parameter, or its end. */
  #parameter(text: string, at: number): { next: number; end: boolean } | undefined {
    const call = this.#calls.at(-1)!;
    const closed = stands(text, at, functionEnd);
    if (closed === true) {
      call.arguments += '}';
      this.#inside = false;
      return { next: at + functionEnd.length, end: false };
    }
    const opened = stands(text, at, parameterStart);
    if (opened === undefined || closed === undefined) return undefined;
    if (!opened) throw new MalformedCall();
    const start = at + parameterStart.length;
    const nameEnd = text.indexOf('>', start);
    const name = text
      .slice(start, nameEnd === -1 ? undefined : nameEnd)
      .trim()
      .replace(/^(["'])(.*)\1$/, '$2');
    if (/[\n<]/.test(name)) throw new MalformedCall();
    if (nameEnd === -1) return undefined;
    const end = this.#valueEnd(text, nameEnd + 1);
    if (end === undefined) return undefined;
    const value = text
      .slice(nameEnd + 1, end)
      .replace(/^\r?\n/, '')
      .replace(/\r?\n$/, '');
    const comma = call.arguments === '{' ? '' : ', ';
    call.arguments += `${comma}${JSON.stringify(name)}: ${valueToJson(value, this.#schema[name])}`;
    return { next: end + parameterEnd.length, end: false };
  }

  /** The end of a value: a closing marker with what may follow one, so that a value may hold such markers itself. */
  #valueEnd(text: string, from: number): number | undefined {
    for (let at = Math.max(from, this.#searched); ; at += 1) {
      at = text.indexOf(parameterEnd, at);
      // The last characters may be the beginning of a marker.
      this.#searched = at === -1 ? Math.max(from, text.length - parameterEnd.length + 1) : at;
      if (at === -1) return undefined;
      const after = skipSpace(text, at + parameterEnd.length);
      const parameter = stands(text, after, parameterStart);
      const closed = stands(text, after, functionEnd);
      if (parameter === true || closed === true) return at;
      if (parameter === undefined || closed === undefined) return undefined;
    }
  }
}
