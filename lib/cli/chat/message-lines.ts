const fence = '"""';

/**
 * Puts a message together from lines. A line that ends with a backslash goes on in the next; a line that begins with `"""` begins a
 * block that ends with a line that ends so.
 */
export class MessageLines {
  #lines: string[] = [];
  #block = false;

  /** True in the middle of a message. */
  get open(): boolean {
    return this.#block || this.#lines.length > 0;
  }

  /** True between `"""` and `"""`. */
  get inBlock(): boolean {
    return this.#block;
  }

  /** Takes a line; the message, when it is complete with that. */
  push(line: string): string | undefined {
    if (!this.open && line.trimStart().startsWith(fence)) {
      this.#block = true;
      const rest = line.trimStart().slice(fence.length);
      return rest.trim() === '' ? undefined : this.#inBlock(rest);
    }
    if (this.#block) return this.#inBlock(line);
    if (line.endsWith('\\')) {
      this.#lines.push(line.slice(0, -1));
      return undefined;
    }
    this.#lines.push(line);
    return this.#take();
  }

  /** What there is of an unfinished message, when there are no more lines. */
  finish(): string | undefined {
    return this.open ? this.#take() : undefined;
  }

  /** Forgets an unfinished message. */
  clear(): void {
    this.#lines = [];
    this.#block = false;
  }

  #inBlock(line: string): string | undefined {
    const text = line.trimEnd();
    if (!text.endsWith(fence)) {
      this.#lines.push(line);
      return undefined;
    }
    const last = text.slice(0, -fence.length);
    if (last !== '') this.#lines.push(last);
    return this.#take();
  }

  #take(): string {
    const text = this.#lines.join('\n');
    this.clear();
    return text;
  }
}
