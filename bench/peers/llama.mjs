// node-llama-cpp's side of bench/llama.mjs. Usage: node bench/peers/llama.mjs FOLDER FILE.gguf THREADS; FOLDER/node_modules holds node-llama-cpp.
import { createRequire } from 'node:module';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import process from 'node:process';
import { pathToFileURL } from 'node:url';
import { serve } from '../worker.mjs';

const [folder, file, threads] = process.argv.slice(2);
const entry = createRequire(path.join(path.resolve(folder), 'index.js')).resolve('node-llama-cpp');
const { getLlama } = await import(pathToFileURL(entry));
const { version } = createRequire(entry)('../package.json');
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: Number(threads) });
const model = await llama.loadModel({ modelPath: path.resolve(file) });

/** Requests that start together in one context; when each of their tokens reaches the program, in ms. */
async function generate({ prompts, maxTokens }) {
  const longest = Math.max(...prompts.map((prompt, i) => prompt.length + maxTokens[i]));
  const options = { contextSize: longest + 1, sequences: prompts.length, threads: Number(threads) };
  const context = await model.createContext(options);
  const start = performance.now();
  const answers = await Promise.all(
    prompts.map(async (prompt, i) => {
      const tokens = [];
      let first;
      let last;
      for await (const token of context.getSequence().evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
        last = performance.now() - start;
        first ??= last;
        tokens.push(token);
        if (tokens.length === maxTokens[i]) break;
      }
      return { tokens, first, last };
    }),
  );
  await context.dispose();
  const column = (name) => answers.map((answer) => answer[name]);
  return { tokens: column('tokens'), first: column('first'), last: column('last') };
}

await serve(`node-llama-cpp ${version}, ${path.basename(file)}`, { generate });
await llama.dispose();
