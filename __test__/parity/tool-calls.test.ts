import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAnswer } from '../../lib/index.ts';
import type { Tool } from '../../lib/index.ts';
import { mlxLm } from '../helpers/peers.ts';

const properties = {
  text: { type: 'string' },
  count: { type: 'integer' },
  big: { type: 'uint64' },
  ratio: { type: 'number' },
  flag: { type: 'boolean' },
  options: { type: 'object' },
  list: { type: 'array' },
  map: { type: 'dict' },
  free: { description: 'anything' },
  own: { type: 'geometry' },
  maybe: { type: ['integer', 'null'] },
};
const tools: Tool[] = [{ type: 'function', function: { name: 'f', parameters: { type: 'object', properties } } }];

const xml = (args: Record<string, string>): string =>
  `\n<function=f>\n${Object.entries(args)
    .map(([key, value]) => `<parameter=${key}>\n${value}\n</parameter>\n`)
    .join('')}</function>`;

const values: [keyof typeof properties | 'unknown', string][] = [
  ['text', 'plain'],
  ['text', '12'],
  ['text', '\n  indented\n\n'],
  ['text', 'a <b> & "c" \\n {"d": 1}'],
  ['text', 'null'],
  ['text', 'Zoë 东京 🎉'],
  ['count', '12'],
  ['count', '-3'],
  ['count', '3.0'],
  ['count', '1e3'],
  ['count', 'NULL'],
  ['big', '4294967296'],
  ['ratio', '2.5'],
  ['ratio', '4.0'],
  ['ratio', '-0.125'],
  ['flag', 'true'],
  ['flag', 'True'],
  ['flag', 'false'],
  ['options', '{"a": [1, {"b": null}], "c": "x"}'],
  ['options', "{'a': True, 'b': None, 'c': (1, 2)}"],
  ['options', '{"a": "two\nlines"}'],
  ['list', '[1, "x", [2.5]]'],
  ['list', "['a', 'it\\'s']"],
  ['list', 'no list'],
  ['map', '{"k": 1}'],
  ['free', '{"a": 1}'],
  ['free', '12'],
  ['own', '12'],
  ['own', "{'a': 1}"],
  ['own', 'words'],
  ['maybe', '7'],
  ['maybe', 'null'],
  ['unknown', '12'],
];

const bodies: ['json' | 'xml', string][] = [
  ...values.map(([key, value]): ['xml', string] => ['xml', `${xml({ [key]: value })}\n`.trimEnd()]),
  ['xml', xml({})],
  ['xml', xml({ text: 'a', count: '2', flag: 'true' })],
  ['xml', '<function=f><parameter=text>tight</parameter></function>'],
  ['json', '\n{"name": "f", "arguments": {"text": "x", "list": [1, 2.5, null, true]}}\n'],
  ['json', '{"arguments": {"text": "\\u00e9 \\"q\\" </tool_call>"}, "name": "f"}'],
  ['json', '{"name": "f", "arguments": {}}'],
];

const malformed: ['json' | 'xml', string][] = [
  ['json', '{"name": "f", "arguments": {"a": 1}'],
  ['json', 'words'],
  ['json', '{"name": "f", "arguments": {"a": "two\nlines"}}'],
  ['xml', '<function=f>\n<parameter=text>\ncut'],
  ['xml', 'words'],
];

function mlxLmCalls(requests: ['json' | 'xml', string][]): ({ name: string; arguments: unknown } | null)[] {
  const { python, env } = mlxLm();
  const input = JSON.stringify(requests.map(([format, body]) => [format, body, tools]));
  const output = execFileSync(python, [join(import.meta.dirname, 'peers/tool_calls.py')], {
    input,
    encoding: 'utf8',
    env,
  });
  return JSON.parse(output) as ReturnType<typeof mlxLmCalls>;
}

const ours = (body: string) =>
  parseAnswer(`<tool_call>${body}</tool_call>`, { tools }).toolCalls.map((call) => ({
    name: call.function.name,
    arguments: JSON.parse(call.function.arguments) as unknown,
  }));

describe("calls of tools are read as mlx-lm's parsers read them", () => {
  it('well-formed ones', () => {
    const theirs = mlxLmCalls(bodies);
    expect(theirs).not.toContain(null);
    bodies.forEach(([, body], i) => expect(ours(body), body).toEqual([theirs[i]]));
  });

  it('what they refuse is text here', () => {
    expect(mlxLmCalls(malformed)).toEqual(malformed.map(() => null));
    for (const [, body] of malformed) {
      expect(ours(body)).toEqual([]);
      expect(parseAnswer(`<tool_call>${body}</tool_call>`, { tools }).content).toBe(`<tool_call>${body}</tool_call>`);
    }
  });
});
