import { Readable } from 'node:stream';

const pasteStart = '\x1b[200~';
const pasteEnd = '\x1b[201~';
const ctrlC = '\x03';

/** Stand for a newline and a tab in the line that is edited. */
const newlineSign = '⏎';
const tabSign = '⇥';

/** Longer pastes are shown as a note in brackets, not as text. */
const shownPaste = { characters: 500, lines: 8 };

/** A terminal's keyboard. */
export interface Keyboard extends Readable {
  isTTY?: boolean;
  setRawMode?: (on: boolean) => unknown;
}

/**
 * The keys of a terminal on their way to readline, which edits one line and knows no paste: newlines in a paste, and Alt-Enter, become
 * `⏎`, and while an answer is written nothing passes; what was typed meanwhile follows afterwards, except that Ctrl-C interrupts.
 */
export class Keys extends Readable {
  readonly isTTY = true;
  /** Called for Ctrl-C while nothing passes. */
  onInterrupt: () => void = () => undefined;
  readonly #keyboard: Keyboard;
  readonly #pastes: string[] = [];
  #held = '';
  #passing = false;

  constructor(keyboard: Keyboard) {
    super();
    this.#keyboard = keyboard;
    keyboard.setEncoding('utf8');
    keyboard.on('data', this.#take);
    keyboard.once('end', this.#end);
    keyboard.once('error', this.#end);
  }

  override _read(): void {}

  setRawMode(on: boolean): this {
    this.#keyboard.setRawMode?.(on);
    return this;
  }

  /** Lets keys pass up to the end of one line. */
  pass(): void {
    this.#passing = true;
    this.#drain();
  }

  /** Stops to listen. */
  close(): void {
    this.#keyboard.off('data', this.#take);
    this.#keyboard.off('end', this.#end);
    this.#keyboard.off('error', this.#end);
    this.#keyboard.pause();
    this.push(null);
  }

  /** The text that an edited line stands for. */
  expand(line: string): string {
    return line
      .replaceAll(
        /\[paste #(\d+): \d+ (?:lines|characters)\]/g,
        (note, n: string) => this.#pastes[Number(n) - 1] ?? note,
      )
      .replaceAll(newlineSign, '\n')
      .replaceAll(tabSign, '\t');
  }

  readonly #end = (): void => void this.push(null);

  readonly #take = (text: string): void => {
    const at = this.#passing ? -1 : text.lastIndexOf(ctrlC);
    if (at < 0) this.#held += text;
    else {
      // What was typed before it is not meant any more.
      this.#held = text.slice(at + 1);
      this.onInterrupt();
    }
    this.#drain();
  };

  #drain(): void {
    while (this.#passing && this.#held !== '') {
      const start = this.#held.indexOf(pasteStart);
      if (start === 0) {
        const end = this.#held.indexOf(pasteEnd);
        if (end < 0) return;
        this.#send(this.#pasted(this.#held.slice(pasteStart.length, end)));
        this.#held = this.#held.slice(end + pasteEnd.length);
        continue;
      }
      const typed = start < 0 ? this.#held : this.#held.slice(0, start);
      const enter = typed.search(/[\r\n]/);
      if (enter > 0 && typed[enter - 1] === '\x1b') {
        this.#send(typed.slice(0, enter - 1) + newlineSign);
        this.#held = this.#held.slice(enter + 1);
      } else if (enter >= 0) {
        this.#passing = false;
        this.#send(`${typed.slice(0, enter)}\r`);
        this.#held = this.#held.slice(enter + (typed.startsWith('\r\n', enter) ? 2 : 1));
      } else {
        // The beginning of a paste may have arrived in part.
        // oxlint-disable-next-line no-control-regex -- it begins with an escape
        const part = start < 0 ? (/\x1b\[(?:20{0,2})?$/.exec(typed)?.[0].length ?? 0) : 0;
        const whole = typed.slice(0, typed.length - part);
        if (whole === '') return;
        this.#send(whole);
        this.#held = this.#held.slice(whole.length);
      }
    }
  }

  /** One key at a time: of a longer piece readline thinks that it is a paste, and puts it at the end of the line. */
  #send(text: string): void {
    // oxlint-disable-next-line no-control-regex -- keys begin with an escape
    for (const [key] of text.matchAll(/\x1b(?:\[[\d;]*[A-Za-z~]?|O[A-Z]?|.)?|./gsu)) this.push(key);
  }

  #pasted(raw: string): string {
    // oxlint-disable-next-line no-control-regex -- control characters are what must not get through
    const text = raw.replaceAll(/\r\n?/g, '\n').replaceAll(/[\x00-\x08\x0b-\x1f\x7f]/g, '');
    const lines = text.split('\n').length;
    if (text.length <= shownPaste.characters && lines <= shownPaste.lines)
      return text.replace(/\n$/, '').replaceAll('\n', newlineSign).replaceAll('\t', tabSign);
    this.#pastes.push(text);
    return `[paste #${this.#pastes.length}: ${lines > 1 ? `${lines} lines` : `${text.length} characters`}]`;
  }

  /** A message as a line that can be edited once more. */
  static line(message: string): string {
    return message.replaceAll('\n', newlineSign).replaceAll('\t', tabSign);
  }
}
