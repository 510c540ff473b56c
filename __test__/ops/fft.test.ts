import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { codeOf, expectNear, expectNumbers, numbers } from '../helpers/arrays.ts';

const { fft } = mx;
const noise = (shape: number[], seed: number): MxArray => mx.random.normal(shape, { key: mx.random.key(seed) });
/** Transforms of up to 60 numbers of about 1, in float32. */
const near = 1e-4;

/** Real and imaginary parts of the transform of a list, by its definition. */
function transform(values: readonly number[]): [real: number[], imaginary: number[]] {
  const n = values.length;
  const sum = (of: (angle: number) => number): number[] =>
    values.map((_, k) => values.reduce((total, value, i) => total + value * of((-2 * Math.PI * i * k) / n), 0));
  return [sum(Math.cos), sum(Math.sin)];
}

const real = (a: MxArray): MxArray => a.real();

test('fft is the sum of its definition', () => {
  const values = [1, 2, -1, 0.5, 3, -2];
  const [re, im] = transform(values);
  const found = fft.fft(values);
  expect(found.dtype).toBe('complex64');
  expectNumbers(found.real(), re, near);
  expectNumbers(found.imag(), im, near);
  const half = fft.rfft(values);
  expectNumbers(half.real(), re.slice(0, 4), near);
  expectNumbers(half.imag(), im.slice(0, 4), near);
  // Cut, and padded with zeros.
  expectNumbers(fft.fft(values, 4).real(), transform(values.slice(0, 4))[0], near);
  expectNumbers(fft.fft(values, 8).real(), transform([...values, 0, 0])[0], near);
  expectNumbers(fft.fft(mx.array(values).reshape([6, 1]), null, 0).real(), re, near);
});

describe('transforms and their inverses', () => {
  const x = noise([3, 4, 5], 1);
  const norms = ['backward', 'ortho', 'forward'] as const;
  test.each(norms)('with the norm %s', (norm) => {
    const options = { norm };
    expectNear(real(fft.ifft(fft.fft(x, null, 1, options), null, 1, options)), x, near);
    expectNear(real(fft.ifft2(fft.fft2(x, null, null, options), null, null, options)), x, near);
    expectNear(real(fft.ifftn(fft.fftn(x, null, null, options), null, null, options)), x, near);
    expectNear(fft.irfft(fft.rfft(x, null, -1, options), 5, -1, options), x, near);
    expectNear(fft.irfft2(fft.rfft2(x, null, null, options), [4, 5], null, options), x, near);
    expectNear(fft.irfftn(fft.rfftn(x, null, null, options), [3, 4, 5], null, options), x, near);
    const factor = { backward: 1, ortho: 60 ** -0.5, forward: 1 / 60 }[norm];
    expectNear(real(fft.fftn(x, null, null, options)), real(fft.fftn(x)).multiply(factor), near);
  });

  test('over several axes they are transforms of one after the other', () => {
    const one = fft.fft(fft.fft(x, null, -1), null, -2);
    expectNear(fft.fft2(x).real(), one.real(), near);
    expectNear(fft.fftn(x, null, [1, 2]).imag(), one.imag(), near);
    expectNear(fft.fft2(x, [2, 3], [0, 1]).real(), fft.fftn(x, [2, 3], [0, 1]).real(), near);
    expect(fft.rfft2(x).shape).toEqual([3, 4, 3]);
    expect(fft.rfftn(x, [3, 6], [0, 2]).shape).toEqual([3, 4, 4]);
    expect(fft.irfft(fft.rfft(x)).shape).toEqual([3, 4, 4]);
  });
});

test('shifts and frequencies', () => {
  const x = mx.arange(5);
  expectNumbers(fft.fftshift(x), [3, 4, 0, 1, 2]);
  expectNumbers(fft.ifftshift(fft.fftshift(x)), numbers(x));
  expectNumbers(
    fft.fftshift(
      [
        [0, 1],
        [2, 3],
      ],
      [1],
    ),
    [1, 0, 3, 2],
  );
  expectNumbers(fft.fftfreq(4), [0, 0.25, -0.5, -0.25]);
  expectNumbers(fft.fftfreq(5, 0.5), [0, 0.4, 0.8, -0.8, -0.4], 1e-6);
  expectNumbers(fft.rfftfreq(5, 2), [0, 0.1, 0.2], 1e-6);
});

test('what does not fit is a typed error', () => {
  const x = noise([3, 4], 1);
  const errors: [code: string, action: () => unknown][] = [
    ['ERR_MLX_SHAPE', () => fft.fft(1)],
    ['ERR_MLX_SHAPE', () => fft.fft(mx.zeros([0]))],
    ['ERR_MLX_SHAPE', () => fft.fft(x, null, 2)],
    ['ERR_MLX_ARGUMENT', () => fft.fft(x, 0)],
    ['ERR_MLX_ARGUMENT', () => fft.fft(x, 2.5)],
    ['ERR_MLX_SHAPE', () => fft.fft2(mx.zeros([3]))],
    ['ERR_MLX_SHAPE', () => fft.fftn(x, [2], [0, 1])],
    ['ERR_MLX_SHAPE', () => fft.fftn(x, null, [0, 0])],
    ['ERR_MLX_ARGUMENT', () => fft.fftn(x, null, [])],
    ['ERR_MLX_DTYPE', () => fft.rfft(fft.fft(x))],
    ['ERR_MLX_ARGUMENT', () => fft.fft(x, null, null, { norm: 'half' as never })],
    ['ERR_MLX_CONFIG', () => fft.fft(x, null, null, { nrom: 'ortho' } as never)],
    ['ERR_MLX_SHAPE', () => fft.fftshift(x, [2])],
    ['ERR_MLX_ARGUMENT', () => fft.fftfreq(0)],
    ['ERR_MLX_ARGUMENT', () => fft.rfftfreq(4, 0)],
  ];
  for (const [code, action] of errors) expect([codeOf(action), String(action)]).toEqual([code, String(action)]);
});
