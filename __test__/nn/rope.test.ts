import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mx, MxArray, nn } from '../../lib/index.ts';
import type { MlxError } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

interface RopeRun {
  offset: number;
  shape: number[];
  x: number[];
  transformers: number[];
  mlx_lm?: number[];
}

interface RopeCase {
  name: string;
  scaling: { rope_type: string; [key: string]: unknown };
  max_position_embeddings: number;
  dims: number;
  base: number;
  runs: RopeRun[];
}

const { cases } = JSON.parse(readFileSync(join(import.meta.dirname, '../fixtures/nn-rope/rope.json'), 'utf8')) as {
  cases: RopeCase[];
};

const camel = (name: string): string => name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

function make({ scaling, max_position_embeddings: maxPositionEmbeddings, dims, base }: RopeCase): nn.RoPE {
  const options = Object.fromEntries(Object.entries(scaling).map(([key, value]) => [camel(key), value]));
  return new nn.RoPE(dims, { base, maxPositionEmbeddings, scaling: options as nn.RopeScaling });
}

/**
 * An angle of `position` radians and less, in float32, is off by three roundings here and three in the peer; the rotated values by that times the
 * largest of them.
 */
function expectRotated(found: MxArray, wanted: readonly number[], positions: number, what: string): void {
  const bound = (6 * 2 ** -24 * positions + 2e-7) * Math.max(...wanted.map(Math.abs)) + 1e-7;
  const values = found.toFloat32();
  expect(values.length).toBe(wanted.length);
  for (const [i, value] of wanted.entries())
    expect(Math.abs(values[i]! - value), `${what} [${i}]`).toBeLessThanOrEqual(bound);
}

test('every type is recorded', () => {
  expect(new Set(cases.map(({ scaling }) => scaling.rope_type))).toEqual(
    new Set(['default', 'linear', 'dynamic', 'yarn', 'longrope', 'llama3', 'proportional']),
  );
  expect(cases.filter(({ runs }) => runs[0]!.mlx_lm !== undefined)).toHaveLength(10);
});

describe('rotated as by transformers, and by mlx-lm', () => {
  test.each(cases)('$name', (one) => {
    const rope = make(one);
    for (const { offset, shape, x, transformers, mlx_lm: mlxLm } of one.runs) {
      const input = MxArray.fromFloat32(Float32Array.from(x), shape);
      const positions = offset + shape[2]!;
      const found = rope.forward(input, offset);
      expectRotated(found, transformers, positions, `transformers at ${offset}`);
      if (mlxLm !== undefined) expectRotated(found, mlxLm, positions, `mlx-lm at ${offset}`);
      // Offsets of the rows.
      expectRotated(rope.forward(input, mx.array([offset], 'int32')), transformers, positions, `rows at ${offset}`);
      // Without the axis of the batch.
      expectRotated(rope.forward(input.squeeze(0), offset), transformers, positions, `three axes at ${offset}`);
    }
  });

  test('and so are their gradients: a rotation times its factor keeps the length', () => {
    for (const one of cases) {
      const rope = make(one);
      const { offset, shape, x, transformers } = one.runs[1]!;
      const input = MxArray.fromFloat32(Float32Array.from(x), shape);
      const [length, gradient] = mx.valueAndGrad((y: MxArray) => rope.forward(y, offset).square().sum())(input);
      const squared = (values: readonly number[]): number => values.reduce((sum, value) => sum + value * value, 0);
      expect(length.item() / squared(transformers)).toBeCloseTo(1, 5);
      // The squared length is f² |x|²; its gradient is 2 f² x.
      const factor = squared(transformers) / squared(x);
      for (const [i, value] of gradient.toFloat32().entries()) {
        expect(Math.abs(value - 2 * factor * x[i]!), one.name).toBeLessThanOrEqual(
          2e-5 * factor * Math.max(...x.map(Math.abs)),
        );
      }
    }
  });
});

test('settings that cannot be are errors that name them', () => {
  const refused: [nn.RopeScaling, RegExp][] = [
    [{ ropeType: 'mystery' } as never, /rope_type is "mystery".*proportional/],
    [{ ropeType: 'linear' } as never, /factor is missing/],
    [{ ropeType: 'proportional', partialRotaryFactor: 1.5 }, /partial_rotary_factor is 1.5/],
    [{ ropeType: 'proportional', factor: 0 }, /factor is 0/],
    [{ ropeType: 'longrope', shortFactor: [1], longFactor: [1, 1, 1, 1] }, /short_factor is \[1\]/],
  ];
  for (const [scaling, text] of refused) {
    const error = thrown(() => new nn.RoPE(8, { scaling })) as MlxError;
    expect([error.code, error.message]).toEqual(['ERR_MLX_CONFIG', expect.stringMatching(text)]);
  }
});
