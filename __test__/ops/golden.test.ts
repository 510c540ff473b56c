import { describe, expect, test } from 'vitest';
import { mx } from '../../lib/index.ts';
import type { MxArray } from '../../lib/index.ts';
import { goldenCases, goldenPath } from '../helpers/golden.ts';
import { productRunners } from './golden-products.ts';
import { runners } from './golden-runners.ts';

const cases = goldenCases('numerics');
const tensors = mx.loadSafetensorsSync(goldenPath('numerics', 'tensors.safetensors'));

/** Scalars are recorded as numbers. */
function tensor(entry: unknown): MxArray {
  if (typeof entry === 'number') return mx.array(entry, 'float32');
  const { tensor: name } = entry as { tensor: string };
  const found = tensors[name];
  if (found === undefined) throw new Error(`no tensor ${name}`);
  return found;
}

/** Elements further from the recorded ones than the case allows, as text. */
function differences(got: MxArray, want: MxArray, { atol, rtol }: { atol: number; rtol: number }): string[] {
  const [values, expected] = [got.toTypedArray(), want.toTypedArray()];
  return Array.from(values, Number).flatMap((value, i) => {
    const wanted = Number(expected[i]);
    const close = Object.is(value, wanted) || Math.abs(value - wanted) <= atol + rtol * Math.abs(wanted);
    return close ? [] : [`[${i}] ${value}, recorded ${wanted}`];
  });
}

describe('recorded numbers of mlx', () => {
  test('are all there', () => {
    expect(cases.length).toBe(180);
  });

  test.each(cases.map((one) => [one.name, one] as const))('%s', (_, one) => {
    const { op, args } = one.options as { op: string; args: Record<string, unknown> };
    const run = runners[op] ?? productRunners[op];
    expect(run, `no runner for ${op}`).toBeDefined();
    const results = [run!(Object.values(one.inputs).map(tensor), args)].flat() as MxArray[];
    const wanted = Object.values(one.expected).map(tensor);
    expect(results.length).toBe(wanted.length);
    for (const [i, want] of wanted.entries()) {
      expect(results[i]!.shape).toEqual(want.shape);
      expect(differences(results[i]!, want, one.tolerance)).toEqual([]);
    }
  });
});
