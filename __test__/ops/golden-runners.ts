/**
 * How operations of the recorded numbers (`golden/numerics`) are called from TypeScript, by their names in Python: those on
 * elements, axes, shapes and places. `golden-products.ts` has the rest.
 */
import { mx, MxArray } from '../../lib/index.ts';

// oxlint-disable-next-line typescript/no-explicit-any
type Args = Record<string, any>;
export type Runner = (arrays: MxArray[], args: Args) => MxArray | readonly MxArray[];

type Unary = (a: MxArray) => MxArray;
type Binary = (a: MxArray, b: MxArray) => MxArray;

export const unary =
  (call: Unary): Runner =>
  ([a]) =>
    call(a!);
export const binary =
  (call: Binary): Runner =>
  ([a, b]) =>
    call(a!, b!);
const reduction =
  (call: (a: MxArray, axis?: number | number[] | null, keepdims?: boolean | null) => MxArray): Runner =>
  ([a], { axis, keepdims }) =>
    call(a!, axis, keepdims);
const scan =
  (call: (a: MxArray, axis: number, options: { reverse?: boolean; inclusive?: boolean }) => MxArray): Runner =>
  ([a], { axis, ...options }) =>
    call(a!, axis, options);

/** The value and the gradients of the first `count` inputs; a single gradient was recorded row by row. */
export const gradients =
  (count: number, call: (...arrays: MxArray[]) => MxArray): Runner =>
  (arrays) => {
    const argnums = Array.from({ length: count }, (_, i) => i);
    const [value, grads] = mx.valueAndGrad(call, argnums)(...(arrays as [MxArray]));
    const list = grads as unknown as MxArray[];
    return [value, ...(count === 1 ? list[0]!.unstack() : list)];
  };

/** The first inputs' columns of a sorted part: its order is not defined. */
const firstSorted = (a: MxArray, count: number): MxArray => mx.sort(a.index('...', `:${count}`));

const elementwise: Record<string, Runner> = {
  abs: unary(mx.abs),
  negative: unary(mx.negative),
  square: unary(mx.square),
  sign: unary(mx.sign),
  floor: unary(mx.floor),
  ceil: unary(mx.ceil),
  round: unary((a) => mx.round(a)),
  exp: unary(mx.exp),
  expm1: unary(mx.expm1),
  log: unary(mx.log),
  log1p: unary(mx.log1p),
  log2: unary(mx.log2),
  log10: unary(mx.log10),
  sin: unary(mx.sin),
  cos: unary(mx.cos),
  tanh: unary(mx.tanh),
  sinh: unary(mx.sinh),
  cosh: unary(mx.cosh),
  arcsin: unary(mx.arcsin),
  arccos: unary(mx.arccos),
  arctan: unary(mx.arctan),
  arctanh: unary(mx.arctanh),
  sigmoid: unary(mx.sigmoid),
  erf: unary(mx.erf),
  erfinv: unary(mx.erfinv),
  sqrt: unary(mx.sqrt),
  rsqrt: unary(mx.rsqrt),
  reciprocal: unary(mx.reciprocal),
  add: binary(mx.add),
  subtract: binary(mx.subtract),
  multiply: binary(mx.multiply),
  divide: binary(mx.divide),
  power: binary(mx.power),
  remainder: binary(mx.remainder),
  floor_divide: binary(mx.floorDivide),
  maximum: binary(mx.maximum),
  minimum: binary(mx.minimum),
  arctan2: binary(mx.arctan2),
  logaddexp: binary(mx.logaddexp),
  greater: binary(mx.greater),
  less_equal: binary(mx.lessEqual),
  equal: binary(mx.equal),
  not_equal: binary(mx.notEqual),
  where: ([a, b, c]) => mx.where(a!, b!, c!),
  nan_to_num: ([a], { nan, posinf, neginf }) => mx.nanToNum(a!, nan, posinf, neginf),
  clip: ([a], { min, max }) => mx.clip(a!, min, max),
  astype: ([a], { to }) => {
    const [dtype, back] = (to as string).split(', back to ') as [mx.Dtype, mx.Dtype | undefined];
    return back === undefined ? a!.astype(dtype) : a!.astype(dtype).astype(back);
  },
};

const reducing: Record<string, Runner> = {
  sum: reduction(mx.sum),
  mean: reduction(mx.mean),
  max: reduction(mx.max),
  min: reduction(mx.min),
  prod: reduction(mx.prod),
  var: ([a], { axis, keepdims, ddof }) => mx.var(a!, axis, keepdims, ddof),
  std: ([a], { axis, keepdims, ddof }) => mx.std(a!, axis, keepdims, ddof),
  logsumexp: reduction(mx.logsumexp),
  all: reduction(mx.all),
  any: reduction(mx.any),
  argmax: ([a], { axis }) => mx.argmax(a!, axis),
  argmin: ([a], { axis }) => mx.argmin(a!, axis),
  cumsum: scan(mx.cumsum),
  cumprod: scan(mx.cumprod),
  cummax: scan(mx.cummax),
  cummin: scan(mx.cummin),
  logcumsumexp: scan(mx.logcumsumexp),
  softmax: ([a], { axis, precise }) =>
    precise === true ? mx.softmax(a!.astype('bfloat16'), axis, { precise }) : mx.softmax(a!, axis),
  sort: ([a], { axis }) => mx.sort(a!, axis),
  argsort: ([a], { axis }) => mx.argsort(a!, axis),
  partition_then_sort: ([a], { kth }) => firstSorted(mx.partition(a!, kth), kth),
  argpartition_then_sort: ([a], { kth }) => firstSorted(mx.argpartition(a!, kth), kth),
  topk_then_sort: ([a], { k }) => mx.sort(mx.topk(a!, k)),
};

const moving: Record<string, Runner> = {
  take: ([a, b], { axis }) => mx.take(a!, b!, axis),
  take_along_axis: ([a, b], { axis }) => mx.takeAlongAxis(a!, b!, axis),
  put_along_axis: ([a, b, c], { axis }) => mx.putAlongAxis(a!, b!, c!, axis),
  'at.add': ([a, b, c]) => a!.indexUpdate([b!], c!, 'add'),
  'at.multiply': ([a, b, c]) => a!.indexUpdate([b!], c!, 'multiply'),
  'at.maximum': ([a, b, c]) => a!.indexUpdate([b!], c!, 'maximum'),
  'at.minimum': ([a, b, c]) => a!.indexUpdate([b!], c!, 'minimum'),
  'index.slice': ([a]) => a!.index(':', '1::2', '::-1'),
  'index.two_arrays': ([a, b, c]) => a!.index(b!, c!),
  slice_update: ([a, b], { start, axes }) => mx.sliceUpdate(a!, b!, start, axes),
  concatenate: (arrays, { axis }) => mx.concatenate(arrays, axis),
  stack: (arrays, { axis }) => mx.stack(arrays, axis),
  pad: ([a], args) => mx.pad(a!, args['pad_width'], 'constant', args['constant_values']),
  repeat: ([a], { repeats, axis }) => mx.repeat(a!, repeats, axis),
  tile: ([a], { reps }) => mx.tile(a!, reps),
  transpose: ([a], { axes }) => mx.transpose(a!, axes),
  roll: ([a], { shift, axis }) => mx.roll(a!, shift, axis),
  tril: ([a], { k }) => mx.tril(a!, k),
  triu: ([a], { k }) => mx.triu(a!, k),
};

const softmaxEntropy = (a: MxArray): MxArray => {
  const logProbabilities = a.subtract(a.logsumexp(-1, true));
  return logProbabilities.exp().multiply(logProbabilities).sum().negative();
};

const compositions: Record<string, Runner> = {
  'grad.mlp': gradients(4, (a, b, c, d, e) =>
    a!.matmul(b!).silu().multiply(a!.matmul(c!)).matmul(d!).multiply(e!).sum(),
  ),
  'grad.cross_entropy': gradients(1, (a, b) =>
    a!
      .logsumexp(-1)
      .subtract(a!.takeAlongAxis(b!.expandDims(-1), -1).squeeze(-1))
      .mean(),
  ),
  'grad.embedding': gradients(1, (a, b, c) => a!.take(b!, 0).multiply(c!).sum()),
  'grad.entropy': gradients(1, (a) => softmaxEntropy(a!)),
  'grad.clipped_ratio': gradients(1, (a, b, c) => {
    const ratio = a!.subtract(b!).exp();
    return mx.minimum(ratio.multiply(c!), ratio.clip(0.8, 1.2).multiply(c!)).mean().negative();
  }),
  'grad.topk_router': gradients(1, (a, b, c) => {
    const chosen = a!.softmax(-1).takeAlongAxis(b!, -1);
    return chosen.divide(chosen.sum(-1, true)).multiply(c!).sum();
  }),
  'grad.cumulative': gradients(2, (a, b) => a!.cumsum(-1).multiply(b!).add(a!.logsumexp(-1, true).multiply(b!)).sum()),
};

export const runners: Readonly<Record<string, Runner>> = {
  ...elementwise,
  ...reducing,
  ...moving,
  ...compositions,
};
