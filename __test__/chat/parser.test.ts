import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ChatParser, parseAnswer } from '../../lib/chat/parser.ts';
import type { ChatParserOptions } from '../../lib/chat/parser.ts';
import type { ChatDelta, Tool } from '../../lib/chat/types.ts';

const tools: Tool[] = [
  {
    type: 'function',
    function: {
      name: 'weather',
      parameters: { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer' } } },
    },
  },
  {
    name: 'write_file',
    parameters: { properties: { path: { type: 'string' }, text: { type: 'string' }, lines: { type: 'array' } } },
  },
];

/** Name and arguments of the calls, without their random ids. */
const callsOf = (text: string, options: ChatParserOptions = { tools }): [string, unknown][] =>
  parseAnswer(text, options).toolCalls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);

function split(text: string, options: ChatParserOptions = { tools }) {
  const { content, reasoning } = parseAnswer(text, options);
  return { content, reasoning, calls: callsOf(text, options) };
}

const json = (name: string, args: unknown): string =>
  `<tool_call>\n${JSON.stringify({ name, arguments: args })}\n</tool_call>`;

describe('thinking', () => {
  it.each([
    ['plain', { content: 'plain', reasoning: '' }],
    ['<think>\nwhy\nso\n</think>\n\nanswer\n', { content: 'answer\n', reasoning: 'why\nso' }],
    ['<think>\n\n</think>\n\nanswer', { content: 'answer', reasoning: '' }],
    ['\n<think>a</think>b', { content: 'b', reasoning: 'a' }],
    ['<think>cut', { content: '', reasoning: 'cut' }],
    ['<think>cut</thi', { content: '', reasoning: 'cut</thi' }],
    ['say <think> in text', { content: 'say <think> in text', reasoning: '' }],
    ['<thinking>', { content: '<thinking>', reasoning: '' }],
    ['<think>a</think>b</think>c', { content: 'b</think>c', reasoning: 'a' }],
    ['  indented', { content: '  indented', reasoning: '' }],
    ['<thi', { content: '<thi', reasoning: '' }],
    ['', { content: '', reasoning: '' }],
    ['   ', { content: '   ', reasoning: '' }],
  ])('%j', (text, expected) => {
    expect(split(text)).toEqual({ ...expected, calls: [] });
    expect(split(text, {})).toEqual({ ...expected, calls: [] });
  });

  it('begins inside where the prompt ended with <think>', () => {
    const options = { tools, insideThinking: true };
    expect(split('\nwhy\n</think>\n\nanswer', options)).toEqual({ content: 'answer', reasoning: 'why', calls: [] });
    expect(split('why, cut', options)).toEqual({ content: '', reasoning: 'why, cut', calls: [] });
    expect(split(`a</think>${json('weather', { city: 'Rome' })}`, options)).toEqual({
      content: '',
      reasoning: 'a',
      calls: [['weather', { city: 'Rome' }]],
    });
  });

  it('takes calls in reasoning for reasoning, and thinking between calls for thinking', () => {
    const call = json('weather', { city: 'Rome' });
    expect(split(`<think>${call}</think>x`)).toEqual({ content: 'x', reasoning: call, calls: [] });
    expect(split(`<think>a</think>${call}\n<think>b</think>${call}`)).toMatchObject({
      content: '',
      reasoning: 'ab',
      calls: [{}, {}],
    });
  });
});

describe("Hermes' calls", () => {
  it('one, several blocks, several in a block, an array', () => {
    const [rome, oslo] = [
      { name: 'weather', arguments: { city: 'Rome' } },
      { name: 'weather', arguments: { city: 'Oslo', days: 2 } },
    ];
    const both = [
      ['weather', rome!.arguments],
      ['weather', oslo!.arguments],
    ];
    const [a, b] = [JSON.stringify(rome), JSON.stringify(oslo)];
    expect(split(`Let me look.\n<tool_call>\n${a}\n</tool_call>`)).toEqual({
      content: 'Let me look.',
      reasoning: '',
      calls: [both[0]],
    });
    for (const text of [
      `<tool_call>\n${a}\n</tool_call>\n<tool_call>\n${b}\n</tool_call>`,
      `<tool_call>${a}</tool_call><tool_call>${b}</tool_call>`,
      `<tool_call>\n${a}\n${b}\n</tool_call>`,
      `<tool_call>[${a}, ${b}]</tool_call>`,
    ])
      expect(split(text)).toEqual({ content: '', reasoning: '', calls: both });
  });

  it('keeps the arguments as they are written', () => {
    const args = '{ "city" : "R\\u00f6m",\n "days": 12345678901234567890 }';
    const { toolCalls } = parseAnswer(`<tool_call>{"name": "weather", "arguments": ${args} }</tool_call>`, { tools });
    expect(toolCalls).toEqual([
      {
        id: expect.stringMatching(/^call_[0-9a-f]{24}$/) as string,
        type: 'function',
        function: { name: 'weather', arguments: args },
      },
    ]);
  });

  it.each([
    ['{"arguments": {"a": [1, {"b": "}"}]}, "name": "f"}', { a: [1, { b: '}' }] }],
    ['{"name": "f"}', {}],
    ['{"name": "f", "arguments": null}', {}],
    ['{"name": "f", "arguments": {}}', {}],
    ['{"name": "f", "arguments": "{\\"a\\": 1}"}', { a: 1 }],
    [
      '{"name": "f", "arguments": {"text": "</tool_call> and \\"<tool_call>\\""}}',
      { text: '</tool_call> and "<tool_call>"' },
    ],
    ['{"name": "f", "arguments": {"name": "inner", "arguments": 1}}', { name: 'inner', arguments: 1 }],
  ])('%s', (body, args) => {
    expect(callsOf(`<tool_call>\n${body}\n</tool_call>`)).toEqual([['f', args]]);
  });

  it('a call without its closing marker counts, when it is whole', () => {
    expect(split('x <tool_call>{"name": "f", "arguments": {}}')).toEqual({
      content: 'x',
      reasoning: '',
      calls: [['f', {}]],
    });
    expect(split('<tool_call>{"name": "f", "arguments": {}}\n</tool_')).toMatchObject({
      content: '',
      calls: [['f', {}]],
    });
  });

  it.each([
    '<tool_call></tool_call>',
    '<tool_call>\nnot json\n</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": }}</tool_call>',
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "f", "arguments": "text"}</tool_call>',
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "", "arguments": {}}</tool_call>',
    '<tool_call>{"arguments": {}}</tool_call>',
    '<tool_call>[]</tool_call>',
    '<tool_call>[{"name": "f"}, 1]</tool_call>',
    '<tool_call>{"name": "f", "arguments": {}} and more</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": "line\nbreak"}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": "never closed}}\n</tool_call> text',
    '<tool_call>{"name": "f", "arguments": {"a": 1',
    '<tool_call>{"name": "f"',
    '<tool_call>',
    '<tool_ca',
    'the tag <tool_call> in a text',
    '<tool_call>{"a"}: ]</tool_call>',
    '<tool_call>{"name": "f", "arguments": {}, "arguments": {"a": 1}}</tool_call>',
  ])('malformed, and so text: %j', (text) => {
    expect(split(text)).toEqual({ content: text, reasoning: '', calls: [] });
    const good = json('weather', { city: 'Rome' });
    // What is well-formed after it is read all the same, unless it may still belong to it.
    if (text.endsWith('</tool_call>')) {
      expect(split(`${text}\n${good}`)).toEqual({
        content: text,
        reasoning: '',
        calls: [['weather', { city: 'Rome' }]],
      });
    }
  });

  it('is text without tools', () => {
    const text = `a\n${json('weather', {})}\n`;
    expect(split(text, {})).toEqual({ content: text, reasoning: '', calls: [] });
  });
});

describe("Qwen3-Coder's calls", () => {
  const xml = (name: string, args: Record<string, string>): string =>
    `<function=${name}>\n${Object.entries(args)
      .map(([key, value]) => `<parameter=${key}>\n${value}\n</parameter>\n`)
      .join('')}</function>`;

  it('converts values by their schemas', () => {
    expect(callsOf(`<tool_call>\n${xml('weather', { city: '12', days: '3' })}\n</tool_call>`)).toEqual([
      ['weather', { city: '12', days: 3 }],
    ]);
    expect(callsOf(`<tool_call>${xml('unknown', { a: '3', b: '{"c": 1}' })}</tool_call>`)).toEqual([
      ['unknown', { a: '3', b: { c: 1 } }],
    ]);
    expect(callsOf(`<tool_call>${xml('weather', {})}</tool_call>`)).toEqual([['weather', {}]]);
  });

  it('several functions in a block, and several blocks', () => {
    const [a, b] = [xml('weather', { city: 'Rome' }), xml('weather', { city: 'Oslo' })];
    const both = [
      ['weather', { city: 'Rome' }],
      ['weather', { city: 'Oslo' }],
    ];
    expect(split(`ok\n<tool_call>\n${a}\n${b}\n</tool_call>\n`)).toEqual({ content: 'ok', reasoning: '', calls: both });
    expect(callsOf(`<tool_call>\n${a}\n</tool_call>\n<tool_call>\n${b}\n</tool_call>`)).toEqual(both);
  });

  it('one line break at either end of a value is the form, the others are its own', () => {
    const text = '  def f():\n    return "</parameter>"\n\n<function=x>\n</tool_call>';
    const call = `<tool_call>\n${xml('write_file', { path: 'a.py', text: `\n${text}\n`, lines: '[1, 2]' })}\n</tool_call>`;
    expect(callsOf(call)).toEqual([['write_file', { path: 'a.py', text: `\n${text}\n`, lines: [1, 2] }]]);
    expect(callsOf('<tool_call><function=weather><parameter=city>Rome</parameter></function></tool_call>')).toEqual([
      ['weather', { city: 'Rome' }],
    ]);
  });

  it('without <tool_call>, for functions that there are', () => {
    expect(split(`ok\n${xml('weather', { city: 'Rome' })}\n</tool_call>`)).toEqual({
      content: 'ok',
      reasoning: '',
      calls: [['weather', { city: 'Rome' }]],
    });
    expect(split(`${xml('weather', { city: 'Rome' })} done`)).toMatchObject({ content: 'done', calls: [{}] });
    expect(split(xml('other', {})).calls).toEqual([]);
    expect(split(xml('other', {})).content).toBe(xml('other', {}));
  });

  it('a whole function at the end counts without </tool_call>', () => {
    expect(callsOf(`<tool_call>\n${xml('weather', { city: 'Rome' })}\n`)).toEqual([['weather', { city: 'Rome' }]]);
  });

  it.each([
    '<tool_call>\n<function=weather>\n<parameter=city>\nRo',
    '<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n',
    '<tool_call>\n<function=weather>\nRome\n</function>\n</tool_call>',
    '<tool_call>\n<function=>\n</function>\n</tool_call>',
    '<tool_call>\n<function=a\nb>\n</function>\n</tool_call>',
    '<tool_call>\n<function=weather>\n</function>\ntext\n</tool_call>',
    '<tool_call>\n<function=weather><parameter=a<b></parameter></function></tool_call>',
    '<tool_call>\n<func',
  ])('malformed, and so text: %j', (text) => {
    expect(split(text)).toEqual({ content: text, reasoning: '', calls: [] });
  });
});

/** The deltas of a text that comes in these pieces. */
function stream(pieces: readonly string[], options: ChatParserOptions = { tools }): ChatDelta[] {
  const parser = new ChatParser(options);
  return [...pieces.flatMap((piece) => parser.push(piece)), ...parser.finish()];
}

describe('a stream', () => {
  it('holds back what may be a marker, and nothing else', () => {
    const parser = new ChatParser({ tools });
    const text = (piece: string): string =>
      parser
        .push(piece)
        .map((delta) => (delta.type === 'content' ? delta.text : `[${delta.type}]`))
        .join('');
    expect([text('a <'), text('b'), text(' <tool'), text('ing <tool_ca'), text('b')]).toEqual([
      'a',
      ' <b',
      '',
      ' <tooling',
      ' <tool_cab',
    ]);
    const thinking = new ChatParser();
    expect(thinking.push('<thi')).toEqual([]);
    expect(thinking.push('nk>\nwhy')).toEqual([{ type: 'reasoning', text: 'why' }]);
    expect(thinking.push('\n')).toEqual([]);
    expect(thinking.push('so</')).toEqual([{ type: 'reasoning', text: '\nso' }]);
    expect(thinking.push('think>')).toEqual([]);
    expect(thinking.push('\n\nx ')).toEqual([{ type: 'content', text: 'x ' }]);
  });

  it('tells the arguments of a call as they are written', () => {
    const pieces = ['<tool_call>{"name": "weather", ', '"arguments": {"ci', 'ty": "Rome"', '}', '}\n</tool_call>'];
    const deltas = stream(pieces);
    const written = deltas.filter((delta) => delta.type === 'toolCallDelta');
    expect(written.map((delta) => delta.arguments)).toEqual(['', '{"ci', 'ty": "Rome"', '}']);
    expect(new Set(written.map(({ id, name, index }) => `${id} ${name} ${index}`)).size).toBe(1);
    expect(deltas.at(-1)).toEqual({
      type: 'toolCall',
      index: 0,
      toolCall: { id: written[0]!.id, type: 'function', function: { name: 'weather', arguments: '{"city": "Rome"}' } },
    });
    const xml = stream([
      '<tool_call><function=weather>',
      '<parameter=city>Rome',
      '</parameter><',
      'parameter=days>3</parameter>',
      '</function></tool_call>',
    ]);
    expect(xml.filter((delta) => delta.type === 'toolCallDelta').map((delta) => delta.arguments)).toEqual([
      '{',
      '"city": "Rome"',
      ', "days": 3}',
    ]);
  });

  it('takes back a call that turns out to be none', () => {
    const deltas = stream(['<tool_call>{"name": "weather", "arguments": {"city": "Ro', '}']);
    expect(deltas.map(({ type }) => type)).toEqual([
      'toolCallDelta',
      'toolCallDelta',
      'toolCallDiscarded',
      'content',
      'content',
    ]);
    expect(deltas.find(({ type }) => type === 'toolCallDiscarded')).toEqual({ type: 'toolCallDiscarded', index: 0 });
    expect(deltas.flatMap((delta) => (delta.type === 'content' ? [delta.text] : [])).join('')).toBe(
      '<tool_call>{"name": "weather", "arguments": {"city": "Ro}',
    );
  });

  it('means the same in whatever pieces it comes, and its deltas add up', () => {
    const words = fc.constantFrom(
      '<think>',
      '</think>',
      '<tool_call>',
      '</tool_call>',
      '<function=weather>',
      '</function>',
      '<parameter=city>',
      '</parameter>',
      '{"name": "weather", "arguments": {"city": "Rome"}}',
      `<tool_call>{"name": "f"} {"name": "g"}</tool_call>`,
      '<think>\n\na\n\n',
      '{"name": "f"',
      '"',
      '}',
      '\n',
      ' ',
      'text',
      '<',
      '[',
      ',',
      '\\',
      json('weather', { days: 1 }),
    );
    fc.assert(
      fc.property(
        fc.array(words, { maxLength: 14 }),
        fc.infiniteStream(fc.integer({ min: 1, max: 9 })),
        fc.boolean(),
        fc.boolean(),
        (parts, lengths, insideThinking, withTools) => {
          const text = parts.join('');
          const options = { insideThinking, ...(withTools ? { tools } : {}) };
          const pieces: string[] = [];
          for (let at = 0; at < text.length;) {
            const length = lengths.next().value as number;
            pieces.push(text.slice(at, at + length));
            at += length;
          }
          const whole = split(text, options);
          const deltas = stream(pieces, options);
          const joined = (type: 'content' | 'reasoning'): string =>
            deltas.map((delta) => (delta.type === type ? delta.text : '')).join('');
          const calls = deltas.flatMap((delta) => (delta.type === 'toolCall' ? [delta.toolCall] : []));
          expect(joined('content')).toBe(whole.content);
          expect(joined('reasoning')).toBe(whole.reasoning);
          expect(calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)])).toEqual(whole.calls);
          const indices = deltas.flatMap((delta) => (delta.type === 'toolCall' ? [delta.index] : []));
          expect(indices).toEqual([...calls.keys()]);
          for (const [index, call] of calls.entries()) {
            const written = deltas.filter((delta) => delta.type === 'toolCallDelta' && delta.id === call.id);
            expect(new Set(written.map((delta) => (delta as { index: number }).index))).toEqual(new Set([index]));
            expect(written.map((delta) => (delta as { arguments: string }).arguments).join('')).toBe(
              call.function.arguments,
            );
          }
          // Nothing but form is lost: without calls every character that is neither space nor marker is somewhere.
          if (whole.calls.length === 0) {
            const bare = (value: string): string => value.replaceAll(/<\/?think>|\s/g, '');
            expect(bare(whole.reasoning + whole.content)).toBe(bare(text));
          }
          if (!withTools && !text.includes('think>') && !insideThinking) expect(whole.content).toBe(text);
        },
      ),
      { numRuns: 3000 },
    );
  });
});
