import { existsSync, readFileSync } from 'node:fs';
import { Option } from 'commander';
import type { Command } from 'commander';
import { errorText } from '../errors.js';
import type { RequestOptions, ResponseFormat } from '../request-options.js';
import { UsageError } from './io.js';

/** What {@link withFormat} reads. */
export interface FormatFlags {
  jsonSchema?: ResponseFormat;
  jsonObject?: boolean;
  regex?: string;
  grammar?: ResponseFormat;
  formatAfterThinking?: boolean;
}

function readText(flag: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(`${flag}: ${path} cannot be read: ${errorText(error)}`);
  }
}

/** A schema, of JSON or of a file with it. */
function jsonSchema(value: string): ResponseFormat {
  const inline = /^\s*(\{|true\b|false\b)/.test(value) && !existsSync(value);
  const text = inline ? value : readText('--json-schema', value);
  let schema: unknown;
  try {
    schema = JSON.parse(text);
  } catch (error) {
    const where = inline ? 'it' : value;
    throw new UsageError(`--json-schema takes JSON or a file with it; ${where} cannot be parsed: ${errorText(error)}`);
  }
  if (typeof schema !== 'boolean' && (typeof schema !== 'object' || schema === null || Array.isArray(schema)))
    throw new UsageError('--json-schema must be a JSON schema, which is an object');
  return { type: 'json_schema', json_schema: { schema } };
}

const grammar = (path: string): ResponseFormat => ({
  type: 'grammar',
  grammar: { syntax: 'lark', definition: readText('--grammar', path) },
});

/** Adds what says how the answer must look. */
export function withFormat(command: Command): Command {
  const add = (option: Option): void => void command.addOption(option.helpGroup('Structured output:'));
  add(
    new Option('--json-schema <schema>', 'the answer is JSON that fits: a schema, or a file with it').argParser(
      jsonSchema,
    ),
  );
  add(new Option('--json-object', 'the answer is a JSON object'));
  add(new Option('--regex <pattern>', 'the answer matches from beginning to end'));
  add(new Option('--grammar <file>', 'the answer is a text of a grammar in the syntax of Lark').argParser(grammar));
  add(new Option('--format-after-thinking', 'the model may think first; the format begins behind </think>'));
  return command;
}

/** The library's options of the flags; none where the answer is free. */
export function formatOf(flags: FormatFlags): Pick<RequestOptions, 'responseFormat' | 'formatAfterThinking'> {
  const given: [flag: string, format: ResponseFormat][] = [];
  if (flags.jsonSchema !== undefined) given.push(['--json-schema', flags.jsonSchema]);
  if (flags.jsonObject === true) given.push(['--json-object', { type: 'json_object' }]);
  if (flags.regex !== undefined) given.push(['--regex', { type: 'regex', regex: flags.regex }]);
  if (flags.grammar !== undefined) given.push(['--grammar', flags.grammar]);
  if (given.length > 1)
    throw new UsageError(`${given.map(([flag]) => flag).join(' and ')} cannot go together: an answer has one format`);
  const formatAfterThinking = flags.formatAfterThinking === true;
  if (given[0] === undefined) {
    if (formatAfterThinking) throw new UsageError('--format-after-thinking needs a format, such as --json-object');
    return {};
  }
  return { responseFormat: given[0][1], ...(formatAfterThinking ? { formatAfterThinking } : {}) };
}
