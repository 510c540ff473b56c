import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mx, MxArray, nn, optim } from '../../lib/index.ts';
import type { MlxError } from '../../lib/index.ts';
import { thrown } from '../helpers/thrown.ts';

type Dtype = mx.Dtype;
type DtypeFacts = { [field: string]: string | number };

const python = JSON.parse(readFileSync(join(import.meta.dirname, '../fixtures/names/python.json'), 'utf8')) as {
  names: { [space: string]: string[] };
  dtypes: {
    result: { [a: string]: { [b: string]: string } };
    subtypes: { [name: string]: string[] };
    kinds: { [name: string]: string[] };
    finfo: { [name: string]: DtypeFacts };
    iinfo: { [name: string]: DtypeFacts };
  };
};

const ours: { [space: string]: object } = {
  'mlx.core': mx,
  'mlx.core.array': MxArray.prototype,
  'mlx.core.fast': mx.fast,
  'mlx.core.fft': mx.fft,
  'mlx.core.linalg': mx.linalg,
  'mlx.core.random': mx.random,
  'mlx.nn': nn,
  'mlx.nn.Module': nn.Module.prototype,
  'mlx.nn.init': nn.init,
  'mlx.nn.losses': nn.losses,
  'mlx.optimizers': optim,
  'mlx.utils': mx,
};

/** Python's names that we have under another one. */
const renamed: { [name: string]: string } = {
  'mlx.core.async_eval': 'evalAsync',
  'mlx.core.custom_function': 'customVjp',
  'mlx.core.get_active_memory': 'memoryStats',
  'mlx.core.get_cache_memory': 'memoryStats',
  'mlx.core.get_memory_limit': 'memoryStats',
  'mlx.core.get_peak_memory': 'memoryStats',
  'mlx.nn.Module.is_module': 'modules',
};

/** Python's names that we do not have, by reason. `a|b` are names of the namespace before the colon. */
const leftOut: readonly (readonly [reason: string, space: string, names: string])[] = [
  [
    'types: TypeScript has them as types, or needs none',
    'mlx.core',
    'ArrayAt|ArrayIterator|ArrayLike|Device|DeviceType|Dtype|DtypeCategory|FunctionExporter|PrintOptions|Stream|StreamContext|ThreadLocalStream',
  ],
  [
    'one thread evaluates for the whole process, with a stream for each device: lib/device.ts',
    'mlx.core',
    'clear_streams|default_stream|new_stream|new_thread_local_stream|new_thread_unsafe_stream|set_default_stream|stream|device_count',
  ],
  ['one process on one machine', 'mlx.core', 'distributed'],
  [
    'one process on one machine',
    'mlx.nn',
    'AllToShardedLinear|FullyShardedModule|QuantizedAllToShardedLinear|QuantizedShardedToAllLinear|ShardedToAllLinear|average_gradients|distributed|fully_shard',
  ],
  ['MLX-C 0.7 does not have it', 'mlx.core', 'einsum_path|get_array_buffer_size'],
  ['MLX-C 0.7 does not have it', 'mlx.core.fast', 'gated_delta_update'],
  ['not bound yet: graphs in files', 'mlx.core', 'export_function|export_to_dot|exporter|import_function'],
  ['not bound yet: kernels in source text', 'mlx.core.fast', 'cuda_kernel|metal_kernel|precompiled_cuda_kernel'],
  ['not bound yet: digits of printed arrays', 'mlx.core', 'get_printoptions|printoptions|set_printoptions'],
  ['JavaScript has no DLPack; typed arrays go in and out', 'mlx.core', 'from_dlpack'],
  ['doctor and mx.deviceInfo say what the build has', 'mlx.core', 'cuda|metal'],
  [
    'modules of the Python package; what they hold is in nn itself',
    'mlx.nn',
    'activations|base|containers|convolution|convolution_transpose|dropout|embedding|layers|linear|normalization|pooling|positional_encoding|quantized|recurrent|transformer|upsample|utils',
  ],
  [
    'a module is an object, not a dict',
    'mlx.nn.Module',
    'clear|copy|fromkeys|get|items|keys|pop|popitem|setdefault|values',
  ],
  [
    'static in TypeScript: Module.validParameterFilter',
    'mlx.nn.Module',
    'trainable_parameter_filter|valid_child_filter|valid_parameter_filter',
  ],
  ['what the Python files import', 'mlx.nn.init', 'Callable|Literal|math|mx'],
  ['what the Python files import', 'mlx.nn.losses', 'Literal|Optional|Reduction|get_args|math|mx'],
  [
    'what the Python files import',
    'mlx.optimizers',
    'Callable|List|Module|Optional|Tuple|Union|math|mx|optimizers|schedulers|tree_flatten|tree_map|tree_merge|tree_reduce|tree_unflatten',
  ],
  ['what the Python files import', 'mlx.utils', 'Any|Callable|Dict|List|Optional|Tuple|Union|defaultdict|zip_longest'],
];

const camel = (name: string): string => name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
const absent = new Set(leftOut.flatMap(([, space, names]) => names.split('|').map((name) => `${space}.${name}`)));

describe("Python's public names", () => {
  test.each(Object.keys(python.names))('%s', (space) => {
    const has = (name: string): boolean => name in ours[space]!;
    const missing = python.names[space]!.filter((name) => {
      const other = renamed[`${space}.${name}`];
      return !(has(camel(name)) || (other !== undefined && has(other)) || absent.has(`${space}.${name}`));
    });
    expect(missing).toEqual([]);
  });

  test('what counts as left out is known to Python, and we do not have it', () => {
    for (const [, space, names] of leftOut) {
      for (const name of names.split('|')) {
        expect(python.names[space], `${space}.${name}`).toContain(name);
        expect(camel(name) in ours[space]!, `${space}.${name}`).toBe(false);
      }
    }
  });
});

describe('dtypes, as Python has them', () => {
  const { result, subtypes, kinds, finfo, iinfo } = python.dtypes;
  const dtypes = Object.keys(result) as Dtype[];

  test('promotion: of names, of arrays, and in operations', () => {
    expect(dtypes).toHaveLength(14);
    mx.tidy(() => {
      for (const a of dtypes) {
        for (const b of dtypes) {
          const wanted = result[a]![b];
          const [x, y] = [mx.zeros([1], a), mx.zeros([1], b)];
          expect([mx.resultType(a, b), mx.resultType(x, b), mx.add(x, y).dtype], `${a}, ${b}`).toEqual(
            Array.from({ length: 3 }, () => wanted),
          );
          expect(mx.canCast(a, b)).toBe(wanted === b);
        }
      }
    });
    expect(mx.resultType('int8', 'uint8', 'float16')).toBe('float16');
    expect(mx.resultType(mx.array([1n]))).toBe('int64');
  });

  test('families and kinds', () => {
    const names = Object.keys(subtypes);
    const families = names.filter((name) => !(name in result));
    for (const name of names) {
      const own = families.filter((family) => mx.issubdtype(name as Dtype, family as mx.DtypeCategory));
      expect(own, name).toEqual(subtypes[name]);
      for (const dtype of dtypes) expect(mx.issubdtype(name as Dtype, dtype)).toBe(name === dtype);
    }
    const known: mx.DtypeKind[] = [
      'bool',
      'signed integer',
      'unsigned integer',
      'integral',
      'real floating',
      'complex floating',
      'numeric',
    ];
    for (const dtype of dtypes) {
      expect(known.filter((kind) => mx.isdtype(dtype, kind))).toEqual(kinds[dtype]);
      expect(mx.isdtype(dtype, ['bool', 'int8'])).toBe(dtype === 'bool' || dtype === 'int8');
    }
    expect([mx.bool_, mx.float32, mx.integer, mx.complexfloating]).toEqual([
      'bool',
      'float32',
      'integer',
      'complexfloating',
    ]);
  });

  test('limits', () => {
    for (const [dtype, facts] of Object.entries(finfo)) {
      const wanted = Object.fromEntries(Object.entries(facts).map(([field, value]) => [camel(field), value]));
      expect(mx.finfo(dtype as Dtype)).toEqual(wanted);
    }
    for (const [dtype, facts] of Object.entries(iinfo)) {
      const found = mx.iinfo(dtype as Dtype);
      expect({ dtype: found.dtype, min: String(found.min), max: String(found.max) }).toEqual(facts);
      expect(typeof found.max).toBe(dtype.endsWith('64') ? 'bigint' : 'number');
      // As large as the dtype says, and no larger.
      expect(BigInt(found.max) - BigInt(found.min)).toBe(2n ** BigInt(found.bits) - 1n);
    }
  });

  test('what is not there is a typed error', () => {
    const refused: [() => unknown, string, RegExp][] = [
      [() => mx.resultType(), 'ERR_MLX_ARGUMENT', /at least one/],
      [() => mx.resultType('flaot32' as never), 'ERR_MLX_DTYPE', /did you mean 'float32'/],
      [() => mx.canCast('int8', undefined as never), 'ERR_MLX_DTYPE', /undefined is not known/],
      [() => mx.isdtype('int8', 'integer' as never), 'ERR_MLX_DTYPE', /'integer' is not known/],
      [() => mx.issubdtype('int8', 'toString' as never), 'ERR_MLX_DTYPE', /'toString' is not known/],
      [() => mx.finfo('int32'), 'ERR_MLX_DTYPE', /see mx.iinfo/],
      [() => mx.iinfo('float32'), 'ERR_MLX_DTYPE', /see mx.finfo/],
      [() => mx.iinfo('bool'), 'ERR_MLX_DTYPE', /see mx.finfo/],
    ];
    for (const [act, code, text] of refused) {
      const error = thrown(act) as MlxError;
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(text)]);
    }
  });
});

test('constants', () => {
  expect([mx.pi, mx.e, mx.inf, mx.nan, mx.eulerGamma, mx.newaxis]).toEqual([
    Math.PI,
    Math.E,
    Infinity,
    NaN,
    0.5772156649015329,
    null,
  ]);
  expect(mx.array([1, 2]).index(mx.newaxis).shape).toEqual([1, 2]);
  expect(mx.withDevice(mx.cpu, () => mx.defaultDevice())).toBe('cpu');
});
