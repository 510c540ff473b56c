import { Command } from 'commander';
import { stopOnSignals } from '../interrupt.js';
import { memoryStats } from '../memory.js';
import type { LanguageModel } from '../model.js';
import type { GenerateOptions } from '../sampling.js';
import type { GenerateResult } from '../stream.js';
import { formatOf, withFormat } from './format.js';
import type { FormatFlags } from './format.js';
import { UsageError } from './io.js';
import type { CliIo } from './io.js';
import { kvCacheOptions, readPromptCache, withKvCache, withPromptCacheFile } from './kv-cache.js';
import type { KvCacheFlags } from './kv-cache.js';
import { withModel } from './loading.js';
import type { ModelFlags } from './loading.js';
import { promptIds, promptText, restIds, withPrompt } from './prompt.js';
import type { PromptFlags } from './prompt.js';
import { givenSampling, withSampling } from './sampling.js';
import { acceptance, checkSpeculation, withModels, withSpeculation } from './speculation.js';
import type { SpeculationFlags } from './speculation.js';

interface Flags extends ModelFlags, PromptFlags, SpeculationFlags, FormatFlags, KvCacheFlags {
  extraEosToken?: string[];
  json?: boolean;
  verbose?: boolean;
}

/** `mlx-node generate`: the answer streams to standard output. */
export function generateCommand(io: CliIo): Command {
  const command = withPrompt(withModel(new Command('generate').description('Answer a prompt with a model.')))
    .option('--prefill-response <text>', 'beginning of the answer, for the model to go on with')
    .option('--extra-eos-token <tokens...>', 'further tokens that end the answer')
    .option('--json', 'print one JSON object at the end instead of the text')
    .option('-v, --verbose', 'print tokens, speeds and memory to standard error');
  return withPromptCacheFile(withKvCache(withFormat(withSpeculation(withSampling(command, '256')))))
    .addHelpText(
      'after',
      '\nCtrl-C stops the answer, keeps what there is, and ends with code 130.\n\nExamples:\n  mlx-node generate --model Qwen/Qwen3-0.6B "Why is the sky blue?"\n  mlx-node generate --model ./Qwen3-0.6B --system "Be brief." --temp 0.6 --top-p 0.95 - < question.txt\n  mlx-node generate --model Qwen/Qwen3-4B --draft-model Qwen/Qwen3-0.6B --verbose "Why is the sky blue?"\n  echo "2+2=" | mlx-node generate --model ./Qwen3-0.6B --raw --json\n  mlx-node generate --model ./Qwen3-0.6B --no-thinking --json-schema weather.json "The weather in Oslo"',
    )
    .action(async (argument: string | undefined, flags: Flags, self: Command) => {
      const format = formatOf(flags);
      checkSpeculation(flags, format.responseFormat !== undefined);
      const caching: GenerateOptions = kvCacheOptions(flags);
      const prompt = await promptText(io, argument, flags);
      const stop = stopOnSignals();
      try {
        if (flags.promptCacheFile !== undefined)
          caching.promptCache = await readPromptCache(flags.promptCacheFile, flags.model, stop.signal);
        const options = { ...givenSampling(self), ...caching, ...format };
        await withModels(flags, stop.signal, io.stderr, (model, speculation) =>
          answer(io, model, prompt, flags, { ...options, ...speculation }, stop.signal),
        );
      } finally {
        stop.release();
      }
    });
}

async function answer(
  io: CliIo,
  model: LanguageModel,
  prompt: string,
  flags: Flags,
  { enableThinking, ...sampling }: GenerateOptions,
  signal: AbortSignal,
): Promise<void> {
  const ids = (sampling.promptCache === undefined ? promptIds : restIds)(model, prompt, flags, enableThinking);
  if (flags.extraEosToken !== undefined)
    sampling.stopTokenIds = [...(sampling.stopTokenIds ?? model.eosTokenIds), ...eosIds(model, flags.extraEosToken)];
  const stream = model.stream(ids, { ...sampling, signal });
  const partial = { text: '', tokens: [] as number[], logprobs: [] as number[], finishReason: 'interrupted' };
  try {
    for await (const { text, tokens, logprobs } of stream) {
      partial.text += text;
      partial.tokens.push(...tokens);
      partial.logprobs.push(...logprobs);
      if (flags.json !== true) io.stdout.write(text);
    }
  } finally {
    // Also when the answer was stopped half-way: what there is of it stays.
    if (flags.json !== true) io.stdout.write('\n');
    else if (stream.result !== null || signal.aborted) {
      // There is one answer, so the list of all would repeat it.
      const { completions: _, ...whole } = stream.result ?? { ...partial, completions: undefined };
      io.stdout.write(`${JSON.stringify({ ...whole, peakMemoryGb: peakGb() })}\n`);
    }
  }
  if (flags.verbose === true) io.stderr.write(statistics(stream.result!));
}

/** Ids of further end-of-text tokens. */
function eosIds({ tokenizer }: LanguageModel, tokens: readonly string[]): number[] {
  return tokens.map((token) => {
    const ids = tokenizer.encode(token, { addSpecialTokens: false });
    if (ids.length !== 1)
      throw new UsageError(`--extra-eos-token: '${token}' is not one token of this model but ${ids.length}`);
    return ids[0]!;
  });
}

/** The most memory MLX held in this process, in GB. */
export const peakGb = (): number => memoryStats().peak / 1e9;

const speedLine = (name: string, tokens: number, speed: number): string =>
  `${name}: ${tokens} tokens, ${speed.toFixed(3)} tokens-per-sec\n`;

/** What mlx-lm prints after an answer. */
function statistics({ usage, timings, speculation }: GenerateResult): string {
  return (
    '==========\n' +
    speedLine('Prompt', usage.promptTokens, timings.promptTokensPerSecond) +
    speedLine('Generation', usage.completionTokens, timings.decodeTokensPerSecond) +
    (speculation === undefined ? '' : `Speculation: ${acceptance(speculation)}\n`) +
    `Peak memory: ${peakGb().toFixed(3)} GB\n`
  );
}
