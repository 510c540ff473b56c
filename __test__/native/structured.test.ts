/** Answers that must fit a format, from a model of random weights with Qwen3's tokenizer: it would rather write anything else. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ChatSession, createModel, Engine, loadModel, MlxError, Tokenizer } from '../../lib/index.ts';
import type { GenerateOptions, LanguageModel, ResponseFormat } from '../../lib/index.ts';
import { qwen3Tokenizer } from '../helpers/scripted.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';

let model: LanguageModel;

beforeAll(async () => {
  const dir = mkdtempSync(join(tmpdir(), 'mlx-node-test-'));
  cpSync(qwen3Tokenizer, dir, { recursive: true });
  const config = {
    model_type: 'qwen3',
    vocab_size: 151_936,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 16,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000,
    tie_word_embeddings: true,
    eos_token_id: 151_645,
  };
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
  model = await createModel(dir, { seed: 7 });
  rmSync(dir, { recursive: true });
});

afterAll(() => model.dispose());

interface Person {
  name: string;
  age: number;
  tags: string[];
  pet?: { kind: string };
}

const schema = {
  type: 'object',
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 16 },
    age: { type: 'integer', minimum: 0, maximum: 130 },
    tags: { type: 'array', items: { enum: ['new', 'old "one"', 'größer'] }, minItems: 1, maxItems: 3 },
    pet: { $ref: '#/$defs/pet' },
  },
  required: ['name', 'age', 'tags'],
  additionalProperties: false,
  $defs: {
    pet: {
      type: 'object',
      properties: { kind: { enum: ['cat', 'dog'] } },
      required: ['kind'],
      additionalProperties: false,
    },
  },
};
const person: ResponseFormat = { type: 'json_schema', json_schema: { name: 'person', schema } };

function expectPerson(text: string): void {
  const value = JSON.parse(text) as Person;
  const { name, age, tags, pet } = value;
  expect(Object.keys(value).filter((key) => !['name', 'age', 'tags', 'pet'].includes(key))).toEqual([]);
  expect([...name].length >= 1 && [...name].length <= 16, text).toBe(true);
  expect(Number.isInteger(age) && age >= 0 && age <= 130, text).toBe(true);
  expect(tags.length >= 1 && tags.length <= 3, text).toBe(true);
  expect(
    tags.every((tag) => schema.properties.tags.items.enum.includes(tag)),
    text,
  ).toBe(true);
  if (pet !== undefined) expect(['{"kind":"cat"}', '{"kind":"dog"}']).toContain(JSON.stringify(pet));
}

const hot = { temperature: 1, maxTokens: 300, raw: true };

describe('responseFormat', () => {
  it('makes every answer satisfy a JSON schema, at any temperature', async () => {
    const names = new Set<string>();
    for (const temperature of [0, 1, 3]) {
      const options = { ...hot, temperature, seed: 11, n: 4, responseFormat: person };
      const { completions } = await model.generate('A person:', options);
      expect(completions).toHaveLength(4);
      for (const { text, finishReason } of completions) {
        expectPerson(text);
        expect(finishReason).toBe('stop');
        names.add((JSON.parse(text) as Person).name);
      }
    }
    // The samples differ: the schema leaves them room.
    expect(names.size).toBeGreaterThan(4);
  });

  it('works in streams and in rollouts', async () => {
    let text = '';
    for await (const chunk of model.stream('A person:', { ...hot, seed: 5, responseFormat: person }))
      text += chunk.text;
    expectPerson(text);
    const options = { ...hot, seed: 6, numGenerations: 3, responseFormat: person };
    const { completions } = await model.generateBatch(['A person:', 'Another:'], options);
    for (const completion of completions.flat()) expectPerson(completion.text);
  });

  it('is held to by guesses too, and what it leaves no choice about takes no pass of its own', async () => {
    const options: GenerateOptions = { ...hot, temperature: 0, responseFormat: person };
    const plain = await model.generate('A person:', options);
    expectPerson(plain.text);
    const kinds: GenerateOptions[] = [
      { fastForward: true },
      { promptLookup: true },
      { draftModel: model, numDraftTokens: 3 },
      { fastForward: true, draftModel: model },
    ];
    for (const kind of kinds) {
      const { tokens, logprobs, finishReason, speculation } = await model.generate('A person:', {
        ...options,
        ...kind,
      });
      expect([tokens, finishReason]).toEqual([plain.tokens, 'stop']);
      logprobs.forEach((logprob, i) => expect(logprob).toBeCloseTo(plain.logprobs[i]!, 3));
      if (kind.promptLookup === undefined) expect(speculation!.acceptanceRate).toBe(1);
      if (kind.fastForward === true) expect(speculation!.acceptedTokens).toBeGreaterThan(5);
    }
    // Drawn ones fit as well, also where the thinking comes first.
    const drawn = { ...hot, seed: 3, n: 3, responseFormat: person, fastForward: true, promptLookup: true };
    for (const { text } of (await model.generate('A person:', drawn)).completions) expectPerson(text);
    using engine = new Engine(model, { fastForward: true });
    const several = await Promise.all([
      engine.submit('A person:', options),
      engine.submit('A person:', { temperature: 0, maxTokens: 9, raw: true }),
    ]);
    expect(several[0].tokens).toEqual(plain.tokens);
    expect(several[1].tokens).toHaveLength(9);
    await expect(model.generate('A', { fastForward: 1 as unknown as boolean })).rejects.toThrow(
      /fastForward of generate\(\) must be true or false/,
    );
  });

  it('takes regular expressions, grammars and plain JSON', async () => {
    const options = { ...hot, seed: 2 };
    const answer = async (responseFormat: ResponseFormat): Promise<string> =>
      (await model.generate('x', { ...options, responseFormat })).text;
    expect(await answer({ type: 'regex', regex: '^(yes|no): [a-f]{2,4}$' })).toMatch(/^(yes|no): [a-f]{2,4}$/);
    const definition = 'start: pair ("," pair)?\npair: /[a-c]/ "=" /[0-9]{1,3}/';
    expect(await answer({ type: 'grammar', grammar: { syntax: 'lark', definition } })).toMatch(
      /^[a-c]=[0-9]{1,3}(,[a-c]=[0-9]{1,3})?$/,
    );
    expect(await answer({ type: 'grammar', grammar: { syntax: 'regex', definition: 'a{3}b' } })).toBe('aaab');
    const { text, finishReason } = await model.generate('x', {
      ...options,
      maxTokens: 300,
      responseFormat: { type: 'json_object' },
    });
    if (finishReason === 'stop') expect(typeof JSON.parse(text)).toBe('object');
    expect(text).toMatch(/^\{/);
    const plain = await model.generate('x', options);
    expect(await answer({ type: 'text' })).toBe(plain.text);
  });

  it('leaves the other requests of a batch as they are alone', async () => {
    using engine = new Engine(model, { maxBatchSize: 4 });
    const free: GenerateOptions = { ...hot, maxTokens: 40, seed: 3 };
    const digits: GenerateOptions = { ...hot, seed: 4, responseFormat: { type: 'regex', regex: '[0-9]{8}' } };
    const requests = [
      engine.submit('A person:', { ...hot, seed: 1, responseFormat: person }),
      engine.submit('Anything', free),
      engine.submit('Digits', digits),
    ];
    const [first, second, third] = await Promise.all(requests);
    expectPerson(first!.text);
    expect(second!.text).toBe((await model.generate('Anything', free)).text);
    expect(third!.text).toMatch(/^[0-9]{8}$/);
    expect(third!.text).toBe((await model.generate('Digits', digits)).text);
  });

  it('returns the log-probs of the model, not of what the format leaves', async () => {
    const { logprobs, text } = await model.generate('x', {
      ...hot,
      seed: 1,
      responseFormat: { type: 'regex', regex: 'zebra' },
    });
    expect(text).toBe('zebra');
    // One token of 151 936 was left at a time; a model of random weights finds none of them likely.
    for (const logprob of logprobs) expect(logprob).toBeLessThan(-1);
  });

  it('says what is wrong with a format', async () => {
    const failure = async (responseFormat: unknown, from = model): Promise<MlxError> => {
      try {
        await from.generate('x', { ...hot, responseFormat: responseFormat as ResponseFormat });
      } catch (error) {
        return error as MlxError;
      }
      throw new Error(`${JSON.stringify(responseFormat)} has been taken`);
    };
    const cases: [unknown, RegExp][] = [
      [{ type: 'xml' }, /"xml" is not known/],
      ['json', /must be an object/],
      [{ type: 'regex', regex: '(' }, /the regular expression/],
      [{ type: 'regex', regex: 'a(?=b)' }, /the regular expression/],
      [{ type: 'json_schema', json_schema: { schema: { items: { not: {} } } } }, /at \/items\/not: the keyword `not`/],
      [{ type: 'json_schema', json_schema: { schema: { type: 'int' } } }, /at \/type: "int" is not a type/],
      [{ type: 'json_schema', schema: {} }, /no key "schema"/],
      [{ type: 'grammar', grammar: { syntax: 'lark', definition: 'start: word' } }, /the grammar/],
    ];
    for (const [format, message] of cases) {
      const error = await failure(format);
      expect(MlxError.isInstance(error, 'ERR_MLX_ARGUMENT'), String(error)).toBe(true);
      expect(error.message).toMatch(message);
    }
    const lenient = { type: 'json_schema', json_schema: { strict: false, schema: { enum: ['a'], not: {} } } } as const;
    expect((await model.generate('x', { ...hot, responseFormat: lenient })).text).toBe('"a"');
    // Letters only: nothing that a quotation mark could be written with.
    using small = await loadModel(tinyCheckpoint(), { dtype: 'float32' });
    expect(MlxError.isInstance(await failure({ type: 'json_object' }, small), 'ERR_MLX_ARGUMENT')).toBe(true);
  });
});

const digits: ResponseFormat = { type: 'regex', regex: '[0-9]{3}' };
const [open, close, end] = [151_667, 151_668, 151_645];

describe('formatAfterThinking', () => {
  const after = { ...hot, responseFormat: digits, formatAfterThinking: true };

  it('leaves the thinking free, which a template has opened, and then holds the answer to the format', async () => {
    // A chance of about one in ten for the end of the thinking, and no chance of the end of the text before.
    const options = { ...after, n: 8, seed: 1, logitBias: { [close]: 9.6, [end]: 12 } };
    const { completions } = await model.generate('x<think>\n', options);
    for (const { text, finishReason } of completions) {
      expect(text).toMatch(/^[^]*<\/think>\n{0,2}[0-9]{3}$/);
      expect(finishReason).toBe('stop');
    }
    expect(Math.max(...completions.map(({ tokens }) => tokens.length))).toBeGreaterThan(8);
  });

  it('lets the model begin to think, or answer at once', async () => {
    const answer = async (logitBias: Record<number, number>): Promise<string> =>
      (await model.generate('x', { ...after, logitBias })).text;
    expect(await answer({ [open]: 100, [close]: 200, [end]: 300 })).toMatch(/^<think><\/think>\n{0,2}[0-9]{3}$/);
    expect(await answer({ [open]: -100, [end]: 300 })).toMatch(/^[0-9]{3}$/);
    // One line break may come between, no second one.
    const newline = model.tokenizer.encode('\n\n');
    expect(newline).toHaveLength(1);
    const broken = { [open]: 100, [close]: 200, [newline[0]!]: 150 };
    expect(await answer(broken)).toMatch(/^<think><\/think>\n\n[0-9]{3}$/);
  });

  it('begins with the answer where the template has closed the thinking', async () => {
    const options = { ...after, raw: false, enableThinking: false, logitBias: { [open]: 100 } };
    expect((await model.generate('x', options)).text).toMatch(/^[0-9]{3}$/);
    expect((await model.generateBatch(['x'], options)).completions[0]![0]!.text).toMatch(/^[0-9]{3}$/);
  });

  it('is refused where the tokenizer has no thinking', async () => {
    using small = await loadModel(tinyCheckpoint(), { dtype: 'float32' });
    const format: ResponseFormat = { type: 'regex', regex: '[a-c]' };
    await expect(small.generate('a', { responseFormat: format, formatAfterThinking: true })).rejects.toThrow(
      /needs a model with the tokens <think> and <\/think>; this one has no <think>/,
    );
    expect(() => model.stream('x', { formatAfterThinking: 'yes' as unknown as boolean })).toThrow(/true or false/);
  });
});

describe('a format in a chat', () => {
  it('holds for the answer to one message, behind the thinking where that is asked for', async () => {
    const session = new ChatSession(model, { temperature: 1, seed: 4, maxTokens: 60 });
    expect((await session.send('A number!', { responseFormat: digits })).content).toMatch(/^[0-9]{3}$/);
    const logitBias = { [open]: 8, [close]: 9.6, [end]: 12 };
    const options = { responseFormat: digits, formatAfterThinking: true, maxTokens: 200, logitBias, seed: 6 };
    const { content, reasoning } = await session.send('Think of a number!', options);
    expect(content).toMatch(/^[0-9]{3}$/);
    expect(reasoning).not.toBe('');
    expect((await session.send('Anything!')).content).not.toMatch(/^[0-9]{3}$/);
  });
});

describe('compiling a format', () => {
  it('leaves the event loop alone, also for the first one, which reads the vocabulary', async () => {
    const tokenizer = await Tokenizer.load(qwen3Tokenizer);
    const start = performance.now();
    let [last, longest] = [start, 0];
    const watch = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 2);
    try {
      await tokenizer.prepareFormat(person);
    } finally {
      clearInterval(watch);
    }
    const now = performance.now();
    longest = Math.max(longest, now - last);
    // On the thread of JavaScript it would be one block of all that time.
    expect(longest).toBeLessThan((now - start) / 3);
    await expect(tokenizer.prepareFormat({ type: 'regex', regex: '(' })).rejects.toThrow(/the regular expression/);
  });

  it('can be cancelled, aborted and closed meanwhile, and fails its own request only', async () => {
    const engine = new Engine(model);
    const regex = (text: string): GenerateOptions => ({ ...hot, responseFormat: { type: 'regex', regex: text } });
    const code = async (request: PromiseLike<unknown>): Promise<string> => {
      const error = await Promise.resolve(request).then(
        () => new Error('it has ended well'),
        (reason: unknown) => reason as Error,
      );
      return MlxError.isInstance(error) ? error.code : error.message;
    };
    const cancelled = engine.submit('x', regex('cancel{3}'));
    expect(engine.stats().waiting).toBe(1);
    cancelled.cancel();
    expect(engine.stats().waiting).toBe(0);
    expect(await code(cancelled)).toBe('ERR_MLX_CANCELLED');
    const abort = new AbortController();
    const aborted = engine.submit('x', { ...regex('abort{3}'), signal: abort.signal });
    abort.abort(new Error('enough'));
    expect(await code(aborted)).toBe('enough');
    const [wrong, right] = [engine.submit('x', regex('(')), engine.submit('x', regex('right{3}'))];
    expect(await code(wrong)).toBe('ERR_MLX_ARGUMENT');
    expect((await right).text).toBe('righttt');
    const closed = engine.submit('x', regex('close{3}'));
    engine.close();
    expect(await code(closed)).toBe('ERR_MLX_CANCELLED');
  });
});
