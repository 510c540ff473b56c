import type { ChatResult } from '../../chat/index.js';
import { errorText, MlxError } from '../../errors.js';
import { peakGb } from '../generate.js';
import { UsageError } from '../io.js';
import type { CliIo } from '../io.js';
import { acceptance } from '../speculation.js';
import type { Style } from '../style.js';
import { isCommand, runCommand } from './commands.js';
import type { Conversation } from './conversation.js';
import type { ChatInput } from './input.js';

export interface ReplOptions {
  io: CliIo;
  input: ChatInput;
  conversation: Conversation;
  style: Style;
  /** A person sits at a terminal, rather than a program at a pipe. */
  interactive: boolean;
  /** Show speeds after every answer. */
  verbose: boolean;
  /** Ends the whole chat. */
  signal: AbortSignal;
}

/** Reads messages, answers them, obeys commands. */
export class Repl {
  readonly #options: ReplOptions;
  #last: ChatResult | null = null;

  constructor(options: ReplOptions) {
    this.#options = options;
  }

  /** Runs until the input ends. Where no person is there to see it, a failure makes the exit code 1. */
  async run(): Promise<void> {
    const { io, input, interactive, signal, style } = this.#options;
    for (;;) {
      const message = await input.read();
      signal.throwIfAborted();
      if (message === null) {
        if (interactive) io.stdout.write('\n');
        return;
      }
      if (message.trim() === '') continue;
      try {
        if (isCommand(message)) {
          if (await this.#command(message)) return;
        } else await this.#answer(message);
      } catch (error) {
        signal.throwIfAborted();
        if (!MlxError.isInstance(error) && !(error instanceof UsageError)) throw error;
        const code = MlxError.isInstance(error) ? ` [${error.code}]` : '';
        io.stderr.write(`${style('red', `${interactive ? '' : 'mlx-node: '}${errorText(error)}${code}`)}\n`);
        if (!interactive) io.exitCode = 1;
      }
    }
  }

  #command(message: string): Promise<boolean> {
    const { io, conversation, style, interactive } = this.#options;
    return runCommand(message, {
      conversation,
      // Standard output of a pipe is answers alone.
      say: (text) => void (interactive ? io.stdout : io.stderr).write(`${style('dim', text)}\n`),
      regenerate: () => this.#answer(undefined),
      statistics: () => this.#statistics(),
    });
  }

  async #answer(message: string | undefined): Promise<void> {
    const { io, input, conversation, style, interactive, verbose, signal } = this.#options;
    const stop = new AbortController();
    input.onInterrupt = () => stop.abort();
    const parts = { content: '', reasoning: '' };
    const stream = conversation.answer(message, AbortSignal.any([signal, stop.signal]));
    try {
      for await (const delta of stream) {
        if (delta.type !== 'content' && delta.type !== 'reasoning') continue;
        // Who reads a pipe asked for the answer.
        if (delta.type === 'content' || interactive) {
          const begins = delta.type === 'content' && parts.content === '' && parts.reasoning !== '' && interactive;
          io.stdout.write(
            `${begins ? '\n\n' : ''}${delta.type === 'reasoning' ? style('dim', delta.text) : delta.text}`,
          );
        }
        parts[delta.type] += delta.text;
      }
    } catch (error) {
      if (!stop.signal.aborted) {
        if (parts.content + parts.reasoning !== '') io.stdout.write('\n');
        throw error;
      }
    } finally {
      input.onInterrupt = () => undefined;
    }
    io.stdout.write('\n');
    if (stream.result === null) {
      // What was read of an answer is part of the conversation.
      if (parts.content !== '') conversation.keep(message, parts.content, parts.reasoning);
      io.stdout.write(`${style('dim', parts.content === '' ? 'Stopped; the message is not kept.' : 'Stopped.')}\n\n`);
      return;
    }
    this.#last = stream.result;
    const { finishReason, droppedMessages } = stream.result;
    const note = (text: string): void => void (interactive && io.stdout.write(`${style('dim', text)}\n`));
    if (finishReason === 'length') note('The answer was cut: it reached --max-tokens, or the context is full.');
    if (droppedMessages > 0) note(`The context has no room any more for ${droppedMessages} of the messages.`);
    if (verbose) io.stderr.write(`${style('dim', speeds(stream.result))}\n`);
    if (interactive) io.stdout.write('\n');
  }

  #statistics(): string {
    const { conversation } = this.#options;
    const lines = [
      `Conversation  ${conversation.messages.length} messages, ${conversation.tokens} of ${conversation.maxContext} tokens`,
    ];
    if (this.#last !== null) lines.push(`Last answer   ${speeds(this.#last)}`);
    else lines.push(`Memory        peak ${peakGb().toFixed(2)} GB`);
    return lines.join('\n');
  }
}

const speeds = ({ usage, timings, speculation }: ChatResult): string =>
  `${usage.completionTokens} tokens · ${timings.decodeTokensPerSecond.toFixed(1)} tok/s · ` +
  `prompt ${usage.promptTokens} tokens${usage.cachedTokens > 0 ? ` (${usage.cachedTokens} known)` : ''} · ${timings.promptTokensPerSecond.toFixed(1)} tok/s · ` +
  `${speculation === undefined ? '' : `${acceptance(speculation)} · `}peak ${peakGb().toFixed(2)} GB`;
