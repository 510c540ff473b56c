/** How the recorded products, factorisations and fused operations are called from TypeScript; see `golden-runners.ts`. */
import { mx } from '../../lib/index.ts';
import { binary, gradients, unary } from './golden-runners.ts';
import type { Runner } from './golden-runners.ts';

const attention = (mask: 'causal' | null): Runner =>
  gradients(3, (a, b, c, d) =>
    mx.fast
      .scaledDotProductAttention(a!, b!, c!, { scale: 32 ** -0.5, ...(mask === null ? {} : { mask }) })
      .multiply(d!)
      .sum(),
  );

const products: Record<string, Runner> = {
  matmul: binary(mx.matmul),
  addmm: ([a, b, c], { alpha, beta }) => mx.addmm(a!, b!, c!, { alpha, beta }),
  outer: binary((a, b) => mx.outer(a, b)),
  inner: binary((a, b) => mx.inner(a, b)),
  tensordot: ([a, b], { axes }) => mx.tensordot(a!, b!, axes),
  einsum: (arrays, { subscripts }) => mx.einsum(subscripts, ...arrays),
  conv1d: ([a, b], args) => mx.conv1d(a!, b!, args),
  conv2d: ([a, b], args) => mx.conv2d(a!, b!, args),
  'linalg.inv': unary((a) => mx.linalg.inv(a)),
  'linalg.cholesky': unary((a) => mx.linalg.cholesky(a)),
  'linalg.solve': binary((a, b) => mx.linalg.solve(a, b)),
  'linalg.eigvalsh': unary((a) => mx.linalg.eigvalsh(a)),
  'linalg.svd_values': unary((a) => mx.linalg.svd(a)[1]!),
  'linalg.qr_abs_r': unary((a) => mx.linalg.qr(a)[1]!.abs()),
  'linalg.norm': ([a], { ord, axis }) => mx.linalg.norm(a!, ord === 'inf' ? Infinity : ord, axis),
};

const fast: Record<string, Runner> = {
  'fast.rms_norm': ([a, b], { eps }) => mx.fast.rmsNorm(a!, b ?? null, eps),
  'fast.layer_norm': ([a, b, c], { eps }) => mx.fast.layerNorm(a!, b ?? null, c ?? null, eps),
  'fast.rope': ([a, b], { dims, traditional, base, scale, offset }) =>
    mx.fast.rope(a!, dims, {
      traditional,
      scale,
      offset: offset ?? b,
      ...(base === null ? { freqs: b! } : { base }),
    }),
  'fast.scaled_dot_product_attention': ([a, b, c, d], { scale, mask }) =>
    mx.fast.scaledDotProductAttention(a!, b!, c!, {
      scale,
      ...(mask === null ? {} : { mask: mask === 'causal' ? mask : d! }),
    }),
};

const compositions: Record<string, Runner> = {
  'grad.rms_norm': gradients(2, (a, b, c) => mx.fast.rmsNorm(a!, b!, 1e-6).multiply(c!).sum()),
  'grad.rope': gradients(1, (a, b) =>
    mx.fast.rope(a!, 32, { traditional: false, base: 1e4, scale: 1, offset: 5 }).multiply(b!).sum(),
  ),
  'grad.attention': (arrays, { mask }) => attention(mask)(arrays, {}),
};

export const productRunners: Readonly<Record<string, Runner>> = { ...products, ...fast, ...compositions };
