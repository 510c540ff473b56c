#!/usr/bin/env node
// Generation against node-llama-cpp on this machine: the same model, prompts and CPU, greedy. Every round asks all in turn; medians over rounds.
// node bench/llama.mjs --model FOLDER --node-llama-cpp FOLDER --gguf FILE [--gguf FILE …] [options], after npm run build
// --model FOLDER           Qwen2.5-Coder-1.5B-Instruct, or another model: a folder in the Hugging Face layout or a GGUF file
// --gguf FILE              the same model for the peer; bench/peers/gguf_of.py makes other types of a file
// --node-llama-cpp FOLDER  where `npm install node-llama-cpp` was run
// --load JSON              options of loadModel, e.g. '{"dtype":"float32"}'; may be given several times
// --rounds N               3 by default
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { guard, SetupError } from '../scripts/task.mjs';
import { here, threads, warnOfLoad } from './environment.mjs';
import { decode, firstToken } from './requests.mjs';
import { printTable, takeTurns } from './rounds.mjs';
import { Worker } from './worker.mjs';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    gguf: { type: 'string', multiple: true, default: [] },
    'node-llama-cpp': { type: 'string' },
    load: { type: 'string', multiple: true, default: ['{"dtype":"float32"}'] },
    rounds: { type: 'string', default: '3' },
  },
});

const tasks = ['quicksort', 'a binary search tree', 'the sieve of Eratosthenes', 'a queue on two stacks'];
const question = (task) => `Write ${task} in Python, with a docstring, type hints and tests, and explain each part.`;

await guard(async () => {
  const { model, gguf, load } = options;
  if (model === undefined || (gguf.length > 0 && options['node-llama-cpp'] === undefined)) {
    throw new SetupError('--model is needed, and --node-llama-cpp with --gguf.');
  }
  const { Tokenizer } = await import('mlx-node');
  const tokenizer = await Tokenizer.load(model);
  const encode = (content) => tokenizer.encodeChat([{ role: 'user', content }]);
  const prompts = tasks.map((task) => encode(question(task)));
  const long = encode(`${'The quick brown fox jumps over the lazy dog, and then it sleeps. '.repeat(34)} Go on.`).slice(
    0,
    512,
  );

  const workers = [];
  for (const settings of load) {
    const label = `mlx-node ${Object.values(JSON.parse(settings))
      .map((value) => JSON.stringify(value))
      .join(' ')}`;
    const worker = await Worker.start(process.execPath, [path.join(here, 'generation-ours.mjs'), model, settings]);
    workers.push({ label: label.replaceAll('"', ''), worker });
  }
  for (const file of gguf) {
    const args = [path.join(here, 'peers/llama.mjs'), options['node-llama-cpp'], file, String(threads)];
    workers.push({
      label: `llama.cpp ${path.basename(file, '.gguf')}`,
      worker: await Worker.start(process.execPath, args),
    });
  }
  warnOfLoad();
  const measurements = [decode(prompts.slice(0, 1), 33), decode(prompts, 33), firstToken(long)];
  printTable(workers, measurements, await takeTurns(workers, measurements, Number(options.rounds)));
  workers.forEach(({ worker }) => worker.stop());
});
