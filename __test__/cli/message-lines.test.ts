import { describe, expect, it } from 'vitest';
import { MessageLines } from '../../lib/cli/chat/message-lines.ts';

function messages(...lines: string[]): string[] {
  const message = new MessageLines();
  const done = lines.map((line) => message.push(line));
  return [...done, message.finish()].filter((text) => text !== undefined);
}

describe('messages of several lines', () => {
  it.each([
    [
      ['one', 'two'],
      ['one', 'two'],
    ],
    [
      ['one\\', 'two\\', 'three', 'four'],
      ['one\ntwo\nthree', 'four'],
    ],
    [
      ['"""one', '', 'two"""', 'three'],
      ['one\n\ntwo', 'three'],
    ],
    [
      ['"""', 'a\\', 'b', '"""', 'c'],
      ['a\\\nb', 'c'],
    ],
    [
      ['"""one line"""', 'two'],
      ['one line', 'two'],
    ],
    [['say """ twice'], ['say """ twice']],
    // The end of the input ends what is open.
    [['one\\', 'two\\'], ['one\ntwo']],
    [['"""one', 'two'], ['one\ntwo']],
    [
      ['', 'a'],
      ['', 'a'],
    ],
  ])('%j', (lines, expected) => expect(messages(...lines)).toEqual(expected));
});
