import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { ChatSession, loadModel, PrefixCache } from '../../lib/index.ts';
import type {
  ChatDelta,
  ChatMessage,
  ChatSessionOptions,
  LanguageModel,
  MxArray,
  SendOptions,
  Tool,
} from '../../lib/index.ts';
import { templateMessages } from '../../lib/chat/messages.ts';
import { ScriptedModel } from '../helpers/scripted.ts';
import { tempDir } from '../helpers/temp.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';

const tools: Tool[] = [
  {
    type: 'function',
    function: {
      name: 'weather',
      description: 'Tells the weather',
      parameters: { type: 'object', properties: { city: { type: 'string' } } },
    },
  },
];
const call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>';

async function session(answers: string[], options: ChatSessionOptions = {}) {
  const model = await ScriptedModel.load(...answers);
  return { model, chat: new ChatSession(model, options) };
}

describe('ChatSession', () => {
  it('keeps the history and renders it with the template of the model', async () => {
    const { model, chat } = await session(['Blue.', 'Red.'], { systemPrompt: 'Be brief.', temperature: 0 });
    const first = await chat.send('Why is the sky blue?', { seed: 1 });
    expect(first).toMatchObject({
      content: 'Blue.',
      reasoning: '',
      toolCalls: [],
      finishReason: 'stop',
      message: { role: 'assistant', content: 'Blue.' },
      text: 'Blue.',
      droppedMessages: 0,
    });
    expect(first.usage.completionTokens).toBe(3);
    await chat.send('And at dusk?');
    expect(model.prompts).toEqual([
      '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n',
      '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\nBlue.<|im_end|>\n' +
        '<|im_start|>user\nAnd at dusk?<|im_end|>\n<|im_start|>assistant\n',
    ]);
    expect(chat.messages.map(({ role, content }) => [role, content])).toEqual([
      ['system', 'Be brief.'],
      ['user', 'Why is the sky blue?'],
      ['assistant', 'Blue.'],
      ['user', 'And at dusk?'],
      ['assistant', 'Red.'],
    ]);
    // The session's options, those of the call over them, and an answer as long as there is room.
    const { prefixCache, ...sampling } = model.options[0]!;
    expect(sampling).toEqual({ temperature: 0, seed: 1, maxTokens: 4096 - first.usage.promptTokens });
    expect(prefixCache).toBeInstanceOf(PrefixCache);
    expect(model.options[1]!.prefixCache, 'one for all turns').toBe(prefixCache);
    expect(model.options[1]).not.toHaveProperty('seed');
  });

  it('separates thinking, and does not show it to the model again', async () => {
    const { model, chat } = await session(['<think>\nHm.\nYes.\n</think>\n\nBlue.', 'Red.', 'x'], {
      enableThinking: true,
    });
    expect(await chat.send('Sky?')).toMatchObject({ content: 'Blue.', reasoning: 'Hm.\nYes.' });
    expect(chat.messages.at(-1)).toEqual({ role: 'assistant', content: 'Blue.', reasoning_content: 'Hm.\nYes.' });
    await chat.send('Dusk?');
    expect(model.prompts[1]).not.toContain('Hm.');
    await chat.send('Now?', { enableThinking: false });
    expect(model.prompts[2]!.endsWith('<|im_start|>assistant\n<think>\n\n</think>\n\n')).toBe(true);
  });

  it('begins inside thinking where the template opens it', async () => {
    const { model, chat } = await session(['Hm.\n</think>\n\nBlue.']);
    const real = model.tokenizer.applyChatTemplate.bind(model.tokenizer);
    const spy = vi.spyOn(model.tokenizer, 'applyChatTemplate');
    spy.mockImplementation((messages, options) => `${real(messages, options)}<think>\n`);
    onTestFinished(() => spy.mockRestore());
    expect(await chat.send('Sky?')).toMatchObject({ content: 'Blue.', reasoning: 'Hm.' });
  });

  it('calls tools and takes their results', async () => {
    const { model, chat } = await session([`Let me look.\n${call}\n${call}`, 'Sunny.'], { tools });
    const asked = await chat.send('Weather in Rome?');
    expect(asked).toMatchObject({ content: 'Let me look.', finishReason: 'tool_calls' });
    expect(asked.toolCalls.map((each) => each.function)).toEqual([
      { name: 'weather', arguments: '{"city": "Rome"}' },
      { name: 'weather', arguments: '{"city": "Rome"}' },
    ]);
    const results = asked.toolCalls.map(({ id }): ChatMessage => ({ role: 'tool', tool_call_id: id, content: 'sun' }));
    expect(await chat.send(results)).toMatchObject({ content: 'Sunny.', finishReason: 'stop' });
    expect(model.prompts[0]).toContain('"name": "weather"');
    expect(model.prompts[1]).toContain(
      `Let me look.\n${call}\n${call}<|im_end|>\n<|im_start|>user\n<tool_response>\nsun\n</tool_response>\n<tool_response>\nsun\n</tool_response><|im_end|>\n`,
    );
    expect(chat.messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'tool', 'tool', 'assistant']);
  });

  it('has null content where there are calls only, and calls as text where there are no tools', async () => {
    const { model, chat } = await session([call, call, call], { tools });
    expect((await chat.send('x')).message).toMatchObject({
      role: 'assistant',
      content: null,
      tool_calls: [{ type: 'function' }],
    });
    expect(await chat.send('y', { toolChoice: 'none' })).toMatchObject({
      content: call,
      toolCalls: [],
      finishReason: 'stop',
    });
    expect(model.prompts[1]).not.toContain('<tools>');
    expect(await chat.send('z', { tools: [] })).toMatchObject({ content: call, toolCalls: [] });
  });

  it('leaves a call that was cut as text', async () => {
    const { chat } = await session([call], { tools });
    const { content, toolCalls, finishReason } = await chat.send('x', { maxTokens: 8 });
    expect([toolCalls, finishReason]).toEqual([[], 'length']);
    expect(call.startsWith(content)).toBe(true);
    expect(content.length).toBeGreaterThan(10);
  });

  it('goes on from the very tokens that the model made, where the template shows them as they were', async () => {
    const { model, chat } = await session(['Blue sky.', 'Red.', call, 'Sun.', 'x'], { tools });
    model.byLetters = true;
    const first = await chat.send('Sky?');
    const { tokenizer } = model;
    const goesOn = (from: number[], made: number[], ids: number[]): void => {
      const seen = [...from, ...made];
      expect(ids.slice(0, seen.length)).toEqual(seen);
      // The text is the template's all the same.
      const text = tokenizer.decode(ids, { skipSpecialTokens: false });
      expect(tokenizer.encode(text, { addSpecialTokens: false }).length).toBeLessThan(ids.length);
    };
    await chat.fork().send('Dusk?');
    goesOn(model.promptIds[0]!, first.tokens, model.promptIds[1]!);
    // Within a turn also over calls and their results.
    const asked = await chat.send('Rain?');
    await chat.send({ role: 'tool', content: 'sun' });
    expect(model.prompts[3]).toContain(`${call}<|im_end|>\n<|im_start|>user\n<tool_response>`);
    goesOn(model.promptIds[2]!, asked.tokens.slice(0, -1), model.promptIds[3]!);
    // A conversation that does not begin with them is split as every text is.
    chat.reset();
    await chat.send('Sky?');
    expect(model.promptIds[4]).toEqual(tokenizer.encode(model.prompts[4]!, { addSpecialTokens: false }));
  });

  it('streams the parts', async () => {
    const { chat } = await session([`<think>\nHm.\n</think>\n\nLooking.\n${call}`], { tools });
    const parts: ChatDelta[] = [];
    const stream = chat.send('x');
    expect(stream.result).toBeNull();
    for await (const part of stream) parts.push(part);
    expect(parts.filter(({ type }) => type !== 'toolCallDelta').map(({ type }) => type)).toEqual(
      expect.arrayContaining(['reasoning', 'content', 'toolCall']),
    );
    const text = (type: string): string =>
      parts.map((part) => (part.type === type ? (part as { text: string }).text : '')).join('');
    expect([text('reasoning'), text('content')]).toEqual(['Hm.', 'Looking.']);
    const written = parts.flatMap((part) => (part.type === 'toolCallDelta' ? [part.arguments] : []));
    expect(written.length).toBeGreaterThan(2);
    expect(written.join('')).toBe('{"city": "Rome"}');
    expect(stream.result).toMatchObject({ content: 'Looking.', reasoning: 'Hm.' });
    expect(await stream).toBe(stream.result);
    await expect(async () => {
      for await (const part of stream) void part;
    }).rejects.toThrow(/iterated once/);
  });
});

describe('an answer that does not come to its end', () => {
  it('leaves the session as it was: break, abort, failure', async () => {
    const { model, chat } = await session(['One two three four five.', 'One two three four five.', 'Again.', 'Done.']);
    const before = chat.messages;
    const stream = chat.send('a');
    for await (const part of stream) {
      void part;
      break;
    }
    expect([chat.messages, model.closed]).toEqual([before, 1]);
    await expect(stream.collect()).rejects.toThrow(/left before its end/);
    const controller = new AbortController();
    model.onToken = () => controller.abort('enough');
    await expect(chat.send('b', { signal: controller.signal }).collect()).rejects.toBe('enough');
    model.onToken = () => {
      throw new RangeError('mine');
    };
    await expect(chat.send('c')).rejects.toThrow(RangeError);
    await expect(chat.send('c', { signal: AbortSignal.abort('never') })).rejects.toBe('never');
    expect(chat.messages).toEqual(before);
    model.onToken = () => undefined;
    expect((await chat.send('d')).content).toBe('Done.');
  });

  it('answers one thing at a time', async () => {
    const { chat } = await session(['One.', 'Two.', 'Three.']);
    const first = chat.send('a').collect();
    await expect(chat.send('b')).rejects.toMatchObject({
      code: 'ERR_MLX_ARGUMENT',
      message: expect.stringMatching(/is answering.*fork/) as string,
    });
    expect(() => chat.reset()).toThrow(/is answering/);
    await first;
    // Made at the same time, used one after the other: each sees the history of its beginning.
    const [second, third] = [chat.send('b'), chat.send('c')];
    await second;
    await third;
    expect(chat.messages.map(({ content }) => content)).toEqual(['a', 'One.', 'b', 'Two.', 'c', 'Three.']);
  });
});

describe('regenerate, fork, reset, save', () => {
  it('regenerate puts another answer in the place of the last one, when it is there', async () => {
    const { model, chat } = await session(['One.', 'Two.', 'Three.'], { systemPrompt: 's' });
    await chat.send('a');
    expect((await chat.regenerate({ seed: 7 })).content).toBe('Two.');
    expect(model.prompts[1]).toBe(model.prompts[0]);
    expect(chat.messages.map(({ content }) => content)).toEqual(['s', 'a', 'Two.']);
    model.onToken = () => {
      throw new RangeError('mine');
    };
    await expect(chat.regenerate()).rejects.toThrow(RangeError);
    expect(chat.messages.at(-1)!.content).toBe('Two.');
    expect(() => new ChatSession(model).regenerate()).toThrow(/needs an answer to replace/);
  });

  it('a fork goes its own way', async () => {
    const { model, chat } = await session(['One.', 'Two.', 'Three.'], { systemPrompt: 's', temperature: 0.5 });
    await chat.send('a');
    const other = chat.fork();
    await other.send('b');
    expect(chat.messages).toHaveLength(3);
    expect(other.messages).toHaveLength(5);
    expect(model.options[1]).toMatchObject({ temperature: 0.5 });
    chat.messages[0]!.content = 'changed';
    expect(chat.messages[0]!.content).toBe('s');
    chat.reset();
    expect(chat.messages).toEqual([{ role: 'system', content: 's' }]);
    expect(other.messages).toHaveLength(5);
  });

  it('a saved session goes on where it was', async () => {
    const dir = tempDir();
    const path = join(dir, 'chat.json');
    const { model, chat } = await session([call, 'Sun.', 'Sun.'], {
      systemPrompt: 's',
      tools,
      topK: 3,
      contextShift: 'truncate-oldest',
    });
    const { toolCalls } = await chat.send('a');
    await chat.save(path);
    expect(readdirSync(dir)).toEqual(['chat.json']);
    // Functions and models are no JSON.
    const functions = {
      draftModel: { handle: {} } as LanguageModel,
      contextShift: () => [],
      logitsProcessors: [(_: number[], logits: MxArray) => logits],
      onProgress: () => undefined,
    };
    const unsaved = new ChatSession(model, { ...functions, topK: 3, responseFormat: { type: 'json_object' } }).toJSON();
    const plain = { topK: 3, responseFormat: { type: 'json_object' } };
    expect((JSON.parse(JSON.stringify(unsaved)) as { options: object }).options).toEqual(plain);
    expect(Object.keys((unsaved as { options: object }).options).toSorted()).toEqual(['responseFormat', 'topK']);
    const again = await ChatSession.load(model, path, { topK: 4 });
    expect(again.messages).toEqual(chat.messages);
    const result: ChatMessage = { role: 'tool', tool_call_id: toolCalls[0]!.id, content: 'sun' };
    await chat.send(result);
    await again.send(result);
    expect(model.prompts[2]).toBe(model.prompts[1]);
    expect(model.options.slice(1).map(({ topK }) => topK)).toEqual([3, 4]);
    expect(again.messages).toEqual(chat.messages);
  });

  it('says what is wrong with a file', async () => {
    const { model, chat } = await session([]);
    const path = join(tempDir(), 'chat.json');
    await expect(ChatSession.load(model, path)).rejects.toMatchObject({ code: 'ERR_MLX_LOAD' });
    for (const [text, message] of [
      ['{', /cannot be read/],
      ['{}', /not a session that ChatSession\.save\(\) wrote/],
      [JSON.stringify({ ...chat.toJSON(), version: 2 }), /a session of version 2/],
      [JSON.stringify({ ...chat.toJSON(), messages: [{ content: 'x' }] }), /messages\[0\]\.role must be/],
    ] as const) {
      writeFileSync(path, text);
      await expect(ChatSession.load(model, path)).rejects.toThrow(message);
    }
    await expect(chat.save(join(path, 'below'))).rejects.toMatchObject({ code: 'ERR_MLX_SAVE' });
  });
});

describe('a conversation that outgrows the context', () => {
  const long = 'word '.repeat(40);
  const turns = 8;

  async function talk(options: ChatSessionOptions) {
    const { model, chat } = await session(
      Array.from({ length: 40 }, (_, i) => `Answer ${i}. ${long}`),
      { systemPrompt: 'Be brief.', ...options },
    );
    return { model, chat };
  }

  it("'error': says how long it is and what to do; what was there stays", async () => {
    const { chat } = await talk({ maxContext: 250, maxTokens: 60 });
    await chat.send(`First. ${long}`);
    await chat.send(`Second. ${long}`);
    const before = chat.messages;
    await expect(chat.send(`Third. ${long}`)).rejects.toMatchObject({
      code: 'ERR_MLX_CONTEXT_LENGTH',
      message: expect.stringMatching(
        /has 2\d\d tokens, and the context holds 250, answer included\. Set contextShift: 'truncate-oldest'/,
      ) as string,
    });
    expect(chat.messages).toEqual(before);
  });

  it("'error': an answer ends where the context ends", async () => {
    const { model, chat } = await talk({ maxContext: 80 });
    const { finishReason, usage } = await chat.send(long);
    expect(finishReason).toBe('length');
    expect(usage.promptTokens + usage.completionTokens).toBe(80);
    expect(model.options[0]!.maxTokens).toBe(80 - usage.promptTokens);
  });

  it.each(['truncate-oldest', 'truncate-middle'] as const)(
    '%s: whole turns go, the system message and the newest stay',
    async (contextShift) => {
      const maxContext = 500;
      const { model, chat } = await talk({ maxContext, contextShift, maxTokens: 60 });
      const dropped: number[] = [];
      for (let i = 0; i < turns; i++) {
        const { usage, droppedMessages } = await chat.send(`Question ${i}. ${long}`);
        expect(usage.promptTokens + 60).toBeLessThanOrEqual(maxContext);
        dropped.push(droppedMessages);
      }
      expect(chat.messages).toHaveLength(1 + 2 * turns);
      // In steps, so that the beginning of the prompt changes rarely.
      expect(dropped).toEqual(dropped.toSorted((a, b) => a - b));
      expect(dropped.at(-1)).toBeGreaterThan(0);
      expect(new Set(dropped).size).toBeLessThan(turns - 2);
      for (const count of dropped) expect(count % 2).toBe(0);
      const last = model.prompts.at(-1)!;
      expect(last.startsWith('<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQuestion ')).toBe(true);
      expect(last.includes('Question 0.')).toBe(contextShift === 'truncate-middle');
      expect(last).toContain('Question 7.');
      expect(last).not.toContain('Question 2.');
      // A fork and a saved session leave out the same.
      const path = join(tempDir(), 'chat.json');
      await chat.save(path);
      await chat.fork().send('x');
      await (await ChatSession.load(model, path)).send('x');
      await chat.send('x');
      expect(new Set(model.prompts.slice(-3)).size).toBe(1);
    },
  );

  it('an answer with its calls and their results is one turn', async () => {
    const { model, chat } = await session([call, `Sun. ${long}`, 'Yes.'], {
      tools,
      maxContext: 380,
      contextShift: 'truncate-oldest',
      maxTokens: 60,
    });
    const { toolCalls } = await chat.send(`Weather? ${long}`);
    await chat.send({ role: 'tool', tool_call_id: toolCalls[0]!.id, content: 'sun' });
    const { droppedMessages } = await chat.send(`Sure? ${long}${long}`);
    expect(droppedMessages).toBe(4);
    expect(model.prompts.at(-1)).not.toContain('tool_response>\nsun');
  });

  it('a last turn that is too long alone is an error', async () => {
    const { chat } = await talk({ maxContext: 100, contextShift: 'truncate-oldest' });
    await chat.send('a', { maxTokens: 5 });
    await expect(chat.send(long + long + long)).rejects.toThrow(
      /The system prompt and the last turn alone are too long/,
    );
  });

  it('a function of the user decides', async () => {
    const asked: [number, number, number][] = [];
    const { model, chat } = await talk({
      maxContext: 300,
      maxTokens: 60,
      contextShift: async ({ messages, promptTokens, maxPromptTokens, countTokens }) => {
        asked.push([promptTokens, maxPromptTokens, countTokens(messages)]);
        return [messages[0]!, messages.at(-1)!];
      },
    });
    for (const text of ['a', 'b', 'c', 'd', 'e']) await chat.send(`${text} ${long}`);
    expect(asked.length).toBeGreaterThan(0);
    for (const [tokens, most, counted] of asked) {
      expect(most).toBe(240);
      expect(tokens).toBeGreaterThan(most);
      expect(counted).toBe(tokens);
    }
    expect(model.prompts.at(-1)).toMatch(/^<\|im_start\|>system\nBe brief.<\|im_end\|>\n<\|im_start\|>user\ne word/);
    expect(chat.messages).toHaveLength(11);
    const silly = new ChatSession(model, { maxContext: 50, contextShift: ({ messages }) => messages });
    await expect(silly.send(long + long)).rejects.toMatchObject({ code: 'ERR_MLX_CONTEXT_LENGTH' });
  });
});

describe("OpenAI's messages", () => {
  it('become what templates expect', () => {
    const messages: ChatMessage[] = [
      { role: 'developer', content: 'Be brief.' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' },
        ],
        name: 'ann',
      },
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: '1', type: 'function', function: { name: 'f', arguments: '{"a": 1}' } }],
      },
      { role: 'tool', tool_call_id: '1', content: 'c' },
      { role: 'assistant', content: [{ type: 'refusal', refusal: 'no' }], tool_calls: null },
      {
        role: 'assistant',
        tool_calls: [
          { function: { name: 'f', arguments: '' } },
          { name: 'g', arguments: '{"n": 12345678901234567890}' },
        ],
      },
    ];
    expect(templateMessages(messages)).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'ab', name: 'ann' },
      {
        role: 'assistant',
        content: '',
        tool_calls: [{ id: '1', type: 'function', function: { name: 'f', arguments: { a: 1 } } }],
      },
      { role: 'tool', tool_call_id: '1', content: 'c' },
      { role: 'assistant', content: 'no' },
      {
        role: 'assistant',
        content: '',
        tool_calls: [
          { function: { name: 'f', arguments: {} } },
          { name: 'g', arguments: '{"n": 12345678901234567890}' },
        ],
      },
    ]);
  });

  it.each([
    [[null], /messages\[0\] must be an object/],
    [['hi'], /messages\[0\] must be an object/],
    [[{ content: 'x' }], /messages\[0\]\.role must be 'system', 'user'/],
    [[{ role: 'user' }], /messages\[0\]\.content is missing: a message of role 'user' needs a text/],
    [[{ role: 'assistant', content: null }], /messages\[0\]\.content is missing/],
    [[{ role: 'user', content: 3 }], /content must be a string or an array of parts, got number/],
    [
      [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }],
      /content\[0\] is of type 'image_url'; the models here read text only/,
    ],
    [[{ role: 'assistant', tool_calls: [{ id: 'x' }] }], /tool_calls\[0\] must be \{ function/],
  ])('%j is none', (messages, error) => {
    expect(() => templateMessages(messages as unknown as ChatMessage[])).toThrow(error);
  });
});

describe('mistakes', () => {
  it.each([
    [{ temprature: 1 }, /did you mean 'temperature'/],
    [{ signal: AbortSignal.abort() }, /unknown option 'signal' of ChatSession/],
    [{ maxContext: 5000 }, /maxContext must be a whole number from 1 to the model's context of 4096, got 5000/],
    [{ contextShift: 'rotate' }, /contextShift must be 'error', 'truncate-oldest', 'truncate-middle' or a function/],
    [{ n: 2 }, /unknown option 'n' of/],
    [{ toolChoice: 'required' }, /toolChoice must be 'auto' or 'none'/],
    [{ tools: {} }, /tools must be an array/],
    [{ tools: [{ type: 'function' }] }, /tools\[0\] must be/],
  ])('%j in the options', async (options, message) => {
    const model = await ScriptedModel.load();
    expect(() => new ChatSession(model, options as unknown as ChatSessionOptions)).toThrow(message);
    if ('signal' in options || 'maxContext' in options || 'contextShift' in options) return;
    expect(() => new ChatSession(model).send('x', options as unknown as SendOptions)).toThrow(message);
  });

  it('in what is sent', async () => {
    const { chat } = await session([]);
    expect(() => chat.send([])).toThrow(/the list is empty/);
    expect(() => chat.send({ role: 'assistant', content: 'x' })).toThrow(
      /the last message must not be of role 'assistant'/,
    );
    expect(() => chat.send({ role: 'user' })).toThrow(/content is missing/);
  });
});

describe('with a real model', () => {
  it('talks, and generate() takes the same messages', async () => {
    const model = await loadModel(tinyCheckpoint());
    const chat = new ChatSession(model, {
      temperature: 0,
      maxTokens: 6,
      maxContext: 60,
      contextShift: 'truncate-oldest',
    });
    const first = await chat.send('abc');
    expect(first.tokens.length).toBeLessThanOrEqual(6);
    const stop = first.text.at(-1)!;
    const stopped = await new ChatSession(model, { temperature: 0, maxTokens: 6 }).send('abc', { stop });
    expect([stopped.finishReason, stopped.content]).toEqual(['stop', first.text.slice(0, first.text.indexOf(stop))]);
    const alone = await model.generate([{ role: 'user', content: [{ type: 'text', text: 'abc' }] }], {
      temperature: 0,
      maxTokens: 6,
    });
    expect(first.text).toBe(alone.text);
    for (let i = 0; i < 4; i++) await chat.send('def');
    expect(chat.messages).toHaveLength(10);
    model.dispose();
    expect(() => chat.send('x')).toThrow(/has been disposed/);
  });
});
