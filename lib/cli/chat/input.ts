import { createInterface } from 'node:readline';
import type { Interface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { Style } from '../style.js';
import type { History } from './history.js';
import { Keys } from './keys.js';
import type { Keyboard } from './keys.js';
import { MessageLines } from './message-lines.js';

/** Where messages come from. */
export interface ChatInput {
  /** The next message; null at the end. */
  read(): Promise<string | null>;
  /** Called when a person wants the answer to stop. */
  onInterrupt: () => void;
  close(): void;
}

/** Messages of a pipe or a file. */
export class PipeInput implements ChatInput {
  onInterrupt: () => void = () => undefined;
  readonly #reader: Interface;
  readonly #lines: AsyncIterator<string>;
  readonly #message = new MessageLines();

  constructor(stdin: Readable) {
    this.#reader = createInterface({ input: stdin, crlfDelay: Infinity });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  async read(): Promise<string | null> {
    for (;;) {
      const { value, done } = await this.#lines.next();
      const message = done === true ? (this.#message.finish() ?? null) : this.#message.push(value);
      if (message !== undefined) return message;
    }
  }

  close(): void {
    this.#reader.close();
  }
}

export interface TerminalOptions {
  stdin: Keyboard;
  stdout: NodeJS.WritableStream;
  style: Style;
  history: History;
  /** What may stand in place of the last word of a line, and that word. */
  complete: (line: string) => [string[], string];
}

/** Messages that a person types: edited, with a history, completion, and pastes of several lines. */
export class TerminalInput implements ChatInput {
  readonly #keys: Keys;
  readonly #reader: Interface;
  readonly #stdout: NodeJS.WritableStream;
  readonly #style: Style;
  readonly #history: History;
  readonly #message = new MessageLines();
  /** Readline's own list, the newest first. */
  #entries: string[];
  /** The same before the message that is being typed. */
  #before: string[] = [];
  #line: ((line: string | null) => void) | undefined;
  #closed = false;
  #warned = false;

  constructor({ stdin, stdout, style, history, complete }: TerminalOptions) {
    this.#stdout = stdout;
    this.#style = style;
    this.#history = history;
    this.#keys = new Keys(stdin);
    this.#entries = history.read().map((entry) => Keys.line(entry));
    this.#reader = createInterface({
      input: this.#keys,
      output: stdout,
      terminal: true,
      completer: complete,
      history: this.#entries,
      historySize: 1000,
    });
    this.#reader.on('history', (entries) => (this.#entries = entries));
    this.#reader.on('line', (line) => this.#line?.(line));
    this.#reader.on('SIGINT', () => this.#interrupted());
    // After Ctrl-Z and fg.
    this.#reader.on('SIGCONT', () => this.#reader.prompt(true));
    this.#reader.on('close', () => {
      this.#closed = true;
      this.#line?.(null);
    });
    stdout.write('\x1b[?2004h');
  }

  set onInterrupt(handler: () => void) {
    this.#keys.onInterrupt = handler;
  }

  async read(): Promise<string | null> {
    this.#before = [...this.#entries];
    for (;;) {
      const line = await this.#readLine();
      if (line === null) return null;
      const several = this.#message.open;
      const message = this.#message.push(this.#keys.expand(line));
      if (message === undefined) continue;
      this.#warned = false;
      if (message.trim() !== '') this.#remember(message, several);
      return message;
    }
  }

  close(): void {
    this.#stdout.write('\x1b[?2004l');
    if (!this.#closed) this.#reader.close();
    this.#keys.close();
  }

  async #readLine(): Promise<string | null> {
    if (this.#closed) return null;
    const line = new Promise<string | null>((resolve) => (this.#line = resolve));
    this.#prompt();
    this.#keys.pass();
    try {
      return await line;
    } finally {
      this.#line = undefined;
    }
  }

  #prompt(): void {
    this.#reader.setPrompt(this.#style(['bold', 'magenta'], this.#message.open ? '... ' : '>>> '));
    this.#reader.prompt();
  }

  /** Ctrl-C at the prompt: forgets what was typed; twice without anything typed, leaves. */
  #interrupted(): void {
    const empty = this.#reader.line === '' && !this.#message.open;
    if (empty && this.#warned) {
      this.#reader.close();
      return;
    }
    this.#warned = empty;
    this.#reader.write(null, { ctrl: true, name: 'e' });
    this.#stdout.write(
      `\n${empty ? this.#style('dim', 'Ctrl-C once more, or Ctrl-D, leaves; /help shows the commands.\n') : ''}`,
    );
    this.#reader.write(null, { ctrl: true, name: 'u' });
    this.#message.clear();
    this.#prompt();
  }

  /** Whole messages are entries of the history, not their lines. */
  #remember(message: string, several: boolean): void {
    if (several) this.#entries.splice(0, this.#entries.length, Keys.line(message), ...this.#before);
    this.#history.add(message);
  }
}
