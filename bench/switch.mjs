// Time of a layer of experts (SwitchGLU: 512 to 256 to 512 features, 32 experts, 4 for each token), forward and with all gradients, for 1 to
// 512 tokens: ours, a loop over experts, and mlx-lm's. node bench/switch.mjs [--rounds 5] [--python PATH] [--ours] [--json]
// Ours and the peer take turns, and each number is the median over all rounds, because other work on the machine comes and goes.
//   --threshold   instead: our layer with its tokens sorted by expert and not, by pairs of token and expert
//   --quantized   instead: a layer of 4-bit experts, by the packed products and by dequantised ones
//   --half        instead: a layer in bfloat16, with all experts converted for each product and as it is
//   --size H,I,E,K  another layer: features, inner features, experts, experts for each token; E a power of two
//   --dtype NAME    bfloat16 or float16 instead of float32
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { mx, nn, tidy } from '../dist/lib/index.js';
import { median } from './times.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    python: { type: 'string', default: path.join(here, '.venv/bin/python') },
    ours: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    threshold: { type: 'boolean', default: false },
    quantized: { type: 'boolean', default: false },
    half: { type: 'boolean', default: false },
    size: { type: 'string', default: '512,256,32,4' },
    dtype: { type: 'string', default: 'float32' },
  },
});
const rounds = Number(options.rounds);
const [hidden, intermediate, experts, k] = options.size.split(',').map(Number);

/** The experts of tokens, the same as in the peer: four different ones each, unevenly spread. */
function chosen(tokens) {
  return Array.from({ length: tokens }, (_, token) => {
    const first = Math.floor((Math.imul(token, 2654435761) >>> 0) / (2 ** 32 / experts));
    const stride = 2 * ((token * 40503) >>> 4) + 1;
    return Array.from({ length: k }, (__, j) => (first + j * stride) % experts);
  });
}

const normal = (shape, seed, scale = 1) =>
  mx.random
    .normal(shape, { key: mx.random.key(seed) })
    .multiply(scale)
    .astype(options.dtype);
const weights = {
  gate: normal([experts, intermediate, hidden], 1, hidden ** -0.5),
  up: normal([experts, intermediate, hidden], 2, hidden ** -0.5),
  down: normal([experts, hidden, intermediate], 3, intermediate ** -0.5),
};
mx.eval(...Object.values(weights));

const layer = new nn.SwitchGLU(hidden, intermediate, experts);

function ours({ gate, up, down }, x, indices) {
  layer.gateProj.weight = gate;
  layer.upProj.weight = up;
  layer.downProj.weight = down;
  return layer.forward(x, indices);
}

/** Each expert's tokens by an ordinary product; the lists of tokens are made beforehand. */
function loop({ gate, up, down }, x, lists) {
  const parts = lists.tokens.map(([expert, tokens]) => {
    const rows = x.take(tokens, 0);
    const of = (weight) => weight.index(expert).T;
    return nn
      .silu(rows.matmul(of(gate)))
      .multiply(rows.matmul(of(up)))
      .matmul(of(down));
  });
  return mx.concatenate(parts, 0).take(lists.places, 0);
}

/** What the loop needs of the experts of tokens: each expert's tokens, and where its rows belong. */
function sortedLists(indices) {
  const pairs = indices.flatMap((row, token) => row.map((expert, j) => ({ expert, token, place: token * k + j })));
  const sorted = pairs.toSorted((a, b) => a.expert - b.expert);
  const places = new Int32Array(sorted.length);
  sorted.forEach(({ place }, i) => (places[place] = i));
  const of = Array.from({ length: experts }, (_, expert) => sorted.filter((pair) => pair.expert === expert));
  const used = of.flatMap((tokens, expert) => (tokens.length > 0 ? [[expert, tokens]] : []));
  return {
    tokens: used.map(([expert, tokens]) => [
      expert,
      mx.array(
        tokens.map(({ token }) => token),
        'int32',
      ),
    ]),
    places: mx.array([...places], 'int32').reshape([indices.length, k]),
  };
}

/** Our layer from its products, with the tokens sorted or not, whatever their number. */
function withProducts(multiply, sort, x, indices) {
  const glu = (rows, ids) =>
    multiply(nn.silu(multiply(rows, 'gate', ids)).multiply(multiply(rows, 'up', ids)), 'down', ids);
  if (!sort) return glu(mx.expandDims(x, [-2, -3]), indices).squeeze(-2);
  const flat = indices.flatten();
  const order = mx.argsort(flat);
  const y = glu(mx.expandDims(x, -2).take(order.floorDivide(k), 0), flat.take(order, 0));
  return y.take(mx.argsort(order), 0).reshape([...indices.shape, hidden]);
}

const forced = (sort) => (given, x, indices) => {
  const multiply = (rows, name, ids) =>
    mx.gatherMm(rows, given[name].swapaxes(-1, -2), { rhsIndices: ids, sortedIndices: sort });
  return withProducts(multiply, sort, x, indices);
};

/** Milliseconds of one run, as the median of some after a first one. */
function time(work, runs = 3) {
  const list = [];
  for (let i = 0; i <= runs; i++) {
    const start = performance.now();
    // Freed at once, as in Python: results that wait for the garbage collection make each run fault fresh memory in.
    tidy(() => {
      mx.eval(work());
    });
    if (i > 0) list.push(performance.now() - start);
  }
  return median(list);
}

function measure(run, tokens, indices) {
  const x = normal([tokens, hidden], 4);
  const cotangent = normal([tokens, k, hidden], 5);
  mx.eval(x, cotangent);
  const loss = (given, input) => run(given, input, indices).multiply(cotangent).sum();
  const gradients = mx.grad(loss, [0, 1]);
  return {
    forward: time(() => run(weights, x, indices), 15),
    backward: time(() => {
      const [{ gate, up, down }, dx] = gradients(weights, x);
      return [gate, up, down, dx];
    }),
  };
}

/** Medians over the rounds of what each of `works` gives, taking turns. */
function interleaved(works) {
  const seen = works.map(() => []);
  for (let round = 0; round < rounds; round++) works.forEach((work, i) => seen[i].push(work()));
  return seen.map((results) =>
    Object.fromEntries(Object.keys(results[0]).map((key) => [key, median(results.map((result) => result[key]))])),
  );
}

const cell = (value) => (typeof value === 'number' && !Number.isInteger(value) ? value.toPrecision(3) : String(value));

function* lazily(values, row) {
  for (const value of values) yield row(value);
}

const line = (cells) => console.log(`| ${cells.join(' | ')} |`);

/** Prints rows as they come: a table, or JSON lines. */
function print(title, columns, rows) {
  if (!options.json) {
    console.log(`\n${title}\n`);
    line(columns);
    line(columns.map(() => '---'));
  }
  for (const row of rows) {
    if (options.json) console.log(JSON.stringify(Object.fromEntries(columns.map((column, i) => [column, row[i]]))));
    else line(row.map(cell));
  }
}

function compare() {
  const cases = [1, 8, 64, 512].map((tokens) => {
    const indices = chosen(tokens);
    return { tokens, ids: mx.array(indices, 'int32').astype('uint32'), of: sortedLists(indices) };
  });
  const all = (run, which) => () =>
    Object.fromEntries(
      cases.flatMap((one) => {
        const { forward, backward } = measure(run, one.tokens, one[which]);
        return [
          [`${one.tokens} forward`, forward],
          [`${one.tokens} gradients`, backward],
        ];
      }),
    );
  const works = [all(ours, 'ids'), all(loop, 'of')];
  if (!options.ours) {
    if (!fs.existsSync(options.python)) throw new Error(`no Python with mlx-lm at ${options.python}: bench/setup.sh`);
    const peer = path.join(here, 'peers/mlx_lm_switch.py');
    works.push(() =>
      JSON.parse(execFileSync(options.python, [peer, options.size, options.dtype], { encoding: 'utf8' })),
    );
  }
  const results = interleaved(works);
  const columns = ['tokens', 'ours, ms', 'loop, ms', ...(options.ours ? [] : ['mlx-lm, ms'])];
  print(
    'A layer of experts',
    columns,
    Object.keys(results[0]).map((key) => [key, ...results.map((one) => one[key])]),
  );
}

function sortedOrNot(tokens) {
  const ids = mx.array(chosen(tokens), 'int32').astype('uint32');
  const [plain, sorted] = interleaved([false, true].map((sort) => () => measure(forced(sort), tokens, ids)));
  return [tokens * k, plain.forward, sorted.forward, plain.backward, sorted.backward];
}

function threshold() {
  const rows = lazily([1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 512], sortedOrNot);
  print('Sorted by expert or not', ['pairs', 'forward, ms', 'sorted', 'gradients, ms', 'sorted'], rows);
}

function quantized() {
  const how = { groupSize: 64, bits: 4 };
  const parts = (weight) => {
    const { weight: codes, scales, biases } = mx.quantize(weight, how);
    return [codes, scales, biases];
  };
  const packed = Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, parts(weight)]));
  mx.eval(...Object.values(packed).flat());
  const direct = (sort) => (x, indices) => {
    const multiply = (rows, name, ids) =>
      mx.gatherQmm(rows, ...packed[name], { rhsIndices: ids, sortedIndices: sort, ...how });
    return withProducts(multiply, sort, x, indices);
  };
  const dequantised = (sort) => (x, indices) => {
    const multiply = (rows, name, ids) =>
      mx.gatherMm(rows, mx.dequantize(...packed[name], how).swapaxes(-1, -2), { rhsIndices: ids, sortedIndices: sort });
    return withProducts(multiply, sort, x, indices);
  };
  const row = (tokens) => {
    const ids = mx.array(chosen(tokens), 'int32').astype('uint32');
    const x = normal([tokens, hidden], 4);
    const works = [direct(false), direct(true), dequantised(true)].map((run) => () => ({
      ms: time(() => run(x, ids)),
    }));
    return [tokens * k, ...interleaved(works).map(({ ms }) => ms)];
  };
  const rows = lazily([1, 2, 8, 16, 64, 256, 512, 2048], row);
  print('Experts of 4 bits', ['pairs', 'packed, ms', 'packed and sorted', 'dequantised and sorted'], rows);
}

function half() {
  const small = Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, weight.astype('bfloat16')]));
  mx.eval(...Object.values(small));
  const row = (tokens) => {
    const ids = mx.array(chosen(tokens), 'int32').astype('uint32');
    const x = normal([tokens, hidden], 4).astype('bfloat16');
    mx.eval(ids, x);
    const converted = () => {
      const wide = Object.fromEntries(Object.entries(small).map(([name, weight]) => [name, weight.astype('float32')]));
      return ours(wide, x.astype('float32'), ids).astype('bfloat16');
    };
    const works = [converted, () => ours(small, x, ids)].map((run) => () => ({ ms: time(run) }));
    return [tokens * k, ...interleaved(works).map(({ ms }) => ms)];
  };
  print('Experts in bfloat16', ['pairs', 'all converted, ms', 'ours'], lazily([1, 2, 4, 6, 8, 16, 64], row));
}

if (options.threshold) threshold();
else if (options.quantized) quantized();
else if (options.half) half();
else compare();
