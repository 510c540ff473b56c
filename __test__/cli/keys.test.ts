import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { Keys } from '../../lib/cli/chat/keys.ts';

/** What passes of keys that arrive in these pieces, with one line let through for each `null`. */
function passed(...pieces: (string | null)[]): { text: string; keys: Keys; interrupts: number } {
  const keyboard = new PassThrough();
  const keys = new Keys(keyboard);
  let [text, interrupts] = ['', 0];
  keys.onInterrupt = () => (interrupts += 1);
  for (const piece of pieces) {
    if (piece === null) keys.pass();
    else keyboard.emit('data', piece);
    for (let got; (got = keys.read() as Buffer | null) !== null;) text += got.toString();
  }
  return { text, keys, interrupts };
}

const paste = (text: string): string => `\x1b[200~${text}\x1b[201~`;

describe('the keys of the chat', () => {
  it('pass one line at a time', () => {
    expect(passed('one\rtwo\r').text).toBe('');
    expect(passed('one\rtwo\r', null).text).toBe('one\r');
    expect(passed('one\r\ntwo\n', null, null).text).toBe('one\rtwo\r');
    expect(passed(null, 'o', 'n', 'e\r', 'two').text).toBe('one\r');
  });

  it('Ctrl-C interrupts an answer and forgets what was typed before it', () => {
    expect(passed('abc\x03de\r', null)).toMatchObject({ text: 'de\r', interrupts: 1 });
    // At the prompt it is readline's.
    expect(passed(null, 'abc\x03')).toMatchObject({ text: 'abc\x03', interrupts: 0 });
  });

  it('newlines and tabs of a paste, and Alt-Enter, stay in the line', () => {
    const { text, keys } = passed(null, `x${paste('a\r\n\tb\n')}y\x1b\rz\r`);
    expect(text).toBe('xa⏎⇥by⏎z\r');
    expect(keys.expand(text)).toBe('xa\n\tby\nz\r');
    // Whatever else would be a key does not get through.
    expect(passed(null, paste('a\x03\x1b[Ab')).text).toBe('a[Ab');
  });

  it('a paste may arrive in pieces', () => {
    const whole = `>${paste('one\ntwo')}<`;
    for (let cut = 2; cut < whole.length; cut++)
      expect(passed(null, whole.slice(0, cut), whole.slice(cut)).text, String(cut)).toBe(
        // A lone escape is a key of its own.
        cut === 2 ? passed(null, '>\x1b', whole.slice(2)).text : '>one⏎two<',
      );
    // What begins like a paste and is none.
    expect(passed(null, '\x1b[2', '~').text).toBe('\x1b[2~');
  });

  it('a long paste is a note, which stands for its text', () => {
    const lines = Array.from({ length: 30 }, (_, i) => `line ${i}`).join('\n');
    const { text, keys } = passed(null, `see ${paste(lines)} and ${paste('x'.repeat(800))}`);
    expect(text).toBe('see [paste #1: 30 lines] and [paste #2: 800 characters]');
    expect(keys.expand(text)).toBe(`see ${lines} and ${'x'.repeat(800)}`);
    expect(keys.expand('[paste #9: 3 lines]')).toBe('[paste #9: 3 lines]');
  });
});
