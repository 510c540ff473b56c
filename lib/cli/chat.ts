import { Command, Option } from 'commander';
import { MlxError } from '../errors.js';
import { stopOnSignals } from '../interrupt.js';
import type { LanguageModel } from '../model.js';
import type { ChatTemplateOptions } from '../tokenizer.js';
import type { ModelCache } from '../cache/index.js';
import { complete } from './chat/commands.js';
import { ContinuedModel } from './chat/continued.js';
import { Conversation } from './chat/conversation.js';
import type { ConversationOptions } from './chat/conversation.js';
import { History, historyPath } from './chat/history.js';
import { PipeInput, TerminalInput } from './chat/input.js';
import type { ChatInput } from './chat/input.js';
import { Repl } from './chat/repl.js';
import { formatOf, withFormat } from './format.js';
import type { FormatFlags } from './format.js';
import { UsageError, wholeNumber } from './io.js';
import type { CliIo } from './io.js';
import { kvCacheOptions, readPromptCache, withKvCache, withPromptCacheFile } from './kv-cache.js';
import type { KvCacheFlags } from './kv-cache.js';
import { withModel } from './loading.js';
import type { ModelFlags } from './loading.js';
import { withTemplate } from './prompt.js';
import { givenSampling, withSampling } from './sampling.js';
import { checkSpeculation, withModels, withSpeculation } from './speculation.js';
import type { SpeculationFlags } from './speculation.js';
import { styleFor } from './style.js';
import type { Style } from './style.js';

interface Flags extends ModelFlags, SpeculationFlags, FormatFlags, KvCacheFlags {
  system?: string;
  chatTemplateConfig?: ChatTemplateOptions;
  maxContext?: number;
  contextShift: 'error' | 'truncate-oldest' | 'truncate-middle';
  load?: string;
  verbose?: boolean;
}

/** `mlx-node chat`: a conversation at the terminal, or over a pipe. */
export function chatCommand(io: CliIo): Command {
  const command = withTemplate(withModel(new Command('chat').description('Talk to a model.')))
    .option('--load <file>', 'go on with a conversation that /save wrote')
    .option('--max-context <n>', "most tokens of the conversation (the model's context)", wholeNumber('max-context', 1))
    .addOption(
      new Option('--context-shift <policy>', 'what to do when the conversation outgrows that')
        .choices(['truncate-oldest', 'truncate-middle', 'error'])
        .default('truncate-oldest'),
    )
    .option('-v, --verbose', 'print tokens, speeds and memory after every answer, to standard error');
  return withPromptCacheFile(
    withKvCache(withFormat(withSpeculation(withSampling(command, 'as many as the context holds')))),
  )
    .addHelpText(
      'after',
      '\n/help in the chat shows its commands. Ctrl-C stops an answer; Ctrl-D leaves. From a pipe, every line is a message, and standard output\nis the answers alone.\n\nExamples:\n  mlx-node chat --model Qwen/Qwen3-0.6B --system "Be brief." --temp 0.6\n  printf "What is 2+2?\\nAnd times 3?\\n" | mlx-node chat --model ./Qwen3-0.6B --no-thinking',
    )
    .action(async (flags: Flags, self: Command) => {
      const format = formatOf(flags);
      checkSpeculation(flags, format.responseFormat !== undefined);
      const caching = kvCacheOptions(flags);
      const held = flags.promptCacheFile === undefined ? undefined : (flags.system ?? flags.load);
      if (held !== undefined)
        throw new UsageError(
          `${flags.system === undefined ? '--load' : '--system'} cannot be combined with --prompt-cache-file, which holds the beginning of the conversation`,
        );
      if (io.stdin === undefined) throw new UsageError('there is nobody to talk to: standard input is closed');
      const stop = stopOnSignals();
      try {
        const beginning =
          flags.promptCacheFile === undefined
            ? undefined
            : await readPromptCache(flags.promptCacheFile, flags.model, stop.signal);
        await withModels(flags, stop.signal, io.stderr, (model, speculation) =>
          chat(
            io,
            model,
            beginning,
            flags,
            { ...speculation, ...caching, ...format, settings: givenSampling(self) },
            stop.signal,
          ),
        );
      } finally {
        stop.release();
      }
    });
}

async function chat(
  io: CliIo,
  model: LanguageModel,
  beginning: ModelCache | undefined,
  flags: Flags,
  given: Omit<ConversationOptions, 'contextShift'>,
  signal: AbortSignal,
): Promise<void> {
  if (!model.tokenizer.hasChatTemplate)
    throw new MlxError(
      'ERR_MLX_TEMPLATE',
      `${flags.model}: the model has no chat template, so it cannot be talked to; 'mlx-node generate --raw' continues texts`,
    );
  const options: ConversationOptions = { ...given, contextShift: flags.contextShift };
  if (flags.system !== undefined) options.system = flags.system;
  if (flags.maxContext !== undefined) options.maxContext = flags.maxContext;
  if (flags.chatTemplateConfig !== undefined) options.chatTemplateOptions = flags.chatTemplateConfig;
  const conversation = new Conversation(
    beginning === undefined ? model : new ContinuedModel(model, beginning),
    options,
  );
  if (flags.load !== undefined) await conversation.load(flags.load);

  const style = styleFor(io.stdout);
  const interactive = io.stdin!.isTTY === true && io.stdout.isTTY === true;
  if (interactive) io.stdout.write(greeting(model, flags, conversation, style));
  const input: ChatInput = interactive
    ? new TerminalInput({
        stdin: io.stdin!,
        stdout: io.stdout as NodeJS.WriteStream,
        style,
        history: new History(historyPath()),
        complete,
      })
    : new PipeInput(io.stdin!);
  const leave = (): void => input.close();
  signal.addEventListener('abort', leave, { once: true });
  try {
    const verbose = flags.verbose === true;
    await new Repl({ io, input, conversation, style, interactive, verbose, signal }).run();
  } finally {
    signal.removeEventListener('abort', leave);
    input.close();
  }
}

function greeting(model: LanguageModel, flags: Flags, conversation: Conversation, style: Style): string {
  const { length } = conversation.messages.filter(({ role }) => role !== 'system');
  const facts = [model.modelType, model.dtype, `${conversation.maxContext} tokens of context`];
  if (flags.adapter !== undefined) facts.push(`adapter ${flags.adapter}`);
  if (length > 0) facts.push(`${length} messages loaded`);
  return `${style('bold', flags.model)} ${style('dim', `· ${facts.join(' · ')}`)}\n${style('dim', '/help shows the commands. Ctrl-C stops an answer, Ctrl-D leaves.')}\n\n`;
}
