import { Option } from 'commander';
import type { Command } from 'commander';
import { errorText } from '../errors.js';
import type { LanguageModel } from '../model.js';
import type { GenerateOptions } from '../sampling.js';
import type { ChatTemplateOptions, Message, Tokenizer } from '../tokenizer.js';
import { readStdin, UsageError } from './io.js';
import type { CliIo } from './io.js';

/** How a prompt is made. */
export interface PromptFlags {
  prompt?: string;
  system?: string;
  raw?: boolean;
  prefillResponse?: string;
  chatTemplateConfig?: ChatTemplateOptions;
}

/** Variables of a chat template, from JSON. */
function templateConfig(text: string): ChatTemplateOptions {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`--chat-template-config must be JSON: ${errorText(error)}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new UsageError(`--chat-template-config must be an object, such as '{"enable_thinking": false}', got ${text}`);
  return value as ChatTemplateOptions;
}

/** Adds `--system` and `--chat-template-config`. */
export function withTemplate(command: Command): Command {
  const also = new Option('--system-prompt <text>').hideHelp();
  also.attributeName = () => 'system';
  return command
    .option('-s, --system <text>', 'system message (also --system-prompt)')
    .addOption(also)
    .addOption(
      new Option('--chat-template-config <json>', 'further variables of the chat template').argParser(templateConfig),
    );
}

/** Adds what makes a prompt. */
export function withPrompt(command: Command): Command {
  const also = new Option('--ignore-chat-template').hideHelp();
  also.attributeName = () => 'raw';
  return withTemplate(
    command
      .argument('[prompt]', 'the prompt; -, or none: standard input')
      .option('-p, --prompt <text>', 'the same as the argument'),
  )
    .option('--raw', 'take the prompt as it is, without the chat template (also --ignore-chat-template)')
    .addOption(also);
}

/** The text of the prompt. */
export async function promptText(io: CliIo, argument: string | undefined, flags: PromptFlags): Promise<string> {
  if (argument !== undefined && flags.prompt !== undefined)
    throw new UsageError('the prompt is given twice: as an argument and with --prompt');
  const given = argument ?? flags.prompt ?? '-';
  const prompt = given === '-' ? await readStdin(io) : given;
  if (prompt === '') throw new UsageError('there is no prompt: give it as an argument or on standard input');
  return prompt;
}

/** Token ids of the prompt. */
export function promptIds(
  { tokenizer }: Pick<LanguageModel, 'tokenizer'>,
  prompt: string,
  flags: PromptFlags,
  enableThinking: boolean | undefined,
): number[] {
  const { system, prefillResponse: prefill } = flags;
  if (flags.raw === true || !tokenizer.hasChatTemplate) {
    const name = system === undefined ? prefill && '--prefill-response' : '--system';
    if (name !== undefined)
      throw new UsageError(
        `${name} needs the chat template, ${flags.raw === true ? 'which --raw leaves out' : 'which this model does not have'}`,
      );
    return tokenizer.encode(prompt);
  }
  const messages: Message[] = [
    ...(system === undefined ? [] : [{ role: 'system', content: system }]),
    { role: 'user', content: prompt },
    ...(prefill === undefined ? [] : [{ role: 'assistant', content: prefill }]),
  ];
  const options: ChatTemplateOptions = { ...flags.chatTemplateConfig };
  if (enableThinking !== undefined) options.enableThinking = enableThinking;
  if (prefill !== undefined) return openIds(tokenizer, messages, options);
  return tokenizer.encodeChat(messages, options);
}

/** Token ids of the beginning of a prompt: of a text, or of a conversation whose last message, the user's, is left open. */
export function beginningIds({ tokenizer }: LanguageModel, prompt: string, flags: PromptFlags): number[] {
  const { system } = flags;
  if (flags.raw === true || !tokenizer.hasChatTemplate) return promptIds({ tokenizer }, prompt, flags, undefined);
  const messages: Message[] = [
    ...(system === undefined ? [] : [{ role: 'system', content: system }]),
    { role: 'user', content: prompt },
  ];
  return openIds(tokenizer, messages, { ...flags.chatTemplateConfig });
}

/** Token ids of what follows a beginning that was read before, as `beginningIds` has it: the rest of the user's message and what ends it. */
export function restIds(
  { tokenizer }: Pick<LanguageModel, 'tokenizer'>,
  prompt: string,
  flags: PromptFlags,
  enableThinking: boolean | undefined,
): number[] {
  if (flags.system !== undefined || flags.prefillResponse !== undefined) {
    const name = flags.system === undefined ? '--prefill-response' : '--system';
    throw new UsageError(
      `${name} cannot be combined with --prompt-cache-file, which holds the beginning of the conversation`,
    );
  }
  const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });
  if (flags.raw === true || !tokenizer.hasChatTemplate) return encode(prompt);
  const options: ChatTemplateOptions = { ...flags.chatTemplateConfig };
  if (enableThinking !== undefined) options.enableThinking = enableThinking;
  const before = beforeMessage(tokenizer, { chatTemplateOptions: options });
  return encode(tokenizer.applyChatTemplate([{ role: 'user', content: prompt }], options).slice(before.length));
}

/** What the chat template puts before a user's first message, which does not depend on what that says. */
export function beforeMessage(
  tokenizer: Pick<Tokenizer, 'applyChatTemplate'>,
  { chatTemplateOptions, enableThinking }: Pick<GenerateOptions, 'chatTemplateOptions' | 'enableThinking'>,
): string {
  const options: ChatTemplateOptions = { ...chatTemplateOptions };
  if (enableThinking !== undefined) options.enableThinking = enableThinking;
  const content = '<query>';
  const text = tokenizer.applyChatTemplate([{ role: 'user', content }], options);
  const at = text.indexOf(content);
  if (at < 0)
    throw new UsageError('the chat template changes the text of messages, so none can be continued; use --raw');
  return text.slice(0, at);
}

/** The last message is left open where it ends, as with transformers' continue_final_message. */
function openIds(tokenizer: Tokenizer, messages: readonly Message[], options: ChatTemplateOptions): number[] {
  const content = messages.at(-1)!.content!;
  if (content.trim() === '') throw new UsageError('a text that is to be continued must not be empty');
  const text = tokenizer.applyChatTemplate(messages, { ...options, addGenerationPrompt: false });
  const at = text.lastIndexOf(content.trim());
  if (at < 0) throw new UsageError('the chat template changes the text of the last message, so it cannot be continued');
  return tokenizer.encode(text.slice(0, at) + content.trimStart(), { addSpecialTokens: false });
}
