import { Option } from 'commander';
import type { Command } from 'commander';
import type { LanguageModel } from '../model.js';
import type { SpeculationOptions } from '../request-options.js';
import type { Speculation } from '../stream.js';
import { UsageError, wholeNumber } from './io.js';
import type { CliIo } from './io.js';
import { loadModelOf } from './loading.js';
import type { ModelFlags } from './loading.js';

/** What {@link withSpeculation} reads. */
export interface SpeculationFlags {
  draftModel?: string;
  numDraftTokens?: number;
  promptLookup?: boolean;
  promptLookupMaxNgram?: number;
  promptLookupMinNgram?: number;
  fastForward?: boolean;
}

/** Adds the options of speculative decoding to a command. */
export function withSpeculation(command: Command): Command {
  const add = (option: Option): void => void command.addOption(option.helpGroup('Speculation:'));
  const count = (name: string, help: string): void =>
    add(new Option(`--${name} <n>`, help).argParser(wholeNumber(name, 1)));
  add(
    new Option('--draft-model <model>', 'a smaller model with the same vocabulary, which guesses: a folder, or a name'),
  );
  count('num-draft-tokens', 'most guesses for one pass (4 with --draft-model, 10 with --prompt-lookup)');
  add(new Option('--prompt-lookup', 'guess what followed the last tokens earlier in the text'));
  count('prompt-lookup-max-ngram', 'the most last tokens that must have come before (3)');
  count('prompt-lookup-min-ngram', 'the fewest (1)');
  add(new Option('--fast-forward', 'read in one pass what a format of the answer leaves no choice about'));
  return command;
}

/** What the flags ask for, before anything is loaded: a mistake shows at once. */
export function checkSpeculation(flags: SpeculationFlags, formatted: boolean): void {
  const { draftModel, promptLookup, promptLookupMaxNgram: most = 3, promptLookupMinNgram: least = 1 } = flags;
  if (draftModel !== undefined && promptLookup === true)
    throw new UsageError('guesses come from --draft-model or from --prompt-lookup, not from both');
  if (flags.fastForward === true && !formatted)
    throw new UsageError('--fast-forward needs a format of the answer, such as --json-object');
  if (flags.numDraftTokens !== undefined && draftModel === undefined && promptLookup !== true)
    throw new UsageError('--num-draft-tokens needs --draft-model or --prompt-lookup, which make the guesses');
  if (promptLookup !== true) {
    const lonely = flags.promptLookupMaxNgram === undefined ? flags.promptLookupMinNgram && 'min' : 'max';
    if (lonely !== undefined) throw new UsageError(`--prompt-lookup-${lonely}-ngram needs --prompt-lookup`);
  }
  if (least > most)
    throw new UsageError(`--prompt-lookup-min-ngram (${least}) is above --prompt-lookup-max-ngram (${most})`);
}

/** The library's options, with the draft model loaded; who asks disposes of it. */
export async function loadSpeculation(
  flags: SpeculationFlags & Pick<ModelFlags, 'dtype'>,
  signal: AbortSignal,
  stderr: CliIo['stderr'],
): Promise<SpeculationOptions> {
  const { draftModel, numDraftTokens, promptLookupMaxNgram, promptLookupMinNgram, dtype } = flags;
  const options: SpeculationOptions = {};
  if (numDraftTokens !== undefined) options.numDraftTokens = numDraftTokens;
  if (flags.fastForward === true) options.fastForward = true;
  if (flags.promptLookup === true) {
    options.promptLookup = {
      ...(promptLookupMaxNgram === undefined ? {} : { maxNgramSize: promptLookupMaxNgram }),
      ...(promptLookupMinNgram === undefined ? {} : { minNgramSize: promptLookupMinNgram }),
    };
  }
  if (draftModel !== undefined) options.draftModel = await loadModelOf({ model: draftModel, dtype }, signal, stderr);
  return options;
}

/** A model and what it speculates with, both disposed of when `use` has ended. */
export async function withModels(
  flags: ModelFlags & SpeculationFlags,
  signal: AbortSignal,
  stderr: CliIo['stderr'],
  use: (model: LanguageModel, speculation: SpeculationOptions) => Promise<void>,
): Promise<void> {
  const model = await loadModelOf(flags, signal, stderr);
  try {
    const speculation = await loadSpeculation(flags, signal, stderr);
    try {
      await use(model, speculation);
    } finally {
      speculation.draftModel?.dispose();
    }
  } finally {
    model.dispose();
  }
}

/** How many guesses were right, in words. */
export const acceptance = ({ draftTokens, acceptedTokens, acceptanceRate, plainTokens }: Speculation): string =>
  `${acceptedTokens} of ${draftTokens} guesses accepted (${(100 * acceptanceRate).toFixed(1)} %)` +
  (plainTokens > 0 ? `, ${plainTokens} tokens without guesses: --max-kv-size was reached` : '');
