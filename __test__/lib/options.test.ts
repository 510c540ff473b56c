import { describe, expect, it } from 'vitest';
import { MlxError, wrapNativeError } from '../../lib/errors.ts';
import { editDistance, nearestName, rejectUnknownKeys } from '../../lib/options.ts';
import { resolveSampling, samplingDefaults } from '../../lib/sampling.ts';
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
    });
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
