import type { Message } from '../../lib/tokenizer.js';

/** One training example: a plain text or a conversation, and any further columns, which rewards receive. */
export interface GRPORow {
  prompt: string | readonly Message[];
  [column: string]: unknown;
}

export interface TrainerState {
  /** Optimizer steps done. */
  globalStep: number;
  maxSteps: number;
  /** Epochs done, as a fraction. */
  epoch: number;
}

/**
 * What a reward gets: one entry for each completion in every list, completions of the same prompt side by side. The data set's
 * columns come as lists under their own names.
 */
export interface RewardArgs {
  prompts: (string | readonly Message[])[];
  /** The answers as text, special tokens left out. */
  completions: string[];
  /** The same answers as chat messages. */
  completionMessages: Message[][];
  /** The same answers as token ids, with the end-of-text token. */
  completionIds: number[][];
  trainerState: TrainerState;
  /** Adds a value to the metrics; the mean of all values since the last log line is logged. */
  logMetric: (name: string, value: number) => void;
  /** Aborted when the run is. */
  signal: AbortSignal | undefined;
  /** The data set's columns; the type is open because it depends on the data set. */
  [column: string]: any;
}

/** Scores completions; null means "cannot be scored" and leaves the completion out of this reward. */
export type Reward = (args: RewardArgs) => (number | null)[] | Promise<(number | null)[]>;
