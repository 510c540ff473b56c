import { performance } from 'node:perf_hooks';

export const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

/** Milliseconds of `work`: the median of some runs after some for warm-up. */
export async function times(work, runs = 5, warmup = 2) {
  for (let i = 0; i < warmup; i++) await work();
  const list = [];
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await work();
    list.push(performance.now() - start);
  }
  return median(list);
}
