import { MlxError } from '../errors.js';
import type { Message } from '../tokenizer.js';
import { isRecord, parseJson } from './json.js';

/** A piece of a message's content, in OpenAI's form. */
export interface ContentPart {
  type: string;
  text?: string;
  [key: string]: unknown;
}

/** A message of a conversation, in OpenAI's form. */
export interface ChatMessage {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool' | (string & {});
  content?: string | readonly ContentPart[] | null;
  /** The model's thinking before `content`. */
  reasoning_content?: string | null;
  tool_calls?: readonly object[] | null;
  /** In a tool's message: the call that it answers. */
  tool_call_id?: string;
  name?: string;
  [key: string]: unknown;
}

const wrong = (where: string, what: string): MlxError => new MlxError('ERR_MLX_ARGUMENT', `${where} ${what}`);

/**
 * Messages as chat templates expect them, of messages as OpenAI's API has them: content as one string, arguments of calls as objects,
 * `developer` as `system`. Throws ERR_MLX_ARGUMENT for what is no message, and for images and sound.
 */
export function templateMessages(messages: readonly ChatMessage[]): Message[] {
  return messages.map((message, i) => templateMessage(message, `messages[${i}]`));
}

function templateMessage(message: ChatMessage, where: string): Message {
  if (!isRecord(message)) throw wrong(where, `must be an object with role and content, got ${JSON.stringify(message)}`);
  const { role, content, tool_calls: calls } = message;
  if (typeof role !== 'string' || role === '')
    throw wrong(`${where}.role`, `must be 'system', 'user', 'assistant' or 'tool', got ${JSON.stringify(role)}`);
  const text = contentText(content, where);
  const silent = role === 'assistant' && ((calls?.length ?? 0) > 0 || typeof message.reasoning_content === 'string');
  if (text === undefined && !silent)
    throw wrong(`${where}.content`, `is missing: a message of role '${role}' needs a text`);
  const result: Message = { ...(message as object), role: role === 'developer' ? 'system' : role, content: text ?? '' };
  if (calls === undefined || calls === null) delete result.tool_calls;
  else result.tool_calls = calls.map((call, i) => templateCall(call, `${where}.tool_calls[${i}]`));
  return result;
}

function contentText(content: ChatMessage['content'], where: string): string | undefined {
  if (content === undefined || content === null || typeof content === 'string') return content ?? undefined;
  if (!Array.isArray(content))
    throw wrong(`${where}.content`, `must be a string or an array of parts, got ${typeof content}`);
  return (content as readonly ContentPart[])
    .map((part, i) => {
      if (part.type === 'text' && typeof part.text === 'string') return part.text;
      if (part.type === 'refusal' && typeof part['refusal'] === 'string') return part['refusal'];
      throw wrong(`${where}.content[${i}]`, `is of type '${String(part.type)}'; the models here read text only`);
    })
    .join('');
}

function templateCall(call: object, where: string): object {
  const described: unknown = 'function' in call ? call.function : call;
  if (!isRecord(described) || typeof described['name'] !== 'string')
    throw wrong(where, 'must be { function: { name, arguments } }');
  const { arguments: given } = described;
  if (typeof given !== 'string') return call;
  // Templates print an object as JSON; a string they would quote once more. Numbers that a double cannot hold stay text.
  const value = /\d{16}/.test(given) ? undefined : parseJson(given.trim() === '' ? '{}' : given);
  if (!isRecord(value)) return call;
  const converted = { ...described, arguments: value };
  return 'function' in call ? { ...call, function: converted } : converted;
}
