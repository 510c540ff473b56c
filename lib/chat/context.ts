import { MlxError } from '../errors.js';
import type { ChatMessage } from './messages.js';

/** What a function that shortens conversations gets. */
export interface ShiftRequest {
  /** The whole conversation, the new messages included. */
  messages: readonly ChatMessage[];
  promptTokens: number;
  /** So many may remain. */
  maxPromptTokens: number;
  /** Tokens of the prompt of other messages. */
  countTokens: (messages: readonly ChatMessage[]) => number;
}

/**
 * What happens when a conversation outgrows the context. 'error': ERR_MLX_CONTEXT_LENGTH. 'truncate-oldest': the oldest turns are left
 * out, the system message and the last turn never. 'truncate-middle': the first turn stays as well. A function returns the messages
 * to go on with.
 */
export type ContextShift =
  | 'error'
  | 'truncate-oldest'
  | 'truncate-middle'
  | ((request: ShiftRequest) => readonly ChatMessage[] | Promise<readonly ChatMessage[]>);

export const contextShifts = ['error', 'truncate-oldest', 'truncate-middle'] as const;

/** How full a shortened conversation may be: room for some more turns, so that not every turn changes the beginning of the prompt. */
const filling = 0.75;

export function contextError(promptTokens: number, maxContext: number, last: boolean): MlxError {
  const cure = last
    ? 'The system prompt and the last turn alone are too long: shorten them, or raise maxContext.'
    : "Set contextShift: 'truncate-oldest' to go on without the oldest turns, or start a new session.";
  return new MlxError(
    'ERR_MLX_CONTEXT_LENGTH',
    `the conversation has ${promptTokens} tokens, and the context holds ${maxContext}, answer included. ${cure}`,
  );
}

/**
 * Indices of the messages to leave out, in turns (a user's message and all that follows it), so that at most `limit` tokens remain:
 * three quarters of that where it can be, and else as little as it takes. `dropped` are out already. Null when nothing helps.
 */
export function turnsToDrop(
  messages: readonly ChatMessage[],
  dropped: ReadonlySet<number>,
  keepFirst: boolean,
  limit: number,
  countTokens: (messages: readonly ChatMessage[]) => number,
): Set<number> | null {
  const turns: number[][] = [];
  messages.forEach(({ role }, i) => {
    if (role === 'user' || turns.length === 0) {
      if (turns.length > 0 || (role !== 'system' && role !== 'developer')) turns.push([i]);
    } else turns.at(-1)!.push(i);
  });
  const present = turns.filter((turn) => !dropped.has(turn[0]!));
  const candidates = present.slice(keepFirst ? 1 : 0, -1);
  const without = (count: number): Set<number> => new Set([...dropped, ...candidates.slice(0, count).flat()]);
  const tokens = (count: number): number => {
    const out = without(count);
    return countTokens(messages.filter((_, i) => !out.has(i)));
  };
  /** The fewest turns whose absence gets below `most`. */
  const fewest = (most: number): number | null => {
    if (candidates.length === 0 || tokens(candidates.length) > most) return null;
    let [low, high] = [1, candidates.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (tokens(middle) <= most) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  const count = fewest(limit * filling) ?? fewest(limit);
  return count === null ? null : without(count);
}
