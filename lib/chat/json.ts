/** Text that is no JSON, whatever follows. */
export class MalformedJson extends Error {}

const brackets: Record<string, string> = { '{': '}', '[': ']' };

/**
 * Follows one JSON object or array that arrives in pieces: finds its end, and where the values of the outermost object lie. It does not
 * check all of the grammar, JSON.parse does that at the end; but what cannot be JSON at all, it tells at once.
 */
export class JsonScanner {
  /** Where the values of the outermost object begin and, once that is known, end, by key. */
  readonly values = new Map<string, { start: number; end: number | undefined }>();
  readonly #open: string[] = [];
  #string: number | undefined;
  #escaped = false;
  /** In the outermost object: what comes next. */
  #expects: 'key' | 'colon' | 'value' | 'end' = 'key';
  #key = '';
  #position: number;

  /** `start`: where the value's first character is. */
  constructor(start: number) {
    this.#position = start;
  }

  /** Reads on in `text`; returns the position after the value, or undefined when there is more to come. */
  scan(text: string): number | undefined {
    while (this.#position < text.length) {
      const at = this.#position++;
      const letter = text[at]!;
      if (this.#string !== undefined) {
        if (this.#escaped) this.#escaped = false;
        else if (letter === '\\') this.#escaped = true;
        else if (letter === '"') this.#endString(text, at + 1);
        continue;
      }
      const outer = this.#open.length === 1 && this.#open[0] === '}';
      if (outer && this.#expects === 'value' && !/\s/.test(letter)) {
        // Which of two values of a key counts, nobody can say before the end.
        if (this.values.has(this.#key)) throw new MalformedJson();
        this.values.set(this.#key, { start: at, end: undefined });
        this.#expects = 'end';
      }
      if (letter === '"') this.#string = at;
      else if (letter in brackets) this.#open.push(brackets[letter]!);
      else if (letter === '}' || letter === ']') {
        if (outer) this.#endValue(text, at);
        if (this.#open.pop() !== letter) throw new MalformedJson();
        if (this.#open.length === 0) return at + 1;
        if (this.#open.length === 1) this.#closeValue(at + 1);
      } else if (outer && letter === ',') {
        this.#endValue(text, at);
        this.#expects = 'key';
      } else if (outer && letter === ':' && this.#expects === 'colon') this.#expects = 'value';
      else if (!/[\s,:\d+.\-a-zA-Z]/.test(letter)) throw new MalformedJson();
    }
    return undefined;
  }

  #endString(text: string, end: number): void {
    if (this.#open.length === 1 && this.#open[0] === '}' && this.#expects === 'key') {
      try {
        this.#key = JSON.parse(text.slice(this.#string, end)) as string;
      } catch {
        throw new MalformedJson();
      }
      this.#expects = 'colon';
    }
    this.#string = undefined;
  }

  #endValue(text: string, at: number): void {
    this.#closeValue(text.slice(0, at).trimEnd().length);
  }

  /** The value of the present key ends before `end`, unless that is known already. */
  #closeValue(end: number): void {
    const value = this.values.get(this.#key);
    if (this.#open[0] === '}' && this.#expects === 'end' && value !== undefined) value.end ??= end;
  }
}

/** JSON's value of a text, or undefined where it is none. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** True for an object that is no array. */
export const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
