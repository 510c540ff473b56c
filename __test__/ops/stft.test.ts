import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MlxError, MxArray } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

interface Recorded {
  shape: number[];
  values: number[];
}

interface StftCase {
  x: Recorded;
  nFft: number;
  options: { [name: string]: unknown; window?: 'hanning' | 'hamming'; win_length?: number };
  spectrum: { shape: number[]; real: number[]; imag: number[] };
  inverse: Recorded;
  cut: Recorded;
  padded: Recorded;
}

const { cases } = JSON.parse(readFileSync(join(import.meta.dirname, '../fixtures/stft/stft.json'), 'utf8')) as {
  cases: StftCase[];
};

const camel = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** Sums of at most 30 products of a few units, and six recorded decimals. */
function expectNear(found: MxArray, shape: readonly number[], wanted: readonly number[]): void {
  expect(found.shape).toEqual(shape);
  const bound = 2e-6 * Math.max(1, ...wanted.map(Math.abs)) + 1e-6;
  for (const [i, value] of found.toFloat32().entries())
    expect(Math.abs(value - wanted[i]!), `${i}`).toBeLessThanOrEqual(bound);
}

const arrayOf = ({ shape, values }: Recorded): MxArray => mx.array(values, 'float32').reshape(shape);

function optionsOf({ nFft, options }: StftCase): mx.fft.StftOptions & mx.fft.IstftOptions {
  const window = { hanning: mx.hanning, hamming: mx.hamming, none: undefined }[options.window ?? 'none'];
  const named = Object.fromEntries(Object.entries(options).map(([name, value]) => [camel(name), value]));
  return { ...named, window: window?.(options.win_length ?? nFft) };
}

describe('as Python has them', () => {
  test.each(cases.map((one) => [JSON.stringify({ nFft: one.nFft, ...one.options }), one] as const))('%s', (_, one) => {
    const { padMode, ...options } = optionsOf(one);
    const spectrum = mx.fft.stft(arrayOf(one.x), one.nFft, { ...options, ...(padMode && { padMode }) });
    expect(spectrum.dtype).toBe('complex64');
    expectNear(spectrum.real(), one.spectrum.shape, one.spectrum.real);
    expectNear(spectrum.imag(), one.spectrum.shape, one.spectrum.imag);
    expectNear(mx.fft.istft(spectrum, one.nFft, options), one.inverse.shape, one.inverse.values);
    expectNear(mx.fft.istft(spectrum, one.nFft, { ...options, length: 20 }), one.cut.shape, one.cut.values);
    expectNear(mx.fft.istft(spectrum, one.nFft, { ...options, length: 60 }), one.padded.shape, one.padded.values);
  });
});

test('the inverse restores the signal, whatever its axes and numbers', () => {
  const x = mx.random.normal([2, 3, 50]);
  const window = mx.hanning(16);
  const back = mx.fft.istft(mx.fft.stft(x, 16, { window }), null, { window, length: 50 });
  expectNear(back, [2, 3, 50], [...x.toFloat32()]);
  const whole = mx.arange(40);
  expect(mx.fft.stft(whole, 16).shape).toEqual([9, 11]);
  expectNear(mx.fft.istft(mx.fft.stft(whole, 16), 16), [40], [...whole.toFloat32()]);
  // Complex signals have all frequencies.
  expect(mx.fft.stft(x.astype('complex64'), 16).shape).toEqual([2, 3, 16, 13]);
  expect(mx.fft.stft(x.astype('complex64'), 16, { onesided: true }).shape).toEqual([2, 3, 9, 13]);
});

test('the gradient goes through both', () => {
  const [x, weight] = [mx.random.normal([30]), mx.random.normal([30])];
  const loss = (y: MxArray): MxArray =>
    mx.fft
      .istft(mx.fft.stft(y, 8, { hopLength: 3 }), 8, { hopLength: 3, length: 30 })
      .multiply(weight)
      .sum();
  // Restoring is the identity.
  expectNear(mx.grad(loss)(x), [30], [...weight.toFloat32()]);
});

test('what does not fit is a typed error', () => {
  const x = mx.random.normal([20]);
  const spectrum = mx.fft.stft(x, 8);
  const refused: [() => unknown, string, RegExp][] = [
    [() => mx.fft.stft(x, 0), 'ERR_MLX_ARGUMENT', /nFft must be at least 1/],
    [() => mx.fft.stft(x, 1), 'ERR_MLX_ARGUMENT', /hopLength/],
    [() => mx.fft.stft(x, 8, { hopLength: 0 }), 'ERR_MLX_ARGUMENT', /hopLength/],
    [() => mx.fft.stft(x, 8, { winLength: 9 }), 'ERR_MLX_SHAPE', /at most nFft = 8/],
    [() => mx.fft.stft(x, 8, { window: [[1]] }), 'ERR_MLX_SHAPE', /a window has one axis/],
    [() => mx.fft.stft(x, 8, { padMode: 'wrap' as never }), 'ERR_MLX_ARGUMENT', /padMode/],
    [() => mx.fft.stft(x, 8, { norm: 'x' as never }), 'ERR_MLX_ARGUMENT', /norm/],
    [() => mx.fft.stft(x, 21, { center: false }), 'ERR_MLX_SHAPE', /20 samples are too few/],
    [() => mx.fft.stft(1, 8), 'ERR_MLX_SHAPE', /dimension/],
    [() => mx.fft.stft(mx.zeros([0]), 8), 'ERR_MLX_SHAPE', /no elements/],
    [() => mx.fft.stft(x, 8, { hop_length: 2 } as never), 'ERR_MLX_CONFIG', /hopLength/],
    [() => mx.fft.istft(x), 'ERR_MLX_SHAPE', /2 dimensions/],
    [() => mx.fft.istft(spectrum, 8, { length: -1 }), 'ERR_MLX_ARGUMENT', /length/],
    [() => mx.fft.istft(mx.zeros([5, 0], 'complex64')), 'ERR_MLX_SHAPE', /no elements/],
  ];
  for (const [act, code, text] of refused) {
    const error = thrown(act) as MlxError;
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(text)]);
  }
});
