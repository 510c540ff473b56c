import type { Reward } from '../grpo/types.js';

/** Gives a reward its name in the logs. */
export function named(name: string, reward: Reward): Reward {
  return Object.defineProperty(reward, 'name', { value: name });
}

/** Integer, decimal, or thousands with commas; a leading sign counts. */
const numberPattern = /-?\d[\d,]*(?:\.\d+)?/g;

/** The last number of a text, commas removed: "so 1,200 in all" gives "1200". Null when there is none. */
export function lastNumber(text: string): string | null {
  const match = text.match(numberPattern)?.at(-1);
  return match === undefined ? null : normalizeNumber(match);
}

/** Plain form of a decimal number: no commas, no leading or trailing zeros that change nothing. Null when it is not one. */
export function normalizeNumber(text: string): string | null {
  const plain = text
    .replace(/,/g, '')
    .replace(/[.\s]+$/, '')
    .trim();
  if (!/^-?\d+(\.\d+)?$/.test(plain)) return null;
  const [, sign, whole, fraction = ''] = /^(-?)0*(\d+)(?:\.(\d+?)0*)?$/.exec(plain)!;
  const digits = fraction === '' || /^0+$/.test(fraction) ? whole! : `${whole}.${fraction}`;
  return digits === '0' ? '0' : `${sign}${digits}`;
}

/** The final answer of a GSM8K solution: the number after `####`. */
export function gsm8kAnswer(solution: string): string | null {
  const match = /####\s*(-?[\d.,]+)/.exec(solution);
  return match === null ? null : normalizeNumber(match[1]!);
}

/** The number that a completion gives as its answer: after `####`, in `\boxed{}`, else the last one. */
export function completionAnswer(text: string): string | null {
  const marked =
    /####\s*\$?(-?\d[\d,]*(?:\.\d+)?)/.exec(text)?.[1] ?? text.match(/\\boxed\{\s*\$?(-?[\d.,]+)\s*\}/)?.[1];
  return marked === undefined ? lastNumber(text) : normalizeNumber(marked);
}

export interface ExactAnswerOptions {
  /** Takes the answer out of a completion; null scores 0. Default: the trimmed text. */
  extract?: (completion: string) => string | null;
  /** Column of the data set with the right answer; a row without one is not scored. Default 'answer'. */
  column?: string;
  name?: string;
}

/** 1 where the extracted answer equals the data set's column, else 0. */
export function exactAnswer(options: ExactAnswerOptions = {}): Reward {
  const { extract = (text: string) => text.trim(), column = 'answer', name = 'exact_answer' } = options;
  return named(name, ({ completions, ...columns }) => {
    const wanted = (columns as unknown as Record<string, unknown[] | undefined>)[column];
    if (wanted === undefined) throw new Error(`the data set has no column '${column}'`);
    return completions.map((text, i) => {
      const right = wanted[i];
      if (right === null || right === undefined) return null;
      return extract(text) === String(right) ? 1 : 0;
    });
  });
}

/** 1 where the whole completion, spaces included, matches `pattern`, else 0. */
export function formatReward(pattern: RegExp, name = 'format'): Reward {
  const whole = new RegExp(`^(?:${pattern.source})$`, pattern.flags.replace(/[gy]/g, ''));
  return named(name, ({ completions }) => completions.map((text) => (whole.test(text) ? 1 : 0)));
}

export interface LengthPenaltyOptions {
  /** Tokens that are free. */
  free: number;
  /** Length in tokens at which the penalty is full. */
  max: number;
  /** Reward at `max`. Default -1. */
  penalty?: number;
}

/** 0 up to `free` tokens, then falling in a straight line to `penalty` at `max` tokens (DAPO's soft overlong punishment). */
export function lengthPenalty({ free, max, penalty = -1 }: LengthPenaltyOptions): Reward {
  if (!(max >= free)) throw new RangeError(`lengthPenalty: max (${max}) must not be below free (${free})`);
  const value = (length: number): number => {
    if (length <= free) return 0;
    return length >= max ? penalty : (penalty * (length - free)) / (max - free);
  };
  return named('length_penalty', ({ completionIds }) => completionIds.map((ids) => value(ids.length)));
}
