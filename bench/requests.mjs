// Measurements of generation: requests `{ case: 'generate', prompts, maxTokens, batchSize, prefillBatchSize }`, which every worker answers
// with the tokens of each request and when the first and the last of them came, in ms.

const sum = (values) => values.reduce((total, value) => total + value, 0);
const rowsOf = (count) => `${count} ${count === 1 ? 'row' : 'rows'}`;

/** Requests that start together: one step, from the first token of all to the last. */
export const decode = (prompts, steps) => ({
  name: `decoding step, ${rowsOf(prompts.length)}`,
  request: {
    case: 'generate',
    prompts,
    maxTokens: prompts.map(() => steps),
    batchSize: prompts.length,
    prefillBatchSize: prompts.length,
  },
  ms: ({ first, last }) => (Math.max(...last) - Math.max(...first)) / (steps - 1),
});

export const firstToken = (prompt) => ({
  name: `first token, prompt of ${prompt.length}`,
  request: { case: 'generate', prompts: [prompt], maxTokens: [1], batchSize: 32, prefillBatchSize: 8 },
  ms: ({ first }) => first[0],
});

/** The loop with nothing around the model. */
export const bare = (prompts, steps) => ({
  name: `step of the bare loop, ${rowsOf(prompts.length)}`,
  request: { case: 'bare', prompts, steps },
  ms: ({ stepMs }) => stepMs,
});

/** More requests than fit the batch, submitted at once: until all are answered, and the mean wait for a first token. */
export function mixed(requests) {
  const [prompts, maxTokens] = [requests.map(({ prompt }) => prompt), requests.map(({ max }) => max)];
  const total = `${sum(prompts.map((prompt) => prompt.length))} + ${sum(maxTokens)} tokens`;
  return [
    {
      name: `${requests.length} requests (${total})`,
      request: { case: 'generate', prompts, maxTokens, batchSize: 32, prefillBatchSize: 8 },
      ms: ({ last }) => Math.max(...last),
      long: true,
    },
    { name: 'mean wait for their first tokens', ms: ({ first }) => sum(first) / first.length, long: true },
  ];
}
