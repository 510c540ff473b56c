import { describe, expect, it } from 'vitest';
import { MlxError, wrapNativeError } from '../../lib/errors.ts';
import { editDistance, nearestName, rejectUnknownKeys } from '../../lib/options.ts';
import { resolveSampling, samplingDefaults } from '../../lib/sampling.ts';
import type { Tokenizer } from '../../lib/tokenizer.ts';
import { saveError } from '../../lib/files.ts';
import { thrown } from '../helpers/thrown.ts';

describe('names', () => {
  it('measures edits, a swap of neighbours counting as one', () => {
    expect([
      editDistance('abc', 'abc'),
      editDistance('abc', 'acb'),
      editDistance('', 'ab'),
      editDistance('kitten', 'sitting'),
    ]).toEqual([0, 1, 2, 3]);
  });

  it('suggests only what is close', () => {
    const known = ['temperature', 'topK', 'topP'];
    expect(nearestName('temprature', known)).toBe('temperature');
    expect(nearestName('top_k', known)).toBe('topK');
    expect(nearestName('matrix', ['all', 'matrices'])).toBe('matrices');
    expect(nearestName('warmup', ['warmupType', 'warmupSteps'])).toBeUndefined();
    expect(nearestName('seed', known)).toBeUndefined();
  });

  it('reports all unknown keys in one typed error', () => {
    const error = thrown(() => rejectUnknownKeys({ topk: 1, quux: 2, topP: 3 }, ['topK', 'topP'], 'f()'));
    expect(MlxError.isInstance(error, 'ERR_MLX_CONFIG')).toBe(true);
    expect(error.message.split('\n')).toEqual([
      "unknown option 'topk' of f(): did you mean 'topK'?",
      "unknown option 'quux' of f(): known names are topK, topP",
    ]);
  });
});

describe('sampling defaults', () => {
  it('are greedy unless the checkpoint says do_sample', () => {
    expect(samplingDefaults('{}')).toEqual({ maxTokens: 256, temperature: 0 });
    expect(samplingDefaults('{"temperature":0.7,"top_k":20}')).toEqual({ maxTokens: 256, temperature: 0 });
    expect(
      samplingDefaults('{"do_sample":true,"temperature":0.6,"top_k":20,"top_p":0.95,"repetition_penalty":1.05}'),
    ).toEqual({
      maxTokens: 256,
      temperature: 0.6,
      topK: 20,
      topP: 0.95,
      repetitionPenalty: 1.05,
      repetitionContextSize: 0,
    });
  });

  it('take the other keys of the file, too', () => {
    const file = {
      no_repeat_ngram_size: 3,
      bad_words_ids: [[1, 2]],
      suppress_tokens: [7],
      min_new_tokens: 4,
      max_new_tokens: 99,
      do_sample: true,
      typical_p: 0.9,
      min_p: null,
    };
    expect(samplingDefaults(JSON.stringify(file))).toEqual({
      maxTokens: 99,
      temperature: 1,
      typicalP: 0.9,
      noRepeatNgramSize: 3,
      badWordsIds: [[1, 2], [7]],
      minTokens: 4,
    });
  });

  it('know how far whose penalty looks back', () => {
    const defaults = samplingDefaults('{"repetition_penalty":1.1}');
    expect(resolveSampling({}, defaults, 'f()').repetitionContextSize).toBe(0);
    expect(resolveSampling({ repetitionPenalty: 1.2 }, defaults, 'f()').repetitionContextSize).toBeUndefined();
  });

  it.each([
    ['temperature', -1],
    ['topK', 1.5],
    ['topP', 0],
    ['minP', 2],
    ['minTokensToKeep', 0],
    ['xtcProbability', 1.1],
    ['xtcThreshold', 0.6],
    ['xtcSpecialTokens', [-1]],
    ['typicalP', 0],
    ['topNSigma', -1],
    ['dynatempRange', -0.5],
    ['dynatempExponent', Number.NaN],
    ['filterOrder', 'both'],
    ['repetitionPenalty', 0],
    ['repetitionContextSize', -1],
    ['presencePenalty', Infinity],
    ['presenceContextSize', 0.5],
    ['frequencyPenalty', '1'],
    ['frequencyContextSize', Number.NaN],
    ['logitBias', { x: 1 }],
    ['dryMultiplier', -1],
    ['dryBase', 0.5],
    ['dryAllowedLength', 0],
    ['dryContextSize', -1],
    ['drySequenceBreakers', ['']],
    ['noRepeatNgramSize', -1],
    ['badWordsIds', [[]]],
    ['minTokens', -1],
    ['seed', 0.5],
    ['maxTokens', 0],
    ['stopTokenIds', [1.5]],
    ['ignoreEos', 1],
  ])('refuse %s of %j', (key, value) => {
    const error = thrown(() => resolveSampling({ [key]: value }, {}, 'f()'));
    expect(error).toMatchObject({ code: 'ERR_MLX_CONFIG' });
    expect(error.message).toContain(`${key} of f() must be`);
  });

  it('find breakers and special tokens in the tokenizer', () => {
    const tokenizer = {
      eosTokenIds: [9],
      encode: (text: string) => Array.from(text, (letter) => letter.codePointAt(0)!),
    } as unknown as Tokenizer;
    const options = { dryMultiplier: 0.8, xtcProbability: 0.5 };
    expect(resolveSampling(options, {}, 'f()', tokenizer)).toMatchObject({
      drySequenceBreakers: [10, 58, 34, 42],
      xtcSpecialTokens: [9, 10],
    });
    const own = { ...options, drySequenceBreakers: ['x', 3], xtcSpecialTokens: [] };
    expect(resolveSampling(own, {}, 'f()', tokenizer)).toMatchObject({
      drySequenceBreakers: [120, 3],
      xtcSpecialTokens: [],
    });
    expect(thrown(() => resolveSampling(own, {}, 'f()'))).toMatchObject({ code: 'ERR_MLX_CONFIG' });
  });

  it('give way to what the user says', () => {
    const options = resolveSampling(
      { temperature: 0, stopTokenIds: [1] },
      samplingDefaults('{"do_sample":true,"top_k":5}'),
      'f()',
    );
    expect(options).toMatchObject({ temperature: 0, topK: 5, maxTokens: 256, stopTokenIds: [1] });
  });
});

describe('errors', () => {
  it('are recognised across copies of the package and keep their cause', () => {
    const foreign = Object.assign(new Error('x'), { [Symbol.for('mlx-node.MlxError')]: true, code: 'ERR_MLX_OOM' });
    expect(MlxError.isInstance(foreign, 'ERR_MLX_OOM')).toBe(true);
    expect(MlxError.isInstance(new Error('x'))).toBe(false);
    const native = Object.assign(new Error('bad'), { code: 'NumberExpected' });
    expect(wrapNativeError(native)).toMatchObject({ code: 'ERR_MLX_ARGUMENT', message: 'bad', cause: native });
    const other = new TypeError('mine');
    expect(wrapNativeError(other)).toBe(other);
  });

  it('tell a full disk from other failures to write', () => {
    expect(saveError('d', Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' })).message).toContain(
      'the disk is full',
    );
    expect(saveError('d', new Error('EACCES')).message).toBe('d: could not be written: EACCES');
  });
});
