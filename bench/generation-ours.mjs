// Our side of bench/generation.mjs and bench/llama.mjs. Usage: node bench/generation-ours.mjs MODEL_FOLDER [JSON of loadModel's options]
import { performance } from 'node:perf_hooks';
import process from 'node:process';
import { Engine, loadModel, makePromptCache, mx, tidy } from 'mlx-node';
import { buildInfo } from 'mlx-node/native';
import { serve } from './worker.mjs';

const [folder, load = '{"dtype":"float32"}'] = process.argv.slice(2);
const model = await loadModel(folder, JSON.parse(load));

/** Requests that an engine gets at once; when each of their tokens reaches the program, in ms. */
async function generate({ prompts, maxTokens, batchSize, prefillBatchSize }) {
  const engine = new Engine(model, { maxBatchSize: batchSize, prefillBatchSize });
  const start = performance.now();
  const answers = await Promise.all(
    prompts.map(async (prompt, i) => {
      const tokens = [];
      let first;
      let last;
      const options = { maxTokens: maxTokens[i], temperature: 0, ignoreEos: true };
      for await (const chunk of engine.submit(prompt, options)) {
        last = performance.now() - start;
        first ??= last;
        tokens.push(...chunk.tokens);
      }
      return { tokens, first, last };
    }),
  );
  engine.close();
  const column = (name) => answers.map((answer) => answer[name]);
  return { tokens: column('tokens'), first: column('first'), last: column('last') };
}

/** The loop without an engine: the model with a cache, and the best token, which the next step starts from before it is read. */
async function bare({ prompts, steps }) {
  const cache = makePromptCache(model);
  const next = (ids) => tidy(() => model.forward(ids, { cache }).index(':', -1).argmax(-1));
  const tokens = [];
  let token = next(mx.array(prompts, 'int32'));
  await mx.evalAsync(token);
  const start = performance.now();
  for (let step = 1; step < steps; step++) {
    const following = tidy(() => next(token.expandDims(1).astype('int32')));
    const running = mx.evalAsync(following);
    tokens.push(token.toArray());
    await running;
    token.dispose();
    token = following;
  }
  const stepMs = (performance.now() - start) / (steps - 1);
  tokens.push(token.toArray());
  token.dispose();
  return { stepMs, tokens: prompts.map((_, row) => tokens.map((column) => column[row])) };
}

const info = buildInfo();
await serve(`mlx-node (mlx ${info.mlxVersion}, ${info.flavour})`, { generate, bare });
model.dispose();
