import { readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { homedir } from 'node:os';
import { nearestName } from '../../options.js';
import { UsageError } from '../io.js';
import { readSetting, settingName, settingNames } from '../sampling.js';
import type { Settings } from '../sampling.js';
import type { Conversation } from './conversation.js';

/** What a command works on. */
export interface CommandContext {
  conversation: Conversation;
  /** Writes a line for the person. */
  say: (text: string) => void;
  /** Answers the last message anew. */
  regenerate: () => Promise<void>;
  statistics: () => string;
}

interface Command {
  /** What follows the name; empty where nothing may. */
  argument: string;
  help: string;
  /** `'exit'` ends the chat. */
  run: (context: CommandContext, argument: string) => void | 'exit' | Promise<void>;
}

const needed = (argument: string, name: string, what: string): string => {
  if (argument === '') throw new UsageError(`${name} needs ${what}`);
  return argument.replace(/^~(?=\/)/, homedir());
};

const exit: Command = { argument: '', help: 'leave (also Ctrl-D)', run: () => 'exit' };

const turns = (count: number): string => `${count} message${count === 1 ? '' : 's'}`;

const commands: Record<string, Command> = {
  '/help': { argument: '', help: 'show this', run: ({ say }) => say(helpText()) },
  '/clear': {
    argument: '',
    help: 'forget the conversation but for the system message',
    run: ({ conversation, say }) => {
      conversation.clear();
      say('The conversation begins anew.');
    },
  },
  '/system': {
    argument: '[text]',
    help: 'show the system message, or set it; "" removes it',
    run: ({ conversation, say }, text) => {
      if (text === '') say(conversation.system ?? 'There is no system message.');
      else {
        conversation.system = text === '""' ? '' : text;
        say(text === '""' ? 'The system message is gone.' : 'The system message is set.');
      }
    },
  },
  '/set': {
    argument: '[name=value]',
    help: 'show the settings of sampling, or set one; name= takes it back',
    run: ({ conversation, say }, text) => {
      if (text !== '') conversation.settings = changed(conversation.settings, text);
      const entries = Object.entries(conversation.settings).map(
        ([name, value]) => `${name}=${typeof value === 'number' ? value : JSON.stringify(value)}`,
      );
      say(entries.length === 0 ? "All settings are the checkpoint's." : entries.join('  '));
    },
  },
  '/regenerate': { argument: '', help: 'answer the last message once more', run: ({ regenerate }) => regenerate() },
  '/undo': {
    argument: '',
    help: 'take back the last message and its answer',
    run: ({ conversation, say }) => say(`Taken back: ${firstLine(conversation.undo())}`),
  },
  '/save': {
    argument: '<file>',
    help: 'write the conversation and the settings to a file',
    run: async ({ conversation, say }, path) => {
      const file = needed(path, '/save', 'the name of a file');
      await conversation.save(file);
      say(`Saved ${turns(conversation.messages.length)} to ${file}.`);
    },
  },
  '/load': {
    argument: '<file>',
    help: 'go on with a conversation of a file',
    run: async ({ conversation, say }, path) => {
      const file = needed(path, '/load', 'the name of a file');
      await conversation.load(file);
      say(`Loaded ${turns(conversation.messages.length)} of ${file}.`);
    },
  },
  '/stats': { argument: '', help: 'show tokens, speeds and memory', run: ({ statistics, say }) => say(statistics()) },
  '/exit': exit,
};

const spellings: Record<string, string> = { '/quit': '/exit', '/bye': '/exit', '/reset': '/clear', '/?': '/help' };

function firstLine(text: string): string {
  const [line = ''] = text.split('\n');
  return line === text && line.length <= 60 ? line : `${line.slice(0, 60)}…`;
}

function changed(settings: Settings, text: string): Settings {
  const match = /^([\w-]+)\s*(?:=|\s)\s*(.*)$/s.exec(text);
  if (match === null) throw new UsageError('/set takes name=value, such as /set temperature=0.7');
  const [, name = '', value = ''] = match;
  if (value !== '') return { ...settings, ...Object.fromEntries([readSetting(name, value)]) };
  const key = nearestName(settingName(name), Object.keys(settings));
  return Object.fromEntries(Object.entries(settings).filter(([other]) => other !== key));
}

function helpText(): string {
  const rows = Object.entries(commands).map(([name, { argument, help }]) => [`${name} ${argument}`.trim(), help]);
  const width = Math.max(...rows.map(([name]) => name!.length));
  return `${rows.map(([name, help]) => `${name!.padEnd(width)}  ${help}`).join('\n')}

A message of several lines: Alt-Enter, a backslash at the end of a line, or """ around it.
Ctrl-C stops an answer, Tab completes commands, the arrow keys bring back what was typed.`;
}

/** True for a message that is meant for the program: it begins with a slash and a letter, and its first word has no other slash. */
export const isCommand = (message: string): boolean => /^\/[a-z?]+(\s|$)/.test(message);

/** Runs a command; true when the chat is over. */
export async function runCommand(message: string, context: CommandContext): Promise<boolean> {
  const [, word = '', argument = ''] = /^(\S+)\s*(.*)$/s.exec(message.trim()) ?? [];
  const name = spellings[word] ?? word;
  const command = commands[name];
  if (command === undefined) {
    const near = nearestName(word, Object.keys(commands));
    throw new UsageError(
      `there is no command ${word}: ${near === undefined ? '/help shows them' : `did you mean ${near}?`}`,
    );
  }
  if (command.argument === '' && argument !== '') throw new UsageError(`${word} takes nothing after it`);
  return (await command.run(context, argument)) === 'exit';
}

function files(prefix: string): string[] {
  const dir = prefix.endsWith('/') ? prefix : prefix.includes('/') ? dirname(prefix) : '.';
  const start = prefix.endsWith('/') ? '' : basename(prefix);
  try {
    return readdirSync(dir.replace(/^~(?=\/|$)/, homedir()), { withFileTypes: true })
      .filter(({ name }) => name.startsWith(start) && (start.startsWith('.') || !name.startsWith('.')))
      .map((entry) => `${prefix.includes('/') ? join(dir, entry.name) : entry.name}${entry.isDirectory() ? '/' : ''}`);
  } catch {
    return [];
  }
}

/** What Tab offers for a line: commands, names of settings, files. */
export function complete(line: string): [string[], string] {
  const [, command = line, rest] = /^(\/[a-z]+) +(.*)$/.exec(line) ?? [];
  if (rest === undefined) {
    if (!line.startsWith('/')) return [[], line];
    const names = Object.entries(commands).map(([name, { argument }]) => (argument === '' ? name : `${name} `));
    return [names.filter((name) => name.startsWith(line)), line];
  }
  if (command === '/set') return [settingNames.map((name) => `${name}=`).filter((name) => name.startsWith(rest)), rest];
  if (command === '/save' || command === '/load') return [files(rest), rest];
  return [[], line];
}
