import { Option } from 'commander';
import type { Command } from 'commander';
import { errorText } from '../errors.js';
import { nearestName } from '../options.js';
import { resolveLimits, resolveRequest } from '../request-options.js';
import { generateKeys, resolveSampling } from '../sampling.js';
import type { GenerateOptions } from '../sampling.js';
import { UsageError } from './io.js';

/** An option of sampling on the command line, and in `/set` of the chat. Ranges are those of the library. */
interface Flag {
  /** As commander has it; without a value it is on or, with `--no-…`, off. */
  flags: string;
  /** Another spelling: mlx-lm's. */
  also?: string;
  help: string;
  read: (text: string) => unknown;
  /** May be given several times; then the value is a list. */
  repeats?: true;
}

/** A number, or the text itself, which the library then refuses. */
const number = (text: string): unknown => (text.trim() === '' || Number.isNaN(Number(text)) ? text : Number(text));
const ids = (text: string): unknown => text.split(',').map(number);
const words = (text: string): string => text;
const truth: Record<string, boolean> = { true: true, on: true, yes: true, false: false, off: false, no: false };
const boolean = (text: string): unknown => truth[text.toLowerCase()] ?? text;

function json(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

const table: Record<string, Flag> = {
  maxTokens: { flags: '-n, --max-tokens <n>', help: 'most new tokens', read: number },
  temperature: {
    flags: '-t, --temperature <x>',
    also: '--temp',
    help: '0 is greedy; default from the checkpoint (also --temp)',
    read: number,
  },
  topP: { flags: '--top-p <x>', help: 'keep the likeliest tokens up to this mass; 1 is off', read: number },
  topK: { flags: '--top-k <n>', help: 'keep so many of the likeliest tokens; 0 is off', read: number },
  minP: {
    flags: '--min-p <x>',
    help: 'keep tokens at least this share as likely as the likeliest; 0 is off',
    read: number,
  },
  minTokensToKeep: { flags: '--min-tokens-to-keep <n>', help: 'so many stay whatever --min-p says (1)', read: number },
  typicalP: {
    flags: '--typical-p <x>',
    help: 'keep tokens of typical surprise up to this mass; 1 is off',
    read: number,
  },
  topNSigma: {
    flags: '--top-n-sigma <x>',
    help: 'keep logits so many standard deviations from the largest; 0 is off',
    read: number,
  },
  xtcProbability: {
    flags: '--xtc-probability <x>',
    help: 'chance that XTC excludes the top choices; 0 is off',
    read: number,
  },
  xtcThreshold: {
    flags: '--xtc-threshold <x>',
    help: 'XTC excludes tokens above this probability (0.1)',
    read: number,
  },
  xtcSpecialTokens: { flags: '--xtc-special-tokens <ids>', help: 'ids that XTC never excludes: 1,2,3', read: ids },
  dynatempRange: {
    flags: '--dynatemp-range <x>',
    help: 'the temperature follows the entropy within this range; 0 is off',
    read: number,
  },
  dynatempExponent: { flags: '--dynatemp-exponent <x>', help: 'power of the entropy in that (1)', read: number },
  filterOrder: {
    flags: '--filter-order <order>',
    help: "of the filters: 'hf', as transformers, or 'mlx', as mlx-lm (hf)",
    read: words,
  },
  repetitionPenalty: {
    flags: '--repetition-penalty <x>',
    help: 'divides the logits of tokens seen lately; 1 is off',
    read: number,
  },
  repetitionContextSize: { flags: '--repetition-context-size <n>', help: 'last tokens it looks at (20)', read: number },
  presencePenalty: {
    flags: '--presence-penalty <x>',
    help: 'subtracted once from tokens seen lately; 0 is off',
    read: number,
  },
  presenceContextSize: { flags: '--presence-context-size <n>', help: 'last tokens it looks at (20)', read: number },
  frequencyPenalty: {
    flags: '--frequency-penalty <x>',
    help: 'subtracted for each time a token was seen lately; 0 is off',
    read: number,
  },
  frequencyContextSize: { flags: '--frequency-context-size <n>', help: 'last tokens it looks at (20)', read: number },
  dryMultiplier: {
    flags: '--dry-multiplier <x>',
    help: 'strength of DRY against repetitions; 0 is off, 0.8 is usual',
    read: number,
  },
  dryBase: { flags: '--dry-base <x>', help: 'base of its growth (1.75)', read: number },
  dryAllowedLength: {
    flags: '--dry-allowed-length <n>',
    help: 'repetitions shorter than this are free (2)',
    read: number,
  },
  dryContextSize: { flags: '--dry-context-size <n>', help: 'last tokens it looks at (all)', read: number },
  drySequenceBreakers: {
    flags: '--dry-sequence-breakers <json>',
    help: 'texts or ids that no repetition goes across: \'["\\n", ":"]\'',
    read: json,
  },
  noRepeatNgramSize: {
    flags: '--no-repeat-ngram-size <n>',
    help: 'no sequence of so many tokens comes twice; 0 is off',
    read: number,
  },
  badWordsIds: { flags: '--bad-words-ids <json>', help: "sequences of ids that must not come: '[[1, 2]]'", read: json },
  logitBias: { flags: '--logit-bias <json>', help: 'added to the logits of tokens: \'{"13": -100}\'', read: json },
  minTokens: { flags: '--min-tokens <n>', help: 'no end of text for so many tokens', read: number },
  seed: { flags: '--seed <n>', help: 'the same seed gives the same answer', read: number },
  stopTokenIds: {
    flags: '--stop-token-ids <ids>',
    help: "end the answer, in place of the model's own: 1,2,3",
    read: ids,
  },
  stop: { flags: '--stop <text>', help: 'ends the answer; may be given several times', read: words, repeats: true },
  ignoreEos: { flags: '--ignore-eos', help: 'go on after an end-of-text token', read: boolean },
  topLogprobs: {
    flags: '--top-logprobs <n>',
    help: 'so many of the likeliest tokens come with each token, in --json (0)',
    read: number,
  },
  prefillStepSize: {
    flags: '--prefill-step-size <n>',
    help: 'tokens of the prompt that are read at a time (512)',
    read: number,
  },
  enableThinking: { flags: '--no-thinking', help: 'Qwen3: answer without a <think> part', read: boolean },
};

/** What the flags of sampling set. */
export type Settings = Omit<GenerateOptions, 'raw' | 'tools' | 'signal' | 'n' | 'onProgress' | 'logitsProcessors'>;

/** Flags of options that the library has. */
const flags = Object.entries(table).filter(([key]) => generateKeys.includes(key));

/** Names of the settings that the command line knows. */
export const settingNames: readonly string[] = flags.map(([key]) => key);

/** The value of setting `key`, of what a person typed after `name`. */
function readValue(key: string, text: string, name: string): unknown {
  const { read, repeats } = table[key]!;
  const value = repeats === true ? [read(text)] : read(text);
  if (read === boolean && typeof value !== 'boolean')
    throw new UsageError(`${name} must be true or false, got '${text}'`);
  if (read === ids && !(value as unknown[]).every((id) => Number.isSafeInteger(id)))
    throw new UsageError(`${name} must be token ids, such as 1,2,3, got '${text}'`);
  try {
    const options = { [key]: value } as GenerateOptions;
    resolveSampling(options, {}, name);
    resolveRequest(options, name);
    if (key === 'prefillStepSize') resolveLimits({ prefillStepSize: value as number }, name);
  } catch (error) {
    throw new UsageError(errorText(error).replace(`${key} of ${name}`, name));
  }
  return value;
}

/** Adds the options of sampling to a command; `maxTokens` says what is the most without `--max-tokens`. */
export function withSampling(command: Command, maxTokens: string): Command {
  for (const [key, { flags: text, also, help, repeats }] of flags) {
    const description = key === 'maxTokens' ? `${help} (${maxTokens})` : help;
    for (const [spelling, hidden] of [
      [text, false],
      [also?.concat(' <x>'), true],
    ] as const) {
      if (spelling === undefined) continue;
      const option = new Option(spelling, description).helpGroup('Sampling:').hideHelp(hidden);
      option.attributeName = () => key;
      if (text.includes('<'))
        option.argParser((value: string, previous: unknown) => {
          const read = readValue(key, value, option.long!);
          return repeats === true && Array.isArray(previous)
            ? [...(previous as unknown[]), ...(read as unknown[])]
            : read;
        });
      command.addOption(option);
    }
  }
  return command;
}

/** Options of sampling that were given on the command line. */
export function givenSampling(command: Command): Settings {
  const values: Record<string, unknown> = command.opts();
  const given = settingNames.filter((key) => command.getOptionValueSource(key) === 'cli');
  return Object.fromEntries(given.map((key) => [key, values[key]]));
}

const squash = (name: string): string => name.replace(/[-_]/g, '').toLowerCase();

const otherNames: Record<string, string> = { temp: 'temperature', thinking: 'enableThinking' };

/** The library's name of a setting, where a person may call it otherwise. */
export const settingName = (name: string): string => otherNames[name.replace(/^--/, '')] ?? name.replace(/^--/, '');

/** A setting by its name, in whatever spelling, and its value from a text. */
export function readSetting(name: string, text: string): [key: string, value: unknown] {
  const plain = settingName(name);
  const key = nearestName(plain, settingNames);
  if (key === undefined || squash(key) !== squash(plain))
    throw new UsageError(
      `there is no setting '${name}'${key === undefined ? `; there are ${settingNames.join(', ')}` : `: did you mean '${key}'?`}`,
    );
  return [key, readValue(key, text, key)];
}
