import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, expectTypeOf, test } from 'vitest';
import { MlxError, mx, MxArray } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

const folder = mkdtempSync(join(tmpdir(), 'mlx-node-files-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);
const fixture = (name: string): string => join(import.meta.dirname, '..', 'fixtures', 'files', name);

const code = (action: () => unknown): unknown => (thrown(action) as MlxError).code;
const rejected = async (promise: Promise<unknown>): Promise<MlxError> => {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(MlxError);
  return error as MlxError;
};

interface Expected {
  dtype: string;
  shape: number[];
  values: (number | string)[];
}
const expected = JSON.parse(readFileSync(fixture('expected.json'), 'utf8')) as Record<
  string,
  { arrays: Record<string, Expected>; metadata?: Record<string, unknown> }
>;

const values = (array: MxArray): (number | string)[] => {
  const whole = array.dtype.includes('int');
  return [...array.toTypedArray()].map((value) => (whole ? String(value) : Number(value)));
};

const describeArray = (array: MxArray): Expected => ({
  dtype: array.dtype,
  shape: array.shape,
  values: values(array),
});

const check = (array: MxArray, wanted: Expected): void => expect(describeArray(array)).toEqual(wanted);

describe('files of NumPy, MLX and gguf', () => {
  test('npy, npz and safetensors', async () => {
    for (const [name, { arrays }] of Object.entries(expected)) {
      if (name.endsWith('.gguf')) continue;
      const found = await mx.load(fixture(name));
      const loaded: Record<string, MxArray> = found instanceof MxArray ? { '': found } : found;
      expect(Object.keys(loaded).toSorted()).toEqual(Object.keys(arrays).toSorted());
      for (const [key, array] of Object.entries(loaded)) check(array, arrays[key]!);
    }
  });

  test('gguf with metadata of every kind', async () => {
    for (const name of ['mlx.gguf', 'mixed.gguf', 'more.gguf']) {
      const { arrays, metadata } = await mx.loadGguf(fixture(name), { returnMetadata: true });
      expect(Object.keys(arrays).toSorted()).toEqual(Object.keys(expected[name]!.arrays).toSorted());
      for (const [key, array] of Object.entries(arrays)) check(array, expected[name]!.arrays[key]!);
      const wanted = expected[name]!.metadata!;
      expect(Object.keys(metadata).toSorted()).toEqual(Object.keys(wanted).toSorted());
      const plain = (value: mx.GgufValue): unknown => (value instanceof MxArray ? describeArray(value) : value);
      for (const [key, value] of Object.entries(metadata)) expect(plain(value)).toEqual(wanted[key]);
    }
  });

  test('packed weights of a GGUF have the layout of the quantized products', async () => {
    const arrays = await mx.loadGguf(fixture('mixed.gguf'));
    for (const [name, bits] of [
      ['q4_0', 4],
      ['q4_1', 4],
      ['q8_0', 8],
    ] as const) {
      const [w, scales, biases] = ['weight', 'scales', 'biases'].map((part) => arrays[`${name}.${part}`]!);
      expect(w!.dtype).toBe('uint32');
      expect(w!.shape).toEqual([2, (64 * bits) / 32]);
      expect(scales!.shape).toEqual([2, 2]);
      expect(biases!.shape).toEqual([2, 2]);
    }
  });
});

describe('saving', () => {
  test('each format gives back what it was given', async () => {
    const arrays = {
      a: mx.array([
        [1, 2],
        [3, 4],
      ]),
      b: mx.array([0.5], 'bfloat16'),
      c: mx.array([true, false]),
    };
    await mx.savez(at('a.npz'), arrays);
    await mx.savezCompressed(at('b.npz'), arrays);
    await mx.saveSafetensors(at('a.safetensors'), arrays, { metadata: { format: 'mlx' } });
    for (const name of ['a.npz', 'b.npz', 'a.safetensors'] as const) {
      const loaded = (await mx.load(at(name))) as Record<string, MxArray>;
      expect(Object.keys(loaded).toSorted()).toEqual(['a', 'b', 'c']);
      for (const [key, array] of Object.entries(arrays)) {
        expect(loaded[key]!.dtype).toBe(array.dtype);
        expect(loaded[key]!.shape).toEqual(array.shape);
        expect(loaded[key]!.toBytes()).toEqual(array.toBytes());
      }
    }
    const { metadata } = await mx.loadSafetensors(at('a.safetensors'), { returnMetadata: true });
    expect(metadata).toEqual({ format: 'mlx' });
  });

  test('the extension is added where it is missing, a URL is a path', async () => {
    await mx.save(at('plain'), [[1.5, 2.5]]);
    const loaded = await mx.load(at('plain.npy') as `${string}.npy`);
    expectTypeOf(loaded).toEqualTypeOf<MxArray>();
    expect(loaded.shape).toEqual([1, 2]);
    mx.saveSync(pathToFileURL(at('url.npy')), mx.array([7]));
    expect((mx.loadSync(pathToFileURL(at('url.npy')), { format: 'npy' }) as MxArray).item()).toBe(7);
    expect(readdirSync(folder).filter((name) => name.includes('tmp'))).toEqual([]);
  });

  test('trees by their paths, lists as arr_0, names of any kind', async () => {
    await mx.saveSafetensors(at('tree'), { layers: [{ weight: mx.ones([2]) }, { weight: mx.zeros([2]) }] });
    expect(Object.keys(mx.loadSafetensorsSync(at('tree.safetensors'))).toSorted()).toEqual([
      'layers.0.weight',
      'layers.1.weight',
    ]);
    mx.savezSync(at('list'), [mx.array(1), mx.array(2)]);
    expect(Object.keys(mx.loadSync(at('list.npz'))).toSorted()).toEqual(['arr_0', 'arr_1']);
    mx.savezCompressedSync(
      at('names'),
      Object.fromEntries([
        ['__proto__', mx.array(3)],
        ['größe', mx.array(4)],
      ]),
    );
    const loaded = mx.loadSync(at('names.npz')) as Record<string, MxArray>;
    expect(Object.getOwnPropertyNames(loaded).toSorted()).toEqual(['__proto__', 'größe']);
  });

  test('gguf with metadata', async () => {
    const metadata = { name: 'tiny', tokens: ['a', 'b'], count: 3, scale: 0.5, ids: mx.array(Uint16Array.of(1, 2)) };
    await mx.saveGguf(at('a'), { w: mx.ones([2, 3]) }, { metadata });
    const loaded = await mx.loadGguf(at('a.gguf'), { returnMetadata: true });
    expect(loaded.arrays['w']!.shape).toEqual([2, 3]);
    expect(loaded.metadata['name']).toBe('tiny');
    expect(loaded.metadata['tokens']).toEqual(['a', 'b']);
    expect((loaded.metadata['count'] as MxArray).dtype).toBe('int32');
    expect((loaded.metadata['scale'] as MxArray).item()).toBe(0.5);
    expect((loaded.metadata['ids'] as MxArray).dtype).toBe('uint16');
    expect((await rejected(mx.saveGguf(at('b'), { w: mx.array([true]) }))).code).toBe('ERR_MLX_DTYPE');
  });

  test('a link stays a link', async () => {
    await mx.save(at('target.npy'), 1);
    symlinkSync(at('target.npy'), at('link.npy'));
    await mx.save(at('link.npy'), 2);
    expect((mx.loadSync(at('target.npy'), { format: 'npy' }) as MxArray).item()).toBe(2);
  });

  test('progress, and a signal that stops without a trace', async () => {
    const reports: mx.FileProgress[] = [];
    const big = mx.zeros([12 << 20]);
    await mx.savez(at('big.npz'), { big }, { onProgress: (progress) => reports.push(progress) });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(reports.at(-1)).toEqual({ loaded: big.nbytes, total: big.nbytes });
    expect(reports.length).toBeGreaterThan(2);
    reports.length = 0;
    await mx.load(at('big.npz'), { onProgress: (progress) => reports.push(progress) });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(reports.at(-1)!.loaded).toBe(reports.at(-1)!.total);
    const stop = new AbortController();
    const work = mx.savez(at('stopped.npz'), { big, more: big }, { signal: stop.signal });
    stop.abort(new Error('enough'));
    await expect(work).rejects.toThrow('enough');
    await expect(mx.load(at('big.npz'), { signal: AbortSignal.abort(new Error('no')) })).rejects.toThrow('no');
    expect(readdirSync(folder).filter((name) => name.includes('stopped'))).toEqual([]);
  });
});

describe('what is wrong is said', () => {
  test('files', async () => {
    for (const name of ['objects.npy', 'structured.npy', 'text.npy', 'complex128.npy']) {
      const error = await rejected(mx.load(fixture(name)));
      expect(error.code).toBe('ERR_MLX_LOAD');
      expect(error.message).toContain(name);
    }
    expect((await rejected(mx.load(at('missing.npz')))).code).toBe('ERR_MLX_LOAD');
    expect((await rejected(mx.load(`${folder}/x.pt`))).code).toBe('ERR_MLX_ARGUMENT');
    writeFileSync(at('x.npz'), 'PK nothing');
    expect((await rejected(mx.load(at('x.npz')))).code).toBe('ERR_MLX_LOAD');
    const bomb = await rejected(mx.load(fixture('bomb.npz'), { maxBytes: 100_000 }));
    expect(bomb.message).toContain('maxBytes');
    expect(await mx.load(fixture('bomb.npz'))).toHaveProperty('zeros');
  });

  test('arguments', async () => {
    expect(code(() => mx.savezSync(at('y'), { a: 3 }))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.saveSafetensorsSync(at('y'), mx.array(1)))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.savezSync(at('y'), { '../a': mx.array(1) }))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.savezSync(at('y'), { 'a.b': mx.array(1), a: { b: mx.array(1) } }))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.saveSync('', mx.array(1)))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.loadSync(new URL('https://example.org/a.npy')))).toBe('ERR_MLX_ARGUMENT');
    expect(code(() => mx.loadSync(at('a.npz'), { formt: 'npz' } as never))).toBe('ERR_MLX_CONFIG');
    expect(code(() => mx.saveSync(at('none/y'), mx.array(1)))).toBe('ERR_MLX_SAVE');
    expect(code(() => mx.saveSafetensorsSync(at('y'), {}, { metadata: { a: 1 } as never }))).toBe('ERR_MLX_ARGUMENT');
    const gone = mx.array(1);
    gone.dispose();
    expect((await rejected(mx.save(at('y'), gone))).code).toBe('ERR_MLX_DISPOSED');
    expect(readdirSync(folder).filter((name) => name.startsWith('y') || name.includes('tmp'))).toEqual([]);
  });
});
