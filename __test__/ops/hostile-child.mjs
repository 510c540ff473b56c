// Calls every operation with arguments that it was not made for. The parent watches the file in which this process notes the
// call that runs, and reads a summary from its standard output. Plain JavaScript over `dist`, so that nothing stands between.
import fs from 'node:fs';
import process from 'node:process';
import { MlxError, mx, MxArray } from '../../dist/lib/index.js';

const [, , note, seedText, only = ''] = process.argv;
const current = fs.openSync(note, 'w');

/** Files have tests of their own; limits and devices would change what the other calls do. */
const left = /^(load|save|set[A-Z]|clear|dispose$)/;

const grid = () => mx.array([1.5, -2, 0, 3, 4, -5]).reshape([2, 3]);
const disposed = () => {
  const array = grid();
  array.dispose();
  return array;
};
const trap = () =>
  new Proxy(
    {},
    {
      get() {
        throw new Error('trap');
      },
    },
  );

/** Fresh values by the names under which they are reported. `lazy` ones are too large to compute with. */
const values = {
  undefined: () => undefined,
  null: () => null,
  NaN: () => NaN,
  Infinity: () => Infinity,
  1.5: () => 1.5,
  '-2**40': () => -(2 ** 40),
  '2**31': () => 2 ** 31,
  '2**31-1': () => 2 ** 31 - 1,
  '-2**31': () => -(2 ** 31),
  '2**53': () => 2 ** 53,
  '-1': () => -1,
  '-0': () => -0,
  1: () => 1,
  3: () => 3,
  1000: () => 1000,
  '1n': () => 1n,
  "''": () => '',
  "'abc'": () => 'abc',
  "'a\\0'": () => 'a\0',
  "'float32'": () => 'float32',
  "'int8'": () => 'int8',
  "'complex64'": () => 'complex64',
  true: () => true,
  '{}': () => ({}),
  '{ axis: 1 }': () => ({ axis: 1 }),
  '[]': () => [],
  '[[]]': () => [[]],
  '[1, [2]]': () => [1, [2]],
  '[undefined]': () => [undefined],
  '[NaN]': () => [NaN],
  '[1.5]': () => [1.5],
  '[0]': () => [0],
  '[-1]': () => [-1],
  '[0, 0]': () => [0, 0],
  '[1, 0]': () => [1, 0],
  '[2, 3]': () => [2, 3],
  '[2**31-1]': () => [2 ** 31 - 1],
  '[2**31-1, 2**31-1]': () => [2 ** 31 - 1, 2 ** 31 - 1],
  '[-2**31, 2**40]': () => [-(2 ** 31), 2 ** 40],
  '[[1, 2], [3, 4]]': () => [
    [1, 2],
    [3, 4],
  ],
  'a hole': () => Array.from({ length: 3 }).fill(1, 2),
  // oxlint-disable-next-line unicorn/no-new-array
  'new Array(2**32-1)': () => new Array(2 ** 32 - 1),
  'a function': () => () => grid(),
  'a symbol': () => Symbol('s'),
  'a bare object': () => Object.create(null),
  'a Date': () => new Date(0),
  'a Proxy that throws': trap,
  'an Int32Array': () => Int32Array.of(1, -1, 0),
  'a Float64Array': () => Float64Array.of(NaN, 1e300),
  'a DataView': () => new DataView(new ArrayBuffer(8)),
  'a clone of an array': () => structuredClone(grid()),
  'a disposed array': disposed,
  'array.prototype': () => MxArray.prototype,
  scalar: () => mx.array(2.5),
  'float32 [2, 3]': grid,
  '[float32 [2, 3], int32 [3]]': () => [grid(), mx.array([0, 1, 2])],
  'int32 [3]': () => mx.array([0, 1, 2]),
  'int32 far outside [2]': () => mx.array([2 ** 31 - 1, -(2 ** 31)], 'int32'),
  'int64 far outside [2]': () => mx.array([2n ** 62n, -(2n ** 63n)]),
  'uint32 [2]': () => mx.array([4294967295, 0], 'uint32'),
  'uint8 [4, 4]': () => mx.ones([4, 4], 'uint8'),
  'bool [2, 3]': () => grid().greater(0),
  'float16 [3, 3]': () => mx.eye(3, 3, 0, 'float16'),
  'bfloat16 [2]': () => mx.array([1, 2], 'bfloat16'),
  'float32 [4, 4]': () => mx.arange(16).reshape([4, 4]).astype('float32'),
  'NaN [2, 2]': () => mx.array([NaN, Infinity, -Infinity, 1]).reshape([2, 2]),
  'complex64 [2]': () => mx.array([1, 2], 'complex64'),
  'float64 [2]': () => mx.array([1, 2], 'float64'),
  'empty [0]': () => mx.zeros([0]),
  'empty int32 [0, 3]': () => mx.zeros([0, 3], 'int32'),
  'float32 [1, 2, 1, 2, 1]': () => mx.ones([1, 2, 1, 2, 1]),
  'lazy float32 [2**31-1]': () => mx.array(1.5).broadcastTo([2 ** 31 - 1]),
  'lazy int8 [65536, 65536]': () => mx.array(1, 'int8').broadcastTo([65536, 32767]),
};
const names = Object.keys(values);

/** The parameters and their kinds, as generated functions name them for their errors. */
function parameters(call) {
  const text = /failure\(error, '[^']*', '([^']*)'/.exec(String(call))?.[1];
  return text === undefined ? undefined : text.split(', ').filter((part) => part !== '' && !/^\w+\./.test(part));
}

const fitting = {
  array: 'float32 [2, 3]',
  arrays: '[float32 [2, 3], int32 [3]]',
  number: '1',
  numbers: '[2, 3]',
  'number|numbers': '1',
  lists: '1',
  'lists of numbers': '[[1, 2], [3, 4]]',
  boolean: 'true',
  dtype: "'float32'",
  string: "'abc'",
  object: '{}',
};

/** Functions by the names under which they are reported. */
function targets() {
  const found = new Map();
  const add = (prefix, holder) => {
    for (const name of Object.keys(holder)) {
      if (typeof holder[name] === 'function' && !left.test(name)) found.set(`${prefix}.${name}`, holder[name]);
    }
  };
  add('mx', mx);
  for (const [space, holder] of Object.entries(mx))
    if (typeof holder === 'object' && holder !== null) add(`mx.${space}`, holder);
  for (const name of Object.getOwnPropertyNames(MxArray.prototype)) {
    const { value } = Object.getOwnPropertyDescriptor(MxArray.prototype, name);
    if (typeof value !== 'function' || name === 'constructor' || left.test(name)) continue;
    // Only on arrays, disposed ones among them: JavaScript's own error says enough about the rest.
    found.set(`a.${name}`, (self, ...rest) =>
      self instanceof MxArray && self !== MxArray.prototype ? self[name](...rest) : undefined,
    );
    found.get(`a.${name}`).arity = value.length + 1;
  }
  return found;
}

/** Numbers that a seed fixes (mulberry32). */
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function* argumentLists(call, next) {
  const kinds = parameters(call)?.map((part) => part.slice(part.indexOf(':') + 1).replace('?', ''));
  const arity = Math.max(1, kinds?.length ?? call.arity ?? call.length);
  const base = Array.from({ length: arity }, (_, i) => fitting[kinds?.[i]] ?? (i === 0 ? 'float32 [2, 3]' : '1'));
  yield [];
  yield base;
  yield [...base, '3', 'undefined', '{}'];
  for (const name of names) {
    yield Array.from({ length: arity }, () => name);
    for (let i = 0; i < arity; i++) yield base.with(i, name);
  }
  for (let i = 0; i < 15 * arity; i++)
    yield Array.from({ length: arity }, () => names[Math.floor(next() * names.length)]);
}

const summary = {
  functions: 0,
  calls: 0,
  returned: 0,
  evaluated: 0,
  codes: {},
  problems: [],
  slowest: { ms: 0, call: '' },
};
const problem = (call, what) => summary.problems.push(`${call}: ${what}`);

function judge(call, error, when) {
  if (error instanceof Error && error.message === 'trap') return;
  if (!MlxError.isInstance(error))
    problem(call, `${when} threw ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`);
  else if (!/^ERR_MLX_[A-Z]+$/.test(error.code) || error.code === 'ERR_MLX_INTERNAL')
    problem(call, `${when} threw ${error.code}: ${error.message}`);
  else summary.codes[error.code] = (summary.codes[error.code] ?? 0) + 1;
}

const arraysIn = (result) =>
  result instanceof MxArray
    ? [result]
    : Array.isArray(result)
      ? result.slice(0, 64).flatMap(arraysIn)
      : typeof result === 'object' && result !== null && Object.getPrototypeOf(result) === Object.prototype
        ? Object.values(result).flatMap(arraysIn)
        : [];

/** Who reads eight gigabytes gets eight gigabytes. */
const reading = /^a\.(to[A-Z]|tolist)/;

/** Results above this are not computed: what is asked here is whether a call is safe, not whether the machine is large. */
const largest = 2 ** 24;

async function attempt(name, call, list) {
  const text = `${name}(${list.join(', ')})`;
  fs.writeSync(current, `${text}\n`, 0);
  const start = performance.now();
  const given = list.map((key) => values[key]());
  summary.calls += 1;
  let results = [];
  try {
    let result = call(...given);
    if (result instanceof Promise) result = await result;
    summary.returned += 1;
    results = arraysIn(result);
  } catch (error) {
    judge(text, error, 'the call');
  }
  if (!list.some((key) => key.startsWith('lazy'))) {
    for (const result of results) {
      try {
        if (result.disposed || result.nbytes > largest) continue;
        result.eval();
        summary.evaluated += 1;
      } catch (error) {
        judge(text, error, 'evaluation');
      }
    }
  }
  for (const array of new Set([...results, ...given.flatMap(arraysIn)])) array.dispose();
  const ms = performance.now() - start;
  if (ms > summary.slowest.ms) summary.slowest = { ms: Math.round(ms), call: text };
}

const next = random(Number(seedText));
let peak = 0;
for (const [name, call] of targets()) {
  if (only !== '' && !only.split(',').includes(name)) continue;
  summary.functions += 1;
  for (const list of argumentLists(call, next)) {
    if (reading.test(name) && list.some((key) => key.startsWith('lazy'))) continue;
    await attempt(name, call, list);
    if (summary.calls % 500 === 0) globalThis.gc();
    if (summary.calls % 50 === 0) peak = Math.max(peak, process.memoryUsage.rss());
  }
}
fs.closeSync(current);
console.log(JSON.stringify({ ...summary, peakMegabytes: Math.round(peak / 2 ** 20) }));
