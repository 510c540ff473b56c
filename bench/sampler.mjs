// Time of one sampling step for 64 rows of Qwen's vocabulary: node bench/sampler.mjs, beside python bench/peers/mlx_lm_sampler.py.
import { mx, sample } from '../dist/lib/index.js';

const rows = 64;
const logits = mx.random.normal([rows, 151_936], { key: mx.random.key(1) }).multiply(2.5);
mx.eval(logits);
const history = Array.from({ length: rows }, (_, row) =>
  Array.from({ length: 40 }, (__, i) => (row * 7919 + i * 31) % 151_936),
);
const cases = {
  greedy: { temperature: 0 },
  temperature: { temperature: 0.7 },
  topP: { temperature: 0.7, topP: 0.9, filterOrder: 'mlx' },
  topK: { temperature: 0.7, topK: 20, filterOrder: 'mlx' },
  minP: { temperature: 0.7, minP: 0.05, filterOrder: 'mlx' },
  penalties: { temperature: 0.7, repetitionPenalty: 1.1, presencePenalty: 0.5, frequencyPenalty: 0.5, history },
};

const result = {};
for (const [name, options] of Object.entries(cases)) {
  const times = [];
  for (let step = 0; step < 6; step++) {
    const start = performance.now();
    const { tokens, logprobs } = sample(logits, { ...options, seed: 1, step });
    mx.eval(tokens, logprobs);
    times.push(performance.now() - start);
  }
  result[name] = Math.min(...times);
}
console.log(JSON.stringify(result));
