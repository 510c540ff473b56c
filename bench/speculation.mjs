// Speculative decoding beside plain decoding, alternating in one run:
// node bench/speculation.mjs [--model DIR] [--draft-model DIR] [--max-tokens N] [--trials N] [--layers 1,2,4,8]
//
// Without --model: a model of random weights and, one after the other, draft models that are its first --layers. The layers above add nothing, so that every
// guess is right: the ratio is the most that a draft model of that size can give, and says nothing of real acceptance.
// With --model: prompt lookup on three prompts, of which the first asks for a copy with changes and the last for nothing that is in it.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createModel, loadModel, mx } from '../dist/lib/index.js';
import { median } from './times.mjs';

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string' },
    'draft-model': { type: 'string' },
    'max-tokens': { type: 'string', default: '160' },
    trials: { type: 'string', default: '3' },
    layers: { type: 'string', default: '1,2,4,8' },
  },
});
const maxTokens = Number(flags['max-tokens']);
const trials = Number(flags.trials);

const round = (value) => Number(value.toPrecision(3));
const layerOf = (name) => Number(/layers\.(\d+)\./.exec(name)?.[1] ?? -1);

/** Medians of decoding speed, plain and with `speculation`, of the ratio, and whether the greedy answers are the same. */
async function compare(name, model, prompt, speculation, options = {}) {
  const common = { maxTokens, temperature: 0, enableThinking: false, ...options };
  const speed = async (more) => {
    const { timings, tokens, speculation: guesses } = await model.generate(prompt, { ...common, ...more });
    return { tokensPerSecond: timings.decodeTokensPerSecond, tokens, guesses };
  };
  for (const more of [{}, speculation]) await speed({ ...more, maxTokens: 8 });
  const rounds = [];
  for (let trial = 0; trial < trials; trial++) rounds.push([await speed({}), await speed(speculation)]);
  const { draftTokens, acceptanceRate } = rounds[0][1].guesses;
  console.log(
    JSON.stringify({
      name,
      plain: round(median(rounds.map(([plain]) => plain.tokensPerSecond))),
      guessing: round(median(rounds.map(([, guessing]) => guessing.tokensPerSecond))),
      ratio: round(median(rounds.map(([plain, guessing]) => guessing.tokensPerSecond / plain.tokensPerSecond))),
      tokens: rounds[0][0].tokens.length,
      draftTokens,
      acceptanceRate: round(acceptanceRate),
      same: rounds.every(([plain, guessing]) => plain.tokens.join() === guessing.tokens.join()),
    }),
  );
}

const code = readFileSync(new URL('../lib/signal.ts', import.meta.url), 'utf8');
const prompts = {
  'copy with changes': `Rename the function withSignal to withAbort in this file and answer with the whole file, nothing else.\n\n${code}`,
  question: `What does this function do, and what could go wrong in it? Answer in a paragraph.\n\n${code}`,
  story: 'Tell a story about a lighthouse keeper and a storm.',
};

async function real() {
  const model = await loadModel(flags.model);
  const draftModel = flags['draft-model'] === undefined ? undefined : await loadModel(flags['draft-model']);
  for (const [name, prompt] of Object.entries(prompts)) {
    await compare(`${name}: prompt lookup`, model, prompt, { promptLookup: true });
    if (draftModel !== undefined) await compare(`${name}: draft model`, model, prompt, { draftModel });
  }
  draftModel?.dispose();
  model.dispose();
}

async function built() {
  const size = {
    hidden_size: 512,
    intermediate_size: 1536,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 64,
  };
  const rest = { max_position_embeddings: 4096, rms_norm_eps: 1e-6, rope_theta: 10_000, tie_word_embeddings: true };
  const config = (layers) => ({
    model_type: 'qwen3',
    vocab_size: 8192,
    num_hidden_layers: layers,
    eos_token_id: 0,
    ...size,
    ...rest,
  });
  const folder = (layers) => {
    const dir = mkdtempSync(join(tmpdir(), 'mlx-node-bench-'));
    writeFileSync(join(dir, 'config.json'), JSON.stringify(config(layers)));
    return dir;
  };
  const layers = 24;
  const large = folder(layers);
  const prompt = Array.from({ length: 64 }, (_, i) => 1 + ((i * 37) % 8191));
  const weights = await createModel(large, { seed: 1 });
  for (const depth of flags.layers.split(',').map(Number)) {
    const small = folder(depth);
    const all = [...weights.parameters()];
    const silent = (name) => layerOf(name) >= depth && /(o_proj|down_proj)\.weight$/.test(name);
    const target = all.map(([name, value]) => [name, silent(name) ? mx.zeros(value.shape) : value]);
    await mx.saveSafetensors(join(large, 'model.safetensors'), Object.fromEntries(target));
    const kept = all.filter(([name]) => layerOf(name) < depth);
    await mx.saveSafetensors(join(small, 'model.safetensors'), Object.fromEntries(kept));
    const [model, draftModel] = [await loadModel(large), await loadModel(small)];
    for (const numDraftTokens of [4, 8])
      await compare(
        `draft of ${depth} layers for ${layers}, ${numDraftTokens} guesses`,
        model,
        prompt,
        { draftModel, numDraftTokens },
        { ignoreEos: true },
      );
    model.dispose();
    draftModel.dispose();
    rmSync(small, { recursive: true });
  }
  weights.dispose();
  rmSync(large, { recursive: true });
}

await (flags.model === undefined ? built() : real());
